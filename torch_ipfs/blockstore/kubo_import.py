"""Blocks into a Kubo node: its ``dag/import`` takes CARs, in a multipart form.

It checks hashes, stores blocks, and can pin the CAR's roots at the end. It is no transaction; a root that cannot be pinned
is told of inside an answer whose status is 200, and only the statistics at its end show that all has been read.
"""

from __future__ import annotations

import asyncio
import io
import os
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO, cast

from torch_ipfs.blockstore.base import Block, StrPath, identity_block, verify
from torch_ipfs.blockstore.kubo_answer import told, values
from torch_ipfs.blockstore.retry import Later
from torch_ipfs.blockstore.transport import Request, Transport
from torch_ipfs.codec import car
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import TransportError

if TYPE_CHECKING:
    import aiohttp

_BATCH_BYTES = 8 * 2**20
_BATCH_BLOCKS = 8192
_PIECE_BYTES = 2**20
_ANSWER_BYTES = 16 * 2**20
_QUERY = "stats=true&pin-roots="


def import_blocks(transport: Transport, blocks: Iterable[tuple[CID, Block]]) -> None:
    """Put blocks in CARs of some megabytes. Each is sent again where the node could not be reached or broke off.

    The CARs name each block by a raw CID: a node keys blocks by multihash, but would want to read those of other codecs.
    """
    for batch in _batches(transport, blocks):
        file = io.BytesIO()
        car.write(file, [], batch)
        head, foot, headers = _form()
        request = Request("POST", "/dag/import", f"{_QUERY}false", headers, body=head + file.getvalue() + foot)
        answer = transport.run(lambda session: transport.body(session, request, _ANSWER_BYTES))  # noqa: B023 - run now
        _check(answer, transport.endpoint.source)


def import_car(transport: Transport, file: StrPath | BinaryIO, *, pin_roots: bool, timeout_s: float) -> list[CID]:
    """Send a CAR file, piece by piece, and check that it was all read, and its roots pinned where that was asked for."""
    with ExitStack() as stack:
        if isinstance(file, str | os.PathLike):
            file = stack.enter_context(Path(file).open("rb"))
        start = _Recorder(file)
        roots = car.read_header(cast(IO[bytes], start))
        answer = transport.run(
            lambda session: _send(transport, session, start.recorded, file, pin_roots=pin_roots, timeout_s=timeout_s)
        )
    _check(answer, transport.endpoint.source)
    return roots


def _batches(transport: Transport, blocks: Iterable[tuple[CID, Block]]) -> Iterator[list[tuple[CID, Block]]]:
    """``blocks`` verified and cut into batches. What comes before an error is a batch, too."""
    batch: list[tuple[CID, Block]] = []
    batch_bytes = 0
    try:
        for cid, data in blocks:
            verify(cid, data, transport.endpoint.source, max_block_bytes=transport.options.max_block_bytes)
            if identity_block(cid) is not None:
                continue
            batch.append((CID.from_multihash("raw", cid.multihash), data))
            batch_bytes += len(data)
            if batch_bytes >= _BATCH_BYTES or len(batch) >= _BATCH_BLOCKS:
                yield batch
                batch, batch_bytes = [], 0
    except Exception:
        if batch:
            yield batch
        raise
    if batch:
        yield batch


async def _send(
    transport: Transport,
    session: aiohttp.ClientSession,
    start: bytes,
    file: BinaryIO,
    *,
    pin_roots: bool,
    timeout_s: float,
) -> bytes:
    """The answer to a CAR that is sent while it is read, once."""
    loop = asyncio.get_running_loop()
    source = transport.endpoint.source
    try:
        async with asyncio.timeout(timeout_s) as limit:
            head, foot, headers = _form()
            pieces = _pieces(head + start, file, foot, lambda: limit.reschedule(loop.time() + timeout_s))
            query = f"{_QUERY}{'true' if pin_roots else 'false'}"
            request = Request("POST", "/dag/import", query, headers, body=pieces)
            async with transport.answer(session, request) as response:
                return await transport.bounded(response, request, _ANSWER_BYTES)
    except Later as failure:
        raise TransportError(f"the CAR was not taken: {failure}", source=source) from None
    except TimeoutError:
        raise TransportError(f"the node took no more of the CAR for {timeout_s:g} s", source=source) from None


async def _pieces(start: bytes, file: BinaryIO, end: bytes, taken: Callable[[], None]) -> AsyncIterator[bytes]:
    """What is sent; ``taken`` is told each time the node wants more."""
    yield start
    while piece := await asyncio.to_thread(file.read, _PIECE_BYTES):
        taken()
        yield piece
    taken()
    yield end


def _form() -> tuple[bytes, bytes, dict[str, str]]:
    """What stands before and after the file in a multipart form, and the request's headers."""
    boundary = uuid.uuid4().hex
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="file.car"\r\n'
        "Content-Type: application/vnd.ipld.car\r\n\r\n"
    )
    return (
        head.encode(),
        f"\r\n--{boundary}--\r\n".encode(),
        {"Content-Type": f"multipart/form-data; boundary={boundary}"},
    )


class _Recorder:
    """A file that keeps what is read from it, for a reader that is to have it again."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.recorded = b""

    def read(self, size: int = -1, /) -> bytes:
        data = self._file.read(size)
        self.recorded += data
        return data


def _check(answer: bytes, source: str) -> None:
    """:raises TransportError: the node did not say that it read everything, or says that it could not pin a root."""
    found: list[dict[str, Any]] = values(answer, source)
    for value in found:
        root = value.get("Root") or {}
        if words := root.get("PinErrorMsg"):
            cid = (root.get("Cid") or {}).get("/")
            raise told(f"pin the root {cid}: {words}", None, source)
    if not any("Stats" in value for value in found):
        raise TransportError("the node broke off before it had read the whole CAR", source=source)
