"""Values of one field for many rows, laid out as Arrow lays them out.

Writing makes these arrays from what the user has and packs them; reading makes them as views of a block, or from
decoded samples, and takes rows from them. Their classes mirror Arrow's layouts.

``valid`` is ``None`` where nothing is null, else an array of bools. What lies under a null is zero or empty: this is
what makes packed bytes a function of the values alone, and whoever makes an array sees to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from torch_ipfs.codec.cid import CID
from torch_ipfs.manifest.numbers import element_storage, is_complex, to_python
from torch_ipfs.manifest.schema import STORAGE, Field

Rows = npt.NDArray[np.int64]
Valid = npt.NDArray[np.bool_] | None
Offsets = npt.NDArray[np.signedinteger[Any]]


@dataclass(frozen=True, slots=True)
class NumberArray:
    """Numbers or tensors of one shape.

    :param dtype: a key of ``schema.STORAGE``.
    :param values: ``(rows, *shape)`` of the storage dtype; complex32 has a last dimension of 2 more.
    """

    dtype: str
    values: npt.NDArray[Any]
    valid: Valid = None

    def __len__(self) -> int:
        return len(self.values)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one row."""
        return self.values.shape[1 : self.values.ndim - len(STORAGE[self.dtype].shape)]

    def slice(self, start: int, stop: int) -> NumberArray:
        return NumberArray(self.dtype, self.values[start:stop], _cut(self.valid, start, stop))

    def dense(self, start: int, stop: int) -> npt.NDArray[Any]:
        """The values of rows ``start`` to ``stop``."""
        return self.values[start:stop]

    def at(self, rows: Rows) -> npt.NDArray[Any]:
        """The values of ``rows``."""
        return self.values[rows]

    def take(self, rows: Rows) -> list[Any]:
        values = self.values
        return _with_nulls(self.valid, rows, lambda rows: [values[row, ...].copy() for row in rows.tolist()])


@dataclass(frozen=True, slots=True)
class SparseArray:
    """Numbers or tensors of one shape as in :class:`NumberArray`, with rows between them that are blank and take no room.

    One image among a million samples without one would otherwise be a million images.

    :param values: the rows that are not blank.
    :param places: ``(rows,)``, where in ``values`` each row is; -1 for a blank one.
    """

    dtype: str
    values: npt.NDArray[Any]
    places: Rows
    valid: Valid = None

    def __len__(self) -> int:
        return len(self.places)

    def slice(self, start: int, stop: int) -> SparseArray:
        return SparseArray(self.dtype, self.values, self.places[start:stop], _cut(self.valid, start, stop))

    def dense(self, start: int, stop: int) -> npt.NDArray[Any]:
        """The values of rows ``start`` to ``stop``, with zeros for the blank ones."""
        return self.at(np.arange(start, stop))

    def at(self, rows: Rows) -> npt.NDArray[Any]:
        """The values of ``rows``, with zeros for the blank ones."""
        places = self.places[rows]
        values = np.zeros((len(rows), *self.values.shape[1:]), dtype=self.values.dtype)
        values[places >= 0] = self.values[places[places >= 0]]
        return values

    def take(self, rows: Rows) -> list[Any]:
        return _with_nulls(self.valid, rows, lambda rows: list(map(self._value, self.places[rows].tolist())))

    def _value(self, place: int) -> npt.NDArray[Any]:
        if place < 0:
            return np.zeros(self.values.shape[1:], dtype=self.values.dtype)
        return np.array(self.values[place, ...])


@dataclass(frozen=True, slots=True)
class BinaryArray:
    """Text (UTF-8), bytes or links (CIDs in binary), one after the other in ``data``.

    :param dtype: ``text``, ``bytes`` or ``link``.
    :param offsets: ``rows + 1`` offsets into ``data``, never falling.
    """

    dtype: str
    offsets: Offsets
    data: memoryview
    valid: Valid = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def slice(self, start: int, stop: int) -> BinaryArray:
        return BinaryArray(self.dtype, self.offsets[start : stop + 1], self.data, _cut(self.valid, start, stop))

    def take(self, rows: Rows) -> list[Any]:
        return _with_nulls(self.valid, rows, self._values)

    def _values(self, rows: Rows) -> list[Any]:
        data, places = self.data, zip(self.offsets[rows].tolist(), self.offsets[rows + 1].tolist(), strict=True)
        if self.dtype == "text":
            return [str(data[start:stop], "utf-8") for start, stop in places]
        if self.dtype == "bytes":
            return [bytes(data[start:stop]) for start, stop in places]
        return [CID.from_bytes(bytes(data[start:stop])) for start, stop in places]


