"""Tables of pyarrow: the same CID as the same data in rows, and their types kept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

import torch_ipfs
from tests.dataset.tables import N, X, Y, read, table
from torch_ipfs.blockstore.memory import MemoryBlockstore
from torch_ipfs.codec.cid import CID
from torch_ipfs.dataset.write import write_dataset
from torch_ipfs.dataset.write_arrow import ArrowColumn
from torch_ipfs.errors import OptionError, SampleError
from torch_ipfs.manifest.schema import Field


class Capsule:
    """What only speaks Arrow's C stream interface, as tables of polars and duckdb do."""

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return table().__arrow_c_stream__(requested_schema)


def batches() -> Iterator[Any]:
    whole = table()
    for start in range(0, N, 7):
        yield from whole.slice(start, 7).to_batches()


FORMS: dict[str, Any] = {
    "table": table,
    "table in chunks": lambda: pa.concat_tables([table().slice(0, 300), table().slice(300)]),
    "table of lists": lambda: pa.table({**table().to_pydict(), "x": pa.array(list(X))}),
    "table of large types": lambda: pa.table(
        {
            "x": pa.array(list(X), pa.large_list(pa.float32())),
            "y": Y,
            "s": table().column("s").cast(pa.large_string()),
        }
    ),
    "table of tensors": lambda: pa.table(
        {"x": pa.FixedShapeTensorArray.from_numpy_ndarray(X), "y": Y, "s": table().column("s")}
    ),
    "table of categories": lambda: table().set_column(2, "s", table().column("s").dictionary_encode()),
    "table of views": lambda: table().set_column(2, "s", pa.array([f"row {i}" for i in Y], pa.string_view())),
    "record batch": lambda: table().combine_chunks().to_batches()[0],
    "reader": lambda: pa.RecordBatchReader.from_batches(table().schema, batches()),
    "C stream": Capsule,
    "columns of Arrow": lambda: {name: table().column(name) for name in ("x", "y", "s")},
}


@pytest.mark.parametrize("form", FORMS)
def test_the_same_data_has_the_same_cid(form: str) -> None:
    store = MemoryBlockstore()
    rows = [{"x": X[i], "y": i, "s": f"row {i}"} for i in range(N)]
    assert write_dataset(FORMS[form](), store, shard_bytes=4096) == write_dataset(rows, store, shard_bytes=4096)


def test_what_was_packed_packs_again_to_the_same() -> None:
    """Also what Arrow has no type for, by the metadata of the fields."""
    samples = {
        "bf": torch.arange(6).reshape(3, 2).bfloat16(),
        "c": torch.tensor([1j, 2, 3 + 4j]),
        "on": np.array([True, False, True]),
        "f8": torch.ones(3, 2).to(torch.float8_e5m2),
        "link": [CID.of(bytes([i])) for i in range(3)],
    }
    store = MemoryBlockstore()
    root = write_dataset(samples, store)
    (shard,) = (store.get(cid) for cid in store.cids() if bytes(store.get(cid))[:4] == b"\xff\xff\xff\xff")
    assert write_dataset(pa.ipc.open_stream(shard).read_all(), store) == root


def test_nullable_is_what_has_nulls() -> None:
    columns = {
        "full": pa.array([1, 2, 3], pa.int16()),
        "some": pa.array([1.5, None, 3]),
        "none": pa.nulls(3),
        "lists": pa.array([[1, 2], None, [3, 4]], pa.list_(pa.int8())),
        "pixels": pa.array([[1, 2], None, [3, 4]], pa.list_(pa.uint8(), 2)),
        "ragged": pa.array([[1], [], [2, None]]),
        "struct": pa.array([{"a": 1, "b": [1.0]}, {"a": None, "b": [2.0]}, {"a": 3, "b": [4.0]}]),
        "maybe struct": pa.array([{"a": 1}, None, {"a": 3}]),
        "map": pa.array([[("k", 1)], [], [("l", 2), ("m", 3)]], pa.map_(pa.string(), pa.int64())),
    }
    schema, rows = read(pa.table(columns))
    assert schema.split(", ", 6) == [
        "full: int16",
        "some: nullable float64",
        "none: null",
        "lists: nullable int8[2]",
        "pixels: nullable uint8[2]",
        "ragged: list of nullable int64",
        "struct: struct{a: nullable int64, b: float64[1]}, maybe struct: nullable struct{a: int64}, map: "  # noqa: ISC004
        "list of struct{key: text, value: int64}",
    ]
    assert repr(rows[1]) == repr(
        {
            "full": torch.tensor(2, dtype=torch.int16),
            "some": None,
            "none": None,
            "lists": None,
            "pixels": None,
            "ragged": [],
            "struct": {"a": None, "b": torch.tensor([2.0], dtype=torch.float64)},
            "maybe struct": None,
            "map": [],
        }
    )
    assert rows[2]["map"] == [{"key": "l", "value": 2}, {"key": "m", "value": 3}]
    assert rows[2]["ragged"] == [2, None]


