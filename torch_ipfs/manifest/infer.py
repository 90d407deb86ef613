"""The schema that samples show by what they hold.

A number is a scalar field, a rectangular list of numbers a tensor: of floats float32, as ``torch.tensor`` makes them, of
ints int64, of bools bool. Arrays keep dtype and shape. Text, bytes, links and other lists stay what they are, maps are
structs, and what is ``None`` or absent somewhere is nullable. Inside a list that stays one, numbers are Python's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

from torch_ipfs.errors import OptionError, SampleError
from torch_ipfs.manifest.alike_samples import AlikeSamples
from torch_ipfs.manifest.arrays import NumberArray
from torch_ipfs.manifest.maps import as_maps, columns_of, keys_of
from torch_ipfs.manifest.numbers import python_kinds
from torch_ipfs.manifest.schema import MAX_DEPTH, MAX_RANK, Field, Schema, as_nullable
from torch_ipfs.manifest.values import Misfit, describe, dtype_of, kind_of, kinds_of


def infer_schema(samples: Sequence[Any], *, strict: bool = False, first_position: int = 0) -> Schema:
    """The schema of ``samples``, which are maps or are taken as ``{"value": sample}``.

    :param strict: refuse what has no dtype (values of several kinds in one field, unknown types) instead of calling it
        ``any``.
    :raises SampleError: for what is refused, naming position and field, and over the bounds of ``schema``.
    """
    if isinstance(samples, AlikeSamples):
        samples = samples[:1]
    try:
        maps = as_maps(samples)
        names = keys_of(maps)
        return infer_columns(names, columns_of(maps, names, frozenset(names)), strict=strict)
    except Misfit as misfit:
        raise misfit.error(first_position) from None


def infer_columns(names: Sequence[str], columns: Sequence[Sequence[Any] | NumberArray], *, strict: bool) -> Schema:
    """The schema of samples whose values are given field by field.

    :param strict: as for :func:`infer_schema`.
    :raises Misfit: for what is refused.
    :raises SampleError: over the bounds of ``schema``.
    """
    try:
        return Schema(_Inference(strict).columns(names, columns, MAX_DEPTH, inside_list=False))
    except OptionError as error:
        raise SampleError(f"the samples have no schema that can be: {error}") from None


class _Inference:
    """:param strict: as for :func:`infer_schema`."""

    def __init__(self, strict: bool) -> None:
        self._strict = strict

    def fields(self, maps: Sequence[Any], depth: int, *, inside_list: bool) -> tuple[tuple[str, Field], ...]:
        names = keys_of(maps)
        return self.columns(names, columns_of(maps, names, frozenset(names)), depth, inside_list=inside_list)

    def columns(
        self, names: Sequence[str], columns: Sequence[Sequence[Any] | NumberArray], depth: int, *, inside_list: bool
    ) -> tuple[tuple[str, Field], ...]:
        fields = []
        for name, values in zip(names, columns, strict=True):
            try:
                fields.append((name, self.field(values, depth, inside_list=inside_list)))
            except Misfit as misfit:
                raise misfit.under(name) from None
        return tuple(fields)

    def field(self, values: Sequence[Any] | NumberArray, depth: int, *, inside_list: bool) -> Field:
        if isinstance(values, NumberArray):
            return Field(values.dtype, values.shape, values.valid is not None)
        kinds = kinds_of(values)
        if "null" in kinds and len(kinds) > 1:
            rows = [row for row, value in enumerate(values) if value is not None]
            try:
                return as_nullable(self.field([values[row] for row in rows], depth, inside_list=inside_list))
            except Misfit as misfit:
                raise Misfit(rows[misfit.row], misfit.reason, misfit.path) from None
        if kinds <= {"null"}:
            return Field("null")
        if "" in kinds:
            row = next(row for row, value in enumerate(values) if not kind_of(type(value)))
            return self._other(row, f"{describe(values[row])} cannot be part of a dataset; {_UNKNOWN}")
        if depth <= 1 and kinds in ({"struct"}, {"list"}):
            return self._other(0, f"lists and maps lie in each other more than {MAX_DEPTH} deep")
        if kinds == {"struct"}:
            return Field("struct", fields=self.fields(values, depth - 1, inside_list=inside_list))
        if kinds == {"list"}:
            return self._list(values, depth, inside_list=inside_list)
        if "array" in kinds and kinds <= {"array", "int", "float", "complex", "bool"}:
            return self._arrays(values)
        dtype = _scalar_dtype(kinds, values, inside_list=inside_list)
        return Field(dtype) if dtype else self._mixed(values)

    def _other(self, row: int, reason: str) -> Field:
        if self._strict:
            raise Misfit(row, reason)
        return Field("any")

    def _mixed(self, values: Sequence[Any]) -> Field:
        first = kind_of(type(values[0]))
        if first == "int" and kinds_of(values) == {"int"}:
            row = next(row for row, value in enumerate(values) if not -(2**63) <= value < 2**63)
            return self._other(row, "an int that no dtype has room for beside the others; make them floats or text")
        row = next((row for row, value in enumerate(values) if kind_of(type(value)) != first), 0)
        return self._other(row, f"{describe(values[row])}, where an earlier sample has {describe(values[0])}")

    def _list(self, values: Sequence[Any], depth: int, *, inside_list: bool) -> Field:
        tensor = None if inside_list else _rectangle(values)
        if tensor is not None:
            return tensor
        items = list(chain.from_iterable(values))
        try:
            return Field("list", item=self.field(items, depth - 1, inside_list=True))
        except Misfit as misfit:
            raise _of_item(misfit, values) from None

    def _arrays(self, values: Sequence[Any]) -> Field:
        """Arrays keep their dtype, which Python's own numbers among them take on."""
        arrays = [value for value in values if kind_of(type(value)) == "array"]
        first = arrays[0]
        dtype, rank = dtype_of(first), len(first.shape)
        if not dtype:
            return self._other(values.index(first), f"{describe(first)} has no dtype of a dataset; {_UNKNOWN}")
        for row, value in enumerate(values):
            is_array = kind_of(type(value)) == "array"
            if is_array and (dtype_of(value) != dtype or len(value.shape) != rank):
                return self._other(row, f"{describe(value)}, where an earlier sample has {describe(first)}")
            if not is_array and (rank or kind_of(type(value)) not in python_kinds(dtype)):
                return self._other(row, f"{describe(value)}, where another sample has {describe(first)}")
        sizes = [set(axis) for axis in zip(*(value.shape for value in arrays), strict=True)]
        return Field(dtype, tuple(axis.pop() if len(axis) == 1 else None for axis in sizes))