@dataclass(frozen=True, slots=True)
class ListArray:
    """Lists of any length; ``offsets`` (``rows + 1`` of them) point into ``items``."""

    offsets: Offsets
    items: Array
    valid: Valid = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def slice(self, start: int, stop: int) -> ListArray:
        return ListArray(self.offsets[start : stop + 1], self.items, _cut(self.valid, start, stop))

    def take(self, rows: Rows) -> list[Any]:
        return _with_nulls(self.valid, rows, self._values)

    def _values(self, rows: Rows) -> list[Any]:
        places, lengths = spans(self.offsets, rows)
        items = take_items(self.items, places)
        ends = np.cumsum(lengths).tolist()
        return [items[end - length : end] for end, length in zip(ends, lengths.tolist(), strict=True)]


@dataclass(frozen=True, slots=True)
class StructArray:
    """Maps that all have the same fields: an array for each field, all of ``length`` rows."""

    fields: dict[str, Array]
    length: int
    valid: Valid = None

    def __len__(self) -> int:
        return self.length

    def slice(self, start: int, stop: int) -> StructArray:
        fields = {name: array.slice(start, stop) for name, array in self.fields.items()}
        return StructArray(fields, stop - start, _cut(self.valid, start, stop))

    def take(self, rows: Rows) -> list[Any]:
        return _with_nulls(self.valid, rows, lambda rows: self.maps([a.take(rows) for a in self.fields.values()], rows))

    def maps(self, columns: list[list[Any]], rows: Rows) -> list[Any]:
        """The maps of ``rows``, given the values of each field."""
        if not columns:
            return [{} for _ in range(len(rows))]
        return [dict(zip(self.fields, values, strict=True)) for values in zip(*columns, strict=True)]


@dataclass(frozen=True, slots=True)
class RaggedArray:
    """Tensors of one rank whose dimensions vary.

    :param offsets: ``rows + 1`` offsets into ``elements``.
    :param elements: ``(elements,)`` of what Arrow sees: floats where the dtype is complex, bytes where it is bool.
    :param shapes: ``(rows, rank)`` int32; where the dtype is complex, with a last dimension of 2 more.
    """

    dtype: str
    offsets: Offsets
    elements: npt.NDArray[Any]
    shapes: npt.NDArray[np.int32]
    valid: Valid = None

    def __len__(self) -> int:
        return len(self.shapes)

    def slice(self, start: int, stop: int) -> RaggedArray:
        shapes, valid = self.shapes[start:stop], _cut(self.valid, start, stop)
        return RaggedArray(self.dtype, self.offsets[start : stop + 1], self.elements, shapes, valid)

    def take(self, rows: Rows) -> list[Any]:
        return _with_nulls(self.valid, rows, self._values)

    def _values(self, rows: Rows) -> list[Any]:
        starts, stops, shapes = self.offsets[rows].tolist(), self.offsets[rows + 1].tolist(), self.shapes[rows].tolist()
        elements = self.elements.view(np.bool_) if self.dtype == "bool" else self.elements
        places = zip(starts, stops, shapes, strict=True)
        tensors = [elements[start:stop].reshape(shape).copy() for start, stop, shape in places]
        if STORAGE[self.dtype].kind == "c":
            return [tensor.view(STORAGE[self.dtype])[..., 0] for tensor in tensors]
        return tensors


@dataclass(frozen=True, slots=True)
class NullArray:
    """Nothing but nulls."""

    length: int

    def __len__(self) -> int:
        return self.length

    def slice(self, start: int, stop: int) -> NullArray:
        return NullArray(stop - start)

    def take(self, rows: Rows) -> list[Any]:
        return [None] * len(rows)


@dataclass(frozen=True, slots=True)
class ValueArray:
    """Decoded values as they came, for fields of dtype ``any``. It cannot be packed."""

    values: list[Any]

    def __len__(self) -> int:
        return len(self.values)

    def slice(self, start: int, stop: int) -> ValueArray:
        return ValueArray(self.values[start:stop])

    def take(self, rows: Rows) -> list[Any]:
        return [_copy(self.values[row]) for row in rows.tolist()]


Array = NumberArray | SparseArray | BinaryArray | ListArray | StructArray | RaggedArray | NullArray | ValueArray


