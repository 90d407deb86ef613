"""Samples -> columns: plain values laid out as their schema says.

A numeric field takes numbers, nested lists of them, arrays, and raw little-endian bytes of its storage dtype (the way that
embedded samples hold what JSON and CBOR have no number for). Ints fit in a float field, floats not in an int field, bools
are no ints, and an array fits where its dtype converts safely. Whatever else is a :class:`SampleError` that names the
sample's position and the field.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from torch_ipfs.codec.cid import CID
from torch_ipfs.manifest.alike_samples import AlikeSamples
from torch_ipfs.manifest.arrays import (
    Array,
    BinaryArray,
    ListArray,
    NullArray,
    NumberArray,
    RaggedArray,
    StructArray,
    ValueArray,
    spread,
)
from torch_ipfs.manifest.column import Shard
from torch_ipfs.manifest.maps import as_maps, columns_of
from torch_ipfs.manifest.numbers import element_storage, is_complex, narrow, number_kind, python_kinds
from torch_ipfs.manifest.schema import MAX_ROW_BYTES, STORAGE, Field, Schema
from torch_ipfs.manifest.unpack import to_column
from torch_ipfs.manifest.values import Misfit, Typed, describe, dtype_of, kind_of, kinds_of

Values = Sequence[Any] | NumberArray
"""The values of one field for many samples. Where they are one array already, they are given as that."""
_List = Sequence[Any]


def shard_from_rows(
    samples: _List, schema: Schema, *, first_position: int, cid: CID | None, columns: Iterable[str] | None = None
) -> Shard:
    """Decoded samples as a shard.

    :param samples: maps, or what is taken as ``{"value": sample}``.
    :param schema: that of the whole samples.
    :param first_position: position of the first of them in the dataset, for errors.
    :param cid: the block they come from, for errors.
    :param columns: names of the fields to convert; all by default.
    :raises SampleError: for a sample that does not fit.
    """
    wanted = schema.select(None if columns is None else list(columns))
    try:
        arrays = None
        if isinstance(samples, AlikeSamples):
            arrays = _arrays_of_alike(samples, wanted, schema)
        if arrays is None:
            samples = samples[:] if isinstance(samples, AlikeSamples) else samples
            arrays = arrays_from_rows(samples, wanted, known=frozenset(schema.names))
    except Misfit as misfit:
        raise misfit.error(first_position, cid) from None
    read = {name: to_column(field, arrays[name]) for name, field in wanted.fields}
    return Shard(len(samples), read, wanted)


def _arrays_of_alike(samples: AlikeSamples, wanted: Schema, schema: Schema) -> dict[str, Array] | None:
    """As :func:`arrays_from_rows`; ``None`` where the samples have to be looked at one by one: they may not fit."""
    if samples.columns.keys() != set(schema.names):
        return None
    arrays: dict[str, Array] = {}
    for name, field in wanted.fields:
        column = samples.columns[name]
        if not field.fixed or column.shape[1:] != field.shape:
            return None
        kind = number_kind(field.dtype)
        if kind not in ("f" if column.dtype.kind == "f" else "iuf"):
            return None
        try:
            stored = narrow(field.dtype, column.astype(np.float64) if kind == "f" else column)
        except ValueError:
            return None
        arrays[name] = NumberArray(field.dtype, stored)
    return arrays


def arrays_from_rows(samples: _List, schema: Schema, known: frozenset[str] | None = None) -> dict[str, Array]:
    """The array of each of the schema's fields.

    :param known: names of all fields that samples may have, where ``schema`` holds a selection of them.
    :raises Misfit: for a sample that does not fit.
    """
    names = schema.names
    values = columns_of(as_maps(samples), names, frozenset(names) if known is None else known)
    return arrays_from_columns(schema.fields, values)


def array_from_values(values: Values, field: Field) -> Array:
    """The array of one field.

    :raises Misfit: for a value that does not fit.
    """
    if isinstance(values, NumberArray):
        if values.valid is None and values.dtype == field.dtype and values.shape == field.shape:
            return NumberArray(values.dtype, np.ascontiguousarray(values.values))
        values = _as_values(values)
    if field.dtype == "any":
        return ValueArray(list(values))
    if type(None) not in set(map(type, values)) and field.dtype != "null":
        return _array(values, field)
    rows = [row for row, value in enumerate(values) if value is not None]
    if field.dtype == "null":
        if rows:
            raise Misfit(rows[0], f"{describe(values[rows[0]])}, where all samples before have None")
        return NullArray(len(values))
    keep = np.zeros(len(values), dtype=np.bool_)
    keep[rows] = True
    if not field.nullable:
        raise Misfit(int(np.argmin(keep)), f"it is missing or None; expected {field}")
    try:
        return spread(_array([values[row] for row in rows], field), keep, field)
    except Misfit as misfit:
        raise Misfit(rows[misfit.row], misfit.reason, misfit.path) from None


def _as_values(array: NumberArray) -> list[Any]:
    """An array's rows one by one, for a field that is not just like it."""
    if STORAGE[array.dtype].name == array.dtype:
        return [value if present else None for value, present in _rows(array)]
    return [Typed(array.dtype, np.asarray(value)) if present else None for value, present in _rows(array)]


