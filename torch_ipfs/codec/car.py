"""CAR files: blocks in a row. https://ipld.io/specs/transport/car/

CARv1 and CARv2 are read, CARv1 is written. A CARv2's index is a hint that anybody may have written, and is never looked at;
roots are what the header claims. A file cut between two sections is a whole CARv1: whether all blocks are there, only the CIDs
that should be there can tell.

Files are opened by the caller, for bytes; a pipe or an HTTP response will do.
"""

from __future__ import annotations

import errno
import io
from collections.abc import Iterable, Sequence
from typing import IO, cast

from torch_ipfs.codec import car_header, multihash, varint
from torch_ipfs.codec.car_reader import DEFAULT_LIMITS, Limits, iter_blocks, read_blocks, read_header, scan
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import BlockTooLarge, CodecError

__all__ = [
    "DEFAULT_LIMITS",
    "PLACEHOLDER_ROOT",
    "CarWriter",
    "Limits",
    "iter_blocks",
    "read_blocks",
    "read_header",
    "scan",
    "write",
]

PLACEHOLDER_ROOT = CID.from_multihash("dag-cbor", bytes((multihash.SHA2_256, 32)) + bytes(32))
"""The CID of no block, as long as any CIDv1 of sha2-256 or blake3 with a common codec."""

_SMALL_BLOCK_BYTES = 64 * 2**10
"""Up to this a block is joined to its CID and written at once."""


def write(file: IO[bytes], roots: Sequence[CID], blocks: Iterable[tuple[CID, bytes | memoryview]]) -> None:
    """Write a CARv1, block by block as they come. ``file`` need not be able to seek, and is left open.

    :raises CodecError: one of ``roots`` is no CID.
    :raises BlockTooLarge: as :meth:`CarWriter.write_block`.
    """
    writer = CarWriter(file, roots)
    for cid, data in blocks:
        writer.write_block(cid, data)
    writer.finish()


class CarWriter:
    """Writes a CARv1 whose roots may be known last. Nothing is written before the first block or :meth:`finish`.

    :param file: open for writing bytes where the CAR shall begin; it is left open.
    :param roots: the roots, or placeholders just as long where :meth:`set_roots` is to follow.
    """

    def __init__(self, file: IO[bytes], roots: Sequence[CID] = (PLACEHOLDER_ROOT,)) -> None:
        self._file = file
        self._header = car_header.encode(roots)
        self.size_bytes = 0
        """How long the CAR is by now."""

    def write_block(self, cid: CID, data: bytes | memoryview) -> None:
        """Append a block. It is not hashed.

        :raises BlockTooLarge: ``data`` is over what is read by default, here and elsewhere.
        """
        size_bytes = memoryview(data).nbytes  # of an array, len() would count the items
        if size_bytes > DEFAULT_LIMITS.block_bytes:
            raise BlockTooLarge(
                f"a block of {size_bytes} bytes for a CAR; at most {DEFAULT_LIMITS.block_bytes} would be read", cid=cid
            )
        self.finish()
        binary = bytes(cid)
        before = varint.encode(len(binary) + size_bytes) + binary
        if size_bytes <= _SMALL_BLOCK_BYTES:
            self._write(b"".join((before, data)))
        else:
            self._write(before)
            self._write(data)
        self.size_bytes += len(before) + size_bytes

    def finish(self) -> None:
        """Write the header where nothing is written yet. The file is not flushed."""
        if not self.size_bytes:
            self._write(self._header)
            self.size_bytes = len(self._header)

    def set_roots(self, roots: Sequence[CID]) -> None:
        """Put ``roots`` in the place of those that the CAR was begun with. ``file`` must be able to seek.

        :raises CodecError: they take more bytes or fewer.
        """
        replacement = car_header.encode(roots)
        if len(replacement) != len(self._header):
            raise CodecError(
                f"the CAR's header has room for roots in {len(self._header)} bytes, these take {len(replacement)}; "
                "begin it with as many placeholders, each as long as its root"
            )
        self._header = replacement
        if self.size_bytes:
            end = self._file.tell()
            self._file.seek(end - self.size_bytes)
            self._write(replacement)
            self._file.seek(end)

    def _write(self, data: bytes | memoryview) -> None:
        """Write all of ``data``: a file without a buffer, such as a socket's, may take a part of it at a time.

        :raises BlockingIOError: it takes none at present.
        """
        written: int | None = self._file.write(data)
        if written is None and isinstance(self._file, cast(type, io.RawIOBase)):
            written = 0
        if written is not None and written < memoryview(data).nbytes:  # files that are no io.IOBase may tell nothing
            rest = memoryview(data).cast("B")
            while rest := rest[written:]:
                written = self._file.write(rest)
                if not written:
                    raise BlockingIOError(errno.EAGAIN, "the file, which does not wait, takes no more at present")
