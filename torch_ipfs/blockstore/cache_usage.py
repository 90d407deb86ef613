"""How many bytes a node's cache holds, known to all its processes without walking the folder.

A journal of differences: eight random bytes that name it, then a signed 64-bit number for each block that came or went. Each
is appended in one write, and a process reads what others appended since it last looked. There is no lock that a stopped
process could keep. A difference is written before the block comes and after it went, so that a process that dies between the
two leaves a sum that is too high, never too low; :meth:`CacheUsage.recount` puts it right.
"""

from __future__ import annotations

import os
import secrets
import struct
import sys
import threading
from array import array
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from torch_ipfs.blockstore.cache_files import CacheFiles, write_by_rename
from torch_ipfs.blockstore.single_flight import Claims

LONGEST_JOURNAL_BYTES = 2**23
"""A longer journal, of a million blocks that came or went, is replaced by one that holds its sum."""

_NAME_BYTES = 8
_DIFFERENCE = struct.Struct("<q")
_REPLACING = b"the journal is replaced"
_RECOUNTING = b"the blocks are counted"


@dataclass(slots=True)
class _Read:
    """What was read of a journal: its name, the place up to which, and the sum until there."""

    name: bytes
    offset: int
    total_bytes: int


class CacheUsage:
    """The journal of a cache's files, made when it is first needed and again when it is gone or damaged."""

    def __init__(self, files: CacheFiles, claims: Claims) -> None:
        self._files = files
        self._path = f"{files.folder}/usage"
        self._claims = claims
        self._mutex = threading.Lock()
        self._read = _Read(b"", 0, 0)

    @property
    def last_total(self) -> int:
        """The sum in bytes when it was last looked at."""
        return self._read.total_bytes

    def total(self) -> int:
        """The sum in bytes.

        :raises OSError: the journal can be neither read nor made.
        """
        return self.add(0)

    def add(self, difference_bytes: int) -> int:
        """Count bytes that come, or went (below 0), and tell the sum.

        :raises OSError: the journal can be neither written nor made.
        """
        with self._mutex:
            return self._add(difference_bytes)

    def recount(self, count: Callable[[], int], reserved_bytes: int) -> None:
        """Count what is there and put the sum right, unless another process is at it.

        What came while it was counted counts in any case, and what went does not, which makes the sum rather too high than too
        low. What other processes have counted and not begun to write is lost: for each the block that it writes.

        :param count: counts the bytes of what is there.
        :param reserved_bytes: what this process has counted and not written yet.
        :raises OSError: the journal or the folder cannot be read.
        """
        if not self._claims.claim(_RECOUNTING):
            return
        try:
            with self._mutex:
                self._add(0)
                before = _Read(self._read.name, self._read.offset, self._read.total_bytes)
            counted = count()
            with self._mutex:
                came = self._came_since(before)
                if came is not None:
                    self._add(counted + reserved_bytes + came - self._read.total_bytes)
        finally:
            self._claims.release(_RECOUNTING)

    def _add(self, difference_bytes: int) -> int:
        for _ in range(3):
            fd = self._open()
            try:
                if difference_bytes:
                    os.write(fd, _DIFFERENCE.pack(difference_bytes))
                self._read_on(fd)
                if self._is_in_place(fd):
                    break
            finally:
                os.close(fd)
            # The journal was replaced or deleted under our hands, with or without what we wrote. Written again, it may
            # count twice, which is safe for what came and not for what went.
            difference_bytes = max(0, difference_bytes)
        if self._read.offset > LONGEST_JOURNAL_BYTES and self._claims.claim(_REPLACING):
            try:
                self._shorten()
            finally:
                self._claims.release(_REPLACING)
        return self._read.total_bytes

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC
        with suppress(FileNotFoundError):
            return os.open(self._path, flags)
        self._begin(self._files.count(), replace=False)
        return os.open(self._path, flags)

    def _begin(self, total_bytes: int, *, replace: bool) -> None:
        """Put a new journal in place, whole from the start. Where another has done so meanwhile, that one stays."""
        self._files.make_folders()
        journal = secrets.token_bytes(_NAME_BYTES) + _DIFFERENCE.pack(total_bytes)
        with suppress(FileExistsError):
            write_by_rename(self._files.temporary, self._path, journal, replace=replace)

    def _read_on(self, fd: int) -> None:
        name = os.pread(fd, _NAME_BYTES, 0)
        size = os.fstat(fd).st_size
        if size < _NAME_BYTES or (size - _NAME_BYTES) % _DIFFERENCE.size:
            self._mend()
            return
        if name != self._read.name or size < self._read.offset:
            self._read = _Read(name, _NAME_BYTES, 0)
        self._read.total_bytes += sum(self._differences(fd, self._read.offset, size))
        self._read.offset = size
        if self._read.total_bytes < 0:  # a file was longer when it went than when it came
            self._mend()

    def _mend(self) -> None:
        """Begin anew: a full disk took half of a number, and all after it would be read askew."""
        if self._claims.claim(_REPLACING):
            try:
                self._begin(self._files.count(), replace=True)
            finally:
                self._claims.release(_REPLACING)

    @staticmethod
    def _differences(fd: int, start: int, end: int) -> array[int]:
        data = os.pread(fd, max(0, end - start), start)
        differences = array("q")
        differences.frombytes(data[: len(data) - len(data) % _DIFFERENCE.size])
        if sys.byteorder == "big":
            differences.byteswap()
        return differences

    def _is_in_place(self, fd: int) -> bool:
        try:
            return os.path.samestat(os.lstat(self._path), os.fstat(fd))
        except FileNotFoundError:
            return False

    def _came_since(self, before: _Read) -> int | None:
        """The bytes that came since; ``None`` where the journal is another by now."""
        self._add(0)
        if self._read.name != before.name:
            return None
        fd = self._open()
        try:
            return sum(d for d in self._differences(fd, before.offset, self._read.offset) if d > 0)
        finally:
            os.close(fd)

    def _shorten(self) -> None:
        """Replace the journal by its sum, and carry over what is appended to the old one meanwhile.

        Who wrote it may notice, and write what came into the new one too, not what went: too high is safe.
        """
        fd = self._open()
        try:
            self._read_on(fd)
            old = self._read
            if old.offset <= LONGEST_JOURNAL_BYTES:
                return  # another process was here before
            self._begin(old.total_bytes, replace=True)
            late = self._differences(fd, old.offset, os.fstat(fd).st_size)
        finally:
            os.close(fd)
        self._add(sum(late))
