"""Reading blocks in order while threads hash the ones that come next.

sha2-256 runs at about 1.4 GB/s a core, slower than most of what is done with a block afterwards, and hashing lets go of the
GIL. So a reader that knows its next blocks has them hashed on the cores that are left, in a window bounded in bytes.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from torch_ipfs.blockstore.base import Block, one_by_one
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import OptionError, TorchIPFSError

WINDOW_BYTES = 16 * 2**20
MAX_HASH_THREADS = 8
MAX_BLOCKS_AHEAD = 256
INLINE_BYTES = 32 * 2**10
"""Below this, handing a block to a thread (20 us and more) costs as much as hashing it with sha2-256."""


@dataclass(frozen=True, slots=True)
class HashAhead:
    """How far and with how many threads ``get_many`` hashes ahead.

    :param hash_threads: threads of one iterator; 0 hashes each block when it is asked for; ``None`` takes the cores that
        are to spare (:func:`spare_threads`), which is decided anew for each iterator.
    :param window_bytes: most bytes of blocks that are hashed or waiting at a time; a larger block goes alone.
    :raises OptionError: a number below 0, or a window of 0.
    """

    hash_threads: int | None = None
    window_bytes: int = WINDOW_BYTES

    def __post_init__(self) -> None:
        if self.hash_threads is not None and self.hash_threads < 0:
            raise OptionError(
                f"hash_threads is 0 or more, or None for the cores that are to spare: {self.hash_threads}"
            )
        if self.window_bytes < 1:
            raise OptionError(f"window_bytes is 1 or more: {self.window_bytes}")


def spare_threads() -> int:
    """How many threads may hash beside the caller.

    None on one core, nor in a DataLoader worker where the workers alone take up the cores.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    loading = sys.modules.get("torch.utils.data")  # where it is not imported, this is no worker of its
    worker = loading.get_worker_info() if loading is not None else None
    if worker is None:
        return min(MAX_HASH_THREADS, cores - 1)
    workers = int(worker.num_workers)
    return min(MAX_HASH_THREADS, -(-max(0, cores - workers) // workers))


def read_ahead(
    cids: Iterable[CID],
    *,
    peek: Callable[[CID], Block | int],
    get: Callable[[CID], Block],
    options: HashAhead,
    return_exceptions: bool,
) -> Iterator[Block | TorchIPFSError]:
    """``get_many`` with what comes next hashed ahead. Its threads end with it, also when it is closed half-way.

    :param peek: the block where it is verified already, else its size in bytes; cheap; may raise.
    :param get: the verified block, from any thread.
    """
    threads = spare_threads() if options.hash_threads is None else options.hash_threads
    if threads == 0:
        yield from one_by_one(get, cids, return_exceptions=return_exceptions)
        return
    window = _Window(peek, get, threads)
    try:
        for cid in cids:
            entry = window.peek(cid)
            while window.is_full(entry.size_bytes, options.window_bytes):
                yield window.take(return_exceptions=return_exceptions)
            window.add(entry)
        while window:
            yield window.take(return_exceptions=return_exceptions)
    finally:
        window.close()


class _Entry:
    """A block of the window: there already, an error, or still to be had (by a thread, where ``future`` is set)."""

    __slots__ = ("cid", "future", "result", "size_bytes")

    def __init__(self, cid: CID, result: Block | TorchIPFSError | None, size_bytes: int) -> None:
        self.cid = cid
        self.result = result
        self.size_bytes = size_bytes
        self.future: Future[Block] | None = None


class _Window:
    """Blocks asked for and not yet given out, in order."""

    def __init__(self, peek: Callable[[CID], Block | int], get: Callable[[CID], Block], threads: int) -> None:
        self._peek = peek
        self._get = get
        self._threads = threads
        self._pool: ThreadPoolExecutor | None = None
        self._process = os.getpid()
        self._entries: deque[_Entry] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def is_full(self, next_bytes: int, window_bytes: int) -> bool:
        entries = len(self._entries)
        return entries >= MAX_BLOCKS_AHEAD or (entries > 0 and self._bytes + next_bytes > window_bytes)

    def peek(self, cid: CID) -> _Entry:
        try:
            found = self._peek(cid)
        except TorchIPFSError as error:
            return _Entry(cid, error, 0)
        return _Entry(cid, None, found) if isinstance(found, int) else _Entry(cid, found, len(found))

    def add(self, entry: _Entry) -> None:
        if entry.result is None and entry.size_bytes >= INLINE_BYTES and os.getpid() == self._process:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="torch_ipfs-hash")
            entry.future = self._pool.submit(self._get, entry.cid)
        self._bytes += entry.size_bytes
        self._entries.append(entry)

    def take(self, *, return_exceptions: bool) -> Block | TorchIPFSError:
        entry = self._entries.popleft()
        self._bytes -= entry.size_bytes
        try:
            result = self._result(entry)
        except TorchIPFSError as error:
            result = error
        if isinstance(result, TorchIPFSError) and not return_exceptions:
            raise result
        return result

    def _result(self, entry: _Entry) -> Block | TorchIPFSError:
        if entry.result is not None:
            return entry.result
        # Threads do not come along in a fork: there the child does their work.
        if entry.future is None or os.getpid() != self._process or entry.future.cancel():
            return self._get(entry.cid)
        while not entry.future.done() and self._help():
            pass
        return entry.future.result()

    def _help(self) -> bool:
        """Hash the next block that no thread has begun, while waiting for one that is; whether there was one."""
        for entry in self._entries:
            if entry.future is not None and entry.future.cancel():
                entry.future = Future()
                try:
                    entry.future.set_result(self._get(entry.cid))
                except Exception as error:  # noqa: BLE001 - raised in its place, as from a thread
                    entry.future.set_exception(error)
                return True
        return False

    def close(self) -> None:
        self._entries.clear()
        if self._pool is not None and os.getpid() == self._process:
            self._pool.shutdown(wait=True, cancel_futures=True)
