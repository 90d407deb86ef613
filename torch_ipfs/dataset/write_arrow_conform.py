"""Arrays of a table as a schema wants them."""

from __future__ import annotations

import numpy as np

from torch_ipfs.dataset.write_arrow_observe import items_of, present_of
from torch_ipfs.manifest.arrays import (
    Array,
    BinaryArray,
    ListArray,
    NullArray,
    NumberArray,
    StructArray,
    blank,
    spread,
)
from torch_ipfs.manifest.rows import array_from_values
from torch_ipfs.manifest.schema import STORAGE, Field
from torch_ipfs.manifest.values import Misfit


def conform(array: Array, declared: Field, field: Field) -> Array:
    """``array`` as ``field`` has it, and with nothing under its nulls.

    :raises Misfit: a row does not fit.
    """
    valid, present = present_of(array)
    if valid is not None:
        if not field.nullable and field.dtype not in ("null", "any"):
            raise Misfit(int(np.argmin(valid)), f"it is null; expected {field}")
        rows = np.flatnonzero(valid)
        try:
            return spread(_conform_present(present, declared, field), valid, field)
        except Misfit as misfit:
            raise Misfit(int(rows[misfit.row]), misfit.reason, misfit.path) from None
    return _conform_present(present, declared, field)


def _conform_present(array: Array, declared: Field, field: Field) -> Array:
    if isinstance(array, NullArray):
        if len(array) and field.dtype not in ("null", "any") and not field.nullable:
            raise Misfit(0, f"it is null; expected {field}")
        return blank(field, len(array))
    if isinstance(array, NumberArray):
        return array_from_values(NumberArray(array.dtype, array.values), field)
    if isinstance(array, BinaryArray) and array.dtype == field.dtype:
        return BinaryArray(array.dtype, array.offsets, array.data)
    if isinstance(array, StructArray) and field.dtype == "struct":
        return _conform_struct(array, declared, field)
    if isinstance(array, ListArray) and declared.item is not None:
        if field.item is not None:
            return _conform_list(array, declared.item, field.item)
        if field.numeric and None not in field.shape:
            return _conform_tensor(array, declared.item, field)
    return array_from_values(array.take(np.arange(len(array))), field)


def _conform_list(array: ListArray, declared: Field, item: Field) -> Array:
    offsets = array.offsets - array.offsets[0]
    try:
        return ListArray(offsets, conform(items_of(array), declared, item))
    except Misfit as misfit:
        row = int(np.searchsorted(offsets, misfit.row, side="right")) - 1
        raise misfit.under(str(misfit.row - int(offsets[row])), row) from None


def _conform_tensor(array: ListArray, declared: Field, field: Field) -> Array:
    """Lists of one length as tensors."""
    size = field.shape[0] if field.shape else -1
    wrong = np.flatnonzero(np.diff(array.offsets) != size)
    if len(wrong):
        row = int(wrong[0])
        raise Misfit(row, f"expected {field}, found a list of {int(np.diff(array.offsets)[row])}")
    try:
        items = conform(items_of(array), declared, Field(field.dtype, field.shape[1:]))
    except Misfit as misfit:
        raise Misfit(misfit.row // max(int(size or 0), 1), misfit.reason, misfit.path) from None
    if not isinstance(items, NumberArray):
        raise Misfit(0, f"expected {field}, found lists, or nulls in them")
    shape = (*(length or 0 for length in field.shape), *STORAGE[field.dtype].shape)
    return NumberArray(field.dtype, items.values.reshape(len(array), *shape))


def _conform_struct(array: StructArray, declared: Field, field: Field) -> Array:
    given, wanted = dict(declared.fields), dict(field.fields)
    if unknown := [name for name in given if name not in wanted]:
        raise Misfit(0, "the schema has no such field", (unknown[0],))
    fields: dict[str, Array] = {}
    for name, child in wanted.items():
        try:
            if name in given:
                fields[name] = conform(array.fields[name], given[name], child)
            else:
                fields[name] = array_from_values([None] * len(array), child)
        except Misfit as misfit:
            raise misfit.under(name) from None
    return StructArray(fields, len(array))
