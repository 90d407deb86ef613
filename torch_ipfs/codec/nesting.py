"""How deep values may nest, and how that is found out without recursion.

The limit protects what comes after decoding: code that walks a value by recursion (``copy.deepcopy``, a collate function)
takes two or three frames a level and Python allows a thousand in all.
"""

from __future__ import annotations

import gc
import sys
import threading
from typing import Any

MAX_DEPTH = 256
"""No item of a value lies in more lists and maps than this, in any codec and in either direction."""

_MAX_NATIVE_RECURSION = 5_000
_MIN_STACK_BYTES = 4 * 2**20
"""libipld recurses in C as deep as ``sys.getrecursionlimit()`` says, the json module so or, from Python 3.12 on, some 10,000
levels. Measured on x86-64: libipld 3.5 takes up to 600 bytes of stack a level. Stacks have 8 MiB unless made otherwise."""

_CONTAINERS = (list, dict, tuple)


def native_recursion_is_safe() -> bool:
    """Whether code that recurses in C up to Python's limit ends in a RecursionError, not in an overflow of its stack."""
    stack_bytes = threading.stack_size()  # of threads started from now on, 0 for the system's default
    return sys.getrecursionlimit() <= _MAX_NATIVE_RECURSION and (not stack_bytes or stack_bytes >= _MIN_STACK_BYTES)


def is_deep(value: object) -> bool:
    """Whether an item of ``value``, a finite tree, lies in more than :data:`MAX_DEPTH` containers.

    Goes level by level, with a few calls into C for each level.
    """
    containers = [value] if isinstance(value, _CONTAINERS) else []
    for _ in range(MAX_DEPTH):
        items = gc.get_referents(*containers)
        if not any(issubclass(kind, _CONTAINERS) for kind in set(map(type, items))):
            return False
        containers = [item for item in items if isinstance(item, _CONTAINERS)]
    return any(containers)


def is_deep_plain(value: object) -> bool:
    """As :func:`is_deep`, five times as quick, for a value that holds nothing but None, bool, int, float, str, bytes, list
    and dict, all of them exactly: any other object would bring its class and all that hangs on it.
    """
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH + 1):
        level = gc.get_referents(*level)
        if not level:
            return False
    return True
