"""Arrays -> the bytes of a packed shard: an Arrow IPC stream of one record batch.

    schema message | record batch message | its buffers, each padded to 8 bytes | end of stream

https://arrow.apache.org/docs/format/Columnar.html#ipc-streaming-format. The stream is put together here, not by a
library, so that the same rows give the same bytes for as long as this file stands: offsets start at 0, a validity
bitmap is there only where something is null, padding and what lies under nulls is zero, nothing is compressed.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from torch_ipfs.errors import OptionError
from torch_ipfs.manifest.arrays import (
    Array,
    BinaryArray,
    ListArray,
    NullArray,
    NumberArray,
    Offsets,
    RaggedArray,
    SparseArray,
    StructArray,
    Valid,
    ValueArray,
    blank,
)
from torch_ipfs.manifest.arrow_schema import record_batch_message, schema_message
from torch_ipfs.manifest.schema import Field, Schema

Columns = Mapping[str, Array]

MAX_SHARD_ROWS = 2**20
"""Rows of one shard, for samples that take next to no bytes."""

_SMALL_SCHEMA_BYTES = 4096

CONTINUATION = 0xFFFFFFFF
PREFIX = struct.Struct("<Ii")
"""Before each message: the continuation marker and the length of its flatbuffer."""
END_OF_STREAM = PREFIX.pack(CONTINUATION, 0)


class Packer:
    """Packs rows of one schema.

    :raises OptionError: for a schema that Arrow cannot hold.
    """

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self._rows_fitted = 0
        self._head = _framed(schema_message(schema))
        nothing = _Body()
        for _, field in schema.fields:
            nothing.add(blank(field, 0), 0, 0)
        self._overhead_bytes = len(self._head) + len(_framed(nothing.message(0))) + len(END_OF_STREAM)

    def check(self, shard_bytes: int) -> None:
        """That shards of that size have room for rows.

        :raises OptionError: the schema takes the most of each, with thousands of fields mostly.
        """
        if self._overhead_bytes > max(shard_bytes // 2, min(shard_bytes, _SMALL_SCHEMA_BYTES)):
            raise OptionError(
                f"the schema takes {self._overhead_bytes} bytes of each shard; give a shard_bytes of several times that "
                f"(it is {shard_bytes}), or put similar fields together into tensors"
            )

    def packed_bytes(self, columns: Columns, start: int, stop: int) -> int:
        """How long the shard of rows ``start`` to ``stop`` is, without making it."""
        return self._overhead_bytes + sum(_body_bytes(columns[name], start, stop) for name in self.schema.names)

    def fitting(self, columns: Columns, start: int, stop: int, shard_bytes: int) -> int:
        """Where to end a shard that starts at ``start``: as many rows as ``shard_bytes`` holds, but at least one."""
        low, high = start + 1, min(stop, start + MAX_SHARD_ROWS)
        # Shards one after the other hold about as many rows, and to look takes a step a column.
        tries = [start + self._rows_fitted + 1, start + self._rows_fitted]
        while low < high:
            middle = tries.pop() if tries else (low + high + 1) // 2
            if not low < middle <= high:
                continue
            if self.packed_bytes(columns, start, middle) <= shard_bytes:
                low = middle
            else:
                high = middle - 1
        self._rows_fitted = low - start
        return low

    def rows_per_shard(self, shard_bytes: int) -> int | None:
        """Rows of a shard where each row takes the same bytes, else ``None``."""
        if not all(_same_for_each_row(field) for _, field in self.schema.fields):
            return None
        # Blank columns of any length take no memory.
        columns = {name: blank(field, MAX_SHARD_ROWS) for name, field in self.schema.fields}
        return self.fitting(columns, 0, MAX_SHARD_ROWS, shard_bytes)

    def pack(self, columns: Columns, start: int, stop: int) -> bytes:
        """The shard of rows ``start`` to ``stop``."""
        body = _Body()
        for name in self.schema.names:
            body.add(columns[name], start, stop)
        parts: list[Any] = [self._head, _framed(body.message(stop - start)), *body.parts, END_OF_STREAM]
        shard = b"".join(parts)
        if body.most_values > most_values(len(shard)):
            raise OptionError(
                f"a shard of {len(shard)} bytes has lists of {body.most_values} values that take no room (None or empty "
                "maps), and would not be read; make shard_bytes smaller, or leave them out"
            )
        return shard


def most_values(shard_bytes: int) -> int:
    """How many values of a field a shard may have, rows and items of lists: some take no room, and claims are free."""
    return max(MAX_SHARD_ROWS, 8 * shard_bytes)


def _framed(message: bytes) -> bytes:
    return PREFIX.pack(CONTINUATION, len(message)) + message


def _padded(length_bytes: int) -> int:
    return length_bytes + -length_bytes % 8


def _same_for_each_row(field: Field) -> bool:
    if field.dtype == "struct" and not field.nullable:
        return all(_same_for_each_row(child) for _, child in field.fields)
    return field.fixed or field.dtype == "null"


def _row_bytes(values: npt.NDArray[Any]) -> int:
    size = values.itemsize
    for length in values.shape[1:]:
        size *= length
    return size


def _some_null(valid: Valid, start: int, stop: int) -> bool:
    return valid is not None and not valid[start:stop].all()


def _body_bytes(array: Array, start: int, stop: int) -> int:
    """Bytes of the padded buffers that :class:`_Body` makes of these rows."""
    if isinstance(array, NullArray | ValueArray):
        return 0
    rows = stop - start
    size = _padded((rows + 7) // 8) if _some_null(array.valid, start, stop) else 0
    if isinstance(array, NumberArray | SparseArray):
        return size + _padded(rows * _row_bytes(array.values))
    if isinstance(array, StructArray):
        return size + sum(_body_bytes(child, start, stop) for child in array.fields.values())
    size += _padded(4 * (rows + 1))
    first, last = int(array.offsets[start]), int(array.offsets[stop])
    if isinstance(array, BinaryArray):
        return size + _padded(last - first)
    if isinstance(array, ListArray):
        return size + _body_bytes(array.items, first, last)
    return size + _padded((last - first) * _row_bytes(array.elements)) + _padded(rows * _row_bytes(array.shapes))


class _Body:
    """The buffers of a record batch, in the order of its fields, parents before children."""

    def __init__(self) -> None:
        self.parts: list[bytes | memoryview | npt.NDArray[Any]] = []
        self._nodes: list[tuple[int, int]] = []
        self._buffers: list[tuple[int, int]] = []
        self._length_bytes = 0

    @property
    def most_values(self) -> int:
        return max((length for length, _ in self._nodes), default=0)

    def message(self, num_rows: int) -> bytes:
        nodes, buffers = (np.array(pairs, dtype="<i8").tobytes() for pairs in (self._nodes, self._buffers))
        return record_batch_message(num_rows, nodes, buffers, self._length_bytes)

    def add(self, array: Array, start: int, stop: int) -> None:
        if isinstance(array, NullArray):
            self._nodes.append((stop - start, stop - start))
        elif isinstance(array, NumberArray | SparseArray):
            self._numbers(array, start, stop)
        elif isinstance(array, BinaryArray):
            self._node(array.valid, start, stop)
            first, last = self._offsets(array.offsets, start, stop)
            self._buffer(array.data[first:last], last - first)
        elif isinstance(array, ListArray):
            self._node(array.valid, start, stop)
            self.add(array.items, *self._offsets(array.offsets, start, stop))
        elif isinstance(array, StructArray):
            self._node(array.valid, start, stop)
            for child in array.fields.values():
                self.add(child, start, stop)
        elif isinstance(array, RaggedArray):
            self._ragged(array, start, stop)
        else:
            raise OptionError("values of several types cannot be packed")

    def _numbers(self, array: NumberArray | SparseArray, start: int, stop: int) -> None:
        values = array.dense(start, stop)
        self._node(array.valid, start, stop)
        if values.ndim > 1 or values.dtype.kind == "c":
            self._plain_node(values.size * (2 if values.dtype.kind == "c" else 1))
        self._array(values)

    def _ragged(self, array: RaggedArray, start: int, stop: int) -> None:
        self._node(array.valid, start, stop)
        self._plain_node(stop - start)
        first, last = self._offsets(array.offsets, start, stop)
        elements, shapes = array.elements[first:last], array.shapes[start:stop]
        self._plain_node(elements.size)
        self._array(elements)
        self._plain_node(stop - start)
        self._plain_node(shapes.size)
        self._array(shapes)

    def _node(self, valid: Valid, start: int, stop: int) -> None:
        """A field node and its validity bitmap, which is empty where nothing is null."""
        if valid is None or not _some_null(valid, start, stop):
            self._plain_node(stop - start)
            return
        valid = valid[start:stop]
        self._nodes.append((stop - start, stop - start - int(np.count_nonzero(valid))))
        bitmap = np.packbits(valid, bitorder="little").tobytes()
        self._buffer(bitmap, len(bitmap))

    def _plain_node(self, length: int) -> None:
        self._nodes.append((length, 0))
        self._buffer(b"", 0)

    def _offsets(self, offsets: Offsets, start: int, stop: int) -> tuple[int, int]:
        first, last = int(offsets[start]), int(offsets[stop])
        if last - first >= 2**31:
            raise OptionError("a shard holds less than 2 GiB of text, bytes or list items; make shard_bytes smaller")
        self._array((offsets[start : stop + 1] - first).astype("<i4"))
        return first, last

    def _array(self, values: npt.NDArray[Any]) -> None:
        self._buffer(np.ascontiguousarray(values), values.nbytes)

    def _buffer(self, data: bytes | memoryview | npt.NDArray[Any], length_bytes: int) -> None:
        self._buffers.append((self._length_bytes, length_bytes))
        self.parts.append(data)
        padding = -length_bytes % 8
        if padding:
            self.parts.append(bytes(padding))
        self._length_bytes += length_bytes + padding
