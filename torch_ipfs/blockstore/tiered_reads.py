"""Asking several sources for blocks: each in its turn, a slow one no longer than it has time, the first good answer taken.

A request goes to the first source that is up. An error sends it on to the next. A source that lets the reader wait for too
long is demoted and the next one is asked as well; should the slow one answer first after all, that is the answer. A request
has failed when all its sources have.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from torch_ipfs.blockstore.base import Block, identity_block, when_left
from torch_ipfs.blockstore.fetch_ahead import Ahead, Answer, FetchThread, Request
from torch_ipfs.blockstore.tier_source import TierSource, reason
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import (
    BlockError,
    BlockNotFound,
    BlockRefused,
    BlockTooLarge,
    HashMismatch,
    TorchIPFSError,
    TransportError,
)


@dataclass(frozen=True, slots=True)
class TierOptions:
    """How patient a reader of several sources is; :class:`torch_ipfs.blockstore.tiered.TieredBlockstore` tells more."""

    slow_s: float
    trial_s: float
    timeout_s: float
    window_bytes: int


class TierRequest(Request):
    """A block that is wanted, and what its sources said so far. Sources are named by their places."""

    __slots__ = ("asked_at", "errors")

    def __init__(self, cid: CID) -> None:
        super().__init__(cid)
        self.asked_at: dict[int, float] = {}
        self.errors: dict[int, TorchIPFSError] = {}


_SHORTEST_WAIT_S = 0.05
_LONGEST_WAIT_S = 3600.0
"""A lock takes no infinite time-out."""

Send = Callable[[TierSource, TierRequest], None]


class TierRouter:
    """Sends requests from source to source.

    :param send: has a source asked; its answer comes by :meth:`answered`, from any thread.
    :param withdraw: takes back the requests that a source was sent and has not looked at.
    :param unanswered: the requests that a source has looked at and not answered.
    """

    def __init__(
        self,
        sources: list[TierSource],
        options: TierOptions,
        send: Send,
        withdraw: Callable[[TierSource], list[TierRequest]] = lambda _: [],
        unanswered: Callable[[TierSource], list[TierRequest]] = lambda _: [],
    ) -> None:
        self.ahead: Ahead[TierRequest] = Ahead(options.window_bytes)
        self._sources = sources
        self._options = options
        self._send = send
        self._withdraw = withdraw
        self._unanswered = unanswered

    def ask(self, request: TierRequest) -> None:
        """Send a request to the next source that it has not been sent to, if there is one.

        Demoted sources come last. Where no source is left and none has yet to answer, the request has failed.
        """
        with self.ahead.changed:
            if request.settled:
                return
            left = [source for source in self._sources if source.place not in request.asked_at]
            if left:
                source = next((source for source in left if source.admit()), left[0])
                request.asked_at[source.place] = time.monotonic()
                try:
                    self._send(source, request)
                except TransportError as error:  # there is no thread for it
                    request.errors[source.place] = error
                    self.ask(request)
            elif len(request.errors) == len(request.asked_at):
                self.ahead.settle(request, failure_of(request, self._sources))

    def answered(self, source: TierSource, request: TierRequest, answer: Answer) -> None:
        """Take a source's verified answer: give it out, or send the request on."""
        if isinstance(answer, TorchIPFSError):
            self._failed(source, request, answer)
            return
        with self.ahead.changed:
            is_late = request.settled
            self.ahead.settle(request, answer)
        if isinstance(answer, BaseException):
            return
        if is_late:
            source.gave_late(request.asked_at[source.place])
        else:
            source.gave(request.cid, answer, request.asked_at[source.place])

    def wait(self, request: TierRequest) -> Answer:
        """The answer to a request, waited for. A source that takes too long has the next one asked beside it."""
        waits_since = time.monotonic()
        with self.ahead.changed:
            while request.answer is None:
                self.ahead.check_wanted()
                source = self._asked_last(request)
                since = max(waits_since, request.asked_at[source.place])
                left_s = since + self._patience_s(source, request) - time.monotonic()
                if left_s > 0:
                    self.ahead.changed.wait(min(left_s, self._look_again_s(source, request)))
                elif len(request.asked_at) < len(self._sources):
                    self._hurry(source, request, time.monotonic() - since)
                else:
                    self._give_up(request)
            return request.answer

    def _failed(self, source: TierSource, request: TierRequest, error: TorchIPFSError) -> None:
        is_demoted = source.failed(request.cid, error, request.asked_at[source.place])
        with self.ahead.changed:
            request.errors[source.place] = error
            self.ask(request)
            if is_demoted:
                self._send_on(source)

    def _hurry(self, source: TierSource, request: TierRequest, waited_s: float) -> None:
        """Ask the next source beside one that is slow, for all that waits for it."""
        if source.is_up:
            source.dawdled(request.cid, request.asked_at[source.place], waited_s)
        self._send_on(source)
        for other in self._unanswered(source):
            if other is not request:
                self.ask(other)
        self.ask(request)

    def _send_on(self, source: TierSource) -> None:
        for request in self._withdraw(source):
            del request.asked_at[source.place]
            self.ask(request)

    def _give_up(self, request: TierRequest) -> None:
        for place in request.asked_at.keys() - request.errors.keys():
            source = self._sources[place]
            request.errors[place] = TransportError(
                f"no answer within {self._options.timeout_s:g} s", cid=request.cid, source=source.name
            )
        self.ahead.settle(request, failure_of(request, self._sources))

    def _asked_last(self, request: TierRequest) -> TierSource:
        return self._sources[max(request.asked_at, key=request.asked_at.__getitem__)]

    def _patience_s(self, source: TierSource, request: TierRequest) -> float:
        if len(request.asked_at) == len(self._sources):
            return self._options.timeout_s
        is_hopeful = source.is_up and not source.is_unreachable(request.asked_at[source.place])
        return self._options.slow_s if is_hopeful else self._options.trial_s

    def _look_again_s(self, source: TierSource, request: TierRequest) -> float:
        """When to look again at how long to wait: that a source cannot be reached, only its store learns."""
        if source.is_up and not source.is_local and len(request.asked_at) < len(self._sources):
            return min(max(self._options.trial_s, _SHORTEST_WAIT_S), _LONGEST_WAIT_S)
        return _LONGEST_WAIT_S


