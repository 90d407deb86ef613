"""Tables -> arrays: pyarrow, and what speaks its language.

pyarrow writes a piece of a column as an IPC stream, and the reader of packed shards reads it: one way in for all types.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from torch_ipfs.dataset.write_arrow_conform import conform
from torch_ipfs.dataset.write_arrow_observe import Observed, observe
from torch_ipfs.dataset.write_arrow_plain import has_null_items, has_nulls, storable
from torch_ipfs.dataset.write_arrow_sizes import has_shared_values, row_bytes
from torch_ipfs.dataset.write_columns import InputColumn, arrays, fields_of, fitting
from torch_ipfs.dataset.write_source import CHUNK_BYTES, Chunk, misfit_error
from torch_ipfs.errors import ManifestError, OptionError
from torch_ipfs.manifest.arrays import Array
from torch_ipfs.manifest.schema import Field, Schema
from torch_ipfs.manifest.unpack import read_stream
from torch_ipfs.manifest.values import Misfit

_MAX_ROWS = 2**20
_FIRST_MEASURED_ROWS = 1024
_DTYPE_KEY = b"torch_ipfs.dtype"


class ArrowColumn:
    """A column of a table.

    :param metadata: of its Arrow field, where ``torch_ipfs.dtype`` may name what Arrow has no type for.
    """

    observed_rows: int | None = None

    def __init__(self, values: Any, metadata: dict[bytes, bytes] | None = None) -> None:
        self._values = values if isinstance(values, pa.ChunkedArray) else pa.chunked_array([values])
        dtype = (metadata or {}).get(_DTYPE_KEY)
        self._metadata = None if dtype is None else {_DTYPE_KEY: dtype}
        self._has_shared_values = has_shared_values(self._values.type)
        self._open_lists = any(map(has_null_items, self._values.chunks))

    def __len__(self) -> int:
        return len(self._values)

    def field(self) -> Field:
        declared, _ = self._read(0, 0)
        if declared.dtype not in ("list", "struct"):
            return replace(declared, nullable=any(map(has_nulls, self._values.chunks)))
        start = 0
        seen: Observed | None = None
        while start < len(self) or seen is None:
            stop = self.fitting(start, len(self), CHUNK_BYTES)
            observed = observe(*self._read(start, stop))
            seen = observed if seen is None else seen.merge(observed)
            start = max(stop, 1)
        return seen.to_field()

    def fitting(self, start: int, stop: int, budget_bytes: int) -> int:
        stop = min(stop, start + _MAX_ROWS)
        if self._has_shared_values:
            return self._fitting_by_row(start, stop, budget_bytes)
        while stop > start + 1 and self._values.slice(start, stop - start).nbytes > budget_bytes:
            stop = start + (stop - start) // 2
        return stop

    def _fitting_by_row(self, start: int, stop: int, budget_bytes: int) -> int:
        measured = min(_FIRST_MEASURED_ROWS, stop - start)
        while True:
            chunks = self._values.slice(start, measured).chunks
            ends = np.cumsum(np.concatenate([row_bytes(chunk) for chunk in chunks])) if chunks else np.zeros(0)
            rows = int(ends.searchsorted(budget_bytes, side="right"))
            if rows < measured or start + measured == stop:
                return min(stop, start + max(rows, 1))
            measured = min(2 * measured, stop - start)

    def array(self, start: int, stop: int, field: Field) -> Array:
        declared, array = self._read(start, stop)
        return conform(array, declared, field)

    def _read(self, start: int, stop: int) -> tuple[Field, Array]:
        """Rows as they are, and what Arrow declares them to be."""
        joined = storable(_joined(self._values.slice(start, stop - start)), open_lists=self._open_lists)
        schema = pa.schema([pa.field("", joined.type, metadata=self._metadata)])
        out = pa.BufferOutputStream()
        with pa.ipc.new_stream(out, schema) as writer:
            writer.write_batch(pa.record_batch([joined], schema=schema))
        try:
            read, columns, _ = read_stream(memoryview(out.getvalue()))
        except ManifestError as error:
            raise Misfit(0, f"Arrow's {self._values.type} cannot be part of a dataset: {error}") from None
        return read.fields[0][1], columns[""]


def _joined(values: Any) -> Any:
    """A chunked array as one array."""
    if values.num_chunks:
        return values.chunk(0) if values.num_chunks == 1 else pa.concat_arrays(values.chunks)
    return pa.nulls(0, values.type)


def table_columns(table: Any) -> dict[str, InputColumn]:
    """The columns of a ``Table`` or ``RecordBatch``.

    :raises OptionError: two have one name.
    """
    names = table.schema.names
    if twice := [name for name in names if names.count(name) > 1]:
        raise OptionError(f"the table has two columns {twice[0]!r}")
    return {name: ArrowColumn(table.column(i), table.schema.field(i).metadata) for i, name in enumerate(names)}


class ArrowStreamSource:
    """Record batches or tables one after the other. The schema is taken from the first ``CHUNK_BYTES`` of them.

    :param num_rows: how many rows there are, where that is known.
    """

    def __init__(self, batches: Iterable[Any], num_rows: int | None, empty: Any = None) -> None:
        self.num_rows = num_rows
        self._tables = _gathered(batches)
        self._empty = empty
        self._first: Any = None
        self._schema = Schema(())
        self._inferred_from: int | None = None

    def schema(self, given: Schema | None) -> Schema:
        self._first = next(self._tables, None)
        table = self._first if self._first is not None else self._empty
        if given is None:
            self._inferred_from = 0 if table is None else len(table)
            try:
                given = Schema(() if table is None else fields_of(table_columns(table)))
            except Misfit as misfit:
                raise misfit_error(misfit, 0, None) from None
        self._schema = given
        return given

    def chunks(self, rows_per_shard: int | None) -> Iterator[Chunk]:  # noqa: ARG002 - batches are what comes
        table, self._first = self._first, None
        position = 0
        while table is not None:
            columns = table_columns(table)
            start = 0
            while start < len(table):
                stop = fitting(columns, start, len(table), CHUNK_BYTES)
                try:
                    chunk = arrays(columns, self._schema.fields, start, stop)
                except Misfit as misfit:
                    raise misfit_error(misfit, position + start, self._inferred_from) from None
                yield chunk, stop - start
                start = stop
            position += len(table)
            table = next(self._tables, None)


def _gathered(batches: Iterable[Any]) -> Iterator[Any]:
    """Batches as tables of about ``CHUNK_BYTES`` or more."""
    gathered: list[Any] = []
    size_bytes = num_rows = 0
    for batch in batches:
        gathered.append(pa.Table.from_batches([batch]) if isinstance(batch, pa.RecordBatch) else batch)
        size_bytes += _held_bytes(gathered[-1])
        num_rows += len(batch)
        if size_bytes >= CHUNK_BYTES or num_rows >= _MAX_ROWS:
            yield pa.concat_tables(gathered)
            gathered, size_bytes, num_rows = [], 0, 0
    if num_rows:
        yield pa.concat_tables(gathered)


def _held_bytes(table: Any) -> int:
    try:
        return int(table.nbytes)
    except pa.ArrowException:  # older versions cannot tell how much of a view's memory a slice has
        return sum(int(row_bytes(chunk).sum()) for column in table.columns for chunk in column.chunks)
