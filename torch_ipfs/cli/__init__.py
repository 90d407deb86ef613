"""The command ``torch-ipfs``: what a dataset holds, whether all of it is whole, and a copy of it elsewhere."""