def take_items(array: Array, rows: Rows) -> list[Any]:
    """``array.take`` for what lies in a list: scalars are Python's numbers there."""
    if isinstance(array, NumberArray | SparseArray) and array.values.ndim == 1 + (array.dtype == "complex32"):
        return _with_nulls(array.valid, rows, lambda rows: to_python(array.dtype, array.at(rows)))
    if isinstance(array, StructArray):
        fields = array.fields.values()
        return _with_nulls(array.valid, rows, lambda rows: array.maps([take_items(a, rows) for a in fields], rows))
    return array.take(rows)


def blank(field: Field, length: int) -> Array:
    """``length`` rows of a field without a value: null where it may be, else zero or empty."""
    valid = np.zeros(length, dtype=np.bool_) if field.nullable else None
    offsets = np.broadcast_to(np.zeros((), dtype=np.int32), (length + 1,))
    if field.numeric and None in field.shape:
        shape = [size or 0 for size in field.shape] + [2] * is_complex(field.dtype)
        shapes = np.broadcast_to(np.array(shape, dtype=np.int32), (length, len(shape)))
        return RaggedArray(field.dtype, offsets, np.zeros(0, dtype=element_storage(field.dtype)), shapes, valid)
    if field.numeric:
        storage = STORAGE[field.dtype]
        values = np.zeros((0, *(size or 0 for size in field.shape), *storage.shape), dtype=storage.base)
        return SparseArray(field.dtype, values, np.broadcast_to(np.int64(-1), (length,)), valid)
    if field.item is not None:
        return ListArray(offsets, blank(field.item, 0), valid)
    if field.dtype == "struct":
        return StructArray({name: blank(child, length) for name, child in field.fields}, length, valid)
    if field.dtype in ("null", "any"):
        return NullArray(length) if field.dtype == "null" else ValueArray([None] * length)
    return BinaryArray(field.dtype, offsets, memoryview(b""), valid)


def select(array: Array, rows: Rows) -> Array:
    """An array of those rows, in that order."""
    if isinstance(array, NullArray):
        return NullArray(len(rows))
    if isinstance(array, ValueArray):
        return ValueArray([array.values[row] for row in rows.tolist()])
    valid = None if array.valid is None else array.valid[rows]
    if isinstance(array, NumberArray):
        return NumberArray(array.dtype, array.values[rows], valid)
    if isinstance(array, SparseArray):
        return SparseArray(array.dtype, array.values, array.places[rows], valid)
    if isinstance(array, StructArray):
        return StructArray({name: select(child, rows) for name, child in array.fields.items()}, len(rows), valid)
    places, lengths = spans(array.offsets, rows)
    offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)])
    if isinstance(array, BinaryArray):
        data = np.frombuffer(array.data, dtype=np.uint8)[places].tobytes() if len(places) else b""
        return BinaryArray(array.dtype, offsets, memoryview(data), valid)
    if isinstance(array, ListArray):
        return ListArray(offsets, select(array.items, places), valid)
    return RaggedArray(array.dtype, offsets, array.elements[places], array.shapes[rows], valid)


def spread(array: Array, keep: npt.NDArray[np.bool_], field: Field) -> Array:
    """``len(keep)`` rows: those of ``array`` in the places that ``keep`` marks, and blanks of ``field`` in between."""
    length = len(keep)
    if isinstance(array, NullArray):
        return blank(field, length)
    if isinstance(array, ValueArray):
        values = iter(array.values)
        return ValueArray([next(values) if kept else None for kept in keep.tolist()])
    valid = None
    if field.nullable:
        valid = np.zeros(length, dtype=np.bool_)
        valid[keep] = True if array.valid is None else array.valid
    if isinstance(array, NumberArray):
        places = np.where(keep, np.cumsum(keep) - 1, -1)
        return SparseArray(array.dtype, array.values, places, valid)
    if isinstance(array, SparseArray):
        places = np.full(length, -1, dtype=np.int64)
        places[keep] = array.places
        return SparseArray(array.dtype, array.values, places, valid)
    if isinstance(array, StructArray):
        fields = {name: spread(array.fields[name], keep, child) for name, child in field.fields}
        return StructArray(fields, length, valid)
    lengths = np.zeros(length, dtype=np.int64)
    lengths[keep] = np.diff(array.offsets)
    offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)]) + int(array.offsets[0])
    if isinstance(array, BinaryArray):
        return BinaryArray(array.dtype, offsets, array.data, valid)
    if isinstance(array, ListArray):
        return ListArray(offsets, array.items, valid)
    shapes = np.broadcast_to(np.array([size or 0 for size in field.shape], dtype=np.int32), (length, len(field.shape)))
    shapes = (
        np.concatenate([shapes, np.full((length, 1), 2, np.int32)], axis=1)
        if is_complex(array.dtype)
        else shapes.copy()
    )
    shapes[keep] = array.shapes
    return RaggedArray(array.dtype, offsets, array.elements, shapes, valid)


