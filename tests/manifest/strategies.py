"""Schemas with samples of them, and what reading such a sample back must give."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from hypothesis import strategies as st

from torch_ipfs.codec.cid import CID
from torch_ipfs.manifest.column import Column, FixedColumn, ObjectColumn, Shard
from torch_ipfs.manifest.numbers import to_python
from torch_ipfs.manifest.schema import STORAGE, Field, Schema, as_nullable
from torch_ipfs.manifest.values import Typed

NAMES = st.text(max_size=8)
TEXTS = st.text(max_size=12)
CIDS = st.binary(max_size=40).map(CID.of)


def numeric_fields() -> st.SearchStrategy[Field]:
    sizes = st.one_of(st.integers(0, 3), st.none())
    return st.builds(Field, st.sampled_from(sorted(STORAGE)), st.lists(sizes, max_size=2).map(tuple))


def fields() -> st.SearchStrategy[Field]:
    plain = st.sampled_from([Field(dtype) for dtype in ("text", "bytes", "link", "null")])

    def nested(children: st.SearchStrategy[Field]) -> st.SearchStrategy[Field]:
        named = st.lists(st.tuples(NAMES, children), max_size=3, unique_by=lambda pair: pair[0])
        structs = named.map(lambda pairs: Field("struct", fields=tuple(pairs)))
        return st.one_of(children.map(lambda item: Field("list", item=item)), structs).flatmap(maybe_nullable)

    leaves = st.one_of(numeric_fields(), numeric_fields(), plain).flatmap(maybe_nullable)
    return st.recursive(leaves, nested, max_leaves=5)


def maybe_nullable(field: Field) -> st.SearchStrategy[Field]:
    return st.sampled_from([field, as_nullable(field)])


def schemas() -> st.SearchStrategy[Schema]:
    named = st.lists(st.tuples(NAMES, fields()), max_size=4, unique_by=lambda pair: pair[0])
    return named.map(lambda pairs: Schema(tuple(pairs)))


@st.composite
def tensors(draw: st.DrawFn, field: Field) -> Any:
    """Any bits whatever, as users have them: an array, or ``Typed`` where numpy lacks the dtype."""
    storage = STORAGE[field.dtype]
    shape = tuple(draw(st.integers(0, 3)) if size is None else size for size in field.shape)
    size = int(np.prod(shape, dtype=np.int64)) * storage.itemsize
    data = draw(st.binary(min_size=size, max_size=size))
    if field.dtype == "bool":
        data = bytes(byte & 1 for byte in data)
    array = np.frombuffer(data, dtype=storage.base).reshape((*shape, *storage.shape))
    return array if storage.name == field.dtype else Typed(field.dtype, array)


def values(field: Field) -> st.SearchStrategy[Any]:
    if field.dtype == "null":
        return st.none()
    strategy: st.SearchStrategy[Any]
    if field.numeric:
        strategy = tensors(field)
    elif field.item is not None:
        strategy = st.lists(values(field.item), max_size=3)
    elif field.dtype == "struct":
        strategy = st.fixed_dictionaries({name: values(child) for name, child in field.fields})
    else:
        strategy = {"text": TEXTS, "bytes": st.binary(max_size=12), "link": CIDS}[field.dtype]
    return st.one_of(st.none(), strategy) if field.nullable else strategy


@st.composite
def datasets(draw: st.DrawFn, max_size: int = 6) -> tuple[Schema, list[dict[str, Any]]]:
    schema = draw(schemas())
    sample = st.fixed_dictionaries({name: values(field) for name, field in schema.fields})
    return schema, draw(st.lists(sample, max_size=max_size))


def bits(value: Any, field: Field, *, inside_list: bool = False) -> Any:
    """``value``, written or read, in a form that compares by bits; scalars inside lists compare as Python's numbers."""
    if value is None or field.dtype in ("text", "bytes", "link"):
        return value
    if field.item is not None:
        return [bits(item, field.item, inside_list=True) for item in value]
    if field.dtype == "struct":
        return {name: bits(value[name], child, inside_list=inside_list) for name, child in field.fields}
    if inside_list and not field.shape:
        return number_bits(value, field)
    array = value.array if isinstance(value, Typed) else np.asarray(value)
    assert array.dtype == STORAGE[field.dtype].base
    return array.shape, array.tobytes()


def number_bits(value: Any, field: Field) -> Any:
    if isinstance(value, Typed | np.ndarray | np.generic):
        array = value.array if isinstance(value, Typed) else np.asarray(value)
        (value,) = to_python(field.dtype, array[None])
    if isinstance(value, complex):
        return struct.pack("<dd", value.real, value.imag)
    # A NaN's payload is not carried from float to float by each processor alike, but NaN it stays.
    return ("NaN" if value != value else struct.pack("<d", value)) if isinstance(value, float) else value  # noqa: PLR0124


def read_back(shard: Shard) -> list[dict[str, Any]]:
    columns = {name: rows_of(column) for name, column in shard.columns.items()}
    return [{name: values[row] for name, values in columns.items()} for row in range(shard.num_rows)]


def rows_of(column: Column) -> list[Any]:
    every = np.arange(column.num_rows)
    if isinstance(column, FixedColumn):
        assert column.array.flags.c_contiguous
        return list(column.array[every])
    if isinstance(column, ObjectColumn):
        return column.take(every)
    children = {name: rows_of(child) for name, child in column.columns.items()}
    return [{name: values[row] for name, values in children.items()} for row in range(column.num_rows)]


def all_bits(samples: list[dict[str, Any]], schema: Schema) -> list[Any]:
    return [{name: bits(sample[name], field) for name, field in schema.fields} for sample in samples]
