"""Keeping a disk cache within its bound: what was used longest ago goes first.

A walk of the folder finds the oldest blocks, a quarter of all bytes, and they are the next to go, so that a walk is paid for
by many evictions. Each is looked at once more when its turn comes: one that was used since, by whatever process, stays.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from torch_ipfs.blockstore.cache_files import CacheEntry, CacheFiles, used_ns
from torch_ipfs.blockstore.cache_usage import CacheUsage

MOST_WALKS = 3
"""Walks for one block. More would mean that all that is found is used again before its turn comes."""


LITTLE_ROOM_BYTES = 2**30
"""A smaller cache keeps exact account of what was used last from the start."""

LOOK_S = 1.0
"""How long what others have written may go unnoticed by a process that only reads."""

MOST_SPARE_BYTES = 2**16
"""Room that a process counts as taken before it is, at most; a thousandth of the limit where that is less."""


class CacheEviction:
    """Makes room, for one process; others that do so at the same time find their own oldest blocks.

    :param evicted: told the multihash (hexadecimal) of each block that went.
    """

    def __init__(self, files: CacheFiles, usage: CacheUsage, evicted: Callable[[str], None]) -> None:
        self._files = files
        self._usage = usage
        self._evicted = evicted
        self._mutex = threading.Lock()
        self._look_again_at = 0.0
        self._spare_bytes = 0
        self._unwritten_bytes = 0
        self._oldest: deque[CacheEntry] = deque()

    def is_pressed(self, limit_bytes: int) -> bool:
        """Whether more than half of the room is taken, or there is little, so that it matters which blocks were used last."""
        if limit_bytes <= LITTLE_ROOM_BYTES:
            return True
        now = time.monotonic()
        if now >= self._look_again_at:
            self._look_again_at = now + LOOK_S
            with suppress(OSError):
                self._usage.total()
        return 2 * self._usage.last_total > limit_bytes

    def reserve(self, size_bytes: int, limit_bytes: int) -> bool:
        """Count ``size_bytes`` that are about to be written, and remove blocks until all fits the limit.

        Room for further small blocks is counted with it, so that not each of them is.

        :returns: whether it does; if not, nothing is counted. Otherwise :meth:`written` or :meth:`release` has to follow.
        :raises OSError: the journal cannot be kept.
        """
        with self._mutex:
            spare_bytes = min(MOST_SPARE_BYTES, limit_bytes >> 10)
            if size_bytes > self._spare_bytes:
                missing_bytes = size_bytes - self._spare_bytes
                if size_bytes < spare_bytes and self._count(spare_bytes, limit_bytes):
                    self._spare_bytes += spare_bytes
                elif not self._count(missing_bytes, limit_bytes):
                    return False
                else:
                    self._spare_bytes += missing_bytes
            self._spare_bytes -= size_bytes
            self._unwritten_bytes += size_bytes
            return True

    def written(self, size_bytes: int) -> None:
        """What was reserved is there."""
        with self._mutex:
            self._unwritten_bytes -= size_bytes

    def release(self, size_bytes: int) -> None:
        """What was reserved was not written; the room is there for the next block."""
        with self._mutex:
            self._unwritten_bytes -= size_bytes
            self._spare_bytes += size_bytes

    def removed(self, size_bytes: int) -> None:
        """A block was removed that is not to be made room with.

        :raises OSError: the journal cannot be kept.
        """
        self._usage.add(-size_bytes)

    def total(self) -> int:
        """The bytes that the node's blocks take.

        :raises OSError: the journal cannot be read.
        """
        with self._mutex:
            return self._usage.total() - self._spare_bytes

    def give_back(self) -> None:
        """Let others have the room that was counted and not used.

        :raises OSError: the journal cannot be kept.
        """
        with self._mutex:
            if self._spare_bytes:
                self._usage.add(-self._spare_bytes)
                self._spare_bytes = 0

    def _count(self, size_bytes: int, limit_bytes: int) -> bool:
        if self._usage.add(size_bytes) <= limit_bytes or self._make_room(limit_bytes, size_bytes):
            return True
        self._usage.add(-size_bytes)
        return False

    def _make_room(self, limit_bytes: int, coming_bytes: int) -> bool:
        walks = 0
        while (total := self._usage.total()) > limit_bytes:
            if self._oldest:
                self._evict(self._oldest.popleft())
            elif walks < MOST_WALKS:
                walks += 1
                self._walk(coming_bytes)
            else:
                return False
        return total <= limit_bytes

    def _evict(self, entry: CacheEntry) -> None:
        try:
            used_since = used_ns(os.lstat(entry.path), time.time_ns()) > entry.used_ns
        except OSError:
            return  # another process was here before
        if not used_since and self._files.remove(entry.path):
            self._usage.add(-entry.size_bytes)
            self._evicted(os.path.basename(entry.path))  # noqa: PTH119 - text

    def _walk(self, coming_bytes: int) -> None:
        """Find the oldest blocks, and count all while at it."""
        self._files.sweep()
        entries: list[CacheEntry] = []

        def count() -> int:
            entries.extend(self._files.walk())
            return self._files.half_written_bytes() + sum(entry.size_bytes for entry in entries)

        self._usage.recount(count, coming_bytes + self._spare_bytes + self._unwritten_bytes)
        if not entries:  # another process is counting
            entries.extend(self._files.walk())
        entries.sort()
        enough = sum(entry.size_bytes for entry in entries) // 4
        for entry in entries:
            self._oldest.append(entry)
            enough -= entry.size_bytes
            if enough <= 0:
                break
