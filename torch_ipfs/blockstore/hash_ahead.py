"""Reading blocks in order while threads hash the ones that come next.

sha2-256 runs at about 1.4 GB/s a core, slower than most of what is done with a block afterwards, and hashing lets go of the
GIL. So a reader that knows its next blocks has them hashed on the cores that are left, in a window bounded in bytes.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue

from torch_ipfs.blockstore.base import Block, one_by_one
from torch_ipfs.blockstore.collecting import join
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


class HashThreads:
    """Threads that hash what comes next, for one iterator. Whoever waits for one of them helps.

    Between threads passes a queue, and nothing else: with futures, what is written in Python would take as long as blake3 does.

    :param most: threads at once; each starts when there is work for it.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._threads: list[threading.Thread] = []
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._process = os.getpid()

    @property
    def are_here(self) -> bool:
        """Whether this is the process whose threads they are: they do not come along in a fork."""
        return os.getpid() == self._process

    def submit(self, work: Callable[[], None]) -> None:
        """Have ``work`` done by whoever is free first. It must not raise."""
        self._work.put(work)
        if len(self._threads) < self._most:
            self._start()

    def help(self) -> bool:
        """Do the next piece of work that nobody has begun; whether there was one."""
        try:
            work = self._work.get_nowait()
        except Empty:
            return False
        assert work is not None
        work()
        return True

    def close(self) -> None:
        """Drop what nobody has begun, and wait for the threads to end, where that may be waited for."""
        # Threads are gone, or never get to run again: then what finds this as garbage may find modules gone as well.
        if sys is None or sys.is_finalizing() or not self.are_here:
            return
        with suppress(Empty):
            while True:
                self._work.get_nowait()
        for _ in self._threads:
            self._work.put(None)
        for thread in self._threads:
            join(thread)

    def _start(self) -> None:
        thread = threading.Thread(target=_do, args=(self._work,), name="torch_ipfs-hash", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the system has no more: the reader does what no thread does
            self._most = len(self._threads)
        else:
            self._threads.append(thread)


def _do(work: SimpleQueue[Callable[[], None] | None]) -> None:
    while (piece := work.get()) is not None:
        piece()
        del piece  # its block is not to be held until the next one comes


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
    """A block of the window: there already, an error, or still to be had (by a thread, where ``pending`` is set).

    :ivar pending: held while ``result`` is somebody's to set.
    """

    __slots__ = ("cid", "pending", "result", "size_bytes")

    def __init__(self, cid: CID, result: Block | Exception | None, size_bytes: int) -> None:
        self.cid = cid
        self.result = result
        self.size_bytes = size_bytes
        self.pending: threading.Lock | None = None

    def leave(self) -> None:
        """Leave it to whoever calls :meth:`hash`."""
        self.pending = threading.Lock()
        self.pending.acquire()

    def hash(self, get: Callable[[CID], Block]) -> None:
        """Set ``result``, in any thread, and once."""
        assert self.pending is not None
        try:
            self.result = get(self.cid)
        except Exception as error:  # noqa: BLE001 - raised in its place
            self.result = error
        finally:
            self.pending.release()


class _Window:
    """Blocks asked for and not yet given out, in order."""

    def __init__(self, peek: Callable[[CID], Block | int], get: Callable[[CID], Block], threads: int) -> None:
        self._peek = peek
        self._get = get
        self._threads = HashThreads(threads)
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
        if entry.result is None and entry.size_bytes >= INLINE_BYTES and self._threads.are_here:
            entry.leave()
            self._threads.submit(partial(entry.hash, self._get))
        self._bytes += entry.size_bytes
        self._entries.append(entry)

    def take(self, *, return_exceptions: bool) -> Block | TorchIPFSError:
        entry = self._entries.popleft()
        self._bytes -= entry.size_bytes
        try:
            result = self._result(entry)
        except TorchIPFSError as error:
            result = error
        if isinstance(result, Exception) and not (return_exceptions and isinstance(result, TorchIPFSError)):
            raise result
        return result

    def _result(self, entry: _Entry) -> Block | Exception:
        if entry.pending is not None and self._threads.are_here:  # in a forked child, nobody will set it
            while entry.result is None and self._threads.help():
                pass
            if entry.result is None:
                entry.pending.acquire()
        return self._get(entry.cid) if entry.result is None else entry.result

    def close(self) -> None:
        self._entries.clear()
        self._threads.close()
