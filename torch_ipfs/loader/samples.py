"""Batches to lists of samples, in the process that asked for them: workers send columns, not samples.

A tensor goes from a worker to its parent through a file of shared memory, which takes some 300 us whatever its size. Small
columns go as numpy arrays, by value through the pipe, in a tenth of that.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from torch_ipfs.dataset.collate import maps_of
from torch_ipfs.dataset.dtypes import NATIVE

Column = torch.Tensor | npt.NDArray[Any] | list[Any]

SENT_BY_VALUE_BYTES = 2**17
"""The largest column that goes by value; from about there on shared memory is quicker."""


def lightened(batch: dict[str, Any]) -> dict[str, Any]:
    """A batch of columns with numpy arrays for its small tensors, to be sent to another process."""
    return {
        name: lightened(column) if isinstance(column, dict) else _by_value(column) for name, column in batch.items()
    }


@dataclass(frozen=True, slots=True)
class Packed:
    """Samples that a transform has made, by column, so that their tensors travel together; unpacking gives the same again.

    :param names: keys of samples that are maps, ``None`` for tuples.
    :param columns: each the tensor or array that its values were stacked into, or a list of them.
    """

    names: tuple[str, ...] | None
    columns: tuple[Column, ...]


def pack(samples: list[Any]) -> Packed | list[Any]:
    """``samples`` packed, where they are maps of the same keys or tuples of one length."""
    first = samples[0]
    if type(first) is dict and all(type(sample) is dict and sample.keys() == first.keys() for sample in samples):
        names = tuple(first)
        return (
            Packed(names, tuple(_stacked([sample[name] for sample in samples]) for name in names)) if names else samples
        )
    if (
        type(first) is tuple
        and first
        and all(type(sample) is tuple and len(sample) == len(first) for sample in samples)
    ):
        return Packed(None, tuple(_stacked(list(values)) for values in zip(*samples, strict=True)))
    return samples


def unpack(batch: Any, num_rows: int) -> list[Any]:
    """The samples of a batch: of one that :func:`pack` made, or of columns.

    :param num_rows: how many there are where samples have no fields.
    """
    if isinstance(batch, list):
        return batch
    if isinstance(batch, Packed):
        rows: Iterator[tuple[Any, ...]] = zip(*map(_unstacked, batch.columns), strict=True)
        names = batch.names
        return list(rows) if names is None else [dict(zip(names, row, strict=True)) for row in rows]
    return _rows(batch, num_rows)


def _rows(batch: dict[str, Any], num_rows: int) -> list[dict[str, Any]]:
    """The samples of a batch, whose tensors look into it: that takes half the time of memory of their own."""
    counted = _count(batch)
    num_rows = num_rows if counted is None else counted
    columns = {
        name: _rows(column, num_rows) if isinstance(column, dict) else list(_unstacked(column))
        for name, column in batch.items()
    }
    return maps_of(columns, num_rows)


def _count(batch: dict[str, Any]) -> int | None:
    """How many samples a batch has, where one of its fields tells: maps without fields do not."""
    counts = (_count(column) if isinstance(column, dict) else len(column) for column in batch.values())
    return next((count for count in counts if count is not None), None)


def _stacked(values: list[Any]) -> Column:
    first = values[0]
    alike = type(first) is torch.Tensor and all(
        type(value) is torch.Tensor
        and (value.shape, value.dtype, value.layout, value.device.type, value.requires_grad)
        == (first.shape, first.dtype, torch.strided, "cpu", False)
        for value in values
    )
    return _by_value(torch.stack(values)) if alike else values


def _by_value(column: Any) -> Any:
    small = isinstance(column, torch.Tensor) and column.nbytes <= SENT_BY_VALUE_BYTES and column.dtype in NATIVE
    return column.numpy() if small else column


def _unstacked(column: Column) -> list[Any]:
    if isinstance(column, np.ndarray):
        column = torch.from_numpy(column)
    return list(torch.unbind(column)) if isinstance(column, torch.Tensor) else column