def test_what_lies_under_nulls_makes_no_difference() -> None:
    """A slice of a table, or a mask put over it, leaves anything under nulls."""
    valid = pa.array([True, False, True])
    masked = pa.Array.from_buffers(pa.int64(), 3, [valid.buffers()[1], pa.array([1, 99, 3]).buffers()[1]])
    text = pa.array(["a", "garbage", "c"])
    texts = pa.Array.from_buffers(pa.string(), 3, [valid.buffers()[1], *text.buffers()[1:]])
    lists = pa.ListArray.from_arrays(
        pa.array([0, 1, 3, 4], pa.int32()), pa.array([1, 98, 99, 4]), mask=pa.array([False, True, False])
    )
    structs = pa.StructArray.from_arrays([pa.array([1, 99, 3])], ["a"], mask=pa.array([False, True, False]))
    store = MemoryBlockstore()
    clean = pa.table({"i": [1, None, 3], "t": ["a", None, "c"], "l": [[1], None, [4]], "s": [{"a": 1}, None, {"a": 3}]})
    dirty = pa.table({"i": masked, "t": texts, "l": lists, "s": structs})
    assert dirty.to_pydict() == clean.to_pydict()
    assert write_dataset(dirty, store) == write_dataset(clean, store)
    longer = pa.concat_tables([clean, dirty, clean])
    assert write_dataset(longer.slice(3, 3), store) == write_dataset(clean, store)


@pytest.mark.parametrize(
    "array",
    [
        pa.array([1], pa.timestamp("s")),
        pa.array([1], pa.date32()),
        pa.array([1], pa.duration("s")),
        pa.array([1], pa.decimal128(5)),
        pa.array([[1]], pa.list_(pa.time32("s"))),
        pa.RunEndEncodedArray.from_arrays([1], [1]),
        pa.UnionArray.from_dense(pa.array([0], pa.int8()), pa.array([0], pa.int32()), [pa.array([1])]),
    ],
    ids=lambda array: str(array.type),
)
def test_types_without_a_dtype_are_named(array: Any) -> None:
    with pytest.raises(SampleError, match=r"field 'x': Arrow's .* cannot be part of a dataset"):
        write_dataset(pa.table({"x": array}), MemoryBlockstore())


def test_slices_as_other_libraries_make_them() -> None:
    """Not by an offset of the array, but by offsets that begin further on: Rust's Arrow does."""
    further = np.array([3, 4, 6], dtype=np.int32)
    text = pa.StringArray.from_buffers(2, pa.py_buffer(further.tobytes()), pa.py_buffer(b"...abc"))
    lists = pa.ListArray.from_arrays(pa.array(further), pa.array(range(6)))
    none = pa.ListArray.from_arrays(pa.array([0, 0, 0], pa.int32()), text)
    within = pa.StringArray.from_buffers(2, pa.py_buffer(further.tobytes()), pa.py_buffer(b"...abcdefghijkl"))
    clean = {"t": ["a", "bc"], "l": [[3], [4, 5]], "n": pa.array([[], []], pa.list_(pa.string())), "w": ["a", "bc"]}
    store = MemoryBlockstore()
    table = pa.table({"t": text, "l": lists, "n": none, "w": within})
    assert write_dataset(table, store) == write_dataset(pa.table(clean), store)


def test_parts_of_fixed_binary_are_those_rows() -> None:
    """Which older versions write from the first row on, once cast to binary."""
    keys = [bytes([i] * 16) for i in range(9)]
    part = pa.table({"x": pa.array(keys, pa.binary(16))}).slice(3, 4)
    store = MemoryBlockstore()
    assert write_dataset(part, store) == write_dataset({"x": keys[3:7]}, store)


@pytest.mark.parametrize("rows", [0, 2])
def test_extension_types_within_lists_and_structs_are_what_they_store(rows: int) -> None:
    keys = pa.ExtensionArray.from_storage(_Key(), pa.array([b"a", b"b", b"c"]))
    nested = {"l": pa.ListArray.from_arrays([0, 1, 3], keys), "s": pa.StructArray.from_arrays([keys[1:]], ["k"])}
    bare = {"l": pa.array([[b"a"], [b"b", b"c"]]), "s": pa.array([{"k": b"b"}, {"k": b"c"}])}
    store = MemoryBlockstore()
    # A table of no rows as those have who filter a stream: without a chunk.
    table = pa.table(nested) if rows else pa.Table.from_batches([], pa.table(nested).schema)
    assert write_dataset(table, store) == write_dataset(pa.table(bare)[:rows], store)


