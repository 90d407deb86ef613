"""Reading CARs: from files as they stream in, and in mapped memory. See :mod:`torch_ipfs.codec.car`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from torch_ipfs.codec import car_header, multihash, varint
from torch_ipfs.codec.car_header import fail
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import BlockTooLarge, CodecError, HashMismatch

_READ_BYTES = 2**20
"""Read at once at most: room for what a length claims is made as it comes in."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What is read of a CAR at most; go-car's defaults, and what bitswap carries for a block."""

    header_bytes: int = 32 * 2**20
    section_bytes: int = 8 * 2**20
    """A CID and its block."""
    block_bytes: int = 2 * 2**20
    padding_bytes: int = 32 * 2**20
    """Between the header of a CARv2 and its data, where that must be read to be skipped."""


DEFAULT_LIMITS = Limits()


class Readable(Protocol):
    """A file as far as CARs need it: ``read`` may give less than it is asked for, and nothing at the end alone.

    Lengths are read byte by byte, so a file without a buffer is better given in an ``io.BufferedReader``.
    """

    def read(self, size: int, /) -> bytes | None: ...


def read_header(file: Readable, *, limits: Limits = DEFAULT_LIMITS) -> list[CID]:
    """The roots of the CAR that begins where ``file`` stands, which then stands before the first section.

    :raises CodecError: there is no CAR, or its header is cut or over the limit.
    """
    return _Stream(file, limits).header()


def iter_blocks(
    file: Readable, *, verify: bool = True, zero_length_section_as_eof: bool = False, limits: Limits = DEFAULT_LIMITS
) -> Iterator[tuple[CID, bytes]]:
    """The blocks of a CAR, duplicates among them, in their order. See :func:`read_blocks`, which gives the roots too."""
    yield from read_blocks(file, verify=verify, zero_length_section_as_eof=zero_length_section_as_eof, limits=limits)[1]


def read_blocks(
    file: Readable, *, verify: bool = True, zero_length_section_as_eof: bool = False, limits: Limits = DEFAULT_LIMITS
) -> tuple[list[CID], Iterator[tuple[CID, bytes]]]:
    """The roots of the CAR that begins where ``file`` stands, and its blocks, read as they are asked for.

    :param verify: hash each block; without it the caller must.
    :param zero_length_section_as_eof: let a section of no bytes end the CAR, as Filecoin pads its files; else it is an error.
    :raises CodecError: the CAR is damaged, cut inside of a section or over a limit; the message names the byte. Where a block
        is to blame it is raised when its turn comes.
    :raises BlockTooLarge: a block is over the limit.
    :raises HashMismatch: a block is not what its CID says.
    """
    stream = _Stream(file, limits)
    roots = stream.header()
    return roots, stream.blocks(verify=verify, zero_is_eof=zero_length_section_as_eof)


def scan(
    buffer: bytes | memoryview, *, zero_length_section_as_eof: bool = False, limits: Limits = DEFAULT_LIMITS
) -> tuple[list[CID], Iterator[tuple[CID, int, int]]]:
    """The roots of a whole CAR in memory, and of each block the CID and where in ``buffer`` it begins and ends.

    Blocks are neither copied nor hashed nor even touched: to walk a mapped file reads a page a block, about.

    :raises CodecError: as for :func:`read_blocks`. The limit for blocks is not looked at.
    """
    begin, end = 0, len(buffer)
    pragma_bytes = len(car_header.V2_PRAGMA)
    if bytes(buffer[:pragma_bytes]) == car_header.V2_PRAGMA:
        begin, end = car_header.decode_v2(bytes(buffer[pragma_bytes : pragma_bytes + car_header.V2_HEADER_BYTES]))
        if end > len(buffer):
            fail(pragma_bytes, f"a CARv2 whose data ends at byte {end}, the file at {len(buffer)}")
    length, start = varint.read(buffer, begin, end)
    _check_length("header", length, limits.header_bytes, position=begin, start=start, end=end)
    roots = car_header.decode(bytes(buffer[start : start + length]), start)
    return roots, _sections(buffer, start + length, end, limits.section_bytes, zero_length_section_as_eof)


def _sections(
    buffer: bytes | memoryview, position: int, end: int, section_bytes: int, zero_is_eof: bool
) -> Iterator[tuple[CID, int, int]]:
    cid_bytes = 36
    while position < end:
        length, start = varint.read(buffer, position, end)
        stop = start + length
        if not 0 < length <= section_bytes or stop > end:
            if length == 0 and zero_is_eof:
                return
            _check_length("section", length, section_bytes, position=position, start=start, end=end)
        cid, block = CID.read(buffer, start, expected_bytes=cid_bytes)
        if block > stop:
            fail(start, f"a CID that runs past its section, which ends at byte {stop}")
        cid_bytes = block - start
        yield cid, block, stop
        position = stop