def _rows(array: NumberArray) -> Iterable[tuple[Any, bool]]:
    valid = np.ones(len(array), dtype=np.bool_) if array.valid is None else array.valid
    return zip(array.values, valid.tolist(), strict=True)


def _array(values: _List, field: Field) -> Array:
    """The array of values none of which is ``None``."""
    if field.numeric:
        return _ragged(values, field) if None in field.shape else NumberArray(field.dtype, _tensors(values, field))
    if field.dtype == "text":
        return _text(values)
    if field.dtype in ("bytes", "link"):
        return _binary(values, field)
    if field.item is not None:
        return _lists(values, field, field.item)
    return _structs(values, field)


def _expect(kind: str, values: _List, field: Field) -> None:
    if kinds_of(values) <= {kind}:
        return
    row = next(row for row, value in enumerate(values) if kind_of(type(value)) != kind)
    raise Misfit(row, f"expected {field}, found {describe(values[row])}")


# Text, bytes, links, lists, maps


def _offsets(lengths: Iterable[int], count: int) -> npt.NDArray[np.int64]:
    offsets = np.zeros(count + 1, dtype=np.int64)
    np.cumsum(np.fromiter(lengths, dtype=np.int64, count=count), out=offsets[1:])
    return offsets


def _text(values: _List) -> BinaryArray:
    _expect("text", values, Field("text"))
    joined = "".join(values)
    if joined.isascii():
        return BinaryArray("text", _offsets(map(len, values), len(values)), memoryview(joined.encode()))
    encoded = []
    for row, value in enumerate(values):
        try:
            encoded.append(value.encode())
        except UnicodeEncodeError as error:
            raise Misfit(row, f"text with half a surrogate pair at {error.start}, which UTF-8 cannot hold") from None
    return BinaryArray("text", _offsets(map(len, encoded), len(encoded)), memoryview(b"".join(encoded)))


def _binary(values: _List, field: Field) -> BinaryArray:
    _expect(field.dtype, values, field)
    encoded = [bytes(value) for value in values]
    return BinaryArray(field.dtype, _offsets(map(len, encoded), len(encoded)), memoryview(b"".join(encoded)))


def _lists(values: _List, field: Field, item: Field) -> ListArray:
    if kinds_of(values) != {"list"} and any(_length(value) < 0 for value in values):
        _expect("list", values, field)
    offsets = _offsets(map(len, values), len(values))
    try:
        return ListArray(offsets, array_from_values(list(chain.from_iterable(values)), item))
    except Misfit as misfit:
        row = int(np.searchsorted(offsets, misfit.row, side="right")) - 1
        raise misfit.under(str(misfit.row - int(offsets[row])), row) from None


def _structs(values: _List, field: Field) -> StructArray:
    _expect("struct", values, field)
    names = [name for name, _ in field.fields]
    columns = columns_of(values, names, frozenset(names))
    return StructArray(arrays_from_columns(field.fields, columns), len(values))


def arrays_from_columns(fields: tuple[tuple[str, Field], ...], columns: Sequence[Values]) -> dict[str, Array]:
    """The array of each of ``fields``, given the values of each.

    :raises Misfit: for a value that does not fit.
    """
    arrays = {}
    for (name, field), values in zip(fields, columns, strict=True):
        try:
            arrays[name] = array_from_values(values, field)
        except Misfit as misfit:
            raise misfit.under(name) from None
    return arrays