class _Key(pa.ExtensionType):
    def __init__(self) -> None:
        super().__init__(pa.binary(), "tests.key")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""


@pytest.mark.parametrize("view", [pa.list_view, pa.large_list_view])
def test_list_views_are_lists(view: Any) -> None:
    values = [[{"a": ["x"]}], None, [], [{"a": []}, {"a": ["y", "z"]}]]
    viewed = pa.array([[], *values], view(pa.struct([("a", view(pa.string()))])))[1:]
    lists = pa.array(values, pa.list_(pa.struct([("a", pa.list_(pa.string()))])))
    store = MemoryBlockstore()
    assert write_dataset(pa.table({"x": viewed}), store) == write_dataset(pa.table({"x": lists}), store)


def test_list_views_of_text_views_are_lists_of_text() -> None:
    values = [["a text of more than twelve letters"], None, ["b", None]]
    viewed = pa.array([["x"], *values], pa.list_view(pa.string_view()))[1:]
    store = MemoryBlockstore()
    assert write_dataset(pa.table({"x": viewed}), store) == write_dataset({"x": values}, store)


def test_null_in_lists_of_a_fixed_size_wherever_they_are() -> None:
    values = [[[1, None]], [[2, 3], [4, 5]]]
    lists = pa.array(values, pa.list_view(pa.list_(pa.int64(), 2)))
    categories = pa.DictionaryArray.from_arrays(pa.array([0, 1, 2, 3, 4, 5]), pa.array([1, None, 2, 3, 4, 5]))
    chosen = pa.ListArray.from_arrays([0, 1, 3], pa.FixedSizeListArray.from_arrays(categories, 2))
    store = MemoryBlockstore()
    assert write_dataset({"x": lists, "c": chosen}, store) == write_dataset({"x": values, "c": values}, store)


def test_a_category_may_stand_for_null() -> None:
    categories = pa.DictionaryArray.from_arrays(pa.array([0, 1, 0]), pa.array(["a", None]))
    store = MemoryBlockstore()
    assert write_dataset(pa.table({"x": categories}), store) == write_dataset({"x": ["a", None, "a"]}, store)


def test_a_column_of_some_type_may_hold_nothing_where_the_schema_says_so() -> None:
    table, store = pa.table({"x": pa.array([None, None], pa.list_(pa.int8()))}), MemoryBlockstore()
    assert write_dataset(table, store, schema={"x": "null"}) == write_dataset({"x": [None, None]}, store)
    root = write_dataset(table, store, schema={"x": "any"}, layout="embedded")
    assert list(torch_ipfs.IPFSIterableDataset(root, store)) == [{"x": None}] * 2


def test_a_batch_that_does_not_fit_the_first_is_named() -> None:
    schema = pa.schema([("x", pa.int64()), ("l", pa.list_(pa.int64()))])

    def drifting() -> Iterator[Any]:
        full = pa.record_batch(
            [np.arange(2**20), pa.FixedSizeListArray.from_arrays(np.arange(2**20), 1).cast(pa.list_(pa.int64()))],
            schema=schema,
        )
        yield full
        yield pa.record_batch([[1, None], [[1], [1]]], schema=schema)

    reader = pa.RecordBatchReader.from_batches(schema, drifting())
    with pytest.raises(
        SampleError, match=r"sample 1048577, field 'x': it is null; expected int64 \(the schema was taken"
    ):
        write_dataset(reader, MemoryBlockstore())
    given = {"x": Field("int64", nullable=True), "l": Field("list", item=Field("int64"))}
    reader = pa.RecordBatchReader.from_batches(schema, drifting())
    store = MemoryBlockstore()
    assert len(torch_ipfs.IPFSMapDataset(write_dataset(reader, store, schema=given), store)) == 2**20 + 2


def test_a_table_is_looked_at_whole() -> None:
    """Unlike a stream it has its last row at hand: no schema need be given for what only shows there."""
    rows = 300_000
    lists = pa.array([[1, 2]] * rows + [[1]])
    schema, _ = read(pa.table({"l": lists.slice(rows - 5), "x": pa.array([1] * 5 + [None])}))
    assert schema == "l: list of int64, x: nullable int64"
    store = MemoryBlockstore()
    dataset = torch_ipfs.IPFSMapDataset(write_dataset(pa.table({"l": lists}), store), store)
    assert (dataset[rows - 1]["l"], dataset[rows]["l"]) == ([1, 2], [1])


