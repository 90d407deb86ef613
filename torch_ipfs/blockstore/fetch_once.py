"""A block from the cache, or else fetched once by all who want it."""

from __future__ import annotations

import os
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial

from torch_ipfs.blockstore.base import (
    MAX_BLOCK_BYTES,
    Block,
    Blockstore,
    LinkedBlockstore,
    close_iterator,
    identity_block,
    source_of,
)
from torch_ipfs.blockstore.cache_packs import Pack, PackWriter, key_of
from torch_ipfs.blockstore.collecting import is_collecting, put_off
from torch_ipfs.blockstore.disk_cache import DiskCache, Unchecked
from torch_ipfs.blockstore.held_claims import HeldClaims
from torch_ipfs.blockstore.trust import Checked
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import TorchIPFSError, TransportError

MOST_LOOKED_FOR = 64
"""Of a node's blocks, how many are looked for in the cache before a stream of all is begun."""


@dataclass(slots=True)
class Counts:
    """Blocks that came from the cache, and blocks that were fetched."""

    hits: int = 0
    hit_bytes: int = 0
    misses: int = 0
    miss_bytes: int = 0


class CountedPack:
    """A pack of which each block that is read counts as a hit."""

    def __init__(self, pack: Pack, blocks: FetchOnce) -> None:
        self._pack, self._blocks = pack, blocks

    def __contains__(self, multihash: bytes) -> bool:
        return multihash in self._pack

    def get(self, multihash: bytes) -> Block | None:
        """As :meth:`torch_ipfs.blockstore.cache_packs.Pack.get`."""
        block = self._pack.get(multihash)
        if block is not None:
            self._blocks.count_hit(len(block))
        return block


