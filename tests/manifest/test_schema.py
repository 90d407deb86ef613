"""Schemas: written and read back, and what they refuse."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.manifest.strategies import schemas
from torch_ipfs.codec import dag_cbor, dag_json
from torch_ipfs.errors import ManifestError, OptionError
from torch_ipfs.manifest.schema import MAX_DEPTH, MAX_FIELDS, MAX_NAME_BYTES, Field, Schema


@given(schemas())
def test_a_schema_comes_back_from_a_root(schema: Schema) -> None:
    assert Schema.from_ipld(schema.to_ipld()) == schema
    assert Schema.from_ipld(dag_cbor.decode(dag_cbor.encode(schema.to_ipld()))) == schema
    assert Schema.from_ipld(dag_json.decode(dag_json.encode(schema.to_ipld()))) == schema


def field(**changes: Any) -> list[dict[str, Any]]:
    return [{"name": "x", "dtype": "float32", **changes}]


def nested(depth: int) -> list[dict[str, Any]]:
    value: dict[str, Any] = {"dtype": "int8"}
    for _ in range(depth):
        value = {"dtype": "list", "item": value}
    return [{"name": "x", **value}]


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        "float32",
        [None],
        [{}],
        [["x", "float32"]],
        field(name=None),
        field(name=7),
        field(name="\ud800"),
        field(name="n" * (MAX_NAME_BYTES + 1)),
        field() + field(),
        field(dtype="float31"),
        field(dtype=None),
        field(dtype=["float32"]),
        field(shape=3),
        field(shape=[-1]),
        field(shape=[1.0]),
        field(shape=[True]),
        field(shape=["3"]),
        field(shape=[1] * 33),
        field(shape=[2**31]),
        field(shape=[2**64] * 32),
        field(nullable=1),
        field(item={"dtype": "int8"}),
        [*field(fields=[]), {"name": "y", "dtype": "int8", "fields": [{"name": "z", "dtype": "int8"}]}],
        field(surprise=1),
        field(dtype="text", shape=[3]),
        field(dtype="list"),
        field(dtype="list", item=[]),
        field(dtype="list", item={"name": "x", "dtype": "any", "shape": [1]}),
        field(dtype="struct", fields=field() + field()),
        field(dtype="struct", fields={}),
        nested(MAX_DEPTH),
        [{"name": str(i), "dtype": "null"} for i in range(MAX_FIELDS + 1)],
    ],
    ids=lambda value: f"{str(value)[:50]}",
)
def test_what_is_no_schema_is_refused(value: Any) -> None:
    with pytest.raises(ManifestError, match="schema cannot be"):
        Schema.from_ipld(value)


KEYS = st.sampled_from(["name", "dtype", "shape", "nullable", "item", "fields"])
ATOMS = st.none() | st.booleans() | st.integers() | st.sampled_from(["list", "struct", "int8", "x"])


@given(st.recursive(ATOMS, lambda values: st.lists(values, max_size=3) | st.dictionaries(KEYS, values)))
def test_whatever_a_root_says_there_is_one_error(value: Any) -> None:
    with contextlib.suppress(ManifestError):
        Schema.from_ipld(value)


def test_a_schema_of_endless_lists() -> None:
    with pytest.raises(ManifestError, match=f"over {MAX_DEPTH} levels"):
        Schema.from_ipld(nested(10**5))


def test_at_its_bounds_a_schema_stands() -> None:
    assert Schema.from_ipld(nested(MAX_DEPTH - 1)).fields[0][1].dtype == "list"
    assert len(Schema.from_ipld([{"name": str(i), "dtype": "null"} for i in range(MAX_FIELDS)]).fields) == MAX_FIELDS


def test_selection_keeps_the_schema_s_order() -> None:
    schema = Schema((("a", Field("int8")), ("b", Field("text")), ("c", Field("link"))))
    assert schema.select(None) is schema
    assert schema.select(["c", "a"]).names == ("a", "c")
    assert schema.get("b") == Field("text")
    assert schema.get("z") is None
    with pytest.raises(OptionError, match="no column 'z': the dataset has 'a', 'b', 'c'"):
        schema.select(["a", "z"])
    wide = Schema(tuple((f"f{i}", Field("int8")) for i in range(60)))
    with pytest.raises(OptionError, match=r"'f0', .*, 'f49' and 10 more$"):
        wide.select(["z"])


def test_selection_takes_no_longer_for_each_field_where_there_are_many() -> None:
    names = [str(number) for number in range(MAX_FIELDS)]
    schema = Schema(tuple((name, Field("null")) for name in names))
    began = time.perf_counter()
    assert schema.select(names[::-1]) is schema
    assert schema.select(names[1:]).names == tuple(names[1:])
    assert time.perf_counter() - began < 2  # it took ten seconds each


def test_fields_say_what_they_are() -> None:
    assert Field("float32", (3,)).fixed
    assert not Field("float32", (None,)).fixed
    assert not Field("float32", nullable=True).fixed
    assert not Field("text").numeric
    assert Field("complex32", (2, 5)).row_bytes == 40
    assert str(Schema((("x", Field("list", item=Field("int8", (None, 2), nullable=True))),))) == (
        "x: list of nullable int8[?, 2]"
    )
    assert Field("null", nullable=True) == Field("null")
