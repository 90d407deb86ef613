"""What a store of blocks is: a CID goes in, verified bytes come out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, runtime_checkable

from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import TorchIPFSError

Block = bytes | memoryview
"""A block's bytes, read-only. A ``memoryview`` looks into a mapped file (``view.obj`` is the map) and keeps it alive."""

MAX_BLOCK_BYTES = 2 * 2**20
"""Largest block that is read or put: what Kubo's bitswap and the trustless gateway spec allow."""


@runtime_checkable
class Blockstore(Protocol):
    """Blocks by CID, every byte of them verified.

    Stores key by multihash: CIDs that differ in version or codec alone name the same block. A block of an identity CID is
    the CID's own digest and is never looked up. All methods may be called from several threads. A store pickles (its
    connections, maps and locks do not travel: each process makes its own on first use) and works after a fork.
    """

    def get(self, cid: CID) -> Block:
        """The verified bytes of ``cid``.

        :raises BlockNotFound: the store has no such block.
        :raises HashMismatch: what the store has for it does not hash to ``cid``.
        :raises BlockTooLarge: it is over the limit in force.
        :raises TransportError: the store could not be reached or read.
        """
        ...

    def get_many(
        self, cids: Iterable[CID], *, return_exceptions: bool = False
    ) -> Iterator[Block | TorchIPFSError]:
        """The blocks of ``cids`` in their order, one for one, fetched or hashed ahead in a window bounded in bytes.

        With ``return_exceptions`` a block that cannot be had is answered by its error, in its place, and the rest
        follows; without it the error is raised. Closing the iterator cancels what is in flight.
        """
        ...

    def has(self, cid: CID) -> bool:
        """Whether the store holds ``cid``. Nothing is fetched from elsewhere, and the bytes are not verified."""
        ...

    def put(self, cid: CID, data: Block) -> None:
        """Keep ``data`` as the block of ``cid``.

        :raises HashMismatch: ``data`` does not hash to ``cid``; nothing is kept.
        :raises BlockTooLarge: over the limit in force.
        :raises TransportError: the store is read-only, full or out of reach.
        """
        ...

    def put_many(self, blocks: Iterable[tuple[CID, Block]]) -> None:
        """``put`` for each pair, with what batching the store has."""
        ...

    def cids(self) -> Iterator[CID]:
        """What the store holds; a store that keeps multihashes alone answers with raw CIDv1."""
        ...

    def close(self) -> None:
        """Let go of files, maps, connections and threads. May be called twice. A later use opens anew."""
        ...
