"""Single flight over a node: of all its processes and their threads, one fetches a block and the others wait for it.

A claim is a POSIX lock on one byte of one lock file, at an offset that the block's multihash gives. The kernel lets go of it
when its process dies, a forked child does not inherit it, and there is no file per block to clean up. A lock file is no good
against a process that is stopped, so nobody waits longer than a deadline, and a process that made others wait that long is
not waited for again for some time.

POSIX locks know processes, not threads; the threads of one process are kept apart by a set. They are also dropped when the
process closes *any* descriptor of the file, which is why a process has one :class:`Claims` for a lock file, whatever number
of stores use it.
"""

from __future__ import annotations

import fcntl
import os
import struct
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

STUCK_S = 60.0
"""How long a process that was waited for in vain is not waited for again."""

FIRST_PAUSE_S = 0.001
LONGEST_PAUSE_S = 0.05

# struct flock of 64-bit systems: its layout and the order of its fields. Elsewhere holders are not told apart.
_FLOCK = {
    "linux": ("hhqqi4x", ("type", "whence", "start", "len", "pid")),
    "darwin": ("qqihh", ("start", "len", "pid", "type", "whence")),
}


def claims_at(path: Path) -> Claims:
    """The one table of claims that this process has for the lock file at ``path``, which need not exist."""
    key = (os.getpid(), os.path.realpath(path))  # a link to the folder is the folder
    return _CLAIMS.get(key) or _CLAIMS.setdefault(key, Claims(path))


class Claims:
    """Which blocks are being fetched. Made by :func:`claims_at`; the file is open only while a claim is held.

    Where the lock file cannot be made or locked, every claim is granted: blocks may then be fetched more than once.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._mutex = threading.Lock()
        self._held: set[int] = set()
        self._fd: int | None = None
        self._stuck: dict[int, float] = {}

    def claim(self, multihash: bytes) -> bool:
        """Whether the block is ours to fetch; never waits. What is claimed has to be released."""
        offset = _offset(multihash)
        with self._mutex:
            if offset in self._held:
                return False
            try:
                if not self._lock(offset):
                    return False
                self._held.add(offset)
                return True
            finally:
                self._close_if_unused()

    def release(self, multihash: bytes) -> None:
        """Let others have the block. Without a claim nothing happens."""
        offset = _offset(multihash)
        with self._mutex:
            if offset in self._held:
                self._held.remove(offset)
                if self._held and self._fd is not None:
                    fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, offset)
                self._close_if_unused()

    def claim_within(
        self, multihash: bytes, wait_s: float, arrived: Callable[[], bool], progress: Callable[[], int] = int
    ) -> bool:
        """Claim the block, waiting while somebody else has it. To be called without a claim, so that no two wait in a ring.

        :param wait_s: the longest wait; none at all for a process that was waited for in vain lately.
        :param arrived: whether the block is there by now, which ends the wait.
        :param progress: how much of it has come; when that grows, the wait begins anew.
        :returns: whether it is claimed. If not, it has arrived, or its holder is not worth waiting for.
        """
        if self.claim(multihash):
            return True
        holder = self._holder(multihash)
        now = time.monotonic()
        deadline = now if self._stuck.get(holder, now) > now else now + wait_s
        pause_s, come = FIRST_PAUSE_S, progress()
        while (left_s := deadline - time.monotonic()) > 0:
            time.sleep(min(pause_s, left_s))
            if arrived():
                return False
            if self.claim(multihash):
                return True
            if (now_come := progress()) > come:
                come, deadline = now_come, time.monotonic() + wait_s
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        if self._holder(multihash) == holder:
            self._stuck[holder] = time.monotonic() + STUCK_S
        return False

    def _lock(self, offset: int) -> bool:
        try:
            fd = self._current_fd()
        except OSError:
            return True
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, offset)
        except (BlockingIOError, PermissionError):  # POSIX allows EAGAIN and EACCES for "another has it"
            return False
        except OSError:
            return True
        return True

    def _current_fd(self) -> int:
        """The open lock file. The one that we have open may have been deleted, and others lock another by now."""
        if self._fd is not None:
            try:
                if os.path.samestat(os.lstat(self._path), os.fstat(self._fd)):
                    return self._fd
            except FileNotFoundError:
                pass
            os.close(self._fd)
            self._fd = None
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        try:
            self._fd = os.open(self._path, flags, 0o666)
        except FileNotFoundError:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(self._path, flags, 0o666)
        return self._fd

    def _close_if_unused(self) -> None:
        if not self._held and self._fd is not None:
            fd, self._fd = self._fd, None
            os.close(fd)

    def _holder(self, multihash: bytes) -> int:
        """The process that holds a claim; 0 where there is none or the system does not say."""
        offset = _offset(multihash)
        with self._mutex:
            if offset in self._held:
                return os.getpid()
            try:
                return _lock_owner(self._current_fd(), offset)
            except OSError:
                return 0
            finally:
                self._close_if_unused()


def _lock_owner(fd: int, offset: int) -> int:
    if sys.platform not in _FLOCK:
        return 0
    layout, names = _FLOCK[sys.platform]
    asked = {"type": fcntl.F_WRLCK, "whence": os.SEEK_SET, "start": offset, "len": 1, "pid": 0}
    answer = fcntl.fcntl(fd, fcntl.F_GETLK, struct.pack(layout, *(asked[name] for name in names)))
    found = dict(zip(names, struct.unpack(layout, answer), strict=True))
    return 0 if found["type"] == fcntl.F_UNLCK else int(found["pid"])


_CLAIMS: dict[tuple[int, str], Claims] = {}


def _offset(multihash: bytes) -> int:
    """The byte of the lock file that stands for a block: 56 bits of its digest."""
    return int.from_bytes(multihash[-7:], "little")