def test_a_schema_is_followed() -> None:
    columns = pa.table({"x": pa.array([1, 2], pa.int16()), "t": [[1.0, 2.0], [3.0, 4.0]], "n": [1, None]})
    given = {
        "x": "float32",
        "t": Field("list", item=Field("float64")),
        "n": Field("int64", nullable=True),
        "z": Field("text", nullable=True),
    }
    schema, rows = read(columns, schema=given)
    assert schema == "x: float32, t: list of float64, n: nullable int64, z: nullable text"
    assert rows[1] == {"x": torch.tensor(2.0), "t": [3.0, 4.0], "n": None, "z": None}
    with pytest.raises(SampleError, match="sample 1, field 'n': it is null"):
        read(columns, schema={**given, "n": "int64"})
    with pytest.raises(SampleError, match=r"sample 0, field 'x': expected text, found an? .*int16"):
        read(columns, schema={**given, "x": "text"})
    with pytest.raises(SampleError, match=r"sample 0, field 't': expected float64\[3\], found a list of 2"):
        read(columns, schema={**given, "t": Field("float64", (3,))})
    with pytest.raises(SampleError, match="field 'x': the schema has no such field"):
        read(columns, schema={"t": given["t"], "n": given["n"]})


@pytest.mark.parametrize(
    "kind", [pa.int32(), pa.string(), pa.list_(pa.int8()), pa.fixed_shape_tensor(pa.int8(), (2,))], ids=str
)
def test_no_rows_but_types(kind: Any) -> None:
    schema = pa.schema([("x", kind)])
    for samples in (pa.Table.from_batches([], schema), pa.RecordBatchReader.from_batches(schema, [])):
        text, rows = read(samples)
        assert rows == []
        assert text in {"x: int32", "x: text", "x: list of int8", "x: int8[2]"}


def test_columns_of_one_name() -> None:
    with pytest.raises(OptionError, match="two columns 'x'"):
        write_dataset(pa.Table.from_arrays([[1], [2]], names=["x", "x"]), MemoryBlockstore())


def test_lists_of_a_fixed_size_that_are_no_tensors_are_lists() -> None:
    columns = {
        "text": pa.array([["a", "b"], ["c", None]], pa.list_(pa.string(), 2)),
        "bool": pa.array([[True, False], [False, True]], pa.list_(pa.bool_(), 2)),
        "null": pa.array([[1.5, 2.5], [1.5, None]], pa.list_(pa.float32(), 2)),
        "maps": pa.array([[{"x": 1}], [{"x": 2}]], pa.list_(pa.struct([("x", pa.int8())]), 1)),
        "deep": pa.array(
            [[["a"], ["b"]], [["c"], ["d"]]], pa.list_(pa.list_(pa.dictionary(pa.int8(), pa.string())), 2)
        ),
    }
    schema, rows = read(pa.table(columns))
    assert schema == (
        "text: list of nullable text, bool: bool[2], null: list of nullable float32, maps: list of struct{x: int8}, "
        "deep: list of list of text"
    )
    assert rows[1]["bool"].tolist() == [False, True]
    assert [rows[1][name] for name in ("text", "null", "maps", "deep")] == [
        ["c", None],
        [1.5, None],
        [{"x": 2}],
        [["c"], ["d"]],
    ]


@pytest.mark.parametrize(
    ("shared", "row_bytes"),
    [
        (pa.DictionaryArray.from_arrays(np.arange(4000) % 2, ["x" * 10**5, "y" * 10**5]), 10**5),
        (pa.DictionaryArray.from_arrays(np.arange(4000), [f"{i:5000}" for i in range(4000)]), 5000),
        (pa.array([f"{i:5000}" for i in range(4000)], pa.string_view()), 5000),
        (pa.array([[{"a": f"{i:5000}"}] for i in range(4000)], pa.list_(pa.struct([("a", pa.string_view())]))), 5000),
    ],
    ids=["few long categories", "many categories", "views", "views in lists of maps"],
)
def test_pieces_are_measured_by_what_their_rows_take(shared: Any, row_bytes: int) -> None:
    """By what they point into a category would be nothing, or each row of them as much as all."""
    column = ArrowColumn(shared)
    assert column.fitting(0, len(shared), 2**20) == pytest.approx(2**20 / row_bytes, abs=2)
    assert column.fitting(3900, len(shared), 2**30) == len(shared)
