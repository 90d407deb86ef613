"""Packs of a disk cache: the small blocks that one node links to, kept as they came, in one file and mapped.

A file a block would take longer to write than the block takes to come. A pack is a CARv1 whose blocks have raw CIDs. Among the
cache's files it has a name like theirs, of what is no multihash: the code of CARs (multicodec) before the node's.
"""

from __future__ import annotations

import fcntl
import logging
import mmap
import os
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, cast

from torch_ipfs.blockstore.base import Block
from torch_ipfs.blockstore.cache_eviction import CacheEviction
from torch_ipfs.blockstore.cache_files import CacheFiles
from torch_ipfs.codec import car, varint
from torch_ipfs.codec import multihash as multihashes
from torch_ipfs.codec.cid import CID

logger = logging.getLogger("torch_ipfs.blockstore.cached")

_CAR_CODE = varint.encode(0x0202)
_BUFFER_BYTES = 256 * 2**10


def key_of(node: bytes) -> bytes:
    """What stands for the pack of a node, by the node's multihash, where blocks have their multihashes."""
    return _CAR_CODE + node


def half_written(node: CID) -> str:
    """How the names of files begin in which the pack of a node is being written."""
    return f"{node.multihash[-12:].hex()}-"


class Pack:
    """An open pack. A block's hash is taken when it is first read.

    :raises CodecError: the file is damaged.
    :raises OSError: it cannot be mapped.
    """

    def __init__(self, path: str, bad: Callable[[], None]) -> None:
        with Path(path).open("rb") as file:
            self._view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        self._places = {cid.multihash: slice(start, stop) for cid, start, stop in car.scan(self._view)[1]}
        self._checked: set[bytes] = set()
        self._bad = bad

    def __contains__(self, multihash: bytes) -> bool:
        return multihash in self._places

    def get(self, multihash: bytes) -> Block | None:
        """The block; ``None`` where the pack has none, or a bad one, after which it has that no more."""
        place = self._places.get(multihash)
        if place is None:
            return None
        block = self._view[place]
        if multihash not in self._checked:
            if not multihashes.matches(multihash, block):
                del self._places[multihash]
                self._bad()
                return None
            self._checked.add(multihash)
        return block


class _Appended:
    """A new file that is written a buffer at a time.

    Python's own files are written to and closed where they are collected: in a forked child between what its parent writes, and
    before the end of an iterator that the same collection finds.
    """

    def __init__(self, path: str) -> None:
        self.fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        self._buffer = bytearray()

    def write(self, data: Block) -> int:
        self._buffer += data
        if len(self._buffer) >= _BUFFER_BYTES:
            self.flush()
        return len(data)

    def flush(self) -> None:
        buffer, self._buffer = self._buffer, bytearray()
        rest = memoryview(buffer)
        while rest:
            rest = rest[os.write(self.fd, rest) :]

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


class PackWriter:
    """A pack that is being written; :meth:`finish` gives it its name, or removes it.

    :raises OSError: it cannot be written.
    """

    def __init__(self, files: CacheFiles, eviction: CacheEviction, node: CID) -> None:
        self._files, self._eviction = files, eviction
        self._name = key_of(node.multihash).hex()
        files.make_folders()
        self._temporary = f"{files.temporary}/{half_written(node)}{secrets.token_hex(12)}"
        self._file = _Appended(self._temporary)
        with suppress(OSError):  # as for a block's file: a file system without locks
            fcntl.flock(self._file.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._car = car.CarWriter(cast(IO[bytes], self._file), [node])
        self.num_blocks = 0

    def add(self, multihash: bytes, block: Block) -> None:
        """Append a verified block.

        :raises OSError: there is no room.
        """
        self._car.write_block(CID.from_multihash("raw", multihash), block)
        self.num_blocks += 1

    def finish(self, limit_bytes: int) -> bool:
        """Put the pack in place if there is room for it among the cache's; whether it is there.

        :raises OSError: it could not be written; nothing is left behind.
        """
        size_bytes = self._car.size_bytes
        try:
            self._file.flush()
            if size_bytes > limit_bytes or not self._eviction.reserve(size_bytes, limit_bytes):
                self.discard()
                return False
            try:
                now_ns = time.time_ns()
                os.utime(self._file.fd, ns=(now_ns, now_ns))
                path = Path(self._files.path(self._name))
                path.parent.mkdir(parents=True, exist_ok=True)
                Path(self._temporary).replace(path)
            except OSError:
                self._eviction.release(size_bytes)
                raise
            self._eviction.written(size_bytes)
            self._file.close()
        except OSError:
            self.discard()
            raise
        return True

    def discard(self) -> None:
        """Leave nothing behind."""
        with suppress(OSError):
            Path(self._temporary).unlink()
        with suppress(OSError):
            self._file.close()