def _check_length(what: str, length: int, limit: int, *, position: int, start: int, end: int | None) -> None:
    """Look at a length, written at ``position``, of a header or section that begins at ``start``.

    :raises CodecError: it is zero, over the limit, or runs past the end of the CAR.
    """
    if length == 0:
        fail(position, f"a {what} of no bytes")
    if length > limit:
        fail(position, f"a {what} of {length} bytes, the limit is {limit}")
    if end is not None and start + length > end:
        fail(position, f"a {what} is cut: {length} bytes from byte {start}, the CAR ends at byte {end}")


class _Stream:
    """A CAR that comes in byte by byte. Offsets count from where the file stood."""

    def __init__(self, file: Readable, limits: Limits) -> None:
        self._file = file
        self._limits = limits
        self._offset = 0
        self._end: int | None = None
        """Where the data of a CARv2 ends."""

    def header(self) -> list[CID]:
        body, start = self._header_body()
        if car_header.V2_PRAGMA.endswith(body) and start + len(body) == len(car_header.V2_PRAGMA):
            begin, end = car_header.decode_v2(self._take(car_header.V2_HEADER_BYTES, "CARv2 header", self._offset))
            self._skip(begin - self._offset)
            self._end = end
            body, start = self._header_body()
        return car_header.decode(body, start)

    def blocks(self, *, verify: bool, zero_is_eof: bool) -> Iterator[tuple[CID, bytes]]:
        cid_bytes = 36
        while True:
            position = self._offset
            length = self._varint()
            if length is None:
                self._check_end()
                return
            if length == 0 and zero_is_eof:
                return
            start = self._offset
            _check_length("section", length, self._limits.section_bytes, position=position, start=start, end=self._end)
            section = self._take(length, "section", position)
            try:
                cid, cid_bytes = CID.read(section, 0, expected_bytes=cid_bytes)
            except CodecError as error:
                fail(start, f"a section without a CID ({error})")
            block = section[cid_bytes:]
            self._check_block(cid, block, start + cid_bytes, verify)
            yield cid, block

    def _check_end(self) -> None:
        """A CARv1 ends where the file does; a CARv2 says where its data end."""
        if self._end is not None and self._offset < self._end:
            fail(self._offset, f"a CARv2 is cut: its data end at byte {self._end}")

    def _check_block(self, cid: CID, block: bytes, offset: int, verify: bool) -> None:
        if len(block) > self._limits.block_bytes:
            raise BlockTooLarge(
                f"a block of {len(block)} bytes, at byte {offset} of a CAR; the limit is {self._limits.block_bytes}",
                cid=cid,
            )
        try:
            matches = not verify or multihash.matches(cid.multihash, block)
        except CodecError as error:
            raise CodecError(f"a block at byte {offset} of a CAR: {error}", cid=cid) from None
        if not matches:
            raise HashMismatch(
                f"the block at byte {offset} of a CAR, {len(block)} bytes, does not hash to its CID", cid=cid
            )

    def _header_body(self) -> tuple[bytes, int]:
        """The header that comes next and where it begins, after its length."""
        position = self._offset
        length = self._varint()
        if length is None:
            fail(position, "no header")
        start = self._offset
        _check_length("header", length, self._limits.header_bytes, position=position, start=start, end=self._end)
        return self._take(length, "header", position), start

    def _varint(self) -> int | None:
        """The length that comes next; ``None`` where the CAR ends."""
        start = self._offset
        raw = b""
        while self._offset != self._end and len(raw) < varint.MAX_VARINT_BYTES and (byte := self._file.read(1)):
            raw += byte
            self._offset += 1
            if byte < b"\x80":
                break
        if not raw:
            return None
        try:
            return varint.read(raw)[0]
        except CodecError as error:
            fail(start, f"a length that is none ({error})")

    def _take(self, length: int, what: str, position: int) -> bytes:
        """The next ``length`` bytes, of what began at ``position``."""
        parts = []
        left = length
        while left:
            part = self._file.read(min(left, _READ_BYTES))
            if not part:
                fail(position, f"a {what} is cut: {left} of {length} bytes are missing at the end, byte {self._offset}")
            parts.append(part)
            left -= len(part)
            self._offset += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _skip(self, length: int) -> None:
        if length > self._limits.padding_bytes:
            fail(self._offset, f"padding of {length} bytes, the limit is {self._limits.padding_bytes}")
        while length:
            length -= len(self._take(min(length, _READ_BYTES), "padding", self._offset))