# Numbers and tensors


def _tensors(values: _List, field: Field) -> npt.NDArray[Any]:
    """``(rows, *shape)`` in the storage dtype, of values that all have the field's shape."""
    kinds = kinds_of(values)
    if not field.shape and kinds <= python_kinds(field.dtype):
        return _numbers(values, field)
    if field.shape and kinds == {"list"}:
        return _nested(values, field)
    if kinds == {"array"}:
        stacked = _stacked(values, field)
        if stacked is not None:
            return stacked
    # All are looked at before there is memory for them: a schema that claims huge tensors gets none.
    tensors = [_tensor(value, field, row) for row, value in enumerate(values)]
    return np.stack(tensors) if tensors else np.zeros(_stored_shape(0, field), dtype=STORAGE[field.dtype].base)


def _numbers(values: _List, field: Field) -> npt.NDArray[Any]:
    """Python's numbers, of a kind that the dtype takes."""
    kind = number_kind(field.dtype)
    carrier = {"b": np.bool_, "f": np.float64, "c": np.complex128}.get(kind, np.int64)
    if field.dtype == "uint64" and min(values, default=0) >= 0:
        carrier = np.uint64
    try:
        # numpy 1 takes ints that are out of the range of smaller types, and wraps them.
        return narrow(field.dtype, np.array(values, dtype=carrier))
    except (OverflowError, ValueError):
        if len(values) == 1:
            raise Misfit(0, f"{_short(values[0])} is not a number that {field.dtype} holds") from None
    for row, value in enumerate(values):
        try:
            _numbers([value], field)
        except Misfit as misfit:
            raise Misfit(row, misfit.reason) from None
    raise Misfit(0, f"numbers that {field.dtype} cannot hold")


def _short(number: Any) -> str:
    """A number in a message; Python itself refuses to print very long ints."""
    return f"an int of {number.bit_length()} bits" if isinstance(number, int) and abs(number) >= 2**80 else str(number)


