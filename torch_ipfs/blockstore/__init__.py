"""Stores of blocks: a CID goes in, verified bytes come out."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch_ipfs.blockstore.base import Block, Blockstore, PinningBlockstore
    from torch_ipfs.blockstore.car_file import CarBlockstore
    from torch_ipfs.blockstore.local import LocalBlockstore
    from torch_ipfs.blockstore.memory import MemoryBlockstore
    from torch_ipfs.blockstore.open import open_blockstore

__all__ = [
    "Block",
    "Blockstore",
    "CarBlockstore",
    "LocalBlockstore",
    "MemoryBlockstore",
    "PinningBlockstore",
    "open_blockstore",
]

_MODULES = {
    "Block": "base",
    "Blockstore": "base",
    "CarBlockstore": "car_file",
    "LocalBlockstore": "local",
    "MemoryBlockstore": "memory",
    "PinningBlockstore": "base",
    "open_blockstore": "open",
}


def _imported(name: str) -> Any:
    """Each store is imported when it is first asked for."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


if not TYPE_CHECKING:
    __getattr__ = _imported
