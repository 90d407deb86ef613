"""Asking stores ahead of need: requests that threads answer in any order and that are given out in theirs.

A wrapper store learns only bit by bit what it has to ask the store below for, yet that store's ``get_many`` wants an iterable,
and keeps its window full by pulling from it. So a thread feeds it what is there to be asked. The iterable ends when nothing
is: waiting inside it would keep back answers that have come already. Network stores look again, while they have answers
outstanding, whether there is more; for others the next round of ``get_many`` starts when there is.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from torch_ipfs.blockstore.base import Block, Blockstore, close_iterator, source_of
from torch_ipfs.blockstore.collecting import join, put_off
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import StoreClosed, TorchIPFSError, TransportError

Answer = Block | BaseException

MOST_AHEAD = 512
"""Requests made ahead while the next answer is waited for: more than network stores take at once (256)."""

SETTLED_AHEAD = 16
"""Requests made ahead while answers are there to be given out."""

GUESSED_BYTES = 2**20
"""What a block is taken to hold before one has been seen."""

FAREWELL_S = 1.0
"""How long closing an iterator waits for its thread. One that is kept longer by a store ends when that answers."""


class Request:
    """A block that is wanted. It is settled once it has an answer, or once its place of answer is known."""

    __slots__ = ("answer", "cid", "held_bytes", "settled")

    def __init__(self, cid: CID) -> None:
        self.cid = cid
        self.answer: Answer | None = None
        self.settled = False
        self.held_bytes = 0

    def answer_now(self, answer: Answer) -> None:
        """Answer a request that no thread knows of yet."""
        self.answer = answer
        self.settled = True


R = TypeVar("R", bound=Request)


class Ahead(Generic[R]):
    """The requests that an iterator has made and not given out, bounded in number and in bytes.

    ``changed`` guards all requests, and is notified whenever one is settled; ``pending`` are those to be given out, in order.

    :param window_bytes: most bytes of answers that are held or asked for; each request counts as the mean of the blocks that
        were given out, or as the last one if that was larger.
    """

    def __init__(self, window_bytes: int) -> None:
        self.changed = threading.Condition()
        self.awaited: R | None = None
        self._window_bytes = window_bytes
        self._held_bytes = 0
        self._given_blocks = self._given_bytes = 0
        self._block_bytes = GUESSED_BYTES
        self.pending: deque[R] = deque()
        self._failure: Exception | None = None
        self.is_closed = False
        self._is_left = False
        self._process = os.getpid()

    @property
    def is_ours(self) -> bool:
        """Whether this is the process whose threads answer; a forked child has inherited the iterator alone."""
        return os.getpid() == self._process

    @property
    def is_full(self) -> bool:
        """Whether the answers hold as many bytes as they may."""
        return self._held_bytes >= self._window_bytes

    def hold(self, request: R, size_bytes: int) -> None:
        """Count bytes that are held for a request until it is given out."""
        with self.changed:
            request.held_bytes += size_bytes
            self._held_bytes += size_bytes

    def settle(self, request: R, answer: Answer | None) -> None:
        """Answer a request, or (``None``) say that its answer is to be got when it is given out. The first answer stays."""
        with self.changed:
            if request.settled:
                return
            request.answer = answer
            request.settled = True
            if answer is not None and not isinstance(answer, BaseException) and not request.held_bytes:
                self.hold(request, len(answer))
            self.changed.notify_all()

    def keep_back(self, is_awaited: Callable[[R], bool]) -> None:
        """Wait, as a thread that answers, until there is room for more, or until what is awaited depends on it."""
        with self.changed:
            while self.is_full and not self.is_closed and not (self.awaited is not None and is_awaited(self.awaited)):
                self.changed.wait()

    def leave(self) -> None:
        """Let the reader go where it waits: whoever has it read wants nothing any more. Any thread."""
        with self.changed:
            self._is_left = True
            self.changed.notify_all()

    def check_wanted(self) -> None:
        """To be called by a reader before it waits.

        :raises StoreClosed: nobody wants what it waits for.
        """
        if self._is_left:
            raise StoreClosed("nobody wants these blocks any more")

    def in_order(
        self, requests: Iterator[R], finish: Callable[[R], Answer], *, return_exceptions: bool
    ) -> Iterator[Block | TorchIPFSError]:
        """The answers, in the order of ``requests``, which is advanced as far ahead as there is room.

        What ``requests`` raises comes after the answers before it. One that has ended is asked again as long as answers are
        outstanding: it may be fed by a reader like this one, which had nothing to ask at the time.

        :param finish: waits for a request that is not settled, and gets the answer of one that was settled without.
        """
        while True:
            if not self.is_ours:
                raise TransportError("the process forked while blocks were being read; read them anew in the child")
            self._fill(requests)
            if not self.pending:
                break
            request = self.pending.popleft()
            answer = request.answer
            if answer is None:
                self._await(request)
                answer = finish(request)
                self._await(None)
            self._give_out(request, answer)
            if isinstance(answer, BaseException) and not (return_exceptions and isinstance(answer, TorchIPFSError)):
                raise answer
            yield answer
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """Let threads that were kept back go on; nothing is given out any more."""
        with self.changed:
            self.is_closed = True
            self.changed.notify_all()

    def _fill(self, requests: Iterator[R]) -> None:
        """Make requests ahead."""
        made = 0
        while self._failure is None and not self._has_enough(made):
            try:
                request = next(requests, None)
            except Exception as failure:  # noqa: BLE001 - raised in its place
                self._failure = failure
                return
            if request is None:
                return
            self.pending.append(request)
            made += 1

    def _has_enough(self, made: int) -> bool:
        pending = self.pending
        if not pending:
            return False
        if pending[0].settled and (made >= 2 or len(pending) >= SETTLED_AHEAD):
            return True
        return self.is_full or len(pending) >= min(MOST_AHEAD, self._window_bytes // self._block_bytes)

    def _await(self, request: R | None) -> None:
        with self.changed:
            self.awaited = request
            self.changed.notify_all()

    def _give_out(self, request: R, answer: Answer) -> None:
        if not isinstance(answer, BaseException):
            size_bytes = len(answer)
            self._given_blocks += 1
            self._given_bytes += size_bytes
            self._block_bytes = max(1, size_bytes, self._given_bytes // self._given_blocks)
        if request.held_bytes:
            with self.changed:
                self._held_bytes -= request.held_bytes
                self.changed.notify_all()


class FetchThread(Generic[R]):
    """A thread that has a store's ``get_many`` answer requests, for one iterator. It starts with the first request.

    :param answered: told each answer, in this thread; may wait, which keeps the store back.
    :param admit: asked before a request is handed to the store; may settle it otherwise and answer no. Any thread.
    :param dropped: told, after the iterator was closed, each request that was admitted and will not be answered.
    """

    def __init__(
        self,
        store: Blockstore,
        answered: Callable[[R, Answer], None],
        admit: Callable[[R], bool] = lambda _: True,
        dropped: Callable[[R], None] = lambda _: None,
    ) -> None:
        self._store = store
        self._answered = answered
        self._admit = admit
        self._dropped = dropped
        self._changed = threading.Condition()
        self._queue: deque[R] = deque()
        self._asked: deque[R] = deque()
        self._ran_dry = False
        self._thread: threading.Thread | None = None
        self._feed: _Feed | None = None
        self._closed = False

    def ask(self, request: R) -> None:
        """Have a request answered after those before it."""
        with self._changed:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="torch_ipfs-fetch", daemon=True)
                try:
                    thread.start()
                except RuntimeError as error:
                    raise TransportError(f"no thread can be started to fetch blocks: {error}") from None
                self._thread = thread
            self._queue.append(request)
            self._changed.notify()

    def withdraw(self) -> list[R]:
        """Take back the requests that were not handed to the store yet."""
        with self._changed:
            withdrawn = list(self._queue)
            self._queue.clear()
            return withdrawn

    def unanswered(self) -> list[R]:
        """The requests that were handed to the store and are not answered."""
        with self._changed:
            return list(self._asked)

    def close(self) -> None:
        """Ask for nothing more, and break off what is on its way as soon as the store lets us."""
        with self._changed:
            self._closed = True
            self._queue.clear()
            self._changed.notify()
            feed = self._feed
        if feed is not None:
            put_off(feed.leave)
        if self._thread is not None:
            join(self._thread, FAREWELL_S)

    def _run(self) -> None:
        while self._wait_for_work():
            self._round()

    def _wait_for_work(self) -> bool:
        with self._changed:
            while not self._queue and not self._closed:
                self._changed.wait()
            return not self._closed

    def _round(self) -> None:
        """One ``get_many`` of the store. What it leaves unanswered is answered with why."""
        results: Iterator[Block | TorchIPFSError] | None = None
        self._ran_dry = False
        got_nowhere = False
        failure: BaseException = TransportError(
            "the store stopped before it had answered for all blocks", source=source_of(self._store)
        )
        try:
            results = self._store.get_many(self._new_feed(), return_exceptions=True)
            got_nowhere = not self._take_all(results) and not self._ran_dry
        except OSError as error:
            failure = TransportError(f"the store failed: {error}", source=source_of(self._store))
            failure.__cause__ = error
            got_nowhere = True
        except BaseException as error:  # noqa: BLE001 - whoever waits for the answer is told, in its own thread
            failure = error
            got_nowhere = True
        finally:
            if results is not None:
                close_iterator(results)
        left = self._forget()
        if not left and got_nowhere and self._next() is not None:
            left = self._forget()  # a store that fails before it asks for anything must not be tried for ever
        for request in left:
            if self._closed:
                self._dropped(request)
            else:
                self._hand_on(request, failure)

    def _new_feed(self) -> _Feed:
        with self._changed:
            self._feed = _Feed(self._next)
            if self._closed:
                self._feed.leave()
            return self._feed

    def _take_all(self, results: Iterator[Block | TorchIPFSError]) -> int:
        """Hand on what the store answers; how many answers there were."""
        taken = 0
        for answer in results:
            if self._closed:
                break
            with self._changed:
                request = self._asked.popleft() if self._asked else None
            if request is None:
                raise TransportError("the store answered more than it was asked", source=source_of(self._store))
            taken += 1
            self._hand_on(request, answer)
        return taken

    def _hand_on(self, request: R, answer: Answer) -> None:
        try:
            self._answered(request, answer)
        except BaseException as error:  # noqa: BLE001 - somebody waits for an answer, and gets this
            self._answered(request, error)

    def _next(self) -> CID | None:
        """What the store is to be asked next, if there is anything at present."""
        while True:
            with self._changed:
                self._ran_dry = not self._queue or self._closed
                if self._ran_dry:
                    return None
                request = self._queue.popleft()
            try:
                is_admitted = self._admit(request)
            except BaseException as error:  # noqa: BLE001 - as above
                self._answered(request, error)
                continue
            if is_admitted:
                with self._changed:
                    self._asked.append(request)
                return request.cid

    def _forget(self) -> list[R]:
        with self._changed:
            forgotten = list(self._asked)
            self._asked.clear()
            return forgotten


class _Feed:
    """An iterator that ends when there is nothing to ask, and goes on when there is again, for a store that asks again.

    Stores that wait for long are told when nobody wants their answers any more; see
    :func:`~torch_ipfs.blockstore.base.when_left`.
    """

    def __init__(self, next_cid: Callable[[], CID | None]) -> None:
        self._next_cid = next_cid
        self._calls: list[Callable[[], None]] = []
        self._is_left = False
        self._mutex = threading.Lock()

    def when_left(self, call: Callable[[], None]) -> None:
        with self._mutex:
            if not self._is_left:
                self._calls.append(call)
                return
        call()

    def leave(self) -> None:
        with self._mutex:
            self._is_left = True
            calls, self._calls = self._calls, []
        for call in calls:
            call()

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> CID:
        cid = self._next_cid()
        if cid is None:
            raise StopIteration
        return cid
