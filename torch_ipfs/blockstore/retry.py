"""Asking again for what may come later: exponential backoff with jitter, and what servers wish for with Retry-After."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TypeVar

from torch_ipfs.blockstore.fetch_options import FetchOptions
from torch_ipfs.blockstore.turns import Turns

T = TypeVar("T")

_log = logging.getLogger(__name__)


class Later(Exception):
    """An attempt failed in a way that another may not.

    :param message: what came instead of an answer.
    :param retry_after_s: how long the server wants to be left alone.
    :param is_unreachable: whether no connection could be made.
    :param is_too_many: whether the server has said that it is sent too many requests, or there are no files for as many here.
    :ivar counts: whether it is one of the failures that the options allow so many of.
    """

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: float | None = None,
        is_unreachable: bool = False,
        is_too_many: bool = False,
    ) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.is_unreachable = is_unreachable
        self.is_too_many = is_too_many
        self.counts = True


class Retry:
    """Attempts at one host. A Retry-After holds all of them back, not only the one that was told.

    A host that is sent too many has them one after the other for a while. What it refuses so while it answers others does not
    count: of a window, most would be refused again and again where a few requests a second are allowed.

    :param timeout_s: the most that one call may take, its waits included.
    :param source: the host's name in the log, which tells of each attempt that failed: with INFO, but with WARNING of the first
        one at a host that has not answered yet, since its name may be wrong and the retries take half a minute.
    :ivar unreachable_at: when an attempt could not even connect, if none has since (``time.monotonic``).
    """

    def __init__(self, options: FetchOptions, timeout_s: float, source: str) -> None:
        self._source = source
        self._options = options
        self._timeout_s = timeout_s
        self._hold_until = 0.0
        self._turns = Turns()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._may_be_wrong = True
        self._answers = 0
        self.unreachable_at: float | None = None
        self.count = 0

    async def call(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """The result of ``attempt``, repeated as the options say.

        :raises Later: no attempt succeeded in time; the message tells of the last one.
        """
        failures: list[Later] = []
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._repeated(attempt, failures)
        except Later as failure:
            tried = "tried once" if len(failures) == 1 else f"tried {len(failures)} times, at last"
            raise Later(f"{tried}: {failure}") from None
        except TimeoutError:
            so_far = f"; an attempt before ended with: {failures[-1]}" if failures else ""
            raise Later(f"no whole answer within {self._timeout_s:g} s{so_far}") from None

    async def once(self, attempt: Callable[[], Awaitable[T]], *, in_turn: bool) -> T:
        """The result of ``attempt``, made once.

        :param in_turn: wait for as long as the host has asked to be left alone, or for fewer requests than there are.
        :raises Later: it failed, or would have to wait where it is not made in turn.
        """
        if not in_turn and (self._hold_until > time.monotonic() or self._turns_here().are_waited_for):
            raise Later("the host has asked to be left alone")
        try:
            return await self._attempted(attempt)
        except Later as failure:
            _log.info("%s: %s", self._source, failure)
            self._hold(failure)
            raise

    async def _repeated(self, attempt: Callable[[], Awaitable[T]], failures: list[Later]) -> T:
        answers = self._answers

        async def once() -> T:
            nonlocal answers
            try:
                return await self._attempted(attempt)
            except Later as failure:
                failure.counts = not (failure.is_too_many and self._answers > answers)
                answers = self._answers
                failures.append(failure)
                level = logging.WARNING if self._may_be_wrong and self._options.retries else logging.INFO
                _log.log(level, "%s: %s", self._source, failure)
                self._hold(failure)
                raise
            finally:
                self._may_be_wrong = False

        # Tenacity's bookkeeping costs 20 us, a sixth of what a small block takes, so it hears only of what has failed.
        try:
            return await once()
        except Later:
            if not self._options.retries:
                raise
        return await self._again(once, failures)

    async def _attempted(self, attempt: Callable[[], Awaitable[T]]) -> T:
        turns = self._turns_here()
        await turns.begin()
        try:
            if (wait_s := self._hold_until - time.monotonic()) > 0:
                await asyncio.sleep(wait_s)
            result = await attempt()
        except Later as failure:
            self.unreachable_at = time.monotonic() if failure.is_unreachable else None
            if failure.is_too_many:
                turns.too_many()
            raise
        else:
            self.unreachable_at = None
            self._answers += 1
            turns.fine()
            return result
        finally:
            turns.end()

    def _turns_here(self) -> Turns:
        """Those of the running loop: a parent's, or a closed store's, are not there to be waited for."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop, self._turns = loop, Turns()
        return self._turns

    async def _again(self, once: Callable[[], Awaitable[T]], failures: list[Later]) -> T:
        import tenacity

        controller = tenacity.AsyncRetrying(
            stop=lambda _: sum(failure.counts for failure in failures) > self._options.retries,
            wait=lambda _: self._wait_s(failures),
            retry=tenacity.retry_if_exception_type(Later),
            before=self._count,
            reraise=True,
        )
        await asyncio.sleep(self._wait_s(failures))
        return await controller(once)

    def _count(self, _: object) -> None:
        self.count += 1

    def _hold(self, failure: Later) -> None:
        wait_s = failure.retry_after_s or (self._options.backoff_s if failure.is_too_many else 0.0)
        if wait_s:
            wait_s = min(wait_s, self._options.retry_after_max_s)
            self._hold_until = max(self._hold_until, time.monotonic() + wait_s)

    def _wait_s(self, failures: list[Later]) -> float:
        """How long to wait before the next attempt; where all are held back, it is in its turn after that."""
        is_held_back = failures[-1].retry_after_s and self._hold_until > time.monotonic()
        return 0.0 if failures[-1].is_too_many and is_held_back else self._backoff_s(len(failures))

    def _backoff_s(self, failures: int) -> float:
        full_s = min(self._options.backoff_s * 2.0 ** min(failures - 1, 60), self._options.backoff_max_s)
        return full_s * random.uniform(0.5, 1.0)  # noqa: S311 - spreads clients, guards nothing


def retry_after_s(header: str | None) -> float | None:
    """The seconds that a Retry-After header asks for, as a number or as a date (RFC 9110, 10.2.3); None for nonsense."""
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        date = parsedate_to_datetime(text)
        # A date without a zone, in the form of asctime(), is of UTC too.
        moment = date if date.tzinfo else date.replace(tzinfo=UTC)
        return max(0.0, moment.timestamp() - time.time())
    except (ValueError, OverflowError, OSError):
        return None
