"""Packed shards: what goes in comes out, bit for bit, and the bytes depend on nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.manifest.shards import numbers, objects, packed
from tests.manifest.strategies import all_bits, datasets, read_back
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import OptionError
from torch_ipfs.manifest.arrays import Array, NumberArray, StructArray, concatenate
from torch_ipfs.manifest.pack import MAX_SHARD_ROWS, Packer
from torch_ipfs.manifest.rows import arrays_from_rows
from torch_ipfs.manifest.schema import Field, Schema
from torch_ipfs.manifest.unpack import unpack

Dataset = tuple[Schema, list[dict[str, Any]]]


@given(datasets())
def test_rows_come_back_bit_for_bit(dataset: Dataset) -> None:
    schema, samples = dataset
    data = Packer(schema).pack(arrays_from_rows(samples, schema), 0, len(samples))
    shard = unpack(data, CID.of(data))
    assert shard.schema == schema
    assert shard.num_rows == len(samples)
    assert all_bits(read_back(shard), schema) == all_bits(samples, schema)


@given(datasets(), st.data())
def test_a_shard_depends_on_its_rows_alone(dataset: Dataset, draw: st.DataObject) -> None:
    schema, samples = dataset
    packer = Packer(schema)
    whole = arrays_from_rows(samples, schema)
    start = draw.draw(st.integers(0, len(samples)))
    stop = draw.draw(st.integers(start, len(samples)))
    expected = packer.pack(arrays_from_rows(samples[start:stop], schema), 0, stop - start)
    assert packer.pack(whole, start, stop) == expected
    assert packer.packed_bytes(whole, start, stop) == len(expected)
    pieces = [arrays_from_rows([sample], schema) for sample in samples[start:stop]]
    if pieces:
        joined = {name: concatenate([piece[name] for piece in pieces]) for name in schema.names}
        assert packer.pack(joined, 0, stop - start) == expected


@given(datasets())
def test_pyarrow_reads_them(dataset: Dataset) -> None:
    schema, samples = dataset
    data = Packer(schema).pack(arrays_from_rows(samples, schema), 0, len(samples))
    table = pa.ipc.open_stream(data).read_all()
    table.validate(full=True)
    assert (table.num_rows, tuple(table.schema.names)) == (len(samples), schema.names)
    for name, field in schema.fields:
        column = table.column(name) if schema.names.count(name) == 1 else None
        if column is not None and field.dtype in ("text", "bytes"):
            assert column.to_pylist() == [sample[name] for sample in samples]
        assert column is None or column.null_count == sum(sample[name] is None for sample in samples)


def test_tensors_are_the_canonical_extension_types() -> None:
    schema = Schema((("image", Field("uint8", (2, 3))), ("wave", Field("float32", (None,))), ("flag", Field("bool"))))
    sample = {"image": np.zeros((2, 3), np.uint8), "wave": np.ones(4, np.float32), "flag": True}
    data = Packer(schema).pack(arrays_from_rows([sample], schema), 0, 1)
    read = pa.ipc.open_stream(data).schema
    assert read.field("image").type == pa.fixed_shape_tensor(pa.uint8(), (2, 3))
    assert "variable_shape_tensor" in str(read.field("wave").type) or pa.types.is_struct(read.field("wave").type)
    assert read.field("flag").type == pa.uint8()
    assert read.field("flag").metadata == {b"torch_ipfs.dtype": b"bool"}


@given(datasets(max_size=12), st.integers(600, 3000))
def test_as_many_rows_as_fit(dataset: Dataset, shard_bytes: int) -> None:
    schema, samples = dataset
    if not samples:
        return
    packer, columns = Packer(schema), arrays_from_rows(samples, schema)
    stop = packer.fitting(columns, 0, len(samples), shard_bytes)
    assert stop == 1 or packer.packed_bytes(columns, 0, stop) <= shard_bytes
    assert stop == len(samples) or packer.packed_bytes(columns, 0, stop + 1) > shard_bytes


def test_a_shard_is_sought_where_the_one_before_it_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """To look costs a step a column, of which there may be thousands."""
    schema = Schema((("x", Field("text")),))
    columns = arrays_from_rows([{"x": "twelve bytes"} for _ in range(10_000)], schema)
    packer, looks = Packer(schema), 0
    packed_bytes = packer.packed_bytes

    def counted(*arguments: Any) -> int:
        nonlocal looks
        looks += 1
        return packed_bytes(*arguments)

    monkeypatch.setattr(packer, "packed_bytes", counted)
    start = shards = 0
    while start < 10_000:
        start, shards = packer.fitting(columns, start, 10_000, 4096), shards + 1
    assert shards > 30
    assert looks < 3 * shards


def test_rows_of_fixed_width_are_counted_once() -> None:
    schema = Schema((("image", Field("uint8", (3, 32, 32))), ("label", Field("int64")), ("on", Field("bool"))))
    packer = Packer(schema)
    rows = packer.rows_per_shard(2**20)
    assert rows is not None
    columns: dict[str, Array] = {
        "image": NumberArray("uint8", np.zeros((400, 3, 32, 32), np.uint8)),
        "label": NumberArray("int64", np.arange(400)),
        "on": NumberArray("bool", np.ones(400, np.bool_)),
    }
    assert packer.fitting(columns, 0, 400, 2**20) == rows
    assert len(packer.pack(columns, 0, rows)) <= 2**20 < len(packer.pack(columns, 0, rows + 1))


def test_a_schema_leaves_room_for_rows() -> None:
    wide = Packer(Schema(tuple((f"column {i}", Field("int64")) for i in range(9000))))
    with pytest.raises(
        OptionError, match=r"the schema takes .* bytes of each shard; give a shard_bytes of several times"
    ):
        wide.check(2**20)
    wide.check(2**22)
    with pytest.raises(OptionError, match="the schema takes"):
        Packer(Schema(tuple((f"column {i}", Field("int64")) for i in range(30)))).check(1024)


def test_rows_that_take_no_bytes_are_bounded() -> None:
    assert Packer(Schema(())).rows_per_shard(2**20) == MAX_SHARD_ROWS
    assert Packer(Schema((("x", Field("null")),))).rows_per_shard(2**20) == MAX_SHARD_ROWS


@pytest.mark.parametrize("field", [Field("text"), Field("int8", nullable=True), Field("list", item=Field("int8"))])
def test_rows_that_differ_in_size_have_no_common_count(field: Field) -> None:
    assert Packer(Schema((("x", field),))).rows_per_shard(2**20) is None


def test_values_of_any_kind_cannot_be_packed() -> None:
    with pytest.raises(OptionError, match="'x' has values of several types"):
        Packer(Schema((("x", Field("any")),)))


def test_nothing_of_a_null_is_left() -> None:
    """Bytes under nulls and bitmaps without nulls would make one dataset into many."""
    schema = Schema((("x", Field("float32", (2,), nullable=True)), ("s", Field("struct", nullable=True, fields=()))))
    some = arrays_from_rows([{"x": [1.0, 2.0], "s": {}}, {"x": None, "s": None}], schema)
    packer = Packer(schema)
    without_nulls = packer.pack(arrays_from_rows([{"x": [1.0, 2.0], "s": {}}], schema), 0, 1)
    assert packer.pack(some, 0, 1) == without_nulls
    all_valid = NumberArray("float32", np.array([[1.0, 2.0]], np.float32), np.ones(1, np.bool_))
    assert packer.pack({"x": all_valid, "s": StructArray({}, 1)}, 0, 1) == without_nulls


GOLDEN = {
    "numbers": (numbers, "bafkreieglcppvte2v4s5ku7ljiy22zepvzoy4hadxqfk3j5yli3zdzulta"),
    "objects": (objects, "bafkreih5gqnhh52nstse7kopnvl2sfkut464qfdgl4svbc4bxndj2x2goe"),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_shards(name: str) -> None:
    """The bytes of a shard are a promise: a dataset that was written years ago keeps its CID when it is written again."""
    make, cid = GOLDEN[name]
    assert str(CID.of(packed(*make()))) == cid


def test_lists_of_more_nothing_than_is_read_are_refused() -> None:
    schema = Schema((("x", Field("list", item=Field("null"))),))
    arrays = arrays_from_rows([{"x": [None] * 2**20}, {"x": [None]}], schema)
    packer = Packer(schema)
    assert unpack(packer.pack(arrays, 0, 1), CID.of(b"")).num_rows == 1
    with pytest.raises(OptionError, match="lists of 1048577 values that take no room"):
        packer.pack(arrays, 0, 2)
