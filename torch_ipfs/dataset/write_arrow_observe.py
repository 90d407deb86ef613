"""What a column of a table holds, found from its pieces.

What Arrow calls nullable is not believed (by default everything is): a field is nullable where something is null. Lists of
numbers that all are of one length are tensors, as they are in rows.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace

import numpy as np

from torch_ipfs.manifest.arrays import Array, ListArray, NullArray, NumberArray, StructArray, Valid, ValueArray, select
from torch_ipfs.manifest.schema import Field


@dataclass(frozen=True, slots=True)
class Observed:
    """What pieces of a column were found to hold.

    :param field: as Arrow declares it, but nullable only where something is null.
    :param shape: of lists that are all rectangles of numbers of this shape; ``()`` where there was no list yet, ``None``
        where they are not.
    :param fields: of a struct.
    """

    field: Field
    shape: tuple[int, ...] | None = None
    fields: dict[str, Observed] = dataclasses.field(default_factory=dict)

    def merge(self, other: Observed) -> Observed:
        shape = self.shape or other.shape if () in (self.shape, other.shape) else self.shape
        if () not in (self.shape, other.shape) and self.shape != other.shape:
            shape = None
        fields = {name: seen.merge(other.fields[name]) for name, seen in self.fields.items()}
        return Observed(_either(self.field, other.field), shape, fields)

    def to_field(self) -> Field:
        if self.fields:
            fields = tuple((name, seen.to_field()) for name, seen in self.fields.items())
            return replace(self.field, fields=fields)
        leaf = _leaf(self.field)
        if not self.shape or leaf.nullable:
            return self.field
        return Field(leaf.dtype, (*self.shape, *leaf.shape), self.field.nullable)


def _leaf(field: Field) -> Field:
    while field.item is not None:
        field = field.item
    return field


def _either(first: Field, second: Field) -> Field:
    """The field of what is of one or the other, which differ in what is nullable alone."""
    item = None if first.item is None or second.item is None else _either(first.item, second.item)
    pairs = zip(first.fields, second.fields, strict=True)
    fields = tuple((name, _either(field, other)) for (name, field), (_, other) in pairs)
    return replace(first, nullable=first.nullable or second.nullable, item=item, fields=fields)


def observe(declared: Field, array: Array) -> Observed:
    """What one piece holds; ``declared`` is its field as Arrow has it."""
    _, present = present_of(array)
    field = _with_nulls_of(declared, array)
    if isinstance(present, StructArray):
        fields = {name: observe(child, present.fields[name]) for name, child in declared.fields}
        return Observed(field, None, fields)
    shape = _rectangle(present) if isinstance(present, ListArray) and _leaf(declared).numeric else None
    return Observed(field, shape)


def present_of(array: Array) -> tuple[Valid, Array]:
    """Which rows are not null, or ``None`` where all are not, and an array of them."""
    valid = None if isinstance(array, NullArray | ValueArray) else array.valid
    if valid is None or valid.all():
        return None, array
    return valid, select(array, np.flatnonzero(valid))


def _with_nulls_of(declared: Field, array: Array) -> Field:
    valid, present = present_of(array)
    nullable = valid is not None
    if isinstance(present, ListArray) and declared.item is not None:
        return replace(declared, nullable=nullable, item=_with_nulls_of(declared.item, items_of(present)))
    if isinstance(present, StructArray):
        fields = tuple((name, _with_nulls_of(child, present.fields[name])) for name, child in declared.fields)
        return replace(declared, nullable=nullable, fields=fields)
    return replace(declared, nullable=nullable)


def items_of(array: ListArray) -> Array:
    """The items of all lists, one after the other."""
    return array.items.slice(int(array.offsets[0]), int(array.offsets[-1]))


def _rectangle(array: ListArray) -> tuple[int, ...] | None:
    """The shape that all lists of numbers have; ``()`` where there are none."""
    if len(array) == 0:
        return ()
    lengths = np.unique(np.diff(array.offsets))
    items = items_of(array)
    if len(lengths) > 1 or lengths[0] == 0 or (not isinstance(items, NumberArray) and present_of(items)[0] is not None):
        return None
    inner = _rectangle(items) if isinstance(items, ListArray) else ()
    return None if inner is None else (int(lengths[0]), *inner)
