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

    def rows(self, slots: Int64s, rows: Int64s) -> npt.NDArray[Any]:
        """The rows ``rows`` of the shards in ``slots``, ``(n, *shape)``, writable memory of its own.

        :param slots: shape (n,).
        :param rows: shape (n,).
        """
        if len(rows) and (bool((rows >= self._num_rows[slots]).any()) or int(rows.min()) < 0):
            raise IndexError("a row lies outside of its shard")
        out = np.empty((len(rows), *self._shape), dtype=self._dtype)
        if out.nbytes == 0:
            return out
        addresses = rows * self._row_bytes
        addresses += self._address[slots]
        breaks = np.flatnonzero(addresses[1:] - addresses[:-1] != self._row_bytes) + 1
        if len(breaks) * _ROWS_WORTH_A_SLICE < len(rows) or self._row_bytes > _MAX_ADDRESSED_ROW_BYTES:
            starts = [0, *breaks.tolist()]
            for start, end in zip(starts, [*starts[1:], len(rows)], strict=True):
                row = rows[start]
                out[start:end] = self._arrays[slots[start]][row : row + end - start]
            return out
        taken = _rows_at_every_address(self._row_bytes)[addresses]
        return taken.view(self._dtype).reshape(out.shape)
