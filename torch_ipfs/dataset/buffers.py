"""Memory of batches, used again once nobody holds what was made in it.

Where a batch takes megabytes, memory that the system gives anew costs as much as the copy into it, and malloc asks for more
whenever something small has come to lie in the middle of what it had.
"""

from __future__ import annotations

import sys

import numpy as np
import numpy.typing as npt

KEPT_BYTES = 64 * 2**20
"""Bound on what is held to be used again, but for one buffer."""

_TELLS_HOLDERS = sys.implementation.name == "cpython" and getattr(sys, "_is_gil_enabled", lambda: True)()
_UNHELD = 2
"""References to a buffer that nobody else holds: the list's, and that of the call which counts them."""


class Buffers:
    """Memory for one field of one batch after the other.

    Whoever looks into a buffer holds a reference to the array that owns it: numpy's views their base, torch's tensors the array
    they are of. So CPython's count of these tells whether somebody does.
    """

    def __init__(self) -> None:
        self._buffers: list[npt.NDArray[np.uint8]] = []

    def take(self, size_bytes: int) -> npt.NDArray[np.uint8]:
        """Memory that nobody holds, shape (size_bytes,). It may hold anything."""
        buffers = self._buffers
        for at in range(len(buffers)):
            if sys.getrefcount(buffers[at]) == _UNHELD and len(buffers[at]) >= size_bytes:
                return buffers[at][:size_bytes]
        buffer = np.empty(size_bytes, dtype=np.uint8)
        if _TELLS_HOLDERS:
            buffers.append(buffer)
            while len(buffers) > 1 and sum(map(len, buffers)) > KEPT_BYTES:
                del buffers[0]
        return buffer[:]
