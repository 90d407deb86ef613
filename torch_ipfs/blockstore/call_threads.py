"""Threads for calls that may be given up waiting for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import TypeVar

from torch_ipfs.errors import TransportError

T = TypeVar("T")

IDLE_S = 5.0
"""A thread that has had nothing to do for so long ends."""


class CallThreads:
    """A few daemon threads, made when they are needed, that make calls in the order they were asked to.

    :param most: threads at once. A call that is stuck keeps its thread; when all are stuck, calls wait.
    """

    def __init__(self, name: str, most: int) -> None:
        self._name = name
        self._most = most
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._threads = 0
        self._unfinished = 0
        self._mutex = threading.Lock()

    def submit(self, call: Callable[[], None]) -> None:
        """Have ``call`` made by a thread. It must not raise.

        :raises TransportError: there is no thread, and none can be started.
        """
        with self._mutex:
            self._unfinished += 1
            self._calls.put(call)
            if self._threads < min(self._unfinished, self._most):
                self._start_thread()

    async def result(self, call: Callable[[], T]) -> T:
        """What ``call``, made by a thread, returns or raises.

        :raises TransportError: as :meth:`submit`.
        """
        result: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def make() -> None:
            try:
                tell = partial(result.set_result, call())
            except Exception as failure:  # noqa: BLE001 - told to whoever waits
                tell = partial(result.set_exception, failure)
            with suppress(RuntimeError):  # the loop has ended
                result.get_loop().call_soon_threadsafe(lambda: None if result.done() else tell())

        self.submit(make)
        return await result

    def close(self) -> None:
        """End the threads that have nothing to do; the others end after what they are doing."""
        with self._mutex:
            for _ in range(self._threads):
                self._calls.put(None)

    def _start_thread(self) -> None:
        try:
            threading.Thread(target=self._work, name=self._name, daemon=True).start()
        except RuntimeError as error:
            if not self._threads:
                self._calls.get()
                self._unfinished -= 1
                raise TransportError(f"no thread can be started: {error}") from None
        else:
            self._threads += 1

    def _work(self) -> None:
        while (call := self._next()) is not None:
            call()
            del call  # what it holds is not to wait for the next one
            with self._mutex:
                self._unfinished -= 1

    def _next(self) -> Callable[[], None] | None:
        while True:
            try:
                call = self._calls.get(timeout=IDLE_S)
            except Empty:
                call = None
            if call is not None:
                return call
            with self._mutex:
                if self._unfinished < self._threads:  # the others are enough
                    self._threads -= 1
                    return None
