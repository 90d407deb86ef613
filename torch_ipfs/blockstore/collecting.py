"""Whether garbage is being collected, by the thread that asks.

Iterators that are left end where the collector finds them: in any line of any thread, and whatever locks that thread holds.
There they must neither take a lock that others keep while they wait for this thread, nor wait for a thread.
"""

from __future__ import annotations

import gc
import threading
from typing import Any


class _Here(threading.local):
    is_collecting = False


_here = _Here()


def is_collecting() -> bool:
    """Whether this is called from within a collection."""
    return _here.is_collecting


def _note(phase: str, _: dict[str, Any]) -> None:
    _here.is_collecting = phase == "start"


gc.callbacks.append(_note)
