"""Stores of blocks: a CID goes in, verified bytes come out."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch_ipfs.blockstore.base import Block, Blockstore, LinkedBlockstore, PinningBlockstore
    from torch_ipfs.blockstore.cached import CachedBlockstore
    from torch_ipfs.blockstore.car_file import CarBlockstore
    from torch_ipfs.blockstore.gateway import GatewayBlockstore
    from torch_ipfs.blockstore.kubo import KuboBlockstore
    from torch_ipfs.blockstore.local import LocalBlockstore
    from torch_ipfs.blockstore.memory import MemoryBlockstore
    from torch_ipfs.blockstore.open import open_blockstore
    from torch_ipfs.blockstore.tiered import TieredBlockstore

__all__ = [
    "Block",
    "Blockstore",
    "CachedBlockstore",
    "CarBlockstore",
    "GatewayBlockstore",
    "KuboBlockstore",
    "LinkedBlockstore",
    "LocalBlockstore",
    "MemoryBlockstore",
    "PinningBlockstore",
    "TieredBlockstore",
    "open_blockstore",
]

_MODULES = {
    "Block": "base",
    "Blockstore": "base",
    "CachedBlockstore": "cached",
    "CarBlockstore": "car_file",
    "GatewayBlockstore": "gateway",
    "KuboBlockstore": "kubo",
    "LinkedBlockstore": "base",
    "LocalBlockstore": "local",
    "MemoryBlockstore": "memory",
    "PinningBlockstore": "base",
    "TieredBlockstore": "tiered",
    "open_blockstore": "open",
}


def _imported(name: str) -> Any:
    """Each store is imported when it is first asked for."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


if not TYPE_CHECKING:
    __getattr__ = _imported
