"""Samples of plain values: what schema they show, how they become columns, and where they do not fit."""

from __future__ import annotations

import math
import re
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.manifest.strategies import read_back
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import SampleError
from torch_ipfs.manifest.column import FixedColumn, ObjectColumn, StructColumn
from torch_ipfs.manifest.infer import infer_schema
from torch_ipfs.manifest.maps import MAX_CELLS
from torch_ipfs.manifest.rows import shard_from_rows
from torch_ipfs.manifest.schema import MAX_FIELDS, Field, Schema
from torch_ipfs.manifest.values import Typed

X = CID.of(b"x")
NULL, INT, FLOAT, TEXT = Field("null"), Field("int64"), Field("float32"), Field("text")


def list_of(item: Field) -> Field:
    return Field("list", item=item)


def struct(**fields: Field) -> Field:
    return Field("struct", fields=tuple(fields.items()))


def shard(values: list[Any], field: Field) -> list[Any]:
    samples = [{"x": value} for value in values]
    read = shard_from_rows(samples, Schema((("x", field),)), first_position=0, cid=X)
    return [row["x"] for row in read_back(read)]


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ([1, 2], INT),
        ([1, 2**63], Field("uint64")),
        ([1, 2**64], Field("any")),
        ([-1, 2**63], Field("any")),
        ([1, 2.5], FLOAT),
        ([1, 2j], Field("complex64")),
        ([True], Field("bool")),
        ([True, 1], Field("any")),
        (["a"], TEXT),
        ([b"a"], Field("bytes")),
        ([X], Field("link")),
        ([X, "a"], Field("any")),
        ([None], NULL),
        ([1, None], Field("int64", nullable=True)),
        ([[1, 2], [3, 4]], Field("int64", (2,))),
        ([[1, 2], [3.5, 4]], Field("float32", (2,))),
        ([[[1.0], [2.0]]], Field("float32", (2, 1))),
        ([[True, False]], Field("bool", (2,))),
        ([[1, 2], [3]], list_of(INT)),
        ([[1.5], [3, 2]], list_of(Field("float64"))),
        ([[[1, 2]], [[3, 4], [5, 6]]], list_of(list_of(INT))),
        ([[1, 2], None], Field("int64", (2,), nullable=True)),
        ([[1, None]], list_of(Field("int64", nullable=True))),
        ([[]], list_of(NULL)),
        ([[], [1]], list_of(INT)),
        ([["a"], []], list_of(TEXT)),
        ([["a", 1]], list_of(Field("any"))),
        ([[True, 1]], list_of(Field("any"))),
        ([{"a": 1}, {"a": 2}], struct(a=INT)),
        ([{"a": 1}, {"b": "x"}], struct(a=Field("int64", nullable=True), b=Field("text", nullable=True))),
        ([{"a": [1, 2]}], struct(a=Field("int64", (2,)))),
        ([[{"a": [1, 2]}], []], list_of(struct(a=list_of(INT)))),
        ([{}], struct()),
        ([{"a": 1}, [1]], Field("any")),
        ([np.zeros((2, 3), np.uint8)] * 2, Field("uint8", (2, 3))),
        ([np.zeros((2, 3)), np.zeros((2, 4))], Field("float64", (2, None))),
        ([np.float16(1), 2], Field("float16")),
        ([np.int8(1), 2.5], Field("any")),
        ([np.zeros(2), np.zeros(2, np.float32)], Field("any")),
        ([np.zeros(2), np.zeros((2, 2))], Field("any")),
        ([np.zeros(2, ">f4")], Field("float32", (2,))),
        ([np.zeros(2, "M8[s]")], Field("any")),
        ([Typed("bfloat16", np.zeros(3, np.uint16))], Field("bfloat16", (3,))),
        ([Typed("complex32", np.zeros((3, 2), np.float16))], Field("complex32", (3,))),
        ([object()], Field("any")),
    ],
    ids=lambda value: re.sub(" at 0x[0-9a-f]+", "", str(value))[:40],
)  # fmt: skip
def test_what_values_show(values: list[Any], field: Field) -> None:
    assert infer_schema([{"x": value} for value in values]) == Schema((("x", field),))


def test_fields_come_in_the_order_they_are_first_seen_in() -> None:
    assert infer_schema([{"b": 1}, {"c": 1, "a": 1}, {"b": 2}]).names == ("b", "c", "a")
    assert infer_schema([]) == Schema(())


