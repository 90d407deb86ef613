"""Train from a CID: verified, streaming, resumable datasets out of IPFS for PyTorch."""