_UNKNOWN = "make it numbers, arrays, tensors, text, bytes, CIDs, lists or maps of them"


def _of_item(misfit: Misfit, lists: Sequence[Any]) -> Misfit:
    """The misfit of one of the items of ``lists``, seen from the list that it lies in."""
    index = misfit.row
    for row, items in enumerate(lists):
        if index < len(items):
            return misfit.under(str(index), row)
        index -= len(items)
    return misfit


def _scalar_dtype(kinds: set[str], values: Sequence[Any], *, inside_list: bool) -> str:
    """The dtype of values of one kind, ints and floats counting as one; ``""`` where there is none."""
    if kinds == {"int"}:
        low, high = min(values), max(values)
        if low >= -(2**63) and high < 2**63:
            return "int64"
        return "uint64" if low >= 0 and high < 2**64 else ""
    if kinds <= {"int", "float"}:
        return "float64" if inside_list else "float32"
    if kinds <= {"int", "float", "complex"}:
        return "complex128" if inside_list else "complex64"
    return (
        next(iter(kinds)) if kinds <= {"bool"} or kinds <= {"text"} or kinds <= {"bytes"} or kinds <= {"link"} else ""
    )


def _rectangle(lists: Sequence[Any]) -> Field | None:
    """The tensor field of lists of numbers that are all of one shape, else ``None``."""
    shape: list[int] = []
    level: Sequence[Any] = lists
    while len(shape) < MAX_RANK:
        sizes = set(map(len, level))
        size = sizes.pop()
        if sizes or size == 0:
            return None
        shape.append(size)
        level = list(chain.from_iterable(level))
        kinds = kinds_of(level)
        if kinds != {"list"}:
            numbers = kinds <= {"bool"} or kinds <= {"int", "float", "complex"}
            dtype = _scalar_dtype(kinds, level, inside_list=False) if numbers else ""
            return Field(dtype, tuple(shape)) if dtype else None
    return None