def test_what_is_no_map_is_a_value() -> None:
    assert infer_schema([1.5, 2]) == Schema((("value", FLOAT),))
    assert infer_schema([{"a": 1}, "x"]).names == ("a", "value")
    schema = Schema((("value", TEXT),))
    assert read_back(shard_from_rows(["a", {"value": "b"}], schema, first_position=0, cid=None)) == [
        {"value": "a"},
        {"value": "b"},
    ]


@pytest.mark.parametrize("values", [[True, 1], [1, "a"], [object()], [2**70], [[1, "a"]], [np.int8(1), 2.5]])
def test_a_writer_wants_one_dtype(values: list[Any]) -> None:
    with pytest.raises(SampleError, match=r"sample 1[01], field 'x"):
        infer_schema([{"x": value} for value in values], strict=True, first_position=10)


def test_lists_too_deep_are_values() -> None:
    deep: Any = 1
    for _ in range(200):
        deep = [deep, None]
    field = infer_schema([{"x": deep}]).fields[0][1]
    depth = 0
    while field.item is not None:
        field, depth = field.item, depth + 1
    assert (field.dtype, depth) == ("any", 31)
    assert shard([deep], infer_schema([{"x": deep}]).fields[0][1]) == [deep]


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        (FLOAT, 3, 3.0),
        (FLOAT, b"\0\0\x80\x7f", math.inf),
        (Field("float64"), 0.1, 0.1),
        (Field("bool"), b"\1", True),
        (Field("uint8"), np.uint8(255), 255),
        (Field("int64"), np.int8(-3), -3),
        (Field("float32", (2,)), [1, 2.5], [1, 2.5]),
        (Field("float32", (2,)), np.array([1, 2], np.float16), [1, 2]),
        (Field("float32", (2,)), [np.float32(1), 2], [1, 2]),
        (Field("float32", (2, 1)), [np.array([1], np.int16), [2]], [[1], [2]]),
        (Field("int16", (2,)), b"\1\0\2\0", [1, 2]),
        (Field("int16", (2, 0)), [[], []], [[], []]),
        (Field("int16", (0, 2)), [], []),
        (Field("int16", (0, 2)), b"", []),
        (Field("int8", (None, 2)), [[1, 2]], [[1, 2]]),
        (Field("int8", (None, 2)), b"\1\2\3\4", [[1, 2], [3, 4]]),
        (Field("int8", (None, None)), {"shape": [1, 2], "data": b"\1\2"}, [[1, 2]]),
        (Field("int8", (None, None)), [], []),
        (Field("bfloat16"), 1.0, 0x3F80),
        (Field("float8_e5m2", (1,)), [0.5], [0x38]),
        (Field("complex64"), 2, 2),
        (Field("bytes"), bytearray(b"x"), b"x"),
        (Field("bytes"), memoryview(b"x"), b"x"),
        (TEXT, np.str_("x"), "x"),
        (list_of(INT), np.array([1, 2]), [1, 2]),
        (list_of(Field("float32")), (0.1,), [float(np.float32(0.1))]),
        (Field("any"), {"a": [1, "b"]}, {"a": [1, "b"]}),
    ],
    ids=lambda value: re.sub(" at 0x[0-9a-f]+", "", str(value))[:30],
)
def test_what_a_field_takes(field: Field, value: Any, expected: Any) -> None:
    (got,) = shard([value], field)
    assert (got.tolist() if isinstance(got, np.ndarray | np.generic) else got) == expected


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        (INT, 1.5, "expected int64, found a float"),
        (INT, True, "found a bool"),
        (INT, 2**63, "not a number that int64 holds"),
        (INT, 10**1000, "an int of 3322 bits"),
        (Field("uint8"), -1, "not a number that uint8 holds"),
        (Field("uint8"), b"\1\1", "expected uint8, found a bytes"),
        (Field("bool"), 1, "found an int"),
        (Field("bool"), b"\2", "found a bytes"),
        (FLOAT, 10**400, "not a number"),
        (FLOAT, "1", "found text"),
        (FLOAT, None, "missing or None"),
        (FLOAT, [1.0], "found a list"),
        (FLOAT, np.zeros(1, np.float32), "found an array of float32"),
        (FLOAT, np.float64(1), "found a float64"),
        (Field("float8_e5m2"), 0.3, "not a number that float8_e5m2 holds"),
        (Field("float32", (2,)), [1.0], "expected float32[2], found a list of 1 in it"),
        (Field("float32", (2,)), [1.0, "a"], "found in it: expected float32, found text"),
        (Field("float32", (2,)), [1.0, None], "found in it: "),
        (Field("float32", (2,)), [[1.0, 1.0]] * 2, "found a list"),
        (Field("float32", (2,)), 1.0, "found a float"),
        (Field("float32", (2,)), b"\0" * 4, "found a bytes"),
        (Field("float32", (2,)), np.zeros(2), "found an array of float64"),
        (Field("float32", (2,)), np.zeros(3, np.float32), "of shape (3,)"),
        (Field("int8", (None, 2)), np.zeros((2, 3), np.int8), "of shape (2, 3)"),
        (Field("int8", (None, 2)), b"\0" * 3, "found a bytes"),
        (Field("int8", (None, None)), b"\0" * 4, "found a bytes"),
        (Field("int8", (None, None)), {"shape": [2, 2], "data": b"\0" * 3}, "found a map"),
        (Field("int8", (None, None)), {"shape": [2**40, 2**40], "data": b""}, "found a map"),
        (Field("int8", (None, None)), {"shape": [0, 2**31], "data": b""}, "found a map"),
        (Field("int8", (None, None)), {"shape": [-1, -1], "data": b"\0"}, "found a map"),
        (Field("int8", (None, None)), [[1], [2, 3]], "found a list of 2 in it"),
        (TEXT, b"x", "found a bytes"),
        (TEXT, "\ud800", "surrogate"),
        (Field("bytes"), "x", "found text"),
        (Field("link"), str(X), "found text"),
        (list_of(INT), {"a": 1}, "found a map"),
        (list_of(INT), "ab", "found text"),
        (struct(a=INT), [1], "found a list"),
        (NULL, 1, "where all samples before have None"),
    ],
    ids=lambda value: re.sub(" at 0x[0-9a-f]+", "", str(value))[:30],
)  # fmt: skip
def test_what_a_field_does_not_take(field: Field, value: Any, reason: str) -> None:
    good = {"float32": 1.0, "int64": 1}.get(field.dtype) if not field.shape else None
    before = [] if good is None else [{"x": good}] * 2
    with pytest.raises(SampleError) as caught:
        shard_from_rows([*before, {"x": value}], Schema((("x", field),)), first_position=7, cid=X)
    assert f"sample {7 + len(before)}, field 'x': " in str(caught.value)
    assert reason in str(caught.value)
    assert caught.value.cid == str(X)


