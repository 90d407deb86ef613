"""Embedded samples that are alike are read column by column, and give just what the strict decoder gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torch_ipfs import MemoryBlockstore
from torch_ipfs.codec import dag_cbor
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import SampleError
from torch_ipfs.manifest import alike_samples
from torch_ipfs.manifest.alike_samples import AlikeSamples
from torch_ipfs.manifest.column import FixedColumn
from torch_ipfs.manifest.infer import infer_schema
from torch_ipfs.manifest.rows import shard_from_rows
from torch_ipfs.manifest.schema import Field, Schema
from torch_ipfs.manifest.tree import Manifest

CID_ = CID.of(b"", codec="dag-cbor")
FLOATS = st.floats(allow_nan=False, allow_infinity=False).map(lambda number: number + 0.0)
COUNTS = st.integers(0, 2**63 - 1) | st.integers(0, 300)


@st.composite
def alike(draw: st.DrawFn) -> list[dict[str, Any]]:
    names = draw(
        st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=5), min_size=1, max_size=3, unique=True)
    )
    kinds = [
        draw(
            st.just(COUNTS)
            | st.just(FLOATS)
            | st.integers(1, 30).map(lambda n: st.lists(FLOATS, min_size=n, max_size=n))
        )
        for _ in names
    ]
    few = [{name: draw(kind) for name, kind in zip(names, kinds, strict=True)} for _ in range(3)]
    return [few[draw(st.integers(0, 2))] for _ in range(draw(st.integers(24, 40)))]


def samples_of(samples: list[Any], **fields: Any) -> AlikeSamples | None:
    node = alike_samples.read(dag_cbor.encode({"data": samples, **fields}))
    return None if node is None else node["data"]


@given(alike())
def test_it_gives_what_the_strict_decoder_gives(samples: list[dict[str, Any]]) -> None:
    read, samples = samples_of(samples, name="x"), dag_cbor.decode(dag_cbor.encode(samples))
    assert read is not None
    assert list(read) == read[:] == samples
    assert [read[i] for i in range(len(samples))] == samples
    assert (read[-1], read[3:7], read[9:4], read[::-2]) == (samples[-1], samples[3:7], [], samples[::-2])
    schema = infer_schema(samples)
    assert infer_schema(read) == schema
    one, other = (shard_from_rows(these, schema, first_position=0, cid=CID_) for these in (read, samples))
    for name, column in one.columns.items():
        expected = other.columns[name]
        assert isinstance(column, FixedColumn)
        assert isinstance(expected, FixedColumn)
        assert column.array.dtype == expected.array.dtype
        np.testing.assert_array_equal(column.array, expected.array)


@given(st.data())
def test_what_is_not_canonical_is_left_to_the_strict_decoder(data: st.DataObject) -> None:
    block = bytearray(dag_cbor.encode({"data": [{"x": [0.5, i / 8], "y": i * 9} for i in range(30)], "z": 1}))
    for _ in range(data.draw(st.integers(1, 3))):
        block[data.draw(st.integers(0, len(block) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.just(len(block)) | st.integers(0, len(block)))
    node = alike_samples.read(bytes(block[:cut]))
    if node is not None:
        assert {**node, "data": list(node["data"])} == dag_cbor.decode(bytes(block[:cut]))


ROWS: list[dict[str, Any]] = [{"x": [i / 4, 1.5], "y": i} for i in range(30)]


@pytest.mark.parametrize(
    "odd",
    [
        {"x": [1.0, 2.0], "y": -1},
        {"x": [1.0, 2.0], "y": 2**63},
        {"x": [1.0, 2], "y": 1},
        {"x": [1.0], "y": 1},
        {"x": [1.0, 2.0], "y": True},
        {"x": [1.0, 2.0]},
        {"x": [1.0, 2.0], "z": 1},
        {"x": b"\0" * 8, "y": 1},
        [1.0],
        None,
    ],
)
def test_a_sample_unlike_the_others_is_found(odd: Any) -> None:
    assert samples_of([*ROWS[:20], odd, *ROWS[20:]]) is None


def test_a_value_out_of_a_fields_range_is_named() -> None:
    read = samples_of([*ROWS, {"x": [1.0, 2.0], "y": 300}])
    assert read is not None
    schema = Schema((("x", Field("float32", (2,))), ("y", Field("uint8"))))
    with pytest.raises(SampleError, match=r"sample 37.*y"):
        shard_from_rows(read, schema, first_position=7, cid=CID_)


@pytest.mark.parametrize(
    "field", [Field("float64"), Field("int16"), Field("bool"), Field("float32", nullable=True), Field("complex64")]
)
def test_a_field_of_another_dtype_takes_what_it_takes_of_a_list(field: Field) -> None:
    read = samples_of(ROWS)
    assert read is not None
    schema = Schema((("x", Field("float32", (2,))), ("y", field)))
    taken = []
    for samples in (read, ROWS):
        try:
            taken.append(repr(shard_from_rows(samples, schema, first_position=0, cid=CID_).columns["y"]))
        except SampleError as error:
            taken.append(str(error))
    assert taken[0].split(" at 0x")[0] == taken[1].split(" at 0x")[0]


def test_a_manifest_reads_them() -> None:
    store, block = MemoryBlockstore(), dag_cbor.encode({"data": ROWS, "name": "few"})
    root = CID.of(block, codec="dag-cbor")
    store.put(root, block)
    manifest = Manifest(store, root)
    assert (manifest.num_samples, manifest.metadata) == (30, {"name": "few"})
    leaf = manifest.root_node.leaf
    assert leaf is not None
    assert isinstance(leaf.values, AlikeSamples)
