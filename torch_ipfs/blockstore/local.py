"""The embedded store: blocks in a folder of this machine, with pins and garbage collection."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from torch_ipfs.blockstore.base import (
    MAX_BLOCK_BYTES,
    Block,
    StrPath,
    blaming,
    is_identity,
    too_large,
    verify,
)
from torch_ipfs.blockstore.block_files import BlockFiles, load
from torch_ipfs.blockstore.directories import absolute, data_directory
from torch_ipfs.blockstore.file_lock import file_lock
from torch_ipfs.blockstore.hash_ahead import WINDOW_BYTES, HashAhead, read_ahead
from torch_ipfs.blockstore.pins import DIRECT, RECURSIVE, Collected, Pins, reached, sweep
from torch_ipfs.blockstore.process_lock import ProcessLock
from torch_ipfs.codec import car
from torch_ipfs.codec.cid import MAX_CID_BYTES, CID
from torch_ipfs.errors import BlockNotFound, TorchIPFSError

GRACE_S = 3600.0
LOCK_TIMEOUT_S = 60.0
MAX_REMEMBERED_BLOCKS = 2**18
"""Files that are known to be right, at 170 bytes each. Beyond that all are hashed once more."""


class LocalBlockstore:
    """Blocks as files of a folder, which any number of processes may use at a time.

    A block is written to a temporary file and renamed: readers see all of it or nothing, whenever the writer is killed or
    the disk is full. Large blocks are mapped, without a copy. A file is hashed when a process first reads it, and again when
    its inode, size or time has changed; one that is damaged raises HashMismatch with its path, and ``put`` mends it. Nobody may
    cut files of the folder: to read on behind the cut of one that is mapped ends the process (SIGBUS).

    With ``fsync`` a file is on disk before it gets its name, so that a power cut leaves whole blocks too; the last names
    may be lost. Without it a power cut may leave files of the last half minute empty, which is noticed when they are read.

    :param path: the folder, made on the first ``put``; by default TORCH_IPFS_HOME, else the platform's for a user's data.
    :param fsync: whether a block is on disk before it gets its name.
    :param hash_threads: threads that hash ahead in one ``get_many``; by default the cores that are to spare.
    :param window_bytes: how far ahead ``get_many`` hashes.
    :param max_block_bytes: largest block that is read or put.
    """

    def __init__(
        self,
        path: StrPath | None = None,
        *,
        fsync: bool = True,
        hash_threads: int | None = None,
        window_bytes: int = WINDOW_BYTES,
        max_block_bytes: int = MAX_BLOCK_BYTES,
    ) -> None:
        self.source = absolute(data_directory() if path is None else path)
        self._files = BlockFiles(self.source, fsync=fsync)
        self._pins = Pins(f"{self.source}/pins", self._files)
        self._ahead = HashAhead(hash_threads, window_bytes)
        self._max_block_bytes = max_block_bytes
        self._verified: dict[bytes, int] = {}
        self._counting = ProcessLock()
        self._counts = {"blocks_verified": 0, "bytes_verified": 0}

    def __repr__(self) -> str:
        return f"LocalBlockstore({self.source!r})"

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_verified": {}, "_counts": dict.fromkeys(self._counts, 0)}

    def get(self, cid: CID) -> Block:
        multihash = cid.multihash
        if is_identity(multihash):
            return cid.digest
        path = self._files.path_of(multihash)
        with blaming(path):
            try:
                file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                raise BlockNotFound("the local store has no such block", cid=cid, source=self.source) from None
            try:
                return self._read(cid, multihash, path, file)
            finally:
                os.close(file)

    def get_many(self, cids: Iterable[CID], *, return_exceptions: bool = False) -> Iterator[Block | TorchIPFSError]:
        return read_ahead(cids, peek=self._peek, get=self.get, options=self._ahead, return_exceptions=return_exceptions)

    def has(self, cid: CID) -> bool:
        return is_identity(multihash := cid.multihash) or os.access(self._files.path_of(multihash), os.F_OK)

    def put(self, cid: CID, data: Block) -> None:
        path = self._new_path(cid, data, self.source)
        if path is not None:
            self._files.write(path, data)

    def put_many(self, blocks: Iterable[tuple[CID, Block]]) -> None:
        """``put`` for each pair, several times as fast for small blocks: they are written to disk in batches.

        No garbage collection runs meanwhile. What was put before an error, of ``blocks`` too, is kept.
        """
        self._put_all(blocks, self.source)

    def import_car(self, file: StrPath | BinaryIO, *, pin_roots: bool = True) -> list[CID]:
        """Put all blocks of a CAR file, and pin those of its roots that the store then holds.

        :param file: a path, or a file that is open for reading bytes.
        :return: the roots that the CAR's header names.
        :raises CodecError: the file is no CAR, or is cut off; the blocks before that are kept.
        :raises HashMismatch: one of its blocks is not what its CID says; the blocks before it are kept.
        """
        if isinstance(file, str | os.PathLike):
            with blaming(os.fspath(file)), Path(absolute(file)).open("rb") as opened:
                return self.import_car(opened, pin_roots=pin_roots)
        source = str(getattr(file, "name", "an unnamed CAR file"))
        with self.writing():
            with blaming(source):
                roots, blocks = car.read_blocks(file, verify=False, limits=self._car_limits())
            self._put_all(_blaming_each(blocks, source), source)
            for root in roots:
                if pin_roots and self.has(root):
                    self.pin(root)
        return roots

    def cids(self) -> Iterator[CID]:
        """Raw CIDs: the store keeps multihashes alone. In no order; a block put or removed meanwhile may be among them."""
        for multihash, _ in self._files.files():
            yield CID.from_multihash("raw", multihash)

    def pin(self, cid: CID, *, recursive: bool = True) -> None:
        with self.writing():
            if not self.has(cid):
                raise BlockNotFound("only a block that the store holds can be pinned", cid=cid, source=self.source)
            self._pins.add(cid, RECURSIVE if recursive else DIRECT)

    def unpin(self, cid: CID) -> None:
        self._pins.remove(cid)

    def pins(self) -> dict[CID, str]:
        return self._pins.all()

    def gc(self, *, grace_s: float = GRACE_S) -> Collected:
        """Remove the blocks that no pin reaches through the links of DAG-CBOR, DAG-PB and DAG-JSON.

        A block that is missing or damaged under a pin does not stop it; what only that block links to is not reached.

        :param grace_s: blocks put less than this long ago stay, so that others may write now and pin later. Who needs longer
            holds :meth:`writing`.
        :raises TransportError: the store is being written through :meth:`writing` for over a minute, or cannot be read.
        """
        with self._locked(shared=False):
            kept, unread = reached(self._pins.all(), self.get)
            return sweep(self._files, kept, unread, time.time() - grace_s)

    def writing(self) -> contextlib.AbstractContextManager[None]:
        """While this is held, by any number of writers, no garbage collection runs.

        :raises TransportError: one has been running for over a minute, or the store cannot be written.
        """
        return self._locked(shared=True)

    def stats(self) -> dict[str, int]:
        """What this process has hashed and found right: ``blocks_verified`` and ``bytes_verified``."""
        return dict(self._counts)

    def close(self) -> None:
        """Forget which files were found right. Nothing is held open."""
        self._verified.clear()

    def _read(self, cid: CID, multihash: bytes, path: str, file: int) -> Block:
        status = os.fstat(file)
        if status.st_size > self._max_block_bytes:
            raise too_large(cid, status.st_size, path, self._max_block_bytes)
        data = load(file, status.st_size)
        state = hash((status.st_ino, status.st_size, status.st_ctime_ns))  # mtime can be set, ctime cannot
        if self._verified.get(multihash) == state and len(data) == status.st_size:
            return data
        verify(cid, data, path, max_block_bytes=self._max_block_bytes)
        if len(self._verified) >= MAX_REMEMBERED_BLOCKS:
            self._verified.clear()
        self._verified[multihash] = state
        with self._counting:
            self._counts["blocks_verified"] += 1
            self._counts["bytes_verified"] += len(data)
        return data

    def _peek(self, cid: CID) -> Block | int:
        if cid.multihash in self._verified:
            return self.get(cid)
        try:
            return Path(self._files.path_of(cid.multihash)).stat().st_size
        except OSError:
            return self.get(cid)

    def _put_all(self, blocks: Iterable[tuple[CID, Block]], source: str) -> None:
        with self.writing():
            placed = ((self._new_path(cid, data, source), data) for cid, data in blocks)
            self._files.write_many((path, data) for path, data in placed if path is not None)

    def _new_path(self, cid: CID, data: Block, source: str) -> str | None:
        """Where to write a block of ``source``; ``None`` where it is already, which makes it young for a collection."""
        verify(cid, data, source, max_block_bytes=self._max_block_bytes)
        multihash = cid.multihash
        if is_identity(multihash):
            return None
        path = self._files.path_of(multihash)
        return None if self._files.holds(path, data) else path

    def _car_limits(self) -> car.Limits:
        most = self._max_block_bytes
        return car.Limits(block_bytes=most, section_bytes=max(car.DEFAULT_LIMITS.section_bytes, most + MAX_CID_BYTES))

    @contextlib.contextmanager
    def _locked(self, *, shared: bool) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            with blaming(self.source):
                Path(self.source).mkdir(parents=True, exist_ok=True)
                stack.enter_context(file_lock(f"{self.source}/gc.lock", shared=shared, timeout_s=LOCK_TIMEOUT_S))
            yield


def _blaming_each(blocks: Iterator[tuple[CID, bytes]], source: str) -> Iterator[tuple[CID, bytes]]:
    with blaming(source):
        yield from blocks