@pytest.mark.parametrize(
    ("field", "value", "path"),
    [
        (struct(a=struct(b=INT)), {"a": {"b": "x"}}, "x.a.b"),
        (struct(a=INT), {}, "x.a"),
        (struct(a=INT), {"a": 1, "z": 2}, "x.z"),
        (list_of(INT), [1, 2, "x"], "x.2"),
        (list_of(struct(a=list_of(INT))), [{"a": []}, {"a": [1, None]}], "x.1.a.1"),
    ],
)
def test_the_path_leads_to_what_does_not_fit(field: Field, value: Any, path: str) -> None:
    samples = [{"x": None}, {"x": value}]
    nullable = Field(field.dtype, nullable=True, item=field.item, fields=field.fields)
    with pytest.raises(SampleError, match=f"sample 1, field '{path}'"):
        shard_from_rows(samples, Schema((("x", nullable),)), first_position=0, cid=X)


def test_only_what_is_asked_for_is_converted() -> None:
    schema = Schema((("a", INT), ("b", TEXT)))
    samples = [{"a": 1, "b": 2}]
    assert read_back(shard_from_rows(samples, schema, first_position=0, cid=X, columns=["a"])) == [{"a": 1}]
    with pytest.raises(SampleError, match="field 'c': the dataset's schema has no such field"):
        shard_from_rows([{"a": 1, "c": 2}], schema, first_position=0, cid=X, columns=["a"])


def test_columns_of_numbers_are_arrays_and_maps_are_columns() -> None:
    schema = Schema((("x", Field("float32", (2,))), ("s", struct(a=INT))))
    read = shard_from_rows([{"x": [1, 2], "s": {"a": 3}}], schema, first_position=0, cid=X)
    assert isinstance(read.columns["x"], FixedColumn)
    assert isinstance(read.columns["s"], StructColumn)
    assert isinstance(read.columns["s"].columns["a"], FixedColumn)


