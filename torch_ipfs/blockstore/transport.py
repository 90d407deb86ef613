"""Requests to one HTTP service: bounded in time and bytes, retried, redirected with care, told apart when they fail.

What is not 200 is judged by the store (:data:`~torch_ipfs.blockstore.http_messages.Judge`): missing, refused, later or broken.
What may come later is a :class:`~torch_ipfs.blockstore.retry.Later` and is asked for again. Not a byte of an answer is trusted.
"""

from __future__ import annotations

import asyncio
import errno
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, Unpack
from urllib.parse import urlsplit

from torch_ipfs.blockstore.base import Block, identity_block, verify
from torch_ipfs.blockstore.endpoint import Endpoint
from torch_ipfs.blockstore.environment_proxy import environment_proxy
from torch_ipfs.blockstore.fetch_options import FetchOptions, FetchOptionsDict
from torch_ipfs.blockstore.http_messages import Judge, Refusal, Request
from torch_ipfs.blockstore.loop_thread import LoopThread, LoopThreads
from torch_ipfs.blockstore.retry import Later, Retry, retry_after_s
from torch_ipfs.errors import BlockTooLarge, HashMismatch, OptionError, TransportError

if TYPE_CHECKING:
    import aiohttp
    import yarl

    from torch_ipfs.codec.cid import CID

T = TypeVar("T")

_REDIRECTS = frozenset((301, 302, 303, 307, 308))
_EXCERPT_BYTES = 4096
_EXPLAINED = (400, 500)
"""Statuses that do not say by themselves what a node's RPC has refused."""
_EXCERPT_S = 5.0
"""How long the start of what is said with an error is waited for."""
_NO_FILES_LEFT = (errno.EMFILE, errno.ENFILE)
"""Here, not at the host: fewer requests at once will do."""
_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f]")
_SHA2_256_PREFIX = b"\x12\x20"


NOBODY_LISTENS = "nobody listens there: is the node (ipfs daemon) or gateway running, and is this its address?"
"""What to do where a connection is refused."""
_NO_PROXY = (
    "nobody listens there: is that the proxy that HTTP_PROXY, HTTPS_PROXY or ALL_PROXY should name, and does it run?"
)


