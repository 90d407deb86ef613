"""A shard in memory: its rows as columns.

Arrays of a shard look into the block they came from and are read-only: whoever gives samples out copies them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from torch_ipfs.manifest.schema import Field, Schema

Rows = npt.NDArray[np.int64]
"""Row numbers within a shard."""


@dataclass(frozen=True, slots=True)
class FixedColumn:
    """A column of numbers or tensors of one shape.

    :param array: ``(num_rows, *shape)`` in the field's storage dtype (``schema.STORAGE``; complex32 has a last
        dimension of 2 more). Rows are contiguous. It may be unaligned: blocks of a CAR start at any byte.
    """

    field: Field
    array: npt.NDArray[Any]

    @property
    def num_rows(self) -> int:
        return len(self.array)


@dataclass(frozen=True, slots=True)
class ObjectColumn:
    """A column of anything else: text, bytes, links, lists, ragged tensors, and whatever may be null.

    :param take: row numbers -> their values. A value is ``None``, ``str``, ``bytes``, ``CID``, ``list`` or ``dict``;
        that of a numeric field is an ``np.ndarray`` of its own in the storage dtype (0-d for a scalar), but scalars
        inside lists are Python's ``bool``, ``int``, ``float`` and ``complex``.
    """

    field: Field
    take: Callable[[Rows], list[Any]]
    num_rows: int


@dataclass(frozen=True, slots=True)
class StructColumn:
    """A column of maps that all have the same fields, none of them null: columns again."""

    field: Field
    columns: dict[str, Column]
    num_rows: int


Column = FixedColumn | ObjectColumn | StructColumn


@dataclass(frozen=True, slots=True)
class Shard:
    """Rows of a dataset, by column; ``schema`` is that of the columns it holds."""

    num_rows: int
    columns: dict[str, Column]
    schema: Schema
