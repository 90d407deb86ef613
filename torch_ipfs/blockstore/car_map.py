"""A CAR file as one process has it open: its map, where its blocks are, which of them were found right."""

from __future__ import annotations

import bisect
import mmap
import os
import stat
from collections.abc import Iterator

from torch_ipfs.blockstore import car_index, car_sidecar
from torch_ipfs.blockstore.base import blaming
from torch_ipfs.blockstore.car_index import CarIndex
from torch_ipfs.blockstore.car_sidecar import FileState
from torch_ipfs.codec import car
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import CodecError, TransportError

MAX_SAME_KEY = 64
"""Rows under one key that are looked at. Honest ones are copies of one block; 64-bit collisions are not worth the time."""

_SIZE_CHECKED_EVERY = 64
_LARGE_SECTION_BYTES = 128 * 2**10
_SECTIONS_ASKED_FOR = 128
_SECTION_HEADER_BYTES = 64
"""More than the length and the CID of a section take."""
_OPEN_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # a FIFO would keep us waiting


class MappedFile:
    """A file mapped for reading, and the state it was in then.

    :raises CodecError: the file is empty.
    :raises TransportError: there is no such file, or it cannot be mapped.
    """

    __slots__ = ("map", "path", "state", "view")

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            file = os.open(path, _OPEN_FLAGS)
            try:
                status = os.fstat(file)
                if not stat.S_ISREG(status.st_mode):
                    raise TransportError("not a file; a CAR is read from a regular file", source=path)
                if status.st_size == 0:
                    raise CodecError("the file is empty; a CAR has at least a header", source=path)
                self.map = mmap.mmap(file, status.st_size, access=mmap.ACCESS_READ)
            finally:
                os.close(file)
        except OSError as error:
            raise TransportError(f"the CAR file cannot be opened: {error.strerror}", source=path) from error
        self.state = FileState.of(path, status)
        self.view = memoryview(self.map)

    def check_size(self) -> None:
        """To be called before bytes are touched: reading beyond the end of a file that was cut ends the process.

        :raises TransportError: the file is longer or shorter than when it was mapped.
        """
        size_bytes = self.map.size()
        if size_bytes != self.state.size_bytes:
            raise TransportError(
                f"the CAR file has {size_bytes} bytes, and had {self.state.size_bytes} when it was opened: something wrote "
                "into it. Replace a file that is being read by rename, and call close() to read the new one",
                source=self.path,
            )

    def roots(self) -> list[CID]:
        """The roots that the CAR's header names.

        :raises CodecError: the file is no CAR.
        """
        self.check_size()
        with blaming(self.path):
            return car.scan(self.view)[0]

    def entries(self) -> Iterator[tuple[CID, int, int]]:
        """Each block's CID, first offset and offset after the last, by a walk over the file that skips the blocks.

        :raises CodecError: the file is no CAR, or is cut off.
        :raises TransportError: it was changed during the walk.
        """
        end = length = asked = 0
        try:
            with blaming(self.path):
                for number, entry in enumerate(car.scan(self.view)[1]):
                    if number % _SIZE_CHECKED_EVERY == 0:
                        self.check_size()
                    before, length_before, end = end, length, entry[2]
                    length = end - before
                    is_large = length >= _LARGE_SECTION_BYTES
                    if is_large != (length_before >= _LARGE_SECTION_BYTES):
                        # What the system reads ahead where a large section begins is its block: at each, most of the file.
                        self.map.madvise(mmap.MADV_RANDOM if is_large else mmap.MADV_NORMAL)
                    if is_large and length == length_before and end >= asked:
                        asked = self._ask_for_headers(end, length)
                    yield entry
        finally:
            self.map.madvise(mmap.MADV_NORMAL)

    def _ask_for_headers(self, position: int, length: int) -> int:
        """Have the system read what stands before the next blocks, all at once and nothing of the blocks, where sections go
        on to be of ``length`` bytes: one after the other, a disk takes as long for each as the walk for a hundred.

        :returns: up to where in the file it was asked.
        """
        stop = min(position + _SECTIONS_ASKED_FOR * length, len(self.map) - _SECTION_HEADER_BYTES)
        for header in range(position, stop, length):
            page = header - header % mmap.PAGESIZE
            self.map.madvise(mmap.MADV_WILLNEED, page, header - page + _SECTION_HEADER_BYTES)
        return stop


class OpenCar:
    """A mapped CAR with its index.

    ``verified`` has a byte for each row of the index: 1 once a copy was hashed and found right. ``places`` has where blocks
    lie that were verified and read lately, which spares looking them up.
    """

    __slots__ = (
        "_cid_lengths",
        "_keys",
        "_lengths",
        "_starts",
        "file",
        "from_sidecar",
        "index",
        "map",
        "places",
        "verified",
        "view",
    )

    def __init__(self, file: MappedFile, index: CarIndex, *, from_sidecar: bool) -> None:
        self.file = file
        self.map = file.map
        self.view = file.view
        self.index = index
        # Of single items numpy makes objects of its own, at three times the cost.
        self._keys: memoryview[int] = index.keys.data
        self._starts: memoryview[int] = index.starts.data
        self._lengths: memoryview[int] = index.lengths.data
        self._cid_lengths: memoryview[int] = index.cid_lengths.data
        self.from_sidecar = from_sidecar
        self.verified = bytearray(len(index))
        self.places: dict[CID, slice] = {}

    def cid(self, row: int) -> CID | None:
        """The CID that the file has for ``row``; ``None`` where there is none, which a wrong index leads to."""
        try:
            return CID.from_bytes(self._before(row))
        except CodecError:
            return None

    def _before(self, row: int) -> bytes:
        """What stands where the CID of ``row`` should."""
        start = self._starts[row]
        return bytes(self.view[start - self._cid_lengths[row] : start])

    def place(self, row: int) -> slice:
        """Where in the file the block of ``row`` is."""
        start = self._starts[row]
        return slice(start, start + self._lengths[row])

    def rows(self, cid: CID) -> list[int]:
        """The rows of the blocks before which ``cid``, or another of its multihash, stands in the file."""
        binary = bytes(cid)
        return [
            row
            for row in self.listed(binary)
            if self._before(row) == binary or ((other := self.cid(row)) and other.multihash == cid.multihash)
        ]

    def listed(self, multihash: bytes) -> range:
        """The rows that may be this multihash's, or CID's, by the index alone: nothing of the file is touched."""
        key = car_index.key_of(multihash)
        keys = self._keys
        first = last = bisect.bisect_left(keys, key)
        limit = min(first + MAX_SAME_KEY, len(keys))
        while last < limit and keys[last] == key:
            last += 1
        return range(first, last)


def open_car(file: MappedFile) -> OpenCar:
    """The CAR with its index, from the user's cache or by a walk over it.

    :raises CodecError: the file is no CAR, or is cut off.
    """
    index = car_sidecar.load(file.state)
    return walk(file) if index is None else OpenCar(file, index, from_sidecar=True)


def walk(file: MappedFile) -> OpenCar:
    """The CAR with an index made by a walk over it, which is kept in the user's cache where that saves time.

    :raises CodecError: the file is no CAR, or is cut off.
    """
    index = car_index.build(file.entries())
    car_sidecar.save(file.state, index)
    return OpenCar(file, index, from_sidecar=False)
