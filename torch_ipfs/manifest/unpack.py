"""The bytes of a packed shard -> columns that look into them.

A block that hashes to its CID is what its author wrote, and its author may mean harm. So a shard is read by code that
cannot leave the block, whatever the shard says: positions are checked before they are used, arrays are numpy views with
bounds, nothing is allocated because a length asks for it. What is not exactly a stream of one record batch, of types on
``arrow_schema``'s list, without compression and dictionaries, is refused.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import ManifestError, OptionError
from torch_ipfs.manifest.arrays import (
    Array,
    BinaryArray,
    ListArray,
    NullArray,
    NumberArray,
    Offsets,
    RaggedArray,
    StructArray,
    Valid,
)
from torch_ipfs.manifest.arrow_schema import RECORD_BATCH_MESSAGE, VERSION_4, VERSION_5, Layout, read_schema
from torch_ipfs.manifest.column import Column, FixedColumn, ObjectColumn, Shard, StructColumn
from torch_ipfs.manifest.flatbuffer import Table
from torch_ipfs.manifest.link_check import check_links
from torch_ipfs.manifest.pack import CONTINUATION, END_OF_STREAM, PREFIX, most_values
from torch_ipfs.manifest.schema import MAX_FIELDS, MAX_ROW_BYTES, STORAGE, Field, Schema

_CACHED_MESSAGE_BYTES = 65_536
_DECODED_AT_ONCE_BYTES = 2**22
_MAX_BUFFERS = 8 * MAX_FIELDS
"""Of a record batch, and of its nodes: a tensor of varying shape takes as many buffers, and nothing more of either."""

Fields = tuple[tuple[str, Layout], ...]


def unpack(
    data: bytes | memoryview, cid: CID, columns: Iterable[str] | None = None, known: frozenset[str] | None = None
) -> Shard:
    """The rows of a packed shard, checked whole for the columns that are asked for.

    :param data: the shard's bytes; the columns look into them, keep them alive and do not copy them.
    :param columns: names of the columns to read; all by default.
    :param known: names of all columns that it may have; any by default.
    :raises ManifestError: when it is not a shard that may be read, or lacks a column, naming ``cid``.
    """
    view = memoryview(data).cast("B").toreadonly()
    names = None if columns is None else tuple(columns)
    try:
        message, position = _message(view, 0)
        is_small = len(message) <= _CACHED_MESSAGE_BYTES
        fields, schema = (_cached_fields if is_small else _cached_wide_fields)(message, names, known)
        batch_message, start = _message(view, position)
        key = message, batch_message, names, len(view)
        alike = _alike.get(key)
        if alike is not None and _is_end(view[alike.end :]):
            return alike.shard(view)
        batch = _Batch(view, batch_message, start)
        arrays = batch.read(fields, schema.names)
    except ManifestError as error:
        raise ManifestError(f"the Arrow shard cannot be read: {error}", cid=cid) from None
    read = {name: to_column(field, array) for (name, field), array in zip(schema.fields, arrays, strict=True)}
    shard = Shard(batch.num_rows, read, schema)
    if not batch.has_validity and position <= _CACHED_MESSAGE_BYTES and start - position <= _CACHED_MESSAGE_BYTES:
        _remember(key, shard, view, batch.end)
    return shard


@dataclass(frozen=True, slots=True)
class _Alike:
    """What shards of the same messages and length have in common, where what they hold is numbers and needs no check.

    :param end: where in the block its body ends.
    :param places: of each column its name and field, the shape and dtype of its array, and where in the block that begins.
    """

    num_rows: int
    schema: Schema
    end: int
    places: tuple[tuple[str, Field, tuple[int, ...], np.dtype[Any], int], ...]

    def shard(self, view: memoryview) -> Shard:
        columns: dict[str, Column] = {
            name: FixedColumn(field, np.ndarray(shape, dtype, view, begin))
            for name, field, shape, dtype, begin in self.places
        }
        return Shard(self.num_rows, columns, self.schema)


_Key = tuple[bytes, bytes, tuple[str, ...] | None, int]
"""Both messages of a shard, the columns that are read, and the shard's length."""

