"""Rows of one fixed-size column, out of many shards at once, into memory of their own.

The rows of a batch lie in many shards, each mapped or held somewhere in this process. Gathering shard by shard costs a
numpy call for each and copies rows twice (``out[where] = shard[rows]``). Instead each row's address is computed, and one
fancy-indexing call over a view of the address space (numpy's array interface; element = one row, stride = 1 byte) copies
all of them once: 15 million rows of 48 bytes a second, against 10 for ``array[rows]`` of one shard.

What keeps that safe: addresses come only from arrays that :class:`Gather` holds references to, rows are checked against
the arrays' lengths, and a slot that is let go of is marked so before its array is.
"""

from __future__ import annotations

import functools
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from torch_ipfs.manifest.schema import STORAGE, Field

Int64s = npt.NDArray[np.int64]

_ADDRESS_SPACE_BYTES = 2**48
_MAX_ADDRESSED_ROW_BYTES = 2**15 - 1
"""Above this numpy would hold the view for too big; a line of Python a row costs little against copying it."""
_NULL_PAGE_BYTES = 4096
_ROWS_WORTH_A_SLICE = 16
"""Rows that lie one after the other are copied as one: worth a line of Python for so many of them."""


class _AddressSpace:
    """This process's memory as rows of ``row_bytes`` that start at every byte after the null page."""

    def __init__(self, row_bytes: int) -> None:
        self.__array_interface__ = {
            "data": (_NULL_PAGE_BYTES, True),
            "shape": (_ADDRESS_SPACE_BYTES - _NULL_PAGE_BYTES,),
            "typestr": f"|V{row_bytes}",
            "strides": (1,),
            "version": 3,
        }


@functools.cache
def _rows_at_every_address(row_bytes: int) -> npt.NDArray[np.void]:
    return np.asarray(_AddressSpace(row_bytes))


@dataclass(frozen=True, slots=True)
class Picked:
    """Rows of open shards.

    :param slots: the shards' slots, shape (n,).
    :param rows: rows in them, shape (n,).
    :param runs: where most rows follow each other in one shard: the places at which such runs begin, and n.
    """

    slots: Int64s
    rows: Int64s
    runs: list[int] | None

    @classmethod
    def of(cls, slots: Int64s, rows: Int64s) -> Picked:
        breaks = np.flatnonzero((rows[1:] != rows[:-1] + 1) | (slots[1:] != slots[:-1])) + 1
        few = len(breaks) * _ROWS_WORTH_A_SLICE < len(rows)
        return cls(slots, rows, [0, *breaks.tolist(), len(rows)] if few else None)

    def runs_between(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """(slot, first row, rows) of what follows each other at places ``start`` to ``end``; else row by row."""
        if self.runs is None:
            for place in range(start, end):
                yield int(self.slots[place]), int(self.rows[place]), 1
            return
        run = bisect_right(self.runs, start)
        while start < end:
            stop = min(self.runs[run], end)
            yield int(self.slots[start]), int(self.rows[start]), stop - start
            start, run = stop, run + 1


class Gather:
    """One fixed-size field over the shards in numbered slots.

    :param field: a field whose ``fixed`` holds.
    """

    def __init__(self, field: Field) -> None:
        storage = STORAGE[field.dtype]
        self._dtype = storage.base
        self._shape = (*(size or 0 for size in field.shape), *storage.shape)
        self._row_bytes = field.row_bytes
        self._arrays: list[npt.NDArray[Any] | None] = []
        self._address = np.zeros(0, dtype=np.int64)
        self._num_rows = np.zeros(0, dtype=np.int64)

    def set(self, slot: int, array: npt.NDArray[Any] | None) -> None:
        """Put the column of a shard in ``slot``, ``(num_rows, *shape)`` with rows contiguous; ``None`` lets go of it."""
        if slot >= len(self._arrays):
            more = max(64, slot + 1 - len(self._arrays), len(self._arrays))
            self._arrays += [None] * more
            self._address = np.append(self._address, np.zeros(more, dtype=np.int64))
            self._num_rows = np.append(self._num_rows, np.zeros(more, dtype=np.int64))
        self._num_rows[slot] = 0 if array is None else len(array)
        self._address[slot] = 0 if array is None else array.__array_interface__["data"][0] - _NULL_PAGE_BYTES
        self._arrays[slot] = array

    def parts(self, picked: Picked, batch_rows: int) -> list[npt.NDArray[Any]]:
        """The rows picked, in parts of ``batch_rows`` and a shorter last one, ``(n, *shape)``, each in memory of its own."""
        self._check(picked)
        starts = range(0, len(picked.rows), batch_rows)
        if picked.runs is not None or not 0 < self._row_bytes <= _MAX_ADDRESSED_ROW_BYTES:
            ends = [*starts[1:], len(picked.rows)]
            return [self._copied(picked, start, end) for start, end in zip(starts, ends, strict=True)]
        addresses = picked.rows * self._row_bytes
        addresses += self._address[picked.slots]
        memory, dtype, shape = _rows_at_every_address(self._row_bytes), self._dtype, (-1, *self._shape)
        return [memory[addresses[at : at + batch_rows]].view(dtype).reshape(shape) for at in starts]

    def _copied(self, picked: Picked, start: int, end: int) -> npt.NDArray[Any]:
        """The rows at places ``start`` to ``end``, run by run."""
        pieces = list(picked.runs_between(start, end))
        if len(pieces) == 1:
            [(slot, row, length)] = pieces
            return self._open(slot)[row : row + length].copy()
        out, at = np.empty((end - start, *self._shape), self._dtype), 0
        for slot, row, length in pieces:
            out[at : at + length] = self._open(slot)[row : row + length]
            at += length
        return out

    def _open(self, slot: int) -> npt.NDArray[Any]:
        array = self._arrays[slot]
        assert array is not None
        return array

    def _check(self, picked: Picked) -> None:
        rows = picked.rows
        if len(rows) and (bool((rows >= self._num_rows[picked.slots]).any()) or int(rows.min()) < 0):
            raise IndexError("a row lies outside of its shard")
