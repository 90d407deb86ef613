"""A cache on disk in front of a store that is slower than a disk."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path

from torch_ipfs.blockstore.base import (
    Block,
    Blockstore,
    LinkedBlockstore,
    StrPath,
    check_store,
    identity_block,
    source_of,
    unreachable_at,
)
from torch_ipfs.blockstore.cached_reads import CachedReads
from torch_ipfs.blockstore.directories import absolute, cache_directory
from torch_ipfs.blockstore.disk_cache import DiskCache
from torch_ipfs.blockstore.fetch_once import CountedPack, FetchOnce
from torch_ipfs.blockstore.hash_ahead import INLINE_BYTES
from torch_ipfs.blockstore.tiered import TieredBlockstore
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import OptionError, TorchIPFSError


@dataclass(slots=True)
class _Here:
    """What one process has of a store."""

    disk: DiskCache
    blocks: FetchOnce


class CachedBlockstore:
    """A store whose blocks are kept on disk once they were read, for all processes of a node.

    - Blocks are kept by multihash, up to ``cache_bytes`` in all; the least recently used go first. Processes that write at the
      same moment may be over that by the one block that each writes.
    - Of all processes and threads that want a block that is not there, one fetches it. The others wait for it, no longer
      than ``wait_s``, and do not wait again for a process that kept them so long; then they fetch it themselves.
    - A block's hash is taken when it is first read by a process, and again if its file is another or has changed. A bad
      one is removed, logged, and fetched again.
    - Blocks of 128 KiB and more are mapped. Files are only put in place by rename, and removed.
    - A folder that cannot be written, or a full disk, is warned of once (logger ``torch_ipfs.blockstore.cached``); blocks are
      then read from the store alone, and the cache is tried again a minute later.
    - What is put goes to the store below and not to the cache: what is written is mostly read elsewhere, and would push out
      what is read here.

    The folder may be shared by any number of stores in front of any number of sources, and by the users whom the mask lets
    write what others wrote. It has to be on a local disk.

    :param store: where blocks come from that are not in the cache. Of one with a cache in the same folder, or of a
        TieredBlockstore's source with one, what that has below it: the two would wait for each other.
    :param cache_dir: the cache's folder; ``None`` for TORCH_IPFS_CACHE_DIR, else the user's folder for caches. Blocks are
        kept in ``blocks`` below it.
    :param cache_bytes: the most bytes of blocks; ``None`` for TORCH_IPFS_CACHE_BYTES, else a tenth of the disk, or half of
        what is free on it if that is less.
    :param wait_s: how long another process is waited for that fetches a wanted block.
    :param window_bytes: most bytes of blocks that one ``get_many`` holds in memory ahead of its reader.
    :param keep_mapped_bytes: most bytes of large blocks that a process keeps mapped after they were read, so that reading
        them again costs no page faults. One that is evicted meanwhile takes up disk until it is let go.
    :param keep_copied_bytes: most bytes of small blocks that a process keeps in memory after they were read.
    :raises OptionError: no store, a number that cannot work, or a TORCH_IPFS_CACHE_BYTES that is none.
    """

    def __init__(
        self,
        store: Blockstore,
        cache_dir: StrPath | None = None,
        cache_bytes: int | None = None,
        *,
        wait_s: float = 5.0,
        window_bytes: int = 64 * 2**20,
        keep_mapped_bytes: int = 2 * 2**30,
        keep_copied_bytes: int = 32 * 2**20,
    ) -> None:
        check_store(store)
        self._cache_dir = cache_directory() if cache_dir is None else Path(absolute(cache_dir))
        self._store = without_caches(store, self._cache_dir)
        self._cache_bytes = _bytes_of_environment() if cache_bytes is None else cache_bytes
        self._wait_s = wait_s
        self._window_bytes = window_bytes
        self._keep_mapped_bytes = keep_mapped_bytes
        self._keep_copied_bytes = keep_copied_bytes
        for name in ("cache_bytes", "wait_s", "window_bytes", "keep_mapped_bytes", "keep_copied_bytes"):
            value = getattr(self, f"_{name}")
            if value is not None and not (isinstance(value, Real) and float(value) >= 0):
                raise OptionError(f"{name} is {value!r}; a number of 0 or more is needed")
        if not isinstance(self._cache_bytes, Integral | None):
            raise OptionError(f"cache_bytes is {self._cache_bytes!r}; a whole number is needed")
        self._by_process: dict[int, _Here] = {}

    def __repr__(self) -> str:
        return f"CachedBlockstore({self._store!r}, {str(self._cache_dir)!r})"

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_by_process": {}}

    @property
    def store(self) -> Blockstore:
        """The store below."""
        return self._store

    @property
    def cache_dir(self) -> Path:
        """The cache's folder."""
        return self._cache_dir

    @property
    def source(self) -> str:
        """The name of the store below: where blocks come from in the end."""
        return source_of(self._store)

    @property
    def unreachable_at(self) -> float | None:
        """When the store below could not be reached, if it could not since."""
        return unreachable_at(self._store)

    @property
    def is_uncached(self) -> bool:
        """Whether what is read twice is fetched twice: the store below is one of the network, and there is no room here."""
        return bool(getattr(self._store, "is_remote", False)) and not self._here().disk.limit_bytes()

    def get(self, cid: CID) -> Block:
        return self._here().blocks.get(cid)

    def get_many(self, cids: Iterable[CID], *, return_exceptions: bool = False) -> Iterator[Block | TorchIPFSError]:
        """As the protocol has it; what the cache lacks is asked of the store below by its own ``get_many``."""
        here = self._here()
        blocks = here.blocks
        if here.disk.is_off and blocks.check.is_needless:
            return blocks.as_they_come(cids, return_exceptions=return_exceptions)
        reads = CachedReads(blocks, self._window_bytes)
        return reads.answers(cids, return_exceptions=return_exceptions)

    def linked_at_hand(self, node: CID) -> CountedPack | None:
        """What the cache has of the blocks that a node links to, where they came together.

        Whoever asks for them singly asks for this first: ``get`` and ``get_many`` find them then.
        """
        return self._here().blocks.pack(node)

    def get_linked(self, node: CID, cids: Sequence[CID]) -> Generator[tuple[bytes, Block], None, None] | None:
        """As :class:`~torch_ipfs.blockstore.base.LinkedBlockstore` has it; what comes is kept in one file."""
        blocks = self._here().blocks
        if not isinstance(self._store, LinkedBlockstore) or blocks.has_most(cids):
            return None
        return blocks.linked(self._store, node, cids)

    def at_hand(self, cid: CID) -> Block | None:
        """The block, if the cache has it and need not hash much for it; the store below is not asked."""
        return self._here().blocks.read(cid.multihash, most_unchecked_bytes=INLINE_BYTES)

    def has(self, cid: CID) -> bool:
        """Whether the cache or the store below holds ``cid``."""
        return identity_block(cid) is not None or self._here().disk.has(cid.multihash) or self._store.has(cid)

    def put(self, cid: CID, data: Block) -> None:
        self._store.put(cid, data)

    def put_many(self, blocks: Iterable[tuple[CID, Block]]) -> None:
        self._store.put_many(blocks)

    def cids(self) -> Iterator[CID]:
        """What the store below holds."""
        return self._store.cids()

    def stats(self) -> dict[str, int]:
        """What this process did, counted since it first used the store, and what the cache holds.

        - ``hits``, ``hit_bytes``: blocks that came from the cache, also after another process was waited for that fetched them.
        - ``misses``, ``miss_bytes``: blocks that the store below was asked for (in vain too), and bytes that it gave.
        - ``evictions``: blocks that this process removed to make room.
        - ``bad_blocks``: blocks of the cache whose hash was wrong; each was removed, and fetched again.
        - ``bytes``, ``limit_bytes``: what all blocks in the cache take, whoever put them there, and the bound on it.
        """
        here = self._here()
        counts = here.blocks.counts()
        return {
            "hits": counts.hits,
            "misses": counts.misses,
            "hit_bytes": counts.hit_bytes,
            "miss_bytes": counts.miss_bytes,
            "evictions": here.disk.evictions,
            "bad_blocks": here.disk.bad_blocks,
            "bytes": here.disk.total_bytes(),
            "limit_bytes": here.disk.limit_bytes(),
        }

    def close(self) -> None:
        """Let go of maps, and close the store below. The cache stays."""
        here = self._by_process.get(os.getpid())
        if here is not None:
            here.blocks.claims.close()
            here.disk.close()
        self._store.close()

    def _here(self) -> _Here:
        pid = os.getpid()
        here = self._by_process.get(pid)
        if here is None:
            disk = DiskCache(
                self._cache_dir / "blocks",
                self._cache_bytes,
                keep_mapped_bytes=self._keep_mapped_bytes,
                keep_copied_bytes=self._keep_copied_bytes,
            )
            # One step under the GIL: threads that are here at once get the same.
            here = self._by_process.setdefault(pid, _Here(disk, FetchOnce(self._store, disk, self._wait_s)))
            for other in self._by_process.keys() - {pid}:
                self._by_process.pop(other, None)  # a parent's maps, inherited
        return here


def without_caches(store: Blockstore, cache_dir: Path | None = None) -> Blockstore:
    """``store``, without the caches that it or its sources come with: those in ``cache_dir`` where that is given, else all."""
    if isinstance(store, CachedBlockstore) and (
        cache_dir is None or os.path.realpath(store.cache_dir) == os.path.realpath(cache_dir)
    ):
        return without_caches(store.store, cache_dir)
    if isinstance(store, TieredBlockstore):
        stores = tuple(without_caches(source, cache_dir) for source in store.stores)
        return store if stores == store.stores else store.with_stores(stores)
    return store


def _bytes_of_environment() -> int | None:
    text = os.environ.get("TORCH_IPFS_CACHE_BYTES")
    if not text:
        return None
    if not text.isascii() or not text.isdigit():
        raise OptionError(f"TORCH_IPFS_CACHE_BYTES is {text!r}; a number of bytes is needed, such as {50 * 2**30}")
    return int(text)
