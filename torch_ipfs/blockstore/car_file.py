"""Blocks in a CAR file, read where they lie."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from torch_ipfs.blockstore.base import MAX_BLOCK_BYTES, Block, StrPath, is_identity, verify
from torch_ipfs.blockstore.car_map import MappedFile, OpenCar, open_car, walk
from torch_ipfs.blockstore.car_sidecar import FileState
from torch_ipfs.blockstore.directories import absolute
from torch_ipfs.blockstore.hash_ahead import WINDOW_BYTES, HashAhead, read_ahead
from torch_ipfs.blockstore.process_lock import ProcessLock
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import BlockError, BlockNotFound, CodecError, TorchIPFSError, TransportError

MAX_REMEMBERED_BLOCKS = 65_536
"""Verified blocks whose place is kept at hand. Others are looked up again, but not hashed again."""


class CarBlockstore:
    """The blocks of a CARv1 or CARv2 file, which is mapped: a block is a view into it, nothing is copied.

    Each block is hashed once in a process, when it is first read. What stands in a CARv2 index is not used. The file is
    opened on first use and walked once; for 64 blocks and more what was found is kept in the user's cache
    (:mod:`torch_ipfs.blockstore.car_sidecar`), so that the next process opens it in milliseconds.

    The file may be replaced by rename: what is open stays what it was until :meth:`close`. Nothing may write into it while
    it is open. A change of its size is noticed before a block is given out or hashed (TransportError), one of its bytes when a
    block is first read (HashMismatch). What cannot be guarded is a file that is cut while bytes beyond the cut are being
    read: the system ends the process then (SIGBUS).

    :param path: the file; a relative one is taken from the folder that is current now.
    :param hash_threads: threads that hash ahead in one ``get_many``; by default the cores that are to spare.
    :param window_bytes: how far ahead ``get_many`` hashes.
    :param max_block_bytes: largest block that is read.
    """

    def __init__(
        self,
        path: StrPath,
        *,
        hash_threads: int | None = None,
        window_bytes: int = WINDOW_BYTES,
        max_block_bytes: int = MAX_BLOCK_BYTES,
    ) -> None:
        self.source = absolute(path)
        self._ahead = HashAhead(hash_threads, window_bytes)
        self._max_block_bytes = max_block_bytes
        self._opened: OpenCar | None = None
        self._refused: tuple[FileState, str] | None = None
        self._opening = ProcessLock()

    def __repr__(self) -> str:
        return f"CarBlockstore({self.source!r})"

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": None}

    @property
    def roots(self) -> list[CID]:
        """The roots that the file's header names. Nothing else of the file is read for them.

        :raises CodecError: the file is no CAR.
        :raises TransportError: it cannot be opened.
        """
        opened = self._opened
        return (MappedFile(self.source) if opened is None else opened.file).roots()

    def get(self, cid: CID) -> Block:
        opened = self._opened or self._open()
        place = opened.places.get(cid)
        if place is None or opened.map.size() != len(opened.map):
            return self._look_up(opened, cid)
        return opened.view[place]

    def get_many(self, cids: Iterable[CID], *, return_exceptions: bool = False) -> Iterator[Block | TorchIPFSError]:
        return read_ahead(cids, peek=self._peek, get=self.get, options=self._ahead, return_exceptions=return_exceptions)

    def has(self, cid: CID) -> bool:
        multihash = cid.multihash
        if is_identity(multihash):
            return True
        opened = self._opened or self._open()
        opened.file.check_size()
        return len(opened.rows(cid)) > 0

    def put(self, cid: CID, data: Block) -> None:  # noqa: ARG002 - the protocol's parameters
        raise TransportError(
            "a CAR file is read-only: put blocks into a local store, or write a new file", cid=cid, source=self.source
        )

    def put_many(self, blocks: Iterable[tuple[CID, Block]]) -> None:
        for cid, data in blocks:
            self.put(cid, data)

    def cids(self) -> Iterator[CID]:
        """Each block once, in the file's order, by the CID that the file has for it first."""
        opened = self._opened or self._open()
        copied = opened.index.with_shared_keys()
        seen: set[bytes] = set()
        for row in opened.index.in_file_order():
            opened.file.check_size()
            cid = opened.cid(row)
            multihash = b"" if cid is None else cid.multihash
            if cid is None or is_identity(multihash) or multihash in seen:
                continue
            if copied[row]:
                seen.add(multihash)
            yield cid

    def stats(self) -> dict[str, int]:
        """What this process has hashed and found right: ``blocks_verified`` and ``bytes_verified``."""
        opened = self._opened
        if opened is None:
            return {"blocks_verified": 0, "bytes_verified": 0}
        lengths = opened.index.lengths[np.frombuffer(bytes(opened.verified), np.bool_)]
        return {"blocks_verified": len(lengths), "bytes_verified": int(lengths.sum(dtype=np.uint64))}

    def close(self) -> None:
        """Let go of the map, which goes once no block of it is in use. A later use opens the file anew."""
        self._opened = None

    def _open(self) -> OpenCar:
        with self._opening:
            if self._opened is None:
                file = MappedFile(self.source)
                if self._refused is not None and self._refused[0] == file.state:
                    raise CodecError(self._refused[1])  # without another walk, for each of many blocks
                try:
                    self._opened = open_car(file)
                except CodecError as error:
                    self._refused = file.state, str(error)
                    raise
            return self._opened

    def _walk_again(self, wrong: OpenCar) -> OpenCar:
        """The file is asked itself, since what its sidecar says is wrong."""
        with self._opening:
            if self._opened is None or self._opened is wrong:
                self._opened = walk(wrong.file)
            return self._opened

    def _look_up(self, opened: OpenCar, cid: CID) -> Block:
        """The block of a CID whose place is not at hand."""
        multihash = cid.multihash
        if is_identity(multihash):
            return cid.digest
        opened.file.check_size()
        try:
            row = self._verified_row(opened, cid)
        except BlockError:
            if not (opened.from_sidecar and opened.listed(multihash)):
                raise
            opened = self._walk_again(opened)
            row = self._verified_row(opened, cid)
        place = opened.place(row)
        if len(opened.places) >= MAX_REMEMBERED_BLOCKS:
            opened.places.clear()
        opened.places[cid] = place
        return opened.view[place]

    def _verified_row(self, opened: OpenCar, cid: CID) -> int:
        """A row whose block is, or has been, found right. Of copies in the file one may be damaged."""
        rows = opened.rows(cid)
        for row in rows:
            if opened.verified[row]:
                return row
        failure: BlockError | None = None
        for row in rows:
            try:
                verify(cid, opened.view[opened.place(row)], self.source, max_block_bytes=self._max_block_bytes)
            except BlockError as error:
                failure = error
            else:
                opened.verified[row] = 1
                return row
        raise failure or BlockNotFound("the CAR file has no such block", cid=cid, source=self.source)

    def _peek(self, cid: CID) -> Block | int:
        opened = self._opened or self._open()
        if cid not in opened.places:
            # To look into the file now would have the system read here and there, and not one block after the other.
            rows = opened.listed(bytes(cid))
            if rows and not any(opened.verified[row] for row in rows):
                return int(opened.index.lengths[rows[0]])
        return self.get(cid)