def _nested(values: _List, field: Field) -> npt.NDArray[Any]:
    """Nested lists of the field's shape, whose dimensions are all known."""
    level, per_row = values, 1
    for size in field.shape:
        if kinds_of(level) != {"list"} or set(map(len, level)) != {size}:
            for index, items in enumerate(level):
                if _length(items) != size:
                    raise Misfit(index // per_row, f"expected {field}, found {_part(items)} in it")
        level = list(chain.from_iterable(level))
        per_row *= size or 0
        if not level:
            return np.zeros(_stored_shape(len(values), field), dtype=STORAGE[field.dtype].base)
    try:
        numbers = _tensors(level, Field(field.dtype))
    except Misfit as misfit:
        raise Misfit(misfit.row // per_row, f"expected {field}, found in it: {misfit.reason}") from None
    return numbers.reshape(_stored_shape(len(values), field))


def _stored_shape(rows: int, field: Field) -> tuple[int, ...]:
    return (rows, *(size or 0 for size in field.shape), *STORAGE[field.dtype].shape)


def _length(value: Any) -> int:
    """Items of what can stand for a nested list; -1 for anything else."""
    is_list = kind_of(type(value)) == "list" or (isinstance(value, np.ndarray) and value.ndim > 0)
    return len(value) if is_list else -1


def _part(value: Any) -> str:
    return f"a list of {len(value)}" if kind_of(type(value)) == "list" else describe(value)


def _stacked(values: _List, field: Field) -> npt.NDArray[Any] | None:
    """Arrays that all have the field's dtype and shape, as one; ``None`` where they do not."""
    if len({(value.dtype, value.shape) for value in values}) != 1:
        return None
    if dtype_of(values[0]) != field.dtype or values[0].shape != field.shape:
        return None
    arrays = [value.array if isinstance(value, Typed) else value for value in values]
    storage = STORAGE[field.dtype]
    if not field.shape and not storage.shape:
        return np.array(arrays, dtype=storage)
    out = np.empty(_stored_shape(len(arrays), field), dtype=storage.base)
    return np.stack(arrays, out=out)


def _tensor(value: Any, field: Field, row: int) -> npt.NDArray[Any]:
    """One value of a numeric field, in the storage dtype, with the value's own size where the field's varies."""
    kind = kind_of(type(value))
    tensor: npt.NDArray[Any] | None = None
    if kind == "array":
        tensor = _converted(value, field.dtype)
    elif kind == "bytes" and field.shape.count(None) <= 1:
        tensor = _from_bytes(bytes(value), field.shape, field.dtype)
    elif kind == "struct" and None in field.shape:
        tensor = _from_map(value, field)
    elif kind == "list" and field.shape:
        return _from_list(value, field, row)
    elif kind in python_kinds(field.dtype) and not field.shape:
        try:
            return np.asarray(_numbers([value], field)[0])
        except Misfit as misfit:
            raise Misfit(row, misfit.reason) from None
    if tensor is None or not _has_shape(tensor, field):
        raise Misfit(row, f"expected {field}, found {describe(value)}")
    return tensor


def _has_shape(tensor: npt.NDArray[Any], field: Field) -> bool:
    shape = tensor.shape[: tensor.ndim - len(STORAGE[field.dtype].shape)]
    return len(shape) == len(field.shape) and all(e in (None, a) for e, a in zip(field.shape, shape, strict=True))


def _converted(value: Any, dtype: str) -> npt.NDArray[Any] | None:
    """An array in the storage dtype of ``dtype``, where it is of that dtype or converts to it safely."""
    name = dtype_of(value)
    if isinstance(value, Typed):
        return value.array if name == dtype else None
    safe = STORAGE[dtype].name == dtype and value.dtype.kind != "b" and np.can_cast(value.dtype, STORAGE[dtype], "safe")
    if name != dtype and not (name and safe):
        return None
    converted: npt.NDArray[Any] = np.asarray(value).astype(STORAGE[dtype], copy=False)
    return converted


def _from_bytes(data: bytes, shape: tuple[int | None, ...], dtype: str) -> npt.NDArray[Any] | None:
    """Raw little-endian bytes as a tensor; at most one dimension may be open, and follows from their length."""
    storage = STORAGE[dtype]
    known = prod(size for size in shape if size is not None) * storage.itemsize
    if None in shape:
        open_size = len(data) // known if known else 0
        shape = tuple(open_size if size is None else size for size in shape)
        known *= open_size
    if known != len(data) or (dtype == "bool" and data.strip(b"\0\1")):
        return None
    return np.frombuffer(data, dtype=storage.base).reshape((*(size or 0 for size in shape), *storage.shape))


def _from_map(value: Any, field: Field) -> npt.NDArray[Any] | None:
    """``{"shape": [...], "data": bytes}``: a tensor of varying shape whose numbers JSON and CBOR cannot hold."""
    shape, data = value.get("shape"), value.get("data")
    if not isinstance(shape, list) or not isinstance(data, bytes) or len(value) != 2:
        return None
    if len(shape) != len(field.shape) or not all(type(size) is int and 0 <= size < 2**31 for size in shape):
        return None
    if prod(size or 1 for size in shape) > MAX_ROW_BYTES:
        return None
    return _from_bytes(data, tuple(shape), field.dtype)


def _from_list(value: Any, field: Field, row: int) -> npt.NDArray[Any]:
    shape: list[int] = []
    items = value
    for size in field.shape:
        length = max(_length(items), 0) if size is None else size
        shape.append(length)
        items = items[0] if _length(items) > 0 else ()
    try:
        return np.asarray(_nested([value], Field(field.dtype, tuple(shape)))[0])
    except Misfit as misfit:
        raise Misfit(row, misfit.reason) from None


def _ragged(values: _List, field: Field) -> RaggedArray:
    storage = STORAGE[field.dtype]
    tensors = [_tensor(value, field, row) for row, value in enumerate(values)]
    rank = len(field.shape)
    shapes = np.array([tensor.shape[:rank] for tensor in tensors], dtype=np.int32).reshape(len(tensors), rank)
    if is_complex(field.dtype):
        shapes = np.concatenate([shapes, np.full((len(tensors), 1), 2, dtype=np.int32)], axis=1)
    flat = [np.ascontiguousarray(tensor).reshape(-1) for tensor in tensors]
    elements = np.concatenate(flat) if flat else np.zeros(0, dtype=storage.base)
    sizes = shapes.astype(np.int64).prod(axis=1)
    seen = element_storage(field.dtype)
    return RaggedArray(field.dtype, _offsets(sizes, len(tensors)), elements.view(seen), shapes)
