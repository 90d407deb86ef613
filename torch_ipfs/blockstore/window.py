"""Requests in flight for the next of many CIDs, answers in the CIDs' order.

The caller's thread pulls the CIDs and takes the answers; the loop's thread asks. Between them stands a window: so many
requests at once, and so many bytes of answers not yet taken, where a request on its way counts as the largest block.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING

from torch_ipfs.blockstore.base import Block, when_left
from torch_ipfs.blockstore.loop_thread import gone
from torch_ipfs.blockstore.transport import Transport
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import TorchIPFSError, TransportError

if TYPE_CHECKING:
    import aiohttp

Fetch = Callable[["aiohttp.ClientSession", CID], Awaitable[Block]]
Answer = Block | TorchIPFSError

_AHEAD = 8
"""CIDs handed over and not yet answered, as a multiple of the requests in flight, so that the loop is rarely woken."""


def in_order(
    transport: Transport, fetch: Fetch, cids: Iterable[CID], *, return_exceptions: bool
) -> Iterator[Block | TorchIPFSError]:
    """``get_many``: what ``fetch`` returns or raises for each of ``cids``, in their order.

    ``cids`` is iterated in the caller's thread, somewhat ahead; what that raises comes after the answers before it. One that
    has ended is asked again as long as answers are outstanding: that of a wrapper store had nothing more to ask at the time.
    """
    in_flight = transport.options.in_flight
    window = _Window(transport, fetch)
    when_left(cids, window.leave)
    pending = iter(cids)
    failure: Exception | None = None
    try:
        while True:
            if failure is None and window.outstanding <= (_AHEAD - 1) * in_flight:
                batch, failure = _pull(pending, in_flight)
                if batch:
                    window.give(batch)
            if not window.outstanding:
                break
            answer = window.take()
            if isinstance(answer, TorchIPFSError) and not return_exceptions:
                raise answer
            yield answer
        if failure is not None:
            raise failure
    finally:
        window.cancel()


def _pull(pending: Iterator[CID], count: int) -> tuple[list[CID], Exception | None]:
    """The next ``count`` of ``pending``, or what there are, and what it raised."""
    batch: list[CID] = []
    try:
        batch.extend(islice(pending, count))
    except Exception as failure:  # noqa: BLE001 - raised again, in its place
        return batch, failure
    return batch, None


class _Window:
    """What the two threads share. Lanes are tasks that ask for one CID after the other until there is no more room."""

    def __init__(self, transport: Transport, fetch: Fetch) -> None:
        options = transport.options
        self._thread = transport.loop_thread()
        self._fetch = fetch
        self._max_lanes = options.in_flight
        self._window_bytes = options.window_bytes
        self._block_bytes = options.max_block_bytes
        self._changed = threading.Condition()
        self._asked: deque[CID] = deque()
        self._answers: dict[int, Answer] = {}
        self._lanes: set[asyncio.Task[None]] = set()
        self._given = self._started = self._taken = 0
        self._flying = self._held_bytes = 0
        self._waking = False
        self._failure: BaseException | None = None

    @property
    def outstanding(self) -> int:
        """CIDs given whose answers were not taken."""
        return self._given - self._taken

    def give(self, cids: list[CID]) -> None:
        """Hand over the next CIDs."""
        with self._changed:
            self._asked.extend(cids)
            self._given += len(cids)
        self._thread.call_soon(self._fill_lanes)

    def take(self) -> Answer:
        """The next answer; waits for it."""
        if not self._thread.usable:
            raise gone()
        with self._changed:
            while self._taken not in self._answers:
                if self._failure is not None:
                    raise self._failure
                self._changed.wait()
            answer = self._answers.pop(self._taken)
            self._taken += 1
            self._held_bytes -= _size(answer)
            idle = self._asked and len(self._lanes) < self._max_lanes
        if idle:
            self._thread.call_soon(self._fill_lanes)
        return answer

    def leave(self) -> None:
        """Let whoever waits for an answer go, by an error; any thread."""
        with self._changed:
            self._failure = gone()
            self._changed.notify_all()

    def cancel(self) -> None:
        """Ask for nothing more and break off what is on its way."""
        with suppress(TransportError):
            self._thread.call_soon(self._cancel_lanes)

    def _fill_lanes(self) -> None:
        with self._changed:
            while len(self._lanes) < self._max_lanes and (claimed := self._claim()):
                lane = asyncio.get_running_loop().create_task(self._lane(*claimed))
                self._lanes.add(lane)
                lane.add_done_callback(self._lane_ended)

    def _claim(self) -> tuple[int, CID] | None:
        """The next CID and its position, if there is one and room for its answer. Called with the lock held."""
        reserved_bytes = self._held_bytes + (self._flying + 1) * self._block_bytes
        if not self._asked or (reserved_bytes > self._window_bytes and (self._flying or self._held_bytes)):
            return None
        self._flying += 1
        self._started += 1
        return self._started - 1, self._asked.popleft()

    async def _lane(self, position: int, cid: CID) -> None:
        while True:
            answer: Answer
            try:
                answer = await self._fetch(self._thread.session, cid)
            except TorchIPFSError as failure:
                answer = failure
            with self._changed:
                self._flying -= 1
                self._held_bytes += _size(answer)
                self._answers[position] = answer
                if position == self._taken and not self._waking:
                    # Once for all answers of this turn of the loop: a switch of threads costs as much as a small block.
                    self._waking = True
                    asyncio.get_running_loop().call_soon(self._wake)
                claimed = self._claim()
                if claimed is None:
                    self._lanes.discard(asyncio.current_task())
                    return
            position, cid = claimed

    def _wake(self) -> None:
        with self._changed:
            self._waking = False
            self._changed.notify()

    def _lane_ended(self, lane: asyncio.Task[None]) -> None:
        """A lane that was cancelled, or failed in a way that no block accounts for, must not leave the caller waiting."""
        with self._changed:
            self._lanes.discard(lane)
            if lane.cancelled():
                self._failure = gone()
            elif lane.exception() is not None:
                self._failure = lane.exception()
            self._changed.notify()

    def _cancel_lanes(self) -> None:
        self._asked.clear()
        for lane in tuple(self._lanes):
            lane.cancel()


def _size(answer: Answer) -> int:
    return 0 if isinstance(answer, TorchIPFSError) else len(answer)
