"""Iterators that fill the same memory anew for each sample they give.

``for ...: buffer[:] = ...; yield {"x": buffer}`` is common, and right where each sample is used before the next is asked for.
Samples that are gathered before they are written would all turn out as the last. So those of the first rows are copied,
and watched for memory that comes again; where it does, all are copied.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

_WATCHED_ROWS = 64
"""An iterator that takes turns with more buffers than this is not found out."""


class ReuseWatch:
    """Gives out samples in memory that their iterator does not fill again."""

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self._kept: list[Any] = []
        self._reused = False
        self.copying = True
        """Whether samples still have to go through :meth:`own`."""

    def own(self, sample: Any) -> Any:
        """``sample``, copied."""
        if self._kept is not None and not self._reused:
            memory = set(_memory(sample))
            self._reused = not memory.isdisjoint(self._seen)
            self._seen |= memory
            # Held, so that what is freed and taken again does not look like what is filled again.
            self._kept.append(sample)
            if self._reused or len(self._kept) == _WATCHED_ROWS:
                self._kept, self._seen = [], set()
                self.copying = self._reused
        return _copy(sample)


def _memory(value: Any) -> Iterator[int]:
    """The addresses of what may be filled anew."""
    if isinstance(value, torch.Tensor):
        if value.layout == torch.strided and value.nbytes:
            yield value.data_ptr()
    elif isinstance(value, np.ndarray):
        if value.nbytes:
            yield value.__array_interface__["data"][0]
    elif isinstance(value, Mapping):
        yield id(value)
        for item in value.values():
            yield from _memory(item)
    elif isinstance(value, list | tuple):
        if isinstance(value, list):
            yield id(value)
        for item in value:
            if not isinstance(item, int | float | str):
                yield from _memory(item)


def _copy(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, Mapping):
        return {key: _copy(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_copy(item) for item in value]
    if type(value) is tuple:
        return tuple(map(_copy, value))
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    return value
