"""Files for Kubo's RPC, which takes them in multipart forms."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable

from torch_ipfs.blockstore.http_messages import Request

_PIECE_BYTES = 256 * 2**10


def form_request(
    path: str,
    query: str,
    file: Callable[[], AsyncIterator[bytes]],
    *,
    name: str = "data",
    content_type: str = "application/octet-stream",
) -> Request:
    """The request that sends one file.

    :param file: makes its pieces, for each attempt anew.
    :param name: what the form calls it.
    """
    boundary = uuid.uuid4().hex
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
        f"Content-Type: {content_type}\r\n\r\n"
    ).encode()

    async def body() -> AsyncIterator[bytes]:
        yield head
        async for piece in file():
            yield piece
        yield f"\r\n--{boundary}--\r\n".encode()

    return Request("POST", path, query, {"Content-Type": f"multipart/form-data; boundary={boundary}"}, body=body)


async def pieces_of(data: bytes) -> AsyncIterator[bytes]:
    """Bytes in pieces that are not too long to be sent at once."""
    for start in range(0, len(data), _PIECE_BYTES):
        yield data[start : start + _PIECE_BYTES]
