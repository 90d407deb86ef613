"""Event loops in threads, one a store and process, so that blocking callers share connections.

A loop does not survive a fork: its thread is not there in the child, its selector is the parent's. So each process makes
its own on first use, and what a child inherits is kept and never touched, since closing it would reach into the parent's.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from contextlib import AbstractAsyncContextManager
from typing import Any, Generic, TypeVar

from torch_ipfs.blockstore.process_lock import ProcessLock
from torch_ipfs.errors import StoreClosed, TransportError

S = TypeVar("S")
T = TypeVar("T")

_inherited: list[object] = []


class LoopThread(Generic[S]):
    """A running event loop in a daemon thread, and a session that was opened in it.

    :param open_session: makes the asynchronous context in which everything runs; called in the loop.
    """

    session: S

    def __init__(self, name: str, open_session: Callable[[], AbstractAsyncContextManager[S]]) -> None:
        self._pid = os.getpid()
        self._lock = threading.RLock()  # garbage collected while it is held may hold iterators, whose end needs it
        self._open_session = open_session
        self._closed = False
        opened: Future[None] = Future()
        self._thread = threading.Thread(target=self._serve, args=(opened,), name=name, daemon=True)
        try:
            self._start(opened)
        except BaseException:  # such as a KeyboardInterrupt: nobody else knows of the thread
            if not opened.cancel() and opened.exception() is None:
                self.close()
            raise

    @property
    def usable(self) -> bool:
        """Whether it runs, in this process."""
        return not self._closed and self._pid == os.getpid()

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Start ``coroutine`` in the loop.

        :raises StoreClosed: the loop has been closed, or belongs to the process that this one was forked from.
        """
        if self._pid == os.getpid():  # the lock of another process may never be free here
            with self._lock:
                if not self._closed:
                    return asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        coroutine.close()
        raise gone()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """The result of ``coroutine``, run in the loop; it is cancelled where waiting for it is interrupted."""
        future = self.submit(coroutine)
        try:
            return future.result()
        except CancelledError:
            raise gone() from None
        except BaseException:
            future.cancel()
            raise

    def call_soon(self, callback: Callable[[], object]) -> None:
        """Call ``callback`` in the loop.

        :raises StoreClosed: as for :meth:`submit`.
        """
        if self._pid == os.getpid():
            with self._lock:
                if not self._closed:
                    self._loop.call_soon_threadsafe(callback)
                    return
        raise gone()

    def close(self) -> None:
        """Cancel what runs, close the session, end the loop and its thread."""
        if self._pid != os.getpid():
            _inherited.append(self)
            return
        with self._lock:
            if not self._closed:
                self._closed = True
                self._loop.call_soon_threadsafe(self._stop.set)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _start(self, opened: Future[None]) -> None:
        try:
            self._thread.start()
        except RuntimeError as error:
            raise TransportError(f"no thread can be started for connections: {error}") from None
        try:
            opened.result()
        except OSError as error:  # no more files may be open
            raise TransportError(f"no connections can be made: {error.strerror or error}") from None

    def _serve(self, opened: Future[None]) -> None:
        main = self._main(opened)
        try:
            asyncio.run(main)
        except BaseException as failure:
            main.close()  # it has not begun where there is no loop
            if opened.cancelled():
                return
            if opened.done():
                raise
            opened.set_exception(failure)

    async def _main(self, opened: Future[None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        async with self._open_session() as self.session:
            if not opened.set_running_or_notify_cancel():
                return
            opened.set_result(None)
            await self._stop.wait()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)


class LoopThreads(Generic[S]):
    """The loop thread of whichever process asks. Closed with its owner at the latest, or at the process's end."""

    def __init__(self, name: str, open_session: Callable[[], AbstractAsyncContextManager[S]]) -> None:
        self._name = name
        self._open_session = open_session
        self._threads: dict[int, LoopThread[S]] = {}
        self._lock = ProcessLock()
        weakref.finalize(self, _close, self._threads)

    def here(self) -> LoopThread[S]:
        """This process's loop thread, made where there is none yet."""
        pid = os.getpid()
        thread = self._threads.get(pid)
        if thread is None or not thread.usable:
            with self._lock:
                thread = self._threads.get(pid)
                if thread is None or not thread.usable:
                    thread = self._threads[pid] = LoopThread(self._name, self._open_session)
        return thread

    def close(self) -> None:
        """End this process's loop thread, if there is one."""
        _close(self._threads)


def _close(threads: dict[int, LoopThread[Any]]) -> None:
    while threads:
        _, thread = threads.popitem()
        thread.close()


def gone() -> StoreClosed:
    """What a caller is told whose loop is no more."""
    return StoreClosed("the store was closed, or the process forked, while its blocks were being read")