def test_values_of_any_kind_are_not_shared() -> None:
    value = {"a": [1, "b"]}
    (got,) = shard([value], Field("any"))
    got["a"].append(2)
    assert value == {"a": [1, "b"]}


def test_values_of_any_kind_are_there_beside_maps_that_are_none() -> None:
    values = [{"y": 1}, None, {"y": ["a", 2]}, {"y": None}]
    assert shard(values, Field("struct", nullable=True, fields=(("y", Field("any")),))) == values


HUGE = Field("float32", (500_000_000,), nullable=True)


@pytest.mark.parametrize("field", [HUGE, Field("struct", nullable=True, fields=(("y", Field("float32", HUGE.shape)),))])
def test_absent_tensors_take_no_memory(field: Field) -> None:
    """A schema may claim shapes of gigabytes, and samples lack them by the thousand."""
    schema = Schema((("x", field),))
    rows: list[Any] = [{} for _ in range(10_000)]
    assert read_back(shard_from_rows(rows, schema, first_position=0, cid=X)) == [{"x": None}] * 10_000
    with pytest.raises(SampleError, match="sample 10000, field 'x"):
        shard_from_rows([*rows, {"x": 1}, {"x": b""}], schema, first_position=0, cid=X)


def test_one_tensor_among_many_that_are_absent() -> None:
    image = np.ones((1000, 1000), np.uint8)
    schema = Schema((("x", Field("uint8", (1000, 1000), nullable=True)),))
    shard = shard_from_rows([{"x": image}, *({"x": None} for _ in range(100_000))], schema, first_position=0, cid=X)
    column = shard.columns["x"]
    assert isinstance(column, ObjectColumn)
    first, second = column.take(np.array([0, 100_000]))
    assert np.array_equal(first, image)
    assert second is None


def test_maps_of_too_many_keys_or_hardly_any() -> None:
    with pytest.raises(SampleError, match=f"more than {MAX_FIELDS} keys"):
        infer_schema([{str(i): 1} for i in range(MAX_FIELDS + 1)])
    sparse = [{str(i): 1 for i in range(MAX_FIELDS)}, *([{}] * (MAX_CELLS // MAX_FIELDS))]
    with pytest.raises(SampleError, match="lack nearly all"):
        infer_schema(sparse)
    fields = [(name, Field("int64", nullable=True)) for name in ("value", *map(str, range(MAX_FIELDS - 1)))]
    with pytest.raises(SampleError, match="lack nearly all"):
        shard_from_rows([1] * (2 * MAX_CELLS // MAX_FIELDS), Schema(tuple(fields)), first_position=0, cid=X)


def test_no_map_is_made_of_samples_that_are_none() -> None:
    numbers = list(range(500_000))
    tracemalloc.start()
    shard = shard_from_rows(numbers, infer_schema(numbers), first_position=0, cid=X)
    assert tracemalloc.get_traced_memory()[1] < 40e6  # a map each would be 100 MB
    tracemalloc.stop()
    assert isinstance(shard.columns["value"], FixedColumn)
    assert shard.columns["value"].array.tolist() == numbers
    with pytest.raises(SampleError, match="sample 3, field 'value': the dataset's schema has no such field"):
        shard_from_rows([1], Schema((("x", Field("int64")),)), first_position=3, cid=X)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=3)
    | st.binary(max_size=3),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=2), children, max_size=3),
    max_leaves=8,
)


@given(st.lists(JSON, max_size=5))
def test_whatever_samples_are_they_fit_the_schema_they_show(samples: list[Any]) -> None:
    schema = infer_schema(samples)
    read = shard_from_rows(samples, schema, first_position=0, cid=X)
    assert read.num_rows == len(samples)
    assert len(read_back(read)) == len(samples)


@given(st.lists(JSON, min_size=1, max_size=5), JSON)
def test_a_later_sample_fits_or_is_named(samples: list[Any], later: Any) -> None:
    schema = infer_schema(samples)
    try:
        shard_from_rows([*samples, later], schema, first_position=0, cid=X)
    except SampleError as error:
        assert str(error).startswith(f"sample {len(samples)}")  # noqa: PT017 - it may or may not fit