class TierReads:
    """One ``get_many``: a thread for each source that is asked, which keeps that source's own window full."""

    def __init__(self, sources: list[TierSource], options: TierOptions) -> None:
        self._sources = sources
        self._router = TierRouter(sources, options, self._send, self._withdraw, self._unanswered)
        self._ahead = self._router.ahead
        self._fetchers: dict[int, FetchThread[TierRequest]] = {}

    def answers(self, cids: Iterable[CID], *, return_exceptions: bool) -> Iterator[Block | TorchIPFSError]:
        """What :meth:`torch_ipfs.blockstore.base.Blockstore.get_many` promises."""
        when_left(cids, self._ahead.leave)
        try:
            yield from self._ahead.in_order(
                map(self._request, cids), self._router.wait, return_exceptions=return_exceptions
            )
        finally:
            if self._ahead.is_ours:
                self._close()

    def _close(self) -> None:
        with self._ahead.changed:
            self._ahead.close()
            fetchers = list(self._fetchers.values())
        for fetcher in fetchers:
            fetcher.close()

    def _request(self, cid: CID) -> TierRequest:
        request = TierRequest(cid)
        if (identity := identity_block(cid)) is not None:
            request.answer_now(identity)
        elif (block := self._sources[0].at_hand(cid)) is not None:
            self._sources[0].gave(cid, block, time.monotonic())
            request.answer_now(block)
        else:
            self._router.ask(request)
        return request

    def _send(self, source: TierSource, request: TierRequest) -> None:
        fetcher = self._fetchers.get(source.place)
        if self._ahead.is_closed:
            return
        if fetcher is None:
            fetcher = FetchThread(source.store, lambda request, answer: self._answered(source, request, answer))
            self._fetchers[source.place] = fetcher
        fetcher.ask(request)

    def _answered(self, source: TierSource, request: TierRequest, answer: Answer) -> None:
        if not request.settled:
            answer = source.checked(request.cid, answer)
        self._router.answered(source, request, answer)
        if self._ahead.is_full:
            self._ahead.keep_back(lambda awaited: source.place in awaited.asked_at.keys() - awaited.errors.keys())

    def _withdraw(self, source: TierSource) -> list[TierRequest]:
        return self._fetchers[source.place].withdraw() if source.place in self._fetchers else []

    def _unanswered(self, source: TierSource) -> list[TierRequest]:
        return self._fetchers[source.place].unanswered() if source.place in self._fetchers else []


def failure_of(request: TierRequest, sources: list[TierSource]) -> TorchIPFSError:
    """What it comes to when every source has failed: down, where one is; else broken, refused or missing."""
    errors = request.errors
    kind, culprit = _kind(list(errors.items()))
    told = "; ".join(f"{sources[place].name}: {reason(errors[place])}" for place in sorted(errors))
    failure = kind(f"no source gave the block: {told}", cid=request.cid, source=sources[culprit].name)
    failure.__cause__ = errors[culprit]
    return failure


def _kind(errors: list[tuple[int, TorchIPFSError]]) -> tuple[type[TorchIPFSError], int]:
    """The kind of error, and the place of the source that makes it so."""
    for kind in (TransportError, HashMismatch, BlockTooLarge, BlockRefused, BlockNotFound, BlockError):
        for place, error in errors:
            if isinstance(error, kind):
                return kind, place
    place, error = errors[0]
    return type(error), place
