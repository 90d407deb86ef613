"""What an iterator's end may do where the garbage collector finds it.

That is in any line of any thread, whatever locks that thread holds: it must neither take a lock there nor wait for a thread.
"""

from __future__ import annotations

import _thread
import gc
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any


class _Here(threading.local):
    is_collecting = False


_here = _Here()


def is_collecting() -> bool:
    """Whether this is called, in this thread, from within a collection."""
    return _here.is_collecting


def join(thread: threading.Thread, timeout_s: float | None = None) -> None:
    """Wait for the end of a thread, unless it is this one, or garbage is being collected."""
    if not is_collecting() and thread is not threading.current_thread():
        thread.join(timeout_s)


def put_off(work: Callable[[], None]) -> None:
    """Do ``work``, which takes locks: now, or in a thread of its own where garbage is being collected.

    ``threading`` has locks of its own, so the thread is one that it does not know of.
    """
    if not is_collecting():
        work()
        return
    with suppress(RuntimeError):  # no thread can be had: claims go with the process, files with the next sweep
        _thread.start_new_thread(work, ())


def _note(phase: str, _: dict[str, Any]) -> None:
    _here.is_collecting = phase == "start"


gc.callbacks.append(_note)