class FetchOnce:
    """The blocks of a store behind a cache, for the threads of one process.

    :param wait_s: the longest wait for another process or thread that is fetching the wanted block.
    """

    def __init__(self, store: Blockstore, disk: DiskCache, wait_s: float) -> None:
        self.store = store
        self.disk = disk
        self.claims = HeldClaims(store, disk.claims)
        self.check = Checked(store, source_of(store))
        self._wait_s = wait_s
        self._process = os.getpid()
        self._counts = Counts()
        self._mutex = threading.Lock()

    @property
    def is_ours(self) -> bool:
        """Whether this is the process that it was made in. A forked child inherits iterators; claims and files it does not."""
        return os.getpid() == self._process

    def get(self, cid: CID) -> Block:
        """The block. What :meth:`torch_ipfs.blockstore.base.Blockstore.get` raises, this does."""
        multihash = cid.multihash
        block = self.read(multihash)
        if block is not None:
            return block
        if (identity := identity_block(cid)) is not None:
            return identity
        claim = None
        if self.disk.is_writable:
            claim = self.claims.claim_within(multihash, self._wait_s, lambda: self.disk.has(multihash))
        try:
            block = self.read(multihash)  # it may have come before it was claimed
            return self._fetch(cid, multihash) if block is None else block
        finally:
            if claim is not None:
                self.claims.release(claim)

    def as_they_come(self, cids: Iterable[CID], *, return_exceptions: bool) -> Iterator[Block | TorchIPFSError]:
        """``get_many`` where nothing is kept, of a store that verifies what it gives: no thread need stand between."""
        answers = self.store.get_many(cids, return_exceptions=True)
        try:
            for answer in answers:
                if isinstance(answer, TorchIPFSError):
                    self.count_failure()
                    if not return_exceptions:
                        raise answer
                else:
                    self._count_miss(len(answer))
                yield answer
        finally:
            close_iterator(answers)

    def read(self, multihash: bytes, *, most_unchecked_bytes: int = MAX_BLOCK_BYTES) -> Block | None:
        """The block, if it is in the cache and, where it is over ``most_unchecked_bytes``, checked."""
        block = self.disk.read(multihash, most_unchecked_bytes=most_unchecked_bytes)
        if block is None or isinstance(block, Unchecked):
            return None
        self.count_hit(len(block))
        return block

    def pack(self, node: CID) -> CountedPack | None:
        """The blocks that ``node`` links to, if the cache has them in a pack. :meth:`read` finds them then."""
        pack = self.disk.pack(node)
        return None if pack is None else CountedPack(pack, self)

    def has_most(self, cids: Sequence[CID]) -> bool:
        """Whether the cache has most of these blocks by themselves, as some of them tell."""
        some = cids[:: max(1, len(cids) // MOST_LOOKED_FOR)]
        return 2 * sum(self.disk.has(cid.multihash) for cid in some) > len(some)

    def linked(
        self, store: LinkedBlockstore, node: CID, cids: Sequence[CID]
    ) -> Generator[tuple[bytes, Block], None, None]:
        """What ``node`` links to, in one go, which one process does: from the cache's pack, else from the store.

        Nothing comes where another process is at it and gets no further.
        """
        key, claim, is_shared = key_of(node.multihash), None, self.disk.is_writable
        if is_shared:
            claim = self.claims.claim_within(
                key, self._wait_s, lambda: self.disk.pack(node) is not None, lambda: self.disk.half_packed_bytes(node)
            )
        try:
            pack = self.pack(node)
            if pack is not None:
                for cid in cids:
                    if (block := pack.get(cid.multihash)) is not None:
                        yield cid.multihash, block
                return
            if is_shared and claim is None:
                return
            blocks = store.get_linked(node, cids)
            if blocks is not None:
                yield from self._packed(node, self.check.linked(blocks), at_least=len(cids) // 2)
        finally:
            if claim is not None and self.is_ours:
                put_off(partial(self.claims.release, claim))

    def _packed(
        self, node: CID, blocks: Generator[tuple[bytes, Block], None, None], at_least: int
    ) -> Generator[tuple[bytes, Block], None, None]:
        """``blocks``, which are put into a pack. It is kept if so many came: the rest is then missing, or in files."""
        writer = self.disk.pack_writer(node)
        try:
            with closing(blocks):
                for multihash, block in blocks:
                    self._count_miss(len(block))
                    if writer is not None:
                        writer = self._added(writer, multihash, block)
                    yield multihash, block
        finally:
            if writer is not None and self.is_ours:
                if writer.num_blocks > at_least and not is_collecting():
                    self.disk.finish_pack(writer)
                else:
                    writer.discard()

    def _added(self, writer: PackWriter, multihash: bytes, block: Block) -> PackWriter | None:
        """Add a block to a pack; ``None`` where that cannot be."""
        try:
            writer.add(multihash, block)
        except OSError as error:
            writer.discard()
            self.disk.cannot_write(error)
            return None
        return writer

    def keep(self, multihash: bytes, block: Block) -> bool:
        """Note that a block was fetched, and put it into the cache; whether it is there now."""
        self._count_miss(len(block))
        return self.disk.write(multihash, block)

    def _count_miss(self, size_bytes: int) -> None:
        with self._mutex:
            self._counts.misses += 1
            self._counts.miss_bytes += size_bytes

    def count_hit(self, size_bytes: int) -> None:
        """Note that a block came from the cache."""
        with self._mutex:
            self._counts.hits += 1
            self._counts.hit_bytes += size_bytes

    def count_failure(self) -> None:
        """Note that a block was asked for in vain."""
        with self._mutex:
            self._counts.misses += 1

    def counts(self) -> Counts:
        """What was noted until now."""
        with self._mutex:
            return replace(self._counts)

    def _fetch(self, cid: CID, multihash: bytes) -> Block:
        try:
            block = self.check(cid, self.store.get(cid))
        except OSError as error:
            self.count_failure()
            raise TransportError(f"the store failed: {error}", cid=cid, source=source_of(self.store)) from error
        except Exception:
            self.count_failure()
            raise
        self.keep(multihash, block)
        return block
