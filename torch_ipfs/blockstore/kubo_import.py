"""Blocks into a Kubo node: its ``dag/import`` takes CARs, in a multipart form.

It checks hashes and is no transaction. Only the statistics at the end of its answer show that it has read everything. It could
pin the roots, too, but would look for what the CAR lacks among its peers without an end, all pins locked meanwhile.
"""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, BinaryIO, cast

from torch_ipfs.blockstore.base import Block, StrPath, blaming, identity_block, in_batches, verify
from torch_ipfs.blockstore.call_threads import CallThreads
from torch_ipfs.blockstore.directories import absolute
from torch_ipfs.blockstore.forms import form_request, pieces_of
from torch_ipfs.blockstore.kubo_answer import values
from torch_ipfs.blockstore.retry import Later
from torch_ipfs.blockstore.transport import Transport
from torch_ipfs.codec import car
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import TransportError

if TYPE_CHECKING:
    import aiohttp

_BATCH_BYTES = 8 * 2**20
_BATCH_BLOCKS = 8192
_PIECE_BYTES = 256 * 2**10
_ANSWER_BYTES = 2**20
_QUERY = "stats=true&pin-roots=false"
_CAR = {"name": "file.car", "content_type": "application/vnd.ipld.car"}


def import_blocks(transport: Transport, blocks: Iterable[tuple[CID, Block]]) -> None:
    """Put blocks in CARs of some megabytes. Each is sent again where the node could not be reached or broke off.

    The CARs name each block by a raw CID: a node keys blocks by multihash, but would want to read those of other codecs.
    """
    for batch in in_batches(_verified(transport, blocks), _BATCH_BLOCKS, _BATCH_BYTES):
        file = io.BytesIO()
        car.write(file, [], batch)
        request = form_request("/dag/import", _QUERY, partial(pieces_of, file.getvalue()), **_CAR)
        answer = transport.run(lambda session: transport.body(session, request, _ANSWER_BYTES))  # noqa: B023 - run now
        _check(answer, transport.endpoint.source)


def import_car(transport: Transport, file: StrPath | BinaryIO, timeout_s: float) -> list[CID]:
    """Send a CAR file piece by piece; the roots that its header names."""
    with ExitStack() as stack:
        if isinstance(file, str | os.PathLike):
            with blaming(os.fspath(file)):
                # Without a buffer, whose lock a read of a pipe would hold: nobody is to wait for that.
                file = stack.enter_context(Path(absolute(file)).open("rb", buffering=0))
        start = _Recorder(file)
        name = str(getattr(file, "name", type(file).__name__))
        with blaming(name):
            roots = car.read_header(cast(IO[bytes], start))
        with closing(_Pieces(start.rest)) as rest:
            try:
                answer = transport.run(lambda session: _send(transport, session, start.recorded, rest, timeout_s))
            except TransportError:
                with blaming(name):
                    rest.raise_failure()
                raise
    _check(answer, transport.endpoint.source)
    return roots


def _verified(transport: Transport, blocks: Iterable[tuple[CID, Block]]) -> Iterator[tuple[CID, Block]]:
    """``blocks`` by raw CIDs, each verified, but those that their CIDs carry."""
    for cid, data in blocks:
        verify(cid, data, transport.endpoint.source, max_block_bytes=transport.options.max_block_bytes)
        if identity_block(cid) is None:
            yield CID.from_multihash("raw", cid.multihash), data


async def _send(
    transport: Transport, session: aiohttp.ClientSession, start: bytes, rest: _Pieces, timeout_s: float
) -> bytes:
    """The answer to a CAR that is sent while it is read, once."""
    loop = asyncio.get_running_loop()
    source = transport.endpoint.source
    try:
        async with asyncio.timeout(timeout_s) as limit:
            pieces = _taken(start, rest, lambda: limit.reschedule(loop.time() + timeout_s))
            request = form_request("/dag/import", _QUERY, lambda: pieces, **_CAR)
            async with transport.answer(session, request) as response:
                return await transport.bounded(response, request, _ANSWER_BYTES)
    except Later as failure:
        raise TransportError(f"the CAR was not taken: {failure}", source=source) from None
    except TimeoutError:
        raise TransportError(f"the node took no more of the CAR for {timeout_s:g} s", source=source) from None


async def _taken(start: bytes, rest: _Pieces, taken: Callable[[], None]) -> AsyncIterator[bytes]:
    """``start`` and the rest of a file; ``taken`` is told each time that more is wanted."""
    yield start
    while piece := await rest.next():
        taken()
        yield piece
    taken()


class _Pieces:
    """What is left of a file, read by a thread that nobody waits for: it may be a pipe with nobody at its other end."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._thread = CallThreads("torch_ipfs-import", 1)
        self._failure: Exception | None = None

    async def next(self) -> bytes:
        """The next piece, empty at the end."""
        try:
            return await self._thread.result(partial(self._file.read, _PIECE_BYTES))
        except Exception as failure:
            self._failure = failure
            raise

    def raise_failure(self) -> None:
        """Raise what reading the file has raised, if anything: an error of the request has other words for it."""
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """End the thread, as soon as it is done."""
        self._thread.close()


class _Recorder:
    """A file that keeps what is read from it, for a reader that is to have it again.

    A file with a buffer has it emptied, and what is left is read past it: a read of a pipe that says no more would hold the
    buffer's lock, without which Python cannot end.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.rest: BinaryIO = file
        self._read: Callable[[int], bytes] = file.read
        self._given = 0
        self.recorded = b""
        if type(file) is io.BufferedReader:  # others may read what is not in the file so
            self.rest = cast(BinaryIO, file.raw)
            self._read = lambda _: file.read1()  # all that it has, or one read past it

    def read(self, size: int = -1, /) -> bytes:
        start, end = self._given, self._given + size
        while len(self.recorded) < end and (piece := self._read(end - len(self.recorded))):
            self.recorded += piece
        self._given = min(end, len(self.recorded))
        return self.recorded[start : self._given]


def _check(answer: bytes, source: str) -> None:
    """:raises TransportError: the node does not say that it has read everything."""
    if not any("Stats" in value for value in values(answer, source)):
        raise TransportError("the node broke off before it had read the whole CAR", source=source)
