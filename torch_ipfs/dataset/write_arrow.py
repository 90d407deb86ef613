"""Tables -> arrays: pyarrow, and what speaks its language.

pyarrow writes a piece of a column as an IPC stream, and the reader of packed shards reads it: one way in for all types.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import pyarrow as pa

from torch_ipfs.dataset.write_arrow_conform import conform
from torch_ipfs.dataset.write_arrow_observe import Observed, observe
from torch_ipfs.dataset.write_columns import ColumnSource, InputColumn, arrays, fields_of, fitting
from torch_ipfs.dataset.write_source import CHUNK_BYTES, Chunk, misfit_error
from torch_ipfs.errors import ManifestError, OptionError
from torch_ipfs.manifest.arrays import Array
from torch_ipfs.manifest.schema import Field, Schema
from torch_ipfs.manifest.unpack import read_stream
from torch_ipfs.manifest.values import Misfit

_MAX_ROWS = 2**20
_VIEW_BYTES = 1024
"""About what a text that pyarrow does not measure takes."""
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

    def __len__(self) -> int:
        return len(self._values)

    def field(self) -> Field:
        declared, _ = self._read(0, 0)
        if declared.dtype not in ("list", "struct"):
            nullable = self._values.null_count > 0
            return replace(declared, nullable=nullable)
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
        while stop > start + 1 and _size_bytes(self._values.slice(start, stop - start)) > budget_bytes:
            stop = start + (stop - start) // 2
        return stop

    def array(self, start: int, stop: int, field: Field) -> Array:
        declared, array = self._read(start, stop)
        return conform(array, declared, field)

    def _read(self, start: int, stop: int) -> tuple[Field, Array]:
        """Rows as they are, and what Arrow declares them to be."""
        joined = _storable(_joined(self._values.slice(start, stop - start)))
        schema = pa.schema([pa.field("", joined.type, metadata=self._metadata)])
        out = pa.BufferOutputStream()
        with pa.ipc.new_stream(out, schema) as writer:
            writer.write_batch(pa.record_batch([joined], schema=schema))
        try:
            read, columns, _ = read_stream(memoryview(out.getvalue()))
        except ManifestError as error:
            raise Misfit(0, f"Arrow's {self._values.type} cannot be part of a dataset: {error}") from None
        return read.fields[0][1], columns[""]


def _size_bytes(values: Any) -> int:
    try:
        return int(values.nbytes)
    except pa.ArrowException:  # pyarrow 17 cannot tell how much of a view's memory a slice has
        return _VIEW_BYTES * len(values)


def _joined(values: Any) -> Any:
    """A chunked array as one array."""
    if values.num_chunks:
        return values.chunk(0) if values.num_chunks == 1 else pa.concat_arrays(values.chunks)
    if isinstance(values.type, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(values.type, pa.array([], values.type.storage_type))
    return pa.array([], values.type)


def _storable(values: Any) -> Any:
    """An Arrow array in a type that shards have, where there is one."""
    kind = values.type
    try:
        if isinstance(kind, pa.DictionaryType):
            return _storable(values.dictionary_decode())
        if isinstance(kind, pa.BaseExtensionType) and not isinstance(kind, pa.FixedShapeTensorType):
            if kind.extension_name == "pandas.period":  # counted from 1970 in a unit that only the type tells
                raise Misfit(0, f"pandas' periods cannot be part of a dataset; {_ADVICE}")
            return _storable(values.storage)
        plain = _plain_type(kind)
        return values if plain == kind else _cast(values, plain)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise Misfit(0, f"Arrow's {kind} cannot be part of a dataset; {_ADVICE} ({error})") from None


def _cast(values: Any, kind: Any) -> Any:
    try:
        return values.cast(kind)
    except pa.ArrowNotImplementedError:  # of views, by pyarrow 17
        return pa.array(values.to_pylist(), kind)


_ADVICE = "cast it to integers, float64 or string"


def _plain_type(kind: Any) -> Any:
    types = pa.types
    if types.is_temporal(kind) or types.is_decimal(kind) or types.is_union(kind):
        raise Misfit(0, f"Arrow's {kind} cannot be part of a dataset; {_ADVICE}")
    if isinstance(kind, pa.DictionaryType):
        return _plain_type(kind.value_type)
    if types.is_fixed_size_binary(kind) or types.is_binary_view(kind):
        return pa.large_binary()
    if types.is_string_view(kind):
        return pa.large_string()
    if types.is_map(kind):
        pair = pa.struct([("key", _plain_type(kind.key_type)), ("value", _plain_type(kind.item_type))])
        return pa.list_(pair)
    if types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_plain_type(kind.value_type)))
    if types.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(_plain_type(kind.value_type)))
    if types.is_struct(kind):
        return pa.struct([kind.field(i).with_type(_plain_type(kind.field(i).type)) for i in range(kind.num_fields)])
    return kind


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
        size_bytes += batch.nbytes
        num_rows += len(batch)
        if size_bytes >= CHUNK_BYTES or num_rows >= _MAX_ROWS:
            yield pa.concat_tables(gathered)
            gathered, size_bytes, num_rows = [], 0, 0
    if num_rows:
        yield pa.concat_tables(gathered)


def table_source(table: Any) -> ColumnSource:
    """The source of a ``Table`` or ``RecordBatch``."""
    return ColumnSource(table_columns(table))
