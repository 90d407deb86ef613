"""A folder of blocks: a file for each, named by its multihash, written so that there are whole files and none else.

    blocks/4f/CIQ....data    a block; the name is its multihash in base32, the folder the last byte of it in base16
    temporary/               files that are being written, and those a killed process left (the next collection's)

Kubo's flatfs is alike. Figures of what speaks for files, and what against, are in docs/design.md.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import resource
import secrets
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from torch_ipfs.blockstore.base import Block, blaming
from torch_ipfs.codec import multibase, multihash
from torch_ipfs.errors import CodecError

MAPPED_BYTES = 128 * 2**10
"""Blocks from this size on are mapped, which costs 10 to 15 us for any size; smaller ones are read, at 5 us and 60 us a MiB."""
BATCH_BLOCKS = 1024
BATCH_BYTES = 64 * 2**20
FSYNC_THREADS = 8

_SUFFIX = ".data"
_MAPS_KEEP_FILES_OPEN = sys.version_info < (3, 13)
_MAP_OPTIONS: dict[str, Any] = {} if _MAPS_KEEP_FILES_OPEN else {"trackfd": False}


class BlockFiles:
    """The files of one folder. Its methods raise TransportError where the file system refuses: full, read-only, gone.

    :param fsync: see :class:`torch_ipfs.blockstore.local.LocalBlockstore`.
    """

    __slots__ = ("_blocks", "_folder", "_fsync", "_temporary")

    def __init__(self, folder: str, *, fsync: bool) -> None:
        self._folder = folder
        self._blocks = f"{folder}/blocks"
        self._temporary = f"{folder}/temporary"
        self._fsync = fsync

    def path_of(self, block_multihash: bytes) -> str:
        """Where the block of that multihash is, or would be."""
        name = multibase.encode("B", block_multihash)[1:]
        return f"{self._blocks}/{block_multihash[-1]:02x}/{name}{_SUFFIX}"

    def write(self, path: str, data: Block) -> None:
        """Put a block in its place: the whole of it, or an exception and nothing."""
        with blaming(self._folder):
            try:
                self._move(self._write_temporary(data, fsync=self._fsync), path)
            except FileNotFoundError:  # a collection that spares no young files took it before it had its name
                self._move(self._write_temporary(data, fsync=self._fsync), path)

    def write_many(self, blocks: Iterable[tuple[str, Block]]) -> None:
        """Put blocks in their places, on disk in batches: what one fsync waits for, many wait for together.

        What was written before an exception, of ``blocks`` too, is kept.
        """
        with ThreadPoolExecutor(FSYNC_THREADS, thread_name_prefix="torch_ipfs-fsync") as pool:
            batch = _Batch(self._move, pool if self._fsync else None)
            try:
                for path, data in blocks:
                    with blaming(self._folder):
                        batch.add(self._write_temporary(data, fsync=False), path, len(data))
            finally:
                with blaming(self._folder):
                    batch.flush()

    def files(self) -> Iterator[tuple[bytes, os.DirEntry[str]]]:
        """Each block's multihash and file, in no order. Files that are no blocks are passed over."""
        for folder in self._entries(self._blocks):
            for entry in self._entries(folder.path):
                found = _multihash_of(entry.name)
                if found is not None:
                    yield found, entry

    def holds(self, path: str, data: Block) -> bool:
        """Whether ``data`` is in its place already; if so it is young again for a collection."""
        with blaming(self._folder):
            return _same_content(path, data) and _touch(path)

    def remove_older(self, path: str, mtime_s: float) -> bool:
        """Remove a block that was last put before that time; whether it was.

        It is moved away, then looked at: a block that is put again meanwhile is either seen to be young here, and moved
        back, or seen to be missing by who puts it, and written.
        """
        moved = self._new_temporary()
        with blaming(self._folder):
            try:
                Path(path).replace(moved)
            except FileNotFoundError:
                return False
            if Path(moved).stat().st_mtime >= mtime_s:
                Path(moved).replace(path)
                return False
            Path(moved).unlink()
            return True

    def remove_temporaries(self, mtime_s: float) -> None:
        """Remove what writers that were killed left before that time."""
        with blaming(self._folder):
            Path(self._temporary).mkdir(parents=True, exist_ok=True)
            for entry in self._entries(self._temporary):
                with contextlib.suppress(FileNotFoundError):
                    if entry.stat().st_mtime < mtime_s:
                        Path(entry.path).unlink()

    def write_text(self, path: str, text: str) -> None:
        """Write a small file in one step, and wait until it and its name are on disk."""
        with blaming(self._folder):
            self._move(self._write_temporary(text.encode(), fsync=True), path)
            _fsync(str(Path(path).parent))

    def _new_temporary(self) -> str:
        return f"{self._temporary}/{secrets.token_hex(12)}"

    def _write_temporary(self, data: Block, *, fsync: bool) -> str:
        path = self._new_temporary()
        try:
            _write(path, data, fsync=fsync)
        except FileNotFoundError:
            Path(self._temporary).mkdir(parents=True, exist_ok=True)
            _write(path, data, fsync=fsync)
        return path

    def _move(self, temporary: str, path: str) -> None:
        try:
            try:
                Path(temporary).replace(path)
            except FileNotFoundError:
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                Path(temporary).replace(path)
        except OSError:
            _unlink(temporary)
            raise

    def _entries(self, folder: str) -> Iterator[os.DirEntry[str]]:
        with blaming(self._folder):
            try:
                entries = os.scandir(folder)
            except (FileNotFoundError, NotADirectoryError):
                return
            with entries:
                yield from entries


