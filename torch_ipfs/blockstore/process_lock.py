"""A lock that a process does not inherit."""

from __future__ import annotations

import os
import threading


class ProcessLock:
    """A mutex among the threads of one process.

    A plain lock that some thread holds while another forks stays locked in the child for good. Here each process has a
    lock of its own, made on first use. It pickles, as a fresh one. The thread that holds it may take it again: what it calls,
    or the garbage collector in it, may come by.
    """

    __slots__ = ("_locks",)

    def __init__(self) -> None:
        self._locks: dict[int, threading.RLock] = {}

    def acquire(self, *, blocking: bool = True) -> bool:
        """Take it; whether it was free, or is now."""
        # setdefault is one step under the GIL: two threads get the same lock.
        return self._locks.setdefault(os.getpid(), threading.RLock()).acquire(blocking)

    def release(self) -> None:
        self._locks[os.getpid()].release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    def __reduce__(self) -> tuple[type[ProcessLock], tuple[()]]:
        return type(self), ()