def concatenate(arrays: Sequence[Array]) -> Array:
    """One array of the rows of ``arrays``, which are of one field; a single one is given back as it is."""
    first = arrays[0]
    if len(arrays) == 1:
        return first
    kept: list[Any] = list(arrays)
    if isinstance(first, NullArray):
        return NullArray(sum(map(len, arrays)))
    if isinstance(first, ValueArray):
        return ValueArray([value for array in kept for value in array.values])
    valid = _concatenate_valid(kept)
    if all(isinstance(array, NumberArray) for array in kept):
        return NumberArray(kept[0].dtype, np.concatenate([array.values for array in kept]), valid)
    if isinstance(first, NumberArray | SparseArray):
        return _concatenate_sparse(kept, valid)
    if isinstance(first, StructArray):
        fields = {name: concatenate([array.fields[name] for array in kept]) for name in first.fields}
        return StructArray(fields, sum(map(len, arrays)), valid)
    cuts = [(int(array.offsets[0]), int(array.offsets[-1])) for array in kept]
    offsets = _concatenate_offsets(kept, cuts)
    if isinstance(first, BinaryArray):
        data = b"".join([array.data[start:stop] for array, (start, stop) in zip(kept, cuts, strict=True)])
        return BinaryArray(first.dtype, offsets, memoryview(data), valid)
    if isinstance(first, ListArray):
        items = [array.items.slice(start, stop) for array, (start, stop) in zip(kept, cuts, strict=True)]
        return ListArray(offsets, concatenate(items), valid)
    elements = [array.elements[start:stop] for array, (start, stop) in zip(kept, cuts, strict=True)]
    shapes = np.concatenate([array.shapes for array in kept])
    return RaggedArray(first.dtype, offsets, np.concatenate(elements), shapes, valid)


def _concatenate_sparse(arrays: list[NumberArray | SparseArray], valid: Valid) -> SparseArray:
    values, places, base = [], [], 0
    for array in arrays:
        own = array.places if isinstance(array, SparseArray) else np.arange(len(array))
        used = own[own >= 0]
        values.append(array.values[used])
        places.append(np.where(own >= 0, np.cumsum(own >= 0) - 1 + base, -1))
        base += len(used)
    return SparseArray(arrays[0].dtype, np.concatenate(values), np.concatenate(places), valid)


def _concatenate_valid(arrays: list[Any]) -> Valid:
    if all(array.valid is None for array in arrays):
        return None
    return np.concatenate([np.ones(len(a), dtype=np.bool_) if a.valid is None else a.valid for a in arrays])


def _concatenate_offsets(arrays: list[Any], cuts: list[tuple[int, int]]) -> Offsets:
    offsets, base = [np.zeros(1, dtype=np.int64)], 0
    for array, (start, stop) in zip(arrays, cuts, strict=True):
        offsets.append(array.offsets[1:].astype(np.int64) + (base - start))
        base += stop - start
    return np.concatenate(offsets)


def _copy(value: Any) -> Any:
    """``value`` with lists and maps of its own: what one sample's user changes, another sample does not see."""
    if isinstance(value, list):
        return [_copy(item) for item in value]
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    return value


def _cut(valid: Valid, start: int, stop: int) -> Valid:
    return None if valid is None else valid[start:stop]


def spans(offsets: Offsets, rows: Rows) -> tuple[Rows, npt.NDArray[np.int64]]:
    """What lies between the offsets of ``rows``, one after the other, and how much of it each row has."""
    starts, stops = offsets[rows].astype(np.int64), offsets[rows + 1].astype(np.int64)
    lengths = stops - starts
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.repeat(starts - (ends - lengths), lengths) + np.arange(total), lengths


def _with_nulls(valid: Valid, rows: Rows, take: Callable[[Rows], list[Any]]) -> list[Any]:
    """What ``take`` gives for the valid of ``rows``, with ``None`` in the others' places."""
    if valid is None or (present := valid[rows]).all():
        return take(rows)
    values: list[Any] = [None] * len(rows)
    for place, value in zip(np.flatnonzero(present).tolist(), take(rows[present]), strict=True):
        values[place] = value
    return values
