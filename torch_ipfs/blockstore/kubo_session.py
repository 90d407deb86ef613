"""What ipfshttpclient sends, by the connections that blocks come by.

So what it asks has the same proxies, certificates, tokens and bounds. requests, by itself, has no bound on how long a whole
answer may take: each byte may come a minute after the one before.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from torch_ipfs.blockstore.body_file import BodyFile
from torch_ipfs.blockstore.http_messages import Request
from torch_ipfs.blockstore.transport import Transport

if TYPE_CHECKING:
    from torch_ipfs.codec.cid import CID

CALLS = "/api/v0"
"""Below what ipfshttpclient is told that a node's calls are, wherever they are: it changes paths such as ``/a//b``."""
_MOST_BYTES = 2**28
"""Bytes of one answer, such as the list of all pins."""


class NodeAdapter:
    """A session's way to the node, as requests has adapters for that.

    :param cid: what is asked about, for errors.
    """

    def __init__(self, transport: Transport, cid: CID | None) -> None:
        self._transport = transport
        self._cid = cid

    def send(self, request: Any, **_: Any) -> Any:
        """The answer to a request of requests', asked for once, whose body is still to be read.

        :raises TorchIPFSError: there is none, or it has another status than 200.
        """
        from requests import Response

        parts = urlsplit(request.url)
        asked = Request("POST", parts.path.removeprefix(CALLS), parts.query, cid=self._cid)
        body = BodyFile(self._transport, asked, once_within_s=self._transport.timeout_s, in_turn=True)
        try:
            body.wait()
        except BaseException:
            body.close()
            raise
        response = Response()
        response.status_code, response.url, response.request = 200, request.url, request
        response.raw = _Body(asked, body)
        return response

    def close(self) -> None:
        """The connections are the store's."""


class _Body:
    """A body in the form that a response of requests' reads."""

    def __init__(self, asked: Request, body: BodyFile) -> None:
        self._body = body
        self._is_report_by_report = "progress=true" in asked.query.lower()

    def stream(self, *_: Any, **__: Any) -> Iterator[bytes]:
        """Reports of progress as they come, each with the time of one call; any other answer whole, for ipfshttpclient parses
        what it has from the start with every piece.
        """
        if not self._is_report_by_report:
            yield self._body.whole(_MOST_BYTES)
            return
        for piece in self._body.pieces(_MOST_BYTES):
            if b"}" in piece:
                self._body.allow_time()
            yield piece

    def close(self) -> None:
        """End the request."""
        self._body.close()

    release_conn = close
