"""The files of a disk cache: one for each block, complete from the moment it has its name, never changed after that.

    blocks/f/1220...3f      a block, named by its multihash in hexadecimal, in one of 16 folders by its last digit
    tmp/                    files that are being written; each is locked (flock) by its writer until it is renamed
    locks, usage            see single_flight.py and cache_usage.py

A file is put in place by rename and goes by unlink: a process that has it mapped keeps what it had. When a block was last
used is its access time, set by hand (mounts with noatime or relatime do not); its modification time is when it was written,
and stays.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from torch_ipfs.blockstore.base import Block

LONGEST_MULTIHASH_BYTES = 120
"""What a file's name has room for, in hexadecimal."""

PIECE_BYTES = 2**17
"""What is written at a time. The kernel looks for pages as large as a write, and a virtual machine may have given large free
ones back to its host: there 1 MiB took 0.3 to 2.5 ms in one write, and 0.3 ms in pieces as long as smaller ones were free.
"""

YOUNG_S = 10.0

AHEAD_NS = 60 * 10**9
"""A use that is noted so far in the future was noted by a clock that has been put back since."""

LONGEST_TOUCH_PERIOD_NS = 600 * 10**9
RELAXED_TOUCH_PERIOD_NS = 3600 * 10**9

_TAG_TEXT = """Signature: 8a477f597d28d172789f06886806bc55
# This folder is a cache of torch_ipfs; it may be deleted at any time. https://bford.info/cachedir/
"""


@dataclass(frozen=True, slots=True, order=True)
class CacheEntry:
    """A block's file, oldest first. It may be where no block is looked for, as another version of this cache had it."""

    used_ns: int
    size_bytes: int
    path: str


def used_ns(status: os.stat_result, now_ns: int) -> int:
    """When a block was last used. What was noted in the future would otherwise stay until that comes."""
    return status.st_atime_ns if status.st_atime_ns <= now_ns + AHEAD_NS else 0


def write_by_rename(temporary_folder: str, path: str, data: Block, *, replace: bool = True) -> os.stat_result:
    """Write a file that is complete or not there at all, and tell what it is.

    Paths are text here: for a small block, Path objects would take as long as the system calls.

    :param replace: whether it takes the place of a file that is there.
    :raises FileExistsError: there is one, which stays.
    :raises OSError: it could not be written; nothing is left behind.
    """
    temporary = f"{temporary_folder}/{secrets.token_hex(12)}"
    fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with suppress(OSError):  # a file system without locks: nobody can take it for abandoned either
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(fd, rest[:PIECE_BYTES]) :]
        now_ns = time.time_ns()  # finer than the kernel's own stamps, which tie within 4 ms
        os.utime(fd, ns=(now_ns, now_ns))
        if replace or not _link(temporary, path):
            os.replace(temporary, path)  # noqa: PTH105 - text
        return os.fstat(fd)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)  # noqa: PTH108 - text
        raise
    finally:
        os.close(fd)


def _link(temporary: str, path: str) -> bool:
    """Give a file its name unless another has it; whether the file system has links to do so with.

    :raises FileExistsError: another file has the name.
    """
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:
        return False
    os.unlink(temporary)  # noqa: PTH108 - text
    return True


class CacheFiles:
    """The files below ``folder``, which is made when the first of them is written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.temporary = str(folder / "tmp")
        self.tag = folder / "CACHEDIR.TAG"
        self._blocks = f"{folder}/blocks/"
        self._born_ns: int | None = None

    def path(self, multihash_hex: str) -> str:
        """Where the block is, if it is there."""
        return f"{self._blocks}{multihash_hex[-1]}/{multihash_hex}"

    def write(self, multihash_hex: str, data: Block) -> os.stat_result:
        """Put a block in place, making what folders are missing.

        :raises OSError: it could not be written; nothing is left behind.
        """
        path = self.path(multihash_hex)
        try:
            return write_by_rename(self.temporary, path, data)
        except FileNotFoundError:
            self.make_folders()
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            return write_by_rename(self.temporary, path, data)

    def make_folders(self) -> None:
        """:raises OSError: they are not there and cannot be made."""
        Path(self.temporary).mkdir(parents=True, exist_ok=True)
        if not self.tag.exists():
            self.tag.write_text(_TAG_TEXT)

    def touch(self, file: int | str, status: os.stat_result, *, is_pressed: bool) -> None:
        """Note that a block is used, but not at each use: that is a write to the disk.

        Where nothing is about to be removed, a note an hour old will do. Otherwise the first use is noted, and later ones when
        the last note is older than a 64th of the cache's age (10 minutes at most): exact for a young cache, and exact enough
        to tell old from new in an old one.
        """
        now_ns = time.time_ns()
        noted_ns = status.st_atime_ns
        age_ns = now_ns - noted_ns
        if age_ns < -AHEAD_NS:
            pass
        elif not is_pressed:
            if age_ns < RELAXED_TOUCH_PERIOD_NS:
                return
        elif noted_ns > status.st_mtime_ns and age_ns < LONGEST_TOUCH_PERIOD_NS:
            if self._born_ns is None:
                self._born_ns = self._birth_ns(now_ns)
            if age_ns < (now_ns - self._born_ns) >> 6:
                return
        with suppress(OSError):  # somebody else's cache may be readable alone
            os.utime(file, ns=(now_ns, status.st_mtime_ns))

    def _birth_ns(self, default_ns: int) -> int:
        try:
            return self.tag.stat().st_mtime_ns
        except OSError:
            return default_ns

    def remove(self, path: str) -> bool:
        """Whether a block's file was there to be removed."""
        try:
            os.unlink(path)  # noqa: PTH108 - text
        except OSError:
            return False
        return True

    def walk(self) -> Iterator[CacheEntry]:
        """All blocks, in no order."""
        now_ns = time.time_ns()
        for folder in _scan(self._blocks):
            for file in _scan(folder.path):
                with suppress(OSError, ValueError):  # gone since, or somebody else's
                    bytes.fromhex(file.name)
                    status = file.stat(follow_symlinks=False)
                    yield CacheEntry(used_ns(status, now_ns), status.st_size, file.path)

    def half_written_bytes(self, prefix: str = "") -> int:
        """The bytes of what is being written to files whose names begin so."""
        size_bytes = 0
        for file in _scan(self.temporary):
            with suppress(OSError):
                if file.name.startswith(prefix):
                    size_bytes += file.stat(follow_symlinks=False).st_size
        return size_bytes

    def count(self) -> int:
        """The bytes of all blocks and of what is being written. Walks the folder."""
        return self.half_written_bytes() + sum(entry.size_bytes for entry in self.walk())

    def sweep(self) -> None:
        """Remove what dead processes left half-written: files that nobody holds a lock of.

        A young file may be one that its writer has made but not locked yet.
        """
        now_s = time.time()
        for file in _scan(self.temporary):
            with suppress(OSError):
                if abs(now_s - file.stat().st_mtime) < YOUNG_S:
                    continue
                fd = os.open(file.path, os.O_RDWR | os.O_CLOEXEC)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    Path(file.path).unlink()
                finally:
                    os.close(fd)


def _scan(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []
