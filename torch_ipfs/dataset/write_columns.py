"""Columns -> arrays: maps of numpy arrays, tensors, lists and tables' columns, a piece of rows at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import torch

from torch_ipfs.dataset.write_own import own
from torch_ipfs.dataset.write_plain import array_value, plain_values, tensor_value
from torch_ipfs.dataset.write_rows import held_bytes
from torch_ipfs.dataset.write_source import CHUNK_BYTES, CHUNK_ROWS, Chunk, misfit_error
from torch_ipfs.errors import OptionError
from torch_ipfs.manifest.arrays import Array, NumberArray, StructArray
from torch_ipfs.manifest.infer import infer_columns
from torch_ipfs.manifest.rows import Values, array_from_values
from torch_ipfs.manifest.schema import STORAGE, Field, Schema
from torch_ipfs.manifest.values import Misfit, Typed, dtype_of


class InputColumn(Protocol):
    """One column of what is written, as whoever has it gives it."""

    @property
    def observed_rows(self) -> int | None:
        """From how many rows its field was found, where not from all."""
        ...

    def __len__(self) -> int: ...

    def field(self) -> Field:
        """What it holds.

        :raises Misfit: it holds what no dataset can.
        """
        ...

    def fitting(self, start: int, stop: int, budget_bytes: int) -> int:
        """How far from ``start``, and at most to ``stop``, rows take no more than about ``budget_bytes``."""
        ...

    def array(self, start: int, stop: int, field: Field) -> Array:
        """Rows as ``field`` has them.

        :raises Misfit: one of them does not fit.
        """
        ...


class NumberColumn:
    """A numpy array of numbers, or a tensor; its first dimension is that of rows."""

    observed_rows: int | None = None

    def __init__(self, values: np.ndarray[Any, Any] | torch.Tensor) -> None:
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    def field(self) -> Field:
        first = self._slice(0, 1)
        return Field(first.dtype, first.shape)

    def fitting(self, start: int, stop: int, budget_bytes: int) -> int:
        row_bytes = self._values.nbytes // max(len(self._values), 1)
        return min(stop, start + max(1, budget_bytes // max(row_bytes, 1)))

    def array(self, start: int, stop: int, field: Field) -> Array:
        return array_from_values(self._slice(start, stop), field)

    def _slice(self, start: int, stop: int) -> NumberArray:
        values = self._values[start:stop]
        values = tensor_value(values) if isinstance(values, torch.Tensor) else array_value(values)
        if isinstance(values, Typed):
            return NumberArray(values.dtype, values.array)
        name = dtype_of(values)
        return NumberArray(name, values.astype(STORAGE[name], copy=False))


class ListColumn:
    """Values in a list, or in another sequence.

    :param lasting: whether the sequence has its values; of one that makes each when it is asked for, they are copied.
    """

    def __init__(self, values: Any, *, lasting: bool = True) -> None:
        self._values = values
        self._lasting = lasting
        self.observed_rows: int | None = None

    def __len__(self) -> int:
        return len(self._values)

    def field(self) -> Field:
        stop = self.fitting(0, len(self), CHUNK_BYTES)
        self.observed_rows = stop if stop < len(self) else None
        try:
            return infer_columns(("",), [self._plain(0, stop)], strict=True).fields[0][1]
        except Misfit as misfit:
            raise Misfit(misfit.row, misfit.reason, misfit.path[1:]) from None

    def fitting(self, start: int, stop: int, budget_bytes: int) -> int:
        stop = min(stop, start + CHUNK_ROWS)
        for row, value in enumerate(self._each(start, stop), start=start):
            budget_bytes -= held_bytes(value)
            if budget_bytes < 0:
                return max(row, start + 1)
        return stop

    def array(self, start: int, stop: int, field: Field) -> Array:
        return array_from_values(self._plain(start, stop), field)

    def _each(self, start: int, stop: int) -> Iterable[Any]:
        """Values as they are: of a sequence that makes them, each until the next one is made."""
        return self._values[start:stop] if self._lasting else map(self._values.__getitem__, range(start, stop))

    def _plain(self, start: int, stop: int) -> Values:
        values = self._each(start, stop)
        return plain_values(list(values) if self._lasting else [own(value) for value in values])


class MapColumn:
    """Columns in a column: samples that are maps in this field."""

    def __init__(self, columns: Mapping[str, InputColumn]) -> None:
        self._columns = columns
        self._num_rows = common_length(columns)

    @property
    def observed_rows(self) -> int | None:
        return fewest_observed(self._columns)

    def __len__(self) -> int:
        return self._num_rows

    def field(self) -> Field:
        return Field("struct", fields=fields_of(self._columns))

    def fitting(self, start: int, stop: int, budget_bytes: int) -> int:
        return fitting(self._columns, start, stop, budget_bytes)

    def array(self, start: int, stop: int, field: Field) -> Array:
        if field.dtype != "struct":
            raise Misfit(0, f"expected {field}, found maps")
        return StructArray(arrays(self._columns, field.fields, start, stop), stop - start)


class ColumnSource:
    """Columns of one length.

    :raises OptionError: their lengths differ.
    """

    def __init__(self, columns: Mapping[str, InputColumn]) -> None:
        self._columns = columns
        self.num_rows: int | None = common_length(columns)
        self._schema = Schema(())

    def schema(self, given: Schema | None) -> Schema:
        if given is None:
            try:
                given = Schema(fields_of(self._columns))
            except Misfit as misfit:
                raise misfit_error(misfit, 0, None) from None
        self._schema = given
        return given

    def chunks(self, rows_per_shard: int | None) -> Iterator[Chunk]:
        start, num_rows = 0, common_length(self._columns)
        while start < num_rows:
            stop = fitting(self._columns, start, num_rows, CHUNK_BYTES)
            if rows_per_shard is not None and stop < num_rows and stop - start > rows_per_shard:
                stop -= (stop - start) % rows_per_shard
            try:
                chunk = arrays(self._columns, self._schema.fields, start, stop)
            except Misfit as misfit:
                raise misfit_error(misfit, start, fewest_observed(self._columns)) from None
            yield chunk, stop - start
            start = stop


def common_length(columns: Mapping[str, InputColumn]) -> int:
    """The number of rows of all ``columns``.

    :raises OptionError: their lengths differ.
    """
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name!r} has {length}" for name, length in lengths.items())
        raise OptionError(f"columns have one length: {told}")
    return next(iter(lengths.values()), 0)


def fewest_observed(columns: Mapping[str, InputColumn]) -> int | None:
    """From how many rows the field of one of ``columns`` was found; ``None`` where all were found from all rows."""
    return min((c.observed_rows for c in columns.values() if c.observed_rows is not None), default=None)


def fields_of(columns: Mapping[str, InputColumn]) -> tuple[tuple[str, Field], ...]:
    """What ``columns`` hold.

    :raises Misfit: one holds what no dataset can.
    """
    fields = []
    for name, column in columns.items():
        try:
            fields.append((name, column.field()))
        except Misfit as misfit:
            raise misfit.under(name) from None
    return tuple(fields)


def fitting(columns: Mapping[str, InputColumn], start: int, stop: int, budget_bytes: int) -> int:
    """How far from ``start`` the rows of all ``columns`` take about ``budget_bytes``."""
    share_bytes = budget_bytes // max(len(columns), 1)
    for column in columns.values():
        stop = column.fitting(start, stop, share_bytes)
    return stop


def arrays(
    columns: Mapping[str, InputColumn], fields: tuple[tuple[str, Field], ...], start: int, stop: int
) -> dict[str, Array]:
    """Rows of ``columns`` as ``fields`` have them.

    :raises Misfit: a row does not fit, a column is not among ``fields``, or one that may not be null is not there.
    """
    names = [name for name, _ in fields]
    if unknown := [name for name in columns if name not in names]:
        raise Misfit(0, "the schema has no such field", (unknown[0],))
    found = {}
    for name, field in fields:
        try:
            if name in columns:
                found[name] = columns[name].array(start, stop, field)
            else:
                found[name] = array_from_values([None] * (stop - start), field)
        except Misfit as misfit:
            raise misfit.under(name) from None
    return found