_alike: dict[_Key, _Alike] = {}
_MAX_ALIKE = 64
"""Then all are forgotten: of as many layouts few come twice."""


def _remember(key: _Key, shard: Shard, view: memoryview, end: int) -> None:
    """Have shards like ``shard`` read without their messages, if its columns are numbers that may be any."""
    base = _address(np.frombuffer(view, np.uint8))
    places = []
    for name, column in shard.columns.items():
        if not isinstance(column, FixedColumn) or column.field.dtype == "bool" or not column.array.size:
            return
        array = column.array
        places.append((name, column.field, array.shape, array.dtype, _address(array) - base))
    if len(_alike) >= _MAX_ALIKE:
        _alike.clear()
    _alike[key] = _Alike(shard.num_rows, shard.schema, end, tuple(places))


def _address(array: npt.NDArray[Any]) -> int:
    return int(array.__array_interface__["data"][0])


def read_stream(data: bytes | memoryview) -> tuple[Schema, dict[str, Array], int]:
    """An Arrow IPC stream of one record batch as its schema, arrays and number of rows.

    :raises ManifestError: as :func:`unpack`.
    """
    view = memoryview(data).cast("B").toreadonly()
    message, position = _message(view, 0)
    fields, schema = _fields(message, None, None)
    batch = _Batch(view, *_message(view, position))
    return schema, dict(zip(schema.names, batch.read(fields, schema.names), strict=True)), batch.num_rows


def to_column(field: Field, array: Array) -> Column:
    """The column of a shard that ``array`` holds."""
    if isinstance(array, NumberArray) and not field.nullable:
        return FixedColumn(field, array.values)
    if isinstance(array, StructArray) and not field.nullable:
        return StructColumn(
            field, {name: to_column(child, array.fields[name]) for name, child in field.fields}, len(array)
        )
    return ObjectColumn(field, array.take, len(array))


def _message(view: memoryview, position: int) -> tuple[bytes, int]:
    """The flatbuffer of the message at ``position``, and where its body begins."""
    if position + PREFIX.size > len(view):
        raise ManifestError(f"a message is expected at byte {position}, where the shard ends")
    marker, length = PREFIX.unpack_from(view, position)
    start = position + PREFIX.size
    if marker != CONTINUATION or length <= 0 or start + length > len(view):
        raise ManifestError(f"at byte {position} there is no Arrow IPC message, or it is cut short")
    return bytes(view[start : start + length]), start + length


def _fields(message: bytes, names: tuple[str, ...] | None, known: frozenset[str] | None) -> tuple[Fields, Schema]:
    """The fields of a shard, which are among ``known``, and the schema of those that are ``names``."""
    fields = read_schema(Table.root(message))
    if known is not None and (unknown := [name for name, _ in fields if name not in known]):
        raise ManifestError(f"it has a field {unknown[0]!r:.200}, which the dataset's schema lacks")
    try:
        return fields, Schema(tuple((name, layout.field) for name, layout in fields)).select(names)
    except OptionError as error:
        raise ManifestError(str(error)) from None


# A dataset's shards have one schema: after the first shard this is a look-up.
_cached_fields = lru_cache(maxsize=64)(_fields)
_cached_wide_fields = lru_cache(maxsize=2)(_fields)
"""Of schemas of thousands of fields, which take longer than all else to read, and megabytes to keep."""


