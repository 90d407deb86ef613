"""A proxy in front of an HTTP service that keeps each request back for a while, and answers not at all.

    python -m benchmarks.delay_proxy PORT DELAY_S

It prints its own port, and ends when its standard input does. It knows nothing of HTTP: what a client sends is passed on
DELAY_S later, what the service sends at once.
"""

from __future__ import annotations

import asyncio
import sys


class _Side(asyncio.Protocol):
    """One of the two ends of a connection; what comes in goes out of the other."""

    def __init__(self, delay_s: float = 0.0) -> None:
        self._delay_s = delay_s
        self.transport: asyncio.Transport | None = None
        self.other: _Side | None = None
        self._early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self._delay_s:
            asyncio.get_running_loop().call_later(self._delay_s, self._pass_on, data)
        else:
            self._pass_on(data)

    def join(self, other: _Side) -> None:
        self.other = other
        for data in self._early:
            self._pass_on(data)

    def _pass_on(self, data: bytes) -> None:
        if self.other is None or self.other.transport is None:
            self._early.append(data)
        elif not self.other.transport.is_closing():
            self.other.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()

    def pause_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.resume_reading()


async def serve(port: int, delay_s: float) -> None:
    """Run the proxy before 127.0.0.1:``port`` until standard input ends."""
    loop = asyncio.get_running_loop()
    joining: set[asyncio.Task[None]] = set()

    async def join(client: _Side) -> None:
        _, service = await loop.create_connection(_Side, "127.0.0.1", port)
        service.join(client)
        client.join(service)

    def accept() -> _Side:
        client = _Side(delay_s)
        task = loop.create_task(join(client))
        joining.add(task)
        task.add_done_callback(joining.discard)
        return client

    server = await loop.create_server(accept, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), float(sys.argv[2])))