class _Batch:
    """Files that are written, but not in their places yet."""

    def __init__(self, move: Callable[[str, str], None], pool: ThreadPoolExecutor | None) -> None:
        self._move = move
        self._pool = pool
        self._written: list[tuple[str, str]] = []
        self._bytes = 0

    def add(self, temporary: str, path: str, size_bytes: int) -> None:
        self._written.append((temporary, path))
        self._bytes += size_bytes
        if len(self._written) >= BATCH_BLOCKS or self._bytes >= BATCH_BYTES:
            self.flush()

    def flush(self) -> None:
        written, self._written, self._bytes = self._written, [], 0
        try:
            if self._pool is not None:
                list(self._pool.map(_fsync, [temporary for temporary, _ in written]))
            while written:
                self._move(*written.pop())
        finally:
            for temporary, _ in written:
                _unlink(temporary)


def load(file: int, size_bytes: int) -> Block:
    """The bytes of an open file of that size: a map of it where it is large, else a copy."""
    if size_bytes >= MAPPED_BYTES and _may_map(file):
        with contextlib.suppress(OSError):  # not every file system maps; a copy always does
            return memoryview(mmap.mmap(file, size_bytes, access=mmap.ACCESS_READ, **_MAP_OPTIONS))
    return os.read(file, size_bytes)


def _may_map(file: int) -> bool:
    """Whether a map of an open file leaves enough other files to open. The number of a file tells how many there are."""
    most_files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return not _MAPS_KEEP_FILES_OPEN or most_files == resource.RLIM_INFINITY or file < most_files // 2


def _multihash_of(name: str) -> bytes | None:
    """The multihash that a file is named by; ``None`` where it is no block's."""
    if not name.endswith(_SUFFIX):
        return None
    try:
        found = multibase.decode("B" + name.removesuffix(_SUFFIX))
        multihash.parse(found)
    except CodecError:
        return None
    return found


def _same_content(path: str, data: Block) -> bool:
    """Whether a file holds exactly ``data``; not where there is none."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        # Of bytes, since memoryviews compare item by item, slower than they hash.
        return os.fstat(file).st_size == len(data) and os.read(file, len(data)) == bytes(data)
    finally:
        os.close(file)


def _touch(path: str) -> bool:
    """Make a file young; whether it is there still."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    return True


def _write(path: str, data: Block, *, fsync: bool) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        try:
            rest = memoryview(data).cast("B")
            while rest:
                rest = rest[os.write(file, rest) :]
            if fsync:
                os.fsync(file)
        finally:
            os.close(file)
    except BaseException:
        _unlink(path)
        raise


def _fsync(path: str) -> None:
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _unlink(path: str) -> None:
    with contextlib.suppress(OSError):
        Path(path).unlink()
