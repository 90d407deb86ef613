"""Connections that are gone once they are closed. Imported only where connections are made, since aiohttp takes a while."""

from __future__ import annotations

import asyncio
import socket
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, cast

import aiohttp
from aiohttp.client_proto import ResponseHandler

from torch_ipfs.blockstore.call_threads import CallThreads

_BUFFER_BYTES = 512 * 2**10
"""What a connection may have in hand before it stops reading, twice over. Of aiohttp's 64 KiB a stream of small blocks runs
dry in 2 ms, less than other threads may keep the interpreter."""


_MOST_LOOKUPS = 16
"""Names of hosts that are looked up at once."""


class _Lookups(CallThreads):
    """What aiohttp's resolver asks its loop for, by threads that nobody waits for: a lookup of a name server that is not there
    takes half a minute, and a loop of asyncio's does not end before it, nor does the process.
    """

    def __init__(self) -> None:
        super().__init__("torch_ipfs-lookup", _MOST_LOOKUPS)

    async def getaddrinfo(self, *arguments: Any, **options: Any) -> Any:
        return await self.result(partial(socket.getaddrinfo, *arguments, **options))

    async def getnameinfo(self, *arguments: Any) -> Any:
        return await self.result(partial(socket.getnameinfo, *arguments))


class Connector(aiohttp.TCPConnector):
    """Remembers what it has opened. A TLS connection that aiohttp closes waits for the other side to say goodbye, which
    a loop that ends does not do: its socket would be left to the garbage collector.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._opened: weakref.WeakSet[asyncio.BaseTransport] = weakref.WeakSet()

    async def _create_connection(self, *arguments: Any, **options: Any) -> ResponseHandler:
        protocol = await super()._create_connection(*arguments, **options)
        if protocol.transport is not None:
            self._opened.add(protocol.transport)
        return protocol

    async def abort(self) -> None:
        """Close every socket, at once."""
        for transport in tuple(self._opened):
            if isinstance(transport, asyncio.WriteTransport):
                transport.abort()
        for _ in range(2):  # turns of the loop: one to tell the connections, one to close their sockets
            await asyncio.sleep(0)


@asynccontextmanager
async def session(trusted: Any, silence_s: float, connect_timeout_s: float) -> AsyncIterator[aiohttp.ClientSession]:
    """The connections of one loop, any number of them: requests bound their number.

    :param trusted: an SSL context, or True for the system's certificates.
    """
    lookups = _Lookups()
    resolver = aiohttp.ThreadedResolver(loop=cast(asyncio.AbstractEventLoop, lookups))
    connector = Connector(limit=0, ssl=trusted, resolver=resolver)
    try:
        async with aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=None, connect=connect_timeout_s, sock_read=silence_s),
            headers={"Accept-Encoding": "identity", "User-Agent": "torch_ipfs"},
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            read_bufsize=_BUFFER_BYTES,
        ) as opened:
            yield opened
    finally:
        await connector.abort()
        lookups.close()