class Transport:
    """The connections of one store to its service. Pickles without them; each process makes its own on first use.

    :param judge: what to raise for an answer other than 200; a function of a module.
    :param patience_s: how much longer than the options say the service may be silent, and a call may take: what it needs
        to give up by itself and say so.
    :param ca_file: certificates to trust instead of the system's.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        options: FetchOptions,
        judge: Judge,
        patience_s: float = 0.0,
        ca_file: str | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.options = options
        self._judge = judge
        self._patience_s = patience_s
        self._ca_file = ca_file
        self.timeout_s = options.timeout_s + patience_s
        self.retry = Retry(options, self.timeout_s, endpoint.source)
        self.counts = dict.fromkeys(("requests", "blocks", "bytes", "hash_mismatches"), 0)
        silence_s = self.timeout_s if patience_s else options.stall_s
        self._loops = LoopThreads(
            f"torch_ipfs {endpoint.source}", partial(_session, silence_s, options.connect_timeout_s, ca_file)
        )

    def __reduce__(self) -> tuple[type[Transport], tuple[object, ...]]:
        return type(self), (self.endpoint, self.options, self._judge, self._patience_s, self._ca_file)

    def with_options(self, **options: Unpack[FetchOptionsDict]) -> Transport:
        """Another to the same service, with these options in place of its own."""
        changed = replace(self.options, **options)
        return Transport(self.endpoint, changed, self._judge, self._patience_s, self._ca_file)

    @property
    def proxy(self) -> str | None:
        """The proxy that the environment names for the service; not to be shown."""
        parts = urlsplit(self.endpoint.origin)
        return environment_proxy(parts.scheme, parts.hostname or "", parts.port)

    def loop_thread(self) -> LoopThread[aiohttp.ClientSession]:
        """This process's loop, for those who keep several requests in flight."""
        return self._loops.here()

    def run(self, work: Callable[[aiohttp.ClientSession], Coroutine[Any, Any, T]]) -> T:
        """The result of ``work``, from any thread but the loop's."""
        thread = self._loops.here()
        return thread.run(work(thread.session))

    def stats(self) -> dict[str, int]:
        """What this process has counted: ``requests`` (redirects too) and ``retries``, and of blocks asked for singly
        ``blocks``, their ``bytes``, and ``hash_mismatches``.
        """
        return {"retries": self.retry.count} | self.counts

    def close(self) -> None:
        """End the connections. A later call makes new ones."""
        self._loops.close()

    async def block(self, session: aiohttp.ClientSession, request: Request, cid: CID) -> Block:
        """The block of ``cid``, which is what the answer's body must be.

        :raises HashMismatch: it is not.
        :raises CodecError: its hash cannot be checked; it is not asked for then.
        :raises BlockTooLarge: it has more bytes than the options allow; what is beyond was not read.
        :raises TransportError: no attempt brought an answer.
        """
        if not cid.multihash.startswith(_SHA2_256_PREFIX):
            identity = identity_block(cid)
            if identity is not None:
                return identity
            with suppress(HashMismatch):  # raises where the hash function, or the digest's length, is not allowed
                verify(cid, b"", self.endpoint.source)
        limit_bytes = self.options.max_block_bytes
        data = await self.body(session, request, limit_bytes)
        try:
            verify(cid, data, self.endpoint.source, max_block_bytes=limit_bytes)
        except HashMismatch:
            self.counts["hash_mismatches"] += 1
            raise
        self.counts["blocks"] += 1
        self.counts["bytes"] += len(data)
        return data

    async def body(self, session: aiohttp.ClientSession, request: Request, limit_bytes: int) -> bytes:
        """The whole body of the answer, asked for as often as need be.

        :raises BlockTooLarge: it has more than ``limit_bytes``; what is beyond was not read.
        :raises TransportError: no attempt brought an answer.
        """

        async def attempt() -> bytes:
            async with self.answer(session, request) as response:
                return await self.bounded(response, request, limit_bytes)

        return await self.patiently(request, attempt)

    async def done(self, session: aiohttp.ClientSession, request: Request) -> None:
        """Nothing but that the answer's status is 200.

        :raises TransportError: no attempt brought that.
        """

        async def attempt() -> None:
            async with self.answer(session, request):
                pass

        await self.patiently(request, attempt)

    async def patiently(self, request: Request, attempt: Callable[[], Awaitable[T]]) -> T:
        """The result of ``attempt``, repeated while it ends in :class:`Later` and time is left."""
        try:
            return await self.retry.call(attempt)
        except Later as failure:
            raise TransportError(str(failure), cid=request.cid, source=self.endpoint.source) from None

    async def once(self, request: Request, attempt: Callable[[], Awaitable[T]], *, in_turn: bool) -> T:
        """The result of ``attempt``, which is not repeated, and not made while the service wants to be left alone.

        :param in_turn: wait for that; else it is an error.
        """
        try:
            return await self.retry.once(attempt, in_turn=in_turn)
        except Later as failure:
            raise TransportError(str(failure), cid=request.cid, source=self.endpoint.source) from None

    @asynccontextmanager
    async def answer(self, session: aiohttp.ClientSession, request: Request) -> AsyncIterator[aiohttp.ClientResponse]:
        """One attempt: the answer, whose status is 200 and whose body is as it was sent, not compressed."""
        import aiohttp

        answered = await self._answered(session, request)
        if isinstance(answered, Exception):
            raise answered  # here, where aiohttp's, which may hold the headers, is not its context
        try:
            async with answered as response:
                if response.status != 200:
                    raise self._judge(await self._refusal(response), request, self.endpoint.source)
                encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
                if encoding not in ("", "identity"):
                    # Never unpacked, so that there is no bomb in it.
                    named = self.endpoint.redact(encoding)[:40]
                    raise self.broken(f"asked for it as it is, came with Content-Encoding {named!r}", request)
                yield response
        except (aiohttp.ClientError, OSError) as failure:
            raise self._told(failure, request) from None

    async def _answered(self, session: aiohttp.ClientSession, request: Request) -> aiohttp.ClientResponse | Exception:
        """The answer at the end of the redirects, or what is to be raised because there is none."""
        import aiohttp

        try:
            return await self._follow(session, request)
        except (aiohttp.ClientError, OSError) as failure:
            return self._told(failure, request)

    async def bounded(self, response: aiohttp.ClientResponse, request: Request, limit_bytes: int) -> bytes:
        """The body, read no further than just past the limit. A declared length is only ever a reason to stop sooner."""
        declared = response.content_length
        chunks: list[bytes] = []
        size = 0
        if declared is None or declared <= limit_bytes:
            # As it comes: other ways to read join what has come, and that would be joined again.
            async for chunk, _ in response.content.iter_chunks():
                chunks.append(chunk)
                size += len(chunk)
                if size > limit_bytes:
                    break
            else:
                return chunks[0] if len(chunks) == 1 else b"".join(chunks)
        raise BlockTooLarge(
            f"at most {limit_bytes} bytes are accepted, came {declared if declared is not None else 'more'}",
            cid=request.cid,
            source=self.endpoint.source,
        )

    async def _follow(self, session: aiohttp.ClientSession, request: Request) -> aiohttp.ClientResponse:
        """The answer at the end of the redirects. What is secret goes to the endpoint's own host alone."""
        import yarl

        url = yarl.URL(self.endpoint.url(request.path, request.query), encoded=True)
        headers = {**request.headers, **dict(self.endpoint.headers)}
        for _ in range(self.options.max_redirects + 1):
            try:
                response = await self._asked(session, request, url, headers)
            except UnicodeError:
                raise self.broken("was led to a host that can have no such name", request) from None
            if response.status not in _REDIRECTS:
                return response
            response.release()
            target = self._target(response, request)
            if target.origin() != url.origin():
                headers = dict(request.headers)
            url = target
        raise self.broken(f"redirected more than {self.options.max_redirects} times", request)

    async def _asked(
        self, session: aiohttp.ClientSession, request: Request, url: yarl.URL, headers: dict[str, str]
    ) -> aiohttp.ClientResponse:
        """The answer of one host. What sends nothing is sent once more, at once, where what comes is not HTTP: on a connection
        that was kept it may be the rest of an answer before, which was longer than it said. So is a call of a node's whose
        connection is gone, as aiohttp does with a GET: one that was kept may be closed at that moment.
        """
        import aiohttp

        again = request.body is None
        while True:
            self.counts["requests"] += 1
            try:
                return await session.request(
                    request.method,
                    url,
                    headers=headers,
                    data=request.body and request.body(),
                    allow_redirects=False,
                    proxy=environment_proxy(url.scheme, url.host or "", url.port),
                )
            except (aiohttp.ClientConnectorError, aiohttp.ClientHttpProxyError):
                raise
            except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError):
                if not again or request.method != "POST":
                    raise
            except aiohttp.ClientResponseError:
                if not again:
                    raise
            again = False

    def _target(self, response: aiohttp.ClientResponse, request: Request) -> yarl.URL:
        """Where a redirect leads, if one may go there."""
        import yarl

        if request.method == "POST":
            raise self.broken("was redirected, which a POST does not follow; give the final address", request)
        try:
            target = response.url.join(yarl.URL(response.headers.get("Location", ""), encoded=True)).with_user(None)
            target.origin()  # raises where it has none
        except (ValueError, IndexError):
            target = None
        if target is None or _CONTROL_CHARACTER.search(str(target)):  # aiohttp has a bare error for it
            raise self.broken("was redirected to what is no URL", request)
        if target.scheme not in ("http", "https"):
            named = self.endpoint.redact(target.scheme)[:20]
            raise self.broken(f"was redirected to the scheme {named!r}", request)
        if response.url.scheme == "https" and target.scheme != "https":
            named = self.endpoint.redact(str(target.origin()))[:100]
            raise self.broken(f"was redirected from https to http, at {named}", request)
        return target

    async def _refusal(self, response: aiohttp.ClientResponse) -> Refusal:
        import aiohttp

        excerpt = b""
        says_more = response.status in _EXPLAINED or response.content_type == "application/json"
        with suppress(TimeoutError, aiohttp.ClientError, OSError):  # what it has said so far has to do
            async with asyncio.timeout(_EXCERPT_S):
                while says_more and len(excerpt) < _EXCERPT_BYTES and (piece := await response.content.readany()):
                    excerpt += piece
        text = self.endpoint.redact(excerpt[:_EXCERPT_BYTES].decode("utf-8", "replace"))
        return Refusal(response.status, text, retry_after_s(response.headers.get("Retry-After")))

    def _told(self, failure: Exception, request: Request) -> Exception:
        """A failure of aiohttp's as one of ours."""
        import aiohttp

        if isinstance(failure, aiohttp.ClientHttpProxyError):  # its own words hold the proxy's password
            return self._told_by_proxy(failure, request)
        text = self.describe(failure)
        if getattr(failure, "errno", None) in _NO_FILES_LEFT:
            return Later(text, is_too_many=True)
        if isinstance(failure, aiohttp.ClientResponseError):  # its own words have a status 400 that nobody sent
            return self.broken(self.endpoint.redact(f"what came is not HTTP: {failure.message}")[:300], request)
        never = (aiohttp.ClientSSLError, aiohttp.InvalidURL)
        unknown_name = isinstance(failure, aiohttp.ClientConnectorError) and failure.errno == socket.EAI_NONAME
        if unknown_name or isinstance(failure, never):
            return self.broken(text, request)
        unreachable = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
        return Later(text, is_unreachable=isinstance(failure, unreachable))

    def _told_by_proxy(self, failure: aiohttp.ClientHttpProxyError, request: Request) -> Exception:
        asked_s = None if failure.headers is None else retry_after_s(failure.headers.get("Retry-After"))
        refusal = Refusal(failure.status, "", asked_s)
        text = f"the proxy that HTTPS_PROXY or ALL_PROXY names answered {refusal}"
        return refusal.later(text) if refusal.comes_later else self.broken(text, request)

    def describe(self, failure: Exception) -> str:
        """A failure to be answered in words, without secrets."""
        said = self.endpoint.redact(f"{type(failure).__name__}: {failure}").rstrip(": ")[:300]
        if not _is_refused(failure):
            return said
        return f"{said}; {NOBODY_LISTENS if self.proxy is None else _NO_PROXY}"

    def broken(self, message: str, request: Request) -> TransportError:
        """The error of a source that will not do better when it is asked again."""
        return TransportError(message, cid=request.cid, source=self.endpoint.source)


def _session(
    silence_s: float, connect_timeout_s: float, ca_file: str | None
) -> AbstractAsyncContextManager[aiohttp.ClientSession]:
    import ssl

    import tenacity  # noqa: F401 - for the first retry, before which connections may have taken all files there are

    from torch_ipfs.blockstore.connector import session

    try:
        trusted = True if ca_file is None else ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise OptionError(f"ca_file {ca_file!r} holds no certificates that can be read: {error}") from None
    return session(trusted, silence_s, connect_timeout_s)


def _is_refused(failure: BaseException | None) -> bool:
    """Whether there is no service at the address, which may be said deep below what is raised."""
    while failure is not None:
        if isinstance(failure, ConnectionRefusedError) or getattr(failure, "errno", None) == errno.ECONNREFUSED:
            return True
        failure = failure.__cause__ or failure.__context__
    return False
