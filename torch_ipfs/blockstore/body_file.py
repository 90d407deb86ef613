"""The body of an answer as a file that is read in the caller's thread."""

from __future__ import annotations

import asyncio
import io
import math
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING

from torch_ipfs.blockstore.http_messages import Request
from torch_ipfs.blockstore.transport import Transport
from torch_ipfs.errors import TransportError

if TYPE_CHECKING:
    import aiohttp
    from _typeshed import WriteableBuffer


_PIECE_BYTES = 2**16


class BodyFile(io.RawIOBase):
    """A body, read once from start to end, no further ahead than its connection buffers. Closing it ends the request.

    An answer is asked for again only while none has come. Reading raises what ends it early.

    :param once_within_s: for whoever has another way to what is read: the answer is asked for once, and reads may wait for
        so long, together, before they are allowed more time.
    :param in_turn: wait with what is asked for once while the service wants to be left alone; else that is an error.
    :raises TransportError: the request failed, the body broke off, or it took longer than was allowed.
    """

    def __init__(
        self, transport: Transport, request: Request, *, once_within_s: float | None = None, in_turn: bool = False
    ) -> None:
        self._transport = transport
        self._request = request
        self._is_asked_once, self._in_turn = once_within_s is not None, in_turn
        self._timeout_s = min(transport.timeout_s, once_within_s or math.inf)
        self._thread = transport.loop_thread()
        self._context = AsyncExitStack()
        self._response: aiohttp.ClientResponse | None = None
        self._chunk = b""
        self.allow_time()

    def allow_time(self) -> None:
        """Allow the reads from here on to wait for as long, together, as one call may take."""
        self._left_s = self._timeout_s

    def is_over(self, within_s: float) -> bool:
        """Whether the body ends here, as its end is heard of in time; its connection can then be used again."""
        self._left_s = min(self._timeout_s, within_s)
        try:
            return not self.read(1)
        except TransportError:
            return False

    def pieces(self, limit_bytes: int) -> Iterator[bytes]:
        """What is left of the body, as it comes.

        :raises TransportError: also where it has more than ``limit_bytes``.
        """
        size_bytes = 0
        while piece := self.read(_PIECE_BYTES):
            size_bytes += len(piece)
            if size_bytes > limit_bytes:
                raise self._transport.broken(f"the answer has over {limit_bytes} bytes", self._request)
            yield piece

    def whole(self, limit_bytes: int) -> bytes:
        """As :meth:`pieces`, all of them."""
        return b"".join(self.pieces(limit_bytes))

    def readable(self) -> bool:
        return True

    def wait(self) -> None:
        """Wait for at least a byte, or the end: at first for the answer, or what comes in its place, too."""
        if not self._chunk:
            self._chunk = self._thread.run(self._receive())

    def read(self, size: int = -1, /) -> bytes:
        """What has come, up to ``size`` bytes, waiting for at least one; empty at the end."""
        if size < 0:
            return self.readall()
        if size:
            self.wait()
        chunk, self._chunk = self._chunk[:size], self._chunk[size:]
        return chunk

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        chunk = self.read(len(view))
        view[: len(chunk)] = chunk
        return len(chunk)

    def close(self) -> None:
        if not self.closed:
            with suppress(TransportError):  # the loop has ended, and the request with it
                self._thread.submit(self._context.aclose())
        super().close()

    async def _receive(self) -> bytes:
        """What has come of the body, waiting for at least a byte; empty at its end."""
        import aiohttp

        loop = asyncio.get_running_loop()
        started_s = loop.time()
        try:
            async with asyncio.timeout(self._left_s) as limit:
                if self._response is None:
                    self._response = await self._answer()
                return await self._response.content.readany()
        except (aiohttp.ClientError, OSError) as failure:
            what = "is too slow" if limit.expired() else f"broke off: {self._transport.describe(failure)}"
            raise self._transport.broken(f"the body {what}", self._request) from None
        finally:
            self._left_s -= loop.time() - started_s

    async def _answer(self) -> aiohttp.ClientResponse:
        if self._is_asked_once:
            return await self._transport.once(self._request, self._open, in_turn=self._in_turn)
        return await self._transport.patiently(self._request, self._open)

    async def _open(self) -> aiohttp.ClientResponse:
        return await self._context.enter_async_context(self._transport.answer(self._thread.session, self._request))
