"""IPFSDataLoader: the loader of the specification, arranged out of datasets, DataLoader and stores."""

from torch_ipfs.loader.facade import IPFSDataLoader

__all__ = ["IPFSDataLoader"]
