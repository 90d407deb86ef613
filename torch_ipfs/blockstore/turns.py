"""How many requests one host is sent at once: any number, until it says that they are too many."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from contextlib import suppress


class Turns:
    """After :meth:`too_many` one at a time, and one more with each that succeeds; who waits goes in the order of coming.

    Of one event loop, and used in it alone.
    """

    def __init__(self) -> None:
        self._most: float = math.inf
        self._under_way = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def are_waited_for(self) -> bool:
        """Whether one more would have to wait."""
        return self._under_way >= self._most or bool(self._waiting)

    def too_many(self) -> None:
        """The host has refused one for there being too many."""
        self._most = 1

    def fine(self) -> None:
        """The host has answered one."""
        self._most += 1

    async def begin(self) -> None:
        """Wait for a turn; :meth:`end` has to follow."""
        if not self.are_waited_for:
            self._under_way += 1
            return
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(mine)
        try:
            await mine
        except asyncio.CancelledError:
            if not mine.cancelled():  # it has come, too late
                self.end()
            with suppress(ValueError):
                self._waiting.remove(mine)
            raise

    def end(self) -> None:
        """Let others have a turn."""
        self._under_way -= 1
        while self._waiting and self._under_way < self._most:
            turn = self._waiting.popleft()
            if not turn.done():
                self._under_way += 1
                turn.set_result(None)
