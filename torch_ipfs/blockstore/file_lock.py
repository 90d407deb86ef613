"""A lock among processes: one file, held shared by many or exclusively by one."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator

from torch_ipfs.errors import TransportError

_RETRY_S = 0.01


@contextlib.contextmanager
def file_lock(path: str, *, shared: bool, timeout_s: float) -> Iterator[None]:
    """Hold the lock of that file, which is made where it is missing. Threads exclude each other as processes do.

    The system lets go of the lock when its holder dies. On a file system that knows no locks nothing is held.

    :raises TransportError: others hold the lock for longer than ``timeout_s``.
    :raises OSError: the file cannot be made.
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        _wait_for(file, path, fcntl.LOCK_SH if shared else fcntl.LOCK_EX, timeout_s)
        yield
    finally:
        os.close(file)  # which lets go of the lock


def _wait_for(file: int, path: str, kind: int, timeout_s: float) -> None:
    deadline_s = time.monotonic() + timeout_s
    while True:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline_s:
                raise TransportError(
                    f"others have held this lock for over {timeout_s:g} s: a garbage collection or an import is running; "
                    "try again when it is done",
                    source=path,
                ) from None
            time.sleep(_RETRY_S)
        except OSError:
            return
        else:
            return
