"""A node's cache of blocks on disk: shared by its processes, bounded in bytes, checked when it is read.

diskcache (https://grantjenks.com/docs/diskcache/) was weighed and not taken: its index is an SQLite database, whose lock a
stopped process keeps from all others; what it stores may be pickled, and we unpickle nothing; it evicts by its own count of
pages and values and hands out copies or open files, where a block is to be mapped.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import threading
import time
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from torch_ipfs.blockstore.base import MAX_BLOCK_BYTES, Block
from torch_ipfs.blockstore.block_files import load
from torch_ipfs.blockstore.cache_eviction import CacheEviction
from torch_ipfs.blockstore.cache_files import LONGEST_MULTIHASH_BYTES, CacheFiles
from torch_ipfs.blockstore.cache_packs import Pack, PackWriter, half_written, key_of
from torch_ipfs.blockstore.cache_usage import CacheUsage
from torch_ipfs.blockstore.kept_blocks import Identity, KeptBlocks, most_maps
from torch_ipfs.blockstore.single_flight import claims_at
from torch_ipfs.codec import multihash as multihashes
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import CodecError

logger = logging.getLogger("torch_ipfs.blockstore.cached")

MOST_CHECKED = 2**18
"""Blocks of which a process remembers that it checked them; of a forgotten one the hash is taken again."""

MOST_PACKS = 512
"""Packs that a process keeps open; one of those that we write has 2 MiB, and its index takes half of that."""

PACKS_LOOKED_IN = 4
"""Packs, those used last, in which blocks are looked for that are not there by themselves."""

NO_WRITES_S = 60.0
"""How long a cache that could not be written is not written."""


@dataclass(frozen=True, slots=True)
class Unchecked:
    """A block that is there, but whose hash this process has not checked."""

    size_bytes: int


class DiskCache:
    """What one process does with the cache in ``folder``. It touches nothing before it is used.

    :param limit_bytes: most bytes of blocks; ``None`` for a tenth of the file system, or half of what is free of it if
        that is less. Processes that write at the same time may be over it by the one block each is writing.
    :param keep_mapped_bytes: most bytes of large blocks that stay mapped after they were read. One that is evicted meanwhile
        takes up its disk until then.
    :param keep_copied_bytes: most bytes of small blocks that stay in memory after they were read.
    """

    def __init__(
        self, folder: Path, limit_bytes: int | None, *, keep_mapped_bytes: int, keep_copied_bytes: int
    ) -> None:
        self.evictions = 0
        self.bad_blocks = 0
        self._files = CacheFiles(folder)
        self.claims = claims_at(folder / "locks")
        self._eviction = CacheEviction(self._files, CacheUsage(self._files, self.claims), self._evicted)
        self._limit_bytes = limit_bytes
        self._maps = KeptBlocks(keep_mapped_bytes, most_maps())
        self._copies = KeptBlocks(keep_copied_bytes)
        self._checked: dict[bytes, Identity] = {}
        self._packs: OrderedDict[bytes, tuple[Identity, Pack]] = OrderedDict()
        self._no_writes_until = 0.0
        self._mutex = threading.Lock()
        self._is_swept = False

    @property
    def is_off(self) -> bool:
        """Whether no cache is wanted."""
        return self._limit_bytes == 0

    @property
    def is_writable(self) -> bool:
        """Whether it is worth trying to write; not for some time after it failed."""
        return not self.is_off and time.monotonic() >= self._no_writes_until

    def has(self, multihash: bytes) -> bool:
        """Whether the block is there; it is not checked."""
        return not self.is_off and os.path.lexists(self._files.path(multihash.hex()))

    def read(self, multihash: bytes, *, most_unchecked_bytes: int = MAX_BLOCK_BYTES) -> Block | Unchecked | None:
        """The block, if it is there and its hash is right.

        :param most_unchecked_bytes: a block over this that would have to be hashed is answered by :class:`Unchecked`.
        """
        if len(multihash) > LONGEST_MULTIHASH_BYTES or self.is_off:
            return None
        path = self._files.path(multihash.hex())
        for kept in (self._copies, self._maps):
            found = kept.get(multihash)
            if found is not None:
                if (block := self._kept(path, *found)) is not None:
                    return block
                kept.drop(multihash)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return self._packed(multihash)
        except OSError as error:
            self._warn("read", error)
            return None
        try:
            return self._read(fd, multihash, most_unchecked_bytes)
        except OSError as error:
            self._warn("read", error)
            return None
        finally:
            os.close(fd)

    def _packed(self, multihash: bytes) -> Block | None:
        """A block of a pack that was used lately."""
        if not self._packs:
            return None
        with self._mutex:
            packs = [pack for _, pack in islice(reversed(self._packs.values()), PACKS_LOOKED_IN)]
        return next((block for pack in packs if (block := pack.get(multihash)) is not None), None)

    def _kept(self, path: str, identity: Identity, block: Block) -> Block | None:
        """A block that is at hand, if its file is there and has not changed."""
        try:
            status = os.lstat(path)
        except OSError:
            return None
        if (status.st_ino, status.st_mtime_ns, status.st_size) != identity:
            return None
        self._touch(path, status)
        return block[:]  # a new view of a map: whoever gets it may release it

    def _read(self, fd: int, multihash: bytes, most_unchecked_bytes: int) -> Block | Unchecked | None:
        status = os.fstat(fd)
        size = status.st_size
        identity = status.st_ino, status.st_mtime_ns, size
        is_checked = self._checked.get(multihash) == identity
        if size > most_unchecked_bytes and not is_checked and size <= MAX_BLOCK_BYTES:
            return Unchecked(size)
        block = load(fd, min(size, MAX_BLOCK_BYTES + 1))
        if not is_checked:
            if not multihashes.matches(multihash, block):
                self._remove_bad(multihash, size)
                return None
            self._remember(multihash, identity)
        kept = self._maps if isinstance(block, memoryview) else self._copies
        kept.keep(multihash, identity, block[:])
        self._touch(fd, status)
        return block

    def write(self, multihash: bytes, data: Block) -> bool:
        """Keep a verified block; whether it is kept. A cache that cannot be written is left alone for some time."""
        size = len(data)
        if not self.is_writable or size > MAX_BLOCK_BYTES or len(multihash) > LONGEST_MULTIHASH_BYTES:
            return False
        try:
            limit_bytes = self._limit()
            if size > limit_bytes or not self._eviction.reserve(size, limit_bytes):
                return False
            self._write(multihash, data)
        except FileNotFoundError:  # the folder was deleted while we wrote; it will be there for the next block
            return False
        except OSError as error:
            self.cannot_write(error)
            return False
        return True

    def _write(self, multihash: bytes, data: Block) -> None:
        if not self._is_swept:
            self._is_swept = True
            self._files.sweep()
        try:
            status = self._files.write(multihash.hex(), data)
        except OSError:
            self._eviction.release(len(data))
            raise
        self._eviction.written(len(data))
        self._remember(multihash, (status.st_ino, status.st_mtime_ns, status.st_size))

    def pack(self, node: CID) -> Pack | None:
        """The pack of what a node links to, if it is there. :meth:`read` finds its blocks then."""
        if self.is_off:
            return None
        key = key_of(node.multihash)
        path = self._files.path(key.hex())
        try:
            status = os.lstat(path)
        except OSError:
            return None
        identity = status.st_ino, status.st_mtime_ns, status.st_size
        self._touch(path, status)
        with self._mutex:
            kept = self._packs.get(key)
            if kept is not None and kept[0] == identity:
                self._packs.move_to_end(key)
                return kept[1]
        try:
            pack = Pack(path, lambda: self._remove_bad(key, status.st_size))
        except (CodecError, ValueError):
            self._remove_bad(key, status.st_size)
            return None
        except FileNotFoundError:  # it was removed since
            return None
        except OSError as error:
            self._warn("read", error)
            return None
        with self._mutex:
            self._packs[key] = identity, pack
            while len(self._packs) > MOST_PACKS:
                self._packs.popitem(last=False)
        return pack

    def half_packed_bytes(self, node: CID) -> int:
        """Bytes of the node's pack, as far as it has been written."""
        return self._files.half_written_bytes(half_written(node))

    def pack_writer(self, node: CID) -> PackWriter | None:
        """Begin a pack, if there is a cache to write to."""
        if not self.is_writable or len(key_of(node.multihash)) > LONGEST_MULTIHASH_BYTES:
            return None
        try:
            return PackWriter(self._files, self._eviction, node)
        except OSError as error:
            self.cannot_write(error)
            return None

    def finish_pack(self, writer: PackWriter) -> None:
        """Put a pack in place, if there is room for it."""
        try:
            writer.finish(self._limit())
        except FileNotFoundError:  # as in write
            return
        except OSError as error:
            self.cannot_write(error)

    def cannot_write(self, error: OSError) -> None:
        """Leave the cache alone for some time, and say so once."""
        self._no_writes_until = time.monotonic() + NO_WRITES_S
        self._warn("written", error)

    def total_bytes(self) -> int:
        """The bytes of all blocks that the node holds here; 0 where that cannot be told."""
        try:
            return self._eviction.total() if self._files.folder.is_dir() else 0
        except OSError:
            return 0

    def limit_bytes(self) -> int:
        """The bound in force; 0 while there is room for no block."""
        try:
            return self._limit()
        except OSError as error:
            self.cannot_write(error)
            return 0

    def give_back(self) -> None:
        """Let others have the room that was counted for this process and is not used."""
        with suppress(OSError):
            self._eviction.give_back()

    def close(self) -> None:
        """Let go of what is at hand. Blocks that were given out stay whole."""
        self.give_back()
        self._maps.clear()
        with self._mutex:
            self._packs.clear()
        self._copies.clear()

    def _limit(self) -> int:
        if self._limit_bytes is None:
            folder = self._files.folder
            disk = shutil.disk_usage(next(parent for parent in (folder, *folder.parents) if parent.is_dir()))
            limit_bytes = min(disk.total // 10, (disk.free + self.total_bytes()) // 2)
            if limit_bytes < MAX_BLOCK_BYTES:  # there may be room later, and what is there can be read
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._limit_bytes = limit_bytes
        return self._limit_bytes

    def _touch(self, file: int | str, status: os.stat_result) -> None:
        try:
            is_pressed = self._eviction.is_pressed(self._limit())
        except OSError:
            is_pressed = False
        self._files.touch(file, status, is_pressed=is_pressed)

    def _remember(self, multihash: bytes, identity: Identity) -> None:
        with self._mutex:
            while len(self._checked) >= MOST_CHECKED:
                del self._checked[next(iter(self._checked))]
            self._checked[multihash] = identity

    def _remove_bad(self, multihash: bytes, size: int) -> None:
        path = self._files.path(multihash.hex())
        logger.warning("a cached block has gone bad and is fetched again: %s", path)
        with self._mutex:
            self.bad_blocks += 1
        if self._files.remove(path):
            try:
                self._eviction.removed(size)
            except OSError as error:
                self._warn("written", error)

    def _evicted(self, multihash_hex: str) -> None:
        multihash = bytes.fromhex(multihash_hex)
        self._maps.drop(multihash)
        self._copies.drop(multihash)
        with self._mutex:
            self._packs.pop(multihash, None)
            self.evictions += 1

    def _warn(self, what: str, error: OSError) -> None:
        folder = str(self._files.folder)
        if folder in _WARNED_OF:
            return
        _WARNED_OF.add(folder)
        logger.warning(
            "the cache in %s cannot be %s (%s: %s); going on without it, writing is tried again every %.0f s",
            folder,
            what,
            errno.errorcode.get(error.errno or 0, "error"),
            error.strerror,
            NO_WRITES_S,
        )


_WARNED_OF: set[str] = set()
"""Folders that were warned of. A forked child inherits it: eight workers need not repeat what their parent said."""
