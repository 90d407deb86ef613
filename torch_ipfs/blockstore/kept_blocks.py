"""Blocks of the disk cache that a process keeps at hand, so that reading them again costs no opening and no page faults."""

from __future__ import annotations

import resource
import sys
import threading
from collections import OrderedDict

from torch_ipfs.blockstore.base import Block

MOST_MAPS = 2**13
"""Maps that a process keeps; Linux allows it 2**16 in all."""

Identity = tuple[int, int, int]
"""A file's inode, modification time (ns) and size: another file, or other content, differs in one of them."""


class KeptBlocks:
    """Blocks and the files that they came from, bounded in bytes. The least recently used are let go first."""

    def __init__(self, limit_bytes: int, most_blocks: int | None = None) -> None:
        self._limit_bytes = limit_bytes
        self._most_blocks = most_blocks
        self._bytes = 0
        self._blocks: OrderedDict[bytes, tuple[Identity, Block]] = OrderedDict()
        self._mutex = threading.Lock()

    def get(self, multihash: bytes) -> tuple[Identity, Block] | None:
        """The block, and the file that it was in when it was kept."""
        if multihash not in self._blocks:
            return None
        with self._mutex:
            kept = self._blocks.get(multihash)
            if kept is not None:
                self._blocks.move_to_end(multihash)
            return kept

    def keep(self, multihash: bytes, identity: Identity, block: Block) -> None:
        """Keep a block, if it is within the bounds by itself."""
        self.drop(multihash)
        if len(block) > self._limit_bytes:
            return
        with self._mutex:
            self._blocks[multihash] = identity, block
            self._bytes += len(block)
            while self._bytes > self._limit_bytes or (self._most_blocks and len(self._blocks) > self._most_blocks):
                _, (_, oldest) = self._blocks.popitem(last=False)
                self._bytes -= len(oldest)

    def drop(self, multihash: bytes) -> None:
        """Let go of a block, if it is kept."""
        if multihash in self._blocks:
            with self._mutex:
                kept = self._blocks.pop(multihash, None)
                if kept is not None:
                    self._bytes -= len(kept[1])

    def clear(self) -> None:
        """Let go of all."""
        with self._mutex:
            self._blocks.clear()
            self._bytes = 0


def most_maps() -> int:
    """How many maps may be kept. Before Python 3.13 each keeps its file open too, of which a process may have few."""
    if sys.version_info >= (3, 13):
        return MOST_MAPS
    most_files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MOST_MAPS if most_files == resource.RLIM_INFINITY else min(MOST_MAPS, most_files // 8)
