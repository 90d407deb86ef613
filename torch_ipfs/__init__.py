"""Train from a CID: verified, streaming, resumable datasets out of IPFS for PyTorch.

    cid = torch_ipfs.write_dataset(samples, "digits.car")
    ds = torch_ipfs.IPFSIterableDataset(cid, "digits.car", batch_size=64, shuffle=True)
    for batch in torch.utils.data.DataLoader(ds, batch_size=None, num_workers=2): ...

Names are imported when they are used, so that importing the package costs little.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch_ipfs import blockstore as blockstore
    from torch_ipfs import codec as codec
    from torch_ipfs import errors as errors
    from torch_ipfs import kit as kit
    from torch_ipfs import loader as loader
    from torch_ipfs import testing as testing
    from torch_ipfs import unixfs as unixfs
    from torch_ipfs.blockstore.base import Blockstore as Blockstore
    from torch_ipfs.blockstore.cached import CachedBlockstore as CachedBlockstore
    from torch_ipfs.blockstore.car_file import CarBlockstore as CarBlockstore
    from torch_ipfs.blockstore.gateway import GatewayBlockstore as GatewayBlockstore
    from torch_ipfs.blockstore.kubo import KuboBlockstore as KuboBlockstore
    from torch_ipfs.blockstore.local import LocalBlockstore as LocalBlockstore
    from torch_ipfs.blockstore.memory import MemoryBlockstore as MemoryBlockstore
    from torch_ipfs.blockstore.open import open_blockstore as open_blockstore
    from torch_ipfs.blockstore.tiered import TieredBlockstore as TieredBlockstore
    from torch_ipfs.codec.cid import CID as CID
    from torch_ipfs.dataset.dataloader import make_dataloader as make_dataloader
    from torch_ipfs.dataset.iterable import IPFSIterableDataset as IPFSIterableDataset
    from torch_ipfs.dataset.mapped import IPFSMapDataset as IPFSMapDataset
    from torch_ipfs.dataset.write import write_dataset as write_dataset
    from torch_ipfs.dataset.write_merge import merge_datasets as merge_datasets
    from torch_ipfs.errors import BlockError as BlockError
    from torch_ipfs.errors import BlockNotFound as BlockNotFound
    from torch_ipfs.errors import BlockRefused as BlockRefused
    from torch_ipfs.errors import BlockTooLarge as BlockTooLarge
    from torch_ipfs.errors import CodecError as CodecError
    from torch_ipfs.errors import HashMismatch as HashMismatch
    from torch_ipfs.errors import ManifestError as ManifestError
    from torch_ipfs.errors import OptionError as OptionError
    from torch_ipfs.errors import ResumeError as ResumeError
    from torch_ipfs.errors import SampleError as SampleError
    from torch_ipfs.errors import TorchIPFSError as TorchIPFSError
    from torch_ipfs.errors import TransportError as TransportError
    from torch_ipfs.kit import ipfs_kit as ipfs_kit
    from torch_ipfs.loader import IPFSDataLoader as IPFSDataLoader
    from torch_ipfs.manifest.schema import Field as Field
    from torch_ipfs.manifest.schema import Schema as Schema
    from torch_ipfs.plan.shuffle import ShuffleOptions as ShuffleOptions

    __version__: str

_MODULES = ("blockstore", "codec", "errors", "kit", "loader", "testing", "unixfs")
"""What has names of its own: ``torch_ipfs.codec.dag_cbor``."""

_HOME = {
    "Blockstore": "blockstore.base",
    "open_blockstore": "blockstore.open",
    "CachedBlockstore": "blockstore.cached",
    "CarBlockstore": "blockstore.car_file",
    "GatewayBlockstore": "blockstore.gateway",
    "KuboBlockstore": "blockstore.kubo",
    "LocalBlockstore": "blockstore.local",
    "MemoryBlockstore": "blockstore.memory",
    "TieredBlockstore": "blockstore.tiered",
    "CID": "codec.cid",
    "make_dataloader": "dataset.dataloader",
    "IPFSIterableDataset": "dataset.iterable",
    "IPFSMapDataset": "dataset.mapped",
    "write_dataset": "dataset.write",
    "merge_datasets": "dataset.write_merge",
    "IPFSDataLoader": "loader",
    "ipfs_kit": "kit",
    "Field": "manifest.schema",
    "Schema": "manifest.schema",
    "ShuffleOptions": "plan.shuffle",
    **dict.fromkeys(
        (
            "BlockError",
            "BlockNotFound",
            "BlockRefused",
            "BlockTooLarge",
            "CodecError",
            "HashMismatch",
            "ManifestError",
            "OptionError",
            "ResumeError",
            "SampleError",
            "TorchIPFSError",
            "TransportError",
        ),
        "errors",
    ),
}

__all__ = sorted(_HOME)  # noqa: PLE0605 - a list of names, which ruff cannot see through sorted()


def _imported(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


if not TYPE_CHECKING:  # or else type checkers take every misspelt name for one that is there
    __getattr__ = _imported


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version  # 30 ms

    try:
        return version("torch-ipfs")
    except PackageNotFoundError as error:
        raise AttributeError(f"torch_ipfs was not installed, but found: {error}") from None


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME, *_MODULES})


if "torch" in sys.modules:
    # Whoever has imported torch reads next: these 60 ms are better spent here than before the first batch.
    importlib.import_module(f"{__name__}.dataset.iterable")
    importlib.import_module(f"{__name__}.dataset.mapped")
