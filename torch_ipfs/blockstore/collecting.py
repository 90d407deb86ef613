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
    is_elsewhere = False


_here = _Here()


def is_collecting() -> bool:
    """Whether this is called, in this thread, from within a collection."""
    return _here.is_collecting


def join(thread: threading.Thread, timeout_s: float | None = None) -> None:
    """Wait for the end of a thread, unless it is this one, or this one collects garbage or does something :func:`elsewhere`."""
    if not _here.is_collecting and not _here.is_elsewhere and thread is not threading.current_thread():
        thread.join(timeout_s)


def put_off(work: Callable[[], None]) -> None:
    """Do ``work``, which takes locks: now, or in a thread of its own where garbage is being collected."""
    if is_collecting():
        elsewhere(work)
    else:
        work()


def elsewhere(work: Callable[[], None]) -> None:
    """Do ``work`` in a thread of its own. ``threading`` has locks of its own, so the thread is one that it does not know of; it
    would note it for good if asked which one this is, as its ``join`` does.
    """
    with suppress(RuntimeError):  # no thread can be had: claims go with the process, files with the next sweep
        _thread.start_new_thread(_do_elsewhere, (work,))


def _do_elsewhere(work: Callable[[], None]) -> None:
    _here.is_elsewhere = True
    work()


def _note(phase: str, _: dict[str, Any]) -> None:
    _here.is_collecting = phase == "start"


gc.callbacks.append(_note)
