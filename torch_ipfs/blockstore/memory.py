"""Blocks in a dict."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch_ipfs.blockstore.base import (
    MAX_BLOCK_BYTES,
    Block,
    is_identity,
    one_by_one,
    verify,
)
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import BlockNotFound, TorchIPFSError


class MemoryBlockstore:
    """A store for small datasets and for tests. Blocks are verified when they are put, and cannot change after that.

    It pickles with its blocks; a process that it is sent to, or that forks, has a copy of its own.

    :param blocks: what it holds from the start: pairs, or a mapping.
    :param max_block_bytes: largest block that is put.
    :raises HashMismatch: one of ``blocks`` does not hash to its CID.
    """

    source = "memory"

    def __init__(
        self,
        blocks: Mapping[CID, Block] | Iterable[tuple[CID, Block]] | None = None,
        *,
        max_block_bytes: int = MAX_BLOCK_BYTES,
    ) -> None:
        self._max_block_bytes = max_block_bytes
        self._blocks: dict[bytes, tuple[CID, bytes]] = {}
        self.put_many(blocks.items() if isinstance(blocks, Mapping) else blocks or ())

    def __repr__(self) -> str:
        return f"MemoryBlockstore({len(self._blocks)} blocks)"

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_blocks": self._blocks.copy()}  # at once: others may put meanwhile

    def get(self, cid: CID) -> Block:
        multihash = cid.multihash
        entry = self._blocks.get(multihash)
        if entry is not None:
            return entry[1]
        if is_identity(multihash):
            return cid.digest
        raise BlockNotFound("the block was never put here", cid=cid, source=self.source)

    def get_many(self, cids: Iterable[CID], *, return_exceptions: bool = False) -> Iterator[Block | TorchIPFSError]:
        return one_by_one(self.get, cids, return_exceptions=return_exceptions)

    def has(self, cid: CID) -> bool:
        return (multihash := cid.multihash) in self._blocks or is_identity(multihash)

    def put(self, cid: CID, data: Block) -> None:
        data = bytes(data)  # a view's memory may change
        verify(cid, data, self.source, max_block_bytes=self._max_block_bytes)
        if not is_identity(cid.multihash):
            self._blocks.setdefault(cid.multihash, (cid, data))

    def put_many(self, blocks: Iterable[tuple[CID, Block]]) -> None:
        for cid, data in blocks:
            self.put(cid, data)

    def cids(self) -> Iterator[CID]:
        return iter([cid for cid, _ in list(self._blocks.values())])  # a list at once: others may put meanwhile

    def close(self) -> None:
        """Nothing to let go of: the blocks stay."""