def _header(message: bytes) -> tuple[int, int, list[list[int]], list[list[int]]]:
    """Of a record batch its rows, the bytes of its body, and for each node and buffer the two numbers that it is."""
    table = Table.root(message)
    header = table.table(2)
    if table.scalar(1, "B") != RECORD_BATCH_MESSAGE or header is None:
        raise ManifestError("its schema is not followed by a record batch")
    if table.scalar(0, "h") not in (VERSION_4, VERSION_5):
        raise ManifestError("its record batch is of a version that is not known")
    if header.table(3) is not None or header.structs(4, 8, _MAX_BUFFERS):
        raise ManifestError("it is compressed or has views, which is refused; write it plainly")
    pairs = (header.structs(slot, 16, _MAX_BUFFERS) for slot in (1, 2))
    nodes, buffers = (np.frombuffer(pair, dtype="<i8").reshape(-1, 2).tolist() for pair in pairs)
    return header.scalar(0, "q"), table.scalar(3, "q"), nodes, buffers


# Shards whose columns are of fixed sizes are laid out alike, but for the last.
_cached_header = lru_cache(maxsize=64)(_header)


def _is_end(rest: memoryview) -> bool:
    """Whether that may stand after the record batch."""
    return rest in (b"", END_OF_STREAM)


class _Batch:
    """The record batch of a shard: its nodes and buffers, given out in the order of the fields.

    :param message: that of the record batch; ``start`` is where in ``view`` its body begins.
    :ivar has_validity: whether there was a validity bitmap among what was read.
    :raises ManifestError: (every method) for what is malformed.
    """

    def __init__(self, view: memoryview, message: bytes, start: int) -> None:
        header = _cached_header(message) if len(message) <= _CACHED_MESSAGE_BYTES else _header(message)
        self.num_rows, body_bytes, self._nodes, self._buffers = header
        if not 0 <= body_bytes <= len(view) - start:
            raise ManifestError(f"its body of {body_bytes} bytes goes over its end")
        self.end = start + body_bytes
        if not _is_end(view[self.end :]):
            raise ManifestError("after its one record batch there is more")
        self._body = view[start : self.end]
        self.has_validity = False
        self._max_rows = most_values(len(view))
        self._node = self._buffer = self._end = 0

    def read(self, fields: Fields, names: tuple[str, ...]) -> list[Array]:
        """The arrays of the fields that are ``names``, in the order of ``fields``."""
        expected = sum(layout.nodes for _, layout in fields), sum(layout.buffers for _, layout in fields)
        if (len(self._nodes), len(self._buffers)) != expected:
            raise ManifestError("its record batch does not go with its schema")
        if not 0 <= self.num_rows <= self._max_rows:
            raise ManifestError(f"{self.num_rows} rows in {len(self._body)} bytes")
        arrays, wanted = [], frozenset(names)
        for name, layout in fields:
            if name in wanted:
                try:
                    arrays.append(self._array(layout, self.num_rows))
                    check_links(arrays[-1], layout.field)
                except ManifestError as error:
                    raise ManifestError(f"column {name[:40]!r}: {error}") from None
            else:
                self._node += layout.nodes
                self._buffer += layout.buffers
        return arrays

    def _array(self, layout: Layout, length: int | None) -> Array:
        read = getattr(self, f"_read_{layout.kind}")
        array: Array = read(layout, *self._next_node(length))
        return array

    def _next_node(self, expected: int | None) -> tuple[int, int]:
        """Rows and nulls of the next node; ``expected`` rows, where that is known."""
        length, null_count = self._nodes[self._node]
        self._node += 1
        if not 0 <= null_count <= length <= self._max_rows or expected not in (None, length):
            raise ManifestError(f"{length} values with {null_count} nulls, where {expected} are expected")
        return length, null_count

    def _next_buffer(self) -> memoryview:
        """The next buffer. Buffers follow each other: none is in two places."""
        offset, length = self._buffers[self._buffer]
        self._buffer += 1
        if length == 0:
            return self._body[:0]
        if offset < self._end or length < 0 or length > len(self._body) - offset:
            raise ManifestError(f"a buffer of {length} bytes at {offset} of a body of {len(self._body)}")
        self._end = offset + length
        return self._body[offset : offset + length]

    def _elements(self, storage: np.dtype[Any], count: int) -> npt.NDArray[Any]:
        buffer = self._next_buffer()
        if count * storage.itemsize > len(buffer):
            raise ManifestError(f"{count} values of {storage.itemsize} bytes in {len(buffer)} bytes")
        if count == 0:
            return np.empty(0, dtype=storage)
        return np.frombuffer(buffer, dtype=storage, count=count)

    def _validity(self, length: int, null_count: int, nullable: bool) -> Valid:
        buffer = self._next_buffer()
        if null_count == 0 and not buffer:
            return None
        self.has_validity = True
        if len(buffer) * 8 < length:
            raise ManifestError(f"a validity bitmap of {len(buffer)} bytes for {length} values")
        bits = np.unpackbits(np.frombuffer(buffer, dtype=np.uint8), count=length, bitorder="little")
        if length - int(np.count_nonzero(bits)) != null_count or (null_count and not nullable):
            raise ManifestError(f"{null_count} nulls, which is not what its validity bitmap or its schema says")
        return bits.view(np.bool_) if null_count else None

    def _numbers(self, count: int, rows: Valid) -> None:
        """Steps over the node of what a tensor is made of, where nothing is null but under rows that are."""
        valid = self._validity(*self._next_node(count), nullable=True)
        if valid is not None and (rows is None or not valid.reshape(len(rows), -1)[rows].all()):
            raise ManifestError("a tensor with nulls inside")

    def _offsets(self, storage: np.dtype[Any], length: int) -> Offsets:
        buffer = self._next_buffer()
        if length == 0:  # there may be none, or one that points behind what nothing is in
            return np.zeros(1, dtype=storage)
        if (length + 1) * storage.itemsize > len(buffer):
            raise ManifestError(f"{length + 1} offsets of {storage.itemsize} bytes in {len(buffer)} bytes")
        offsets = np.frombuffer(buffer, dtype=storage, count=length + 1)
        if offsets[0] < 0 or (offsets[1:] < offsets[:-1]).any():
            raise ManifestError("its offsets fall")
        return offsets

    def _read_number(self, layout: Layout, length: int, null_count: int) -> Array:
        valid = self._validity(length, null_count, layout.field.nullable)
        return _number_array(layout.field, length, self._elements(_storage(layout), length), valid)

    def _read_tensor(self, layout: Layout, length: int, null_count: int) -> Array:
        valid = self._validity(length, null_count, layout.field.nullable)
        count = length
        for size in layout.levels:
            count *= size
            self._numbers(count, valid)
        return _number_array(layout.field, length, self._elements(_storage(layout), count), valid)

    def _read_bit(self, layout: Layout, length: int, null_count: int) -> Array:
        valid = self._validity(length, null_count, layout.field.nullable)
        packed = self._elements(np.dtype(np.uint8), (length + 7) // 8)
        return NumberArray("bool", np.unpackbits(packed, count=length, bitorder="little").view(np.bool_), valid)

    def _read_binary(self, layout: Layout, length: int, null_count: int) -> Array:
        valid = self._validity(length, null_count, layout.field.nullable)
        offsets, data = self._offsets(_storage(layout), length), self._next_buffer()
        if offsets[-1] > len(data):
            raise ManifestError(f"an offset of {offsets[-1]} into {len(data)} bytes")
        if layout.field.dtype == "text":
            _check_text(data, offsets)
        return BinaryArray(layout.field.dtype, offsets, data, valid)

    def _read_list(self, layout: Layout, length: int, null_count: int) -> Array:
        valid = self._validity(length, null_count, layout.field.nullable)
        offsets = self._offsets(_storage(layout), length)
        items = self._array(layout.children[0][1], None)
        if offsets[-1] > len(items):
            raise ManifestError(f"an offset of {offsets[-1]} into {len(items)} items")
        return ListArray(offsets, items, valid)

    def _read_struct(self, layout: Layout, length: int, null_count: int) -> Array:
        valid = self._validity(length, null_count, layout.field.nullable)
        return StructArray({name: self._array(child, length) for name, child in layout.children}, length, valid)

    def _read_null(self, _layout: Layout, length: int, _null_count: int) -> Array:
        return NullArray(length)

    def _read_ragged(self, layout: Layout, length: int, null_count: int) -> Array:
        valid = self._validity(length, null_count, layout.field.nullable)
        data, sizes = (self._array(child, length) for _, child in layout.children)
        if not (isinstance(data, ListArray) and isinstance(data.items, NumberArray) and isinstance(sizes, NumberArray)):
            raise ManifestError("a tensor of varying shape is made of a list of numbers and their shapes")
        if data.items.valid is not None:
            raise ManifestError("a tensor of varying shape with nulls inside")
        _check_shapes(layout.field, np.diff(data.offsets), sizes.values, valid)
        if layout.field.dtype == "bool":
            _check_bools(data.items.values)
        return RaggedArray(layout.field.dtype, data.offsets, data.items.values, sizes.values, valid)


def _storage(layout: Layout) -> np.dtype[Any]:
    if layout.storage is None:
        raise ManifestError(f"a field of {layout.field} without a storage type")
    return layout.storage


def _number_array(field: Field, length: int, values: npt.NDArray[Any], valid: Valid) -> NumberArray:
    """``values`` are flat, of the type that Arrow sees; the array has the field's shape and storage dtype."""
    storage = STORAGE[field.dtype]
    if field.dtype == "bool":
        _check_bools(values)
    if storage.base != values.dtype:
        values = values.view(storage)
    return NumberArray(field.dtype, values.reshape(length, *field.shape, *storage.shape), valid)


def _check_bools(values: npt.NDArray[Any]) -> None:
    if values.max(initial=0) > 1:
        raise ManifestError(f"a bool that is {values.max()}, not 0 or 1")


def _check_text(data: memoryview, offsets: Offsets) -> None:
    """That each text is UTF-8: the whole is, and none begins inside of a character."""
    first, last = int(offsets[0]), int(offsets[-1])
    decoder = codecs.getincrementaldecoder("utf-8")()
    ascii_only = True
    try:
        for start in range(first, last, _DECODED_AT_ONCE_BYTES):
            stop = min(start + _DECODED_AT_ONCE_BYTES, last)
            ascii_only &= decoder.decode(data[start:stop], final=stop == last).isascii()
    except UnicodeDecodeError as error:
        raise ManifestError(f"text that is not UTF-8: {error.reason}") from None
    if ascii_only:
        return
    starts = np.frombuffer(data, dtype=np.uint8)[offsets[offsets < last]]
    if ((starts & 0xC0) == 0x80).any():
        raise ManifestError("a text that begins inside of a character")


def _check_shapes(field: Field, lengths: npt.NDArray[Any], shapes: npt.NDArray[Any], valid: Valid) -> None:
    """That each row's shape is one that ``field`` allows, and has as many elements as the row."""
    expected = field.shape + ((2,) if shapes.shape[1] > len(field.shape) else ())
    if valid is not None:
        lengths, shapes = lengths[valid], shapes[valid]
    # Products are cut off at the bound, so that they cannot overflow, and take zeros for ones, as numpy's bound does.
    product = np.ones(len(shapes), dtype=np.int64)
    for axis, size in enumerate(expected):
        sizes = shapes[:, axis].astype(np.int64)
        if (sizes < 0).any() or (size is not None and (sizes != size).any()):
            raise ManifestError(f"a tensor whose shape is not {expected}")
        product = np.minimum(product * np.maximum(sizes, 1), MAX_ROW_BYTES + 1)
    if (product > MAX_ROW_BYTES).any() or (np.where((shapes == 0).any(axis=1), 0, product) != lengths).any():
        raise ManifestError("a tensor whose shape does not go with its number of elements")
