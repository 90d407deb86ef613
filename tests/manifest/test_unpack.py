"""Unpacking: no copy of what is good, and one kind of error for all that is not."""

from __future__ import annotations

import contextlib
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.manifest.shards import foreign_table, numbers, objects, packed, stream
from tests.manifest.strategies import read_back
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import ManifestError
from torch_ipfs.manifest.arrow_schema import record_batch_message, schema_message
from torch_ipfs.manifest.column import FixedColumn, ObjectColumn, Shard
from torch_ipfs.manifest.flatbuffer import New, Scalar, build
from torch_ipfs.manifest.schema import MAX_DEPTH, MAX_FIELDS, Field, Schema
from torch_ipfs.manifest.unpack import unpack

X = CID.of(b"x")
TWO = Schema((("a", Field("int64")), ("b", Field("text"))))
TWO_ROWS = [{"a": i, "b": f"row {i}"} for i in range(5)]


def refused(data: bytes, match: str) -> None:
    with pytest.raises(ManifestError, match=match) as caught:
        unpack(data, X)
    assert caught.value.cid == str(X)


def shard_of(schema: bytes, batch: bytes, body: bytes) -> bytes:
    """A stream of these flatbuffers and this body."""
    framed = (struct.pack("<Ii", 0xFFFFFFFF, len(message)) + message for message in (schema, batch))
    return b"".join(framed) + body + struct.pack("<Ii", 0xFFFFFFFF, 0)


def int64s(*pairs: tuple[int, int]) -> bytes:
    return b"".join(struct.pack("<qq", *pair) for pair in pairs)


class TestViews:
    @pytest.mark.parametrize("shift", range(9))
    def test_columns_look_into_the_block_at_any_address(self, shift: int) -> None:
        schema = Schema((("x", Field("float32", (3,))), ("c", Field("complex64")), ("on", Field("bool"))))
        rows = [{"x": [i, 2.5, -1], "c": complex(i, 1), "on": i % 2 == 0} for i in range(7)]
        memory = bytearray(b"?" * shift + packed(schema, rows))
        shard = unpack(memoryview(memory)[shift:], X)
        block = np.frombuffer(memory, np.uint8)
        for name in schema.names:
            column = shard.columns[name]
            assert isinstance(column, FixedColumn)
            assert np.shares_memory(column.array, block)
            assert not column.array.flags.writeable
            assert column.array.tolist() == [row[name] for row in rows]

    def test_only_what_is_asked_for_is_read(self) -> None:
        data = bytearray(packed(TWO, TWO_ROWS))
        data[data.rindex(b"row 4")] = 0xFF
        refused(bytes(data), "column 'b': text that is not UTF-8")
        shard = unpack(bytes(data), X, ["a"])
        assert (shard.schema.names, list(shard.columns)) == (("a",), ["a"])
        assert read_back(shard) == [{"a": row["a"]} for row in TWO_ROWS]

    def test_a_column_that_is_not_there_is_the_shard_s_fault(self) -> None:
        with pytest.raises(ManifestError, match="no column 'c'"):
            unpack(packed(TWO, TWO_ROWS), X, ["a", "c"])

    def test_memory_of_signed_bytes(self) -> None:
        signed = memoryview(packed(TWO, TWO_ROWS)).cast("b")
        assert read_back(unpack(signed, X)) == TWO_ROWS

    def test_rows_in_any_order_and_again(self) -> None:
        column = unpack(packed(TWO, TWO_ROWS), X).columns["b"]
        assert isinstance(column, ObjectColumn)
        assert column.take(np.array([4, 0, 4])) == ["row 4", "row 0", "row 4"]
        assert column.take(np.array([], np.int64)) == []

    def test_lists_taken_twice_share_nothing(self) -> None:
        column = unpack(packed(*objects()), X).columns["boxes"]
        assert isinstance(column, ObjectColumn)
        first, again = column.take(np.array([0, 0]))
        first[0]["score"] = None
        first.clear()
        assert again[0]["score"] == 0.1


class TestForeign:
    """Shards that others wrote with pyarrow."""

    def test_their_types_are_read(self) -> None:
        shard = unpack(stream(foreign_table()), X)
        rows = read_back(shard)
        assert [row["large text"] for row in rows] == ["a", "é", None]
        assert [row["large bytes"] for row in rows] == [b"a", b"", b"c"]
        assert [row["large list"] for row in rows] == [[1], [2, None], None]
        assert [row["pixels"].tolist() for row in rows] == [[[1, 2]], [[3, 4]], [[5, 6]]]
        assert [None if row["bool"] is None else bool(row["bool"]) for row in rows] == [True, None, False]
        assert [row["nullable pixels"] is None for row in rows] == [False, True, False]
        assert [row["half"].item() for row in rows] == [1, 2, 3]
        assert rows[1]["struct"] is None
        assert rows[2]["struct"] == {"a": None, "b": "z"}

    def test_a_tensor_type_of_pyarrow_s_own(self) -> None:
        tensors = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
        shard = unpack(stream(pa.table({"t": pa.FixedShapeTensorArray.from_numpy_ndarray(tensors)})), X)
        assert np.array_equal([row["t"] for row in read_back(shard)], tensors)

    @pytest.mark.parametrize(
        ("array", "match"),
        [
            (pa.array(["a"]).dictionary_encode(), "dictionary"),
            (pa.array([1], pa.timestamp("s")), "timestamps"),
            (pa.array([1], pa.date32()), "dates"),
            (pa.array([1], pa.duration("s")), "durations"),
            (pa.array([1], pa.decimal128(5)), "decimals"),
            (pa.array([b"ab"], pa.binary(2)), "fixed size binary"),
            (pa.array(["a"], pa.string_view()), "text views"),
            (pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int8())), "maps"),
            (pa.array([["a"]], pa.list_(pa.string(), 1)), "fixed size list"),
            (pa.RunEndEncodedArray.from_arrays([1], ["a"]), "run-end"),
            (pa.UnionArray.from_dense(pa.array([0], pa.int8()), pa.array([0], pa.int32()), [pa.array([1])]), "unions"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_types_that_are_not_on_the_list_are_refused(self, array: Any, match: str) -> None:
        refused(stream(pa.table({"x": array})), match)

    def test_extension_types_of_others_are_refused(self) -> None:
        schema = pa.schema([pa.field("x", pa.binary(), metadata={"ARROW:extension:name": "somebody.elses"})])
        refused(stream(pa.table([[b"x"]], schema=schema)), "extension type 'somebody.elses' is refused")

    @pytest.mark.parametrize("codec", ["lz4", "zstd"])
    def test_compression_is_refused(self, codec: str) -> None:
        refused(stream(pa.table({"x": np.zeros(10**6)}), compression=codec), "compressed")

    def test_permuted_tensors_are_refused(self) -> None:
        kind = pa.fixed_shape_tensor(pa.int8(), (2, 1), permutation=[1, 0])
        array = pa.ExtensionArray.from_storage(kind, pa.array([[1, 2]], pa.list_(pa.int8(), 2)))
        refused(stream(pa.table({"x": array})), "permutes")

    def test_one_record_batch_is_the_rule(self) -> None:
        table = pa.table({"x": [1, 2, 3]})
        out = pa.BufferOutputStream()
        with pa.ipc.new_stream(out, table.schema) as writer:
            writer.write_table(table, max_chunksize=2)
        refused(bytes(out.getvalue()), "there is more")
        refused(stream(table.slice(0, 0)), "where the shard ends|no Arrow IPC message")


class TestForged:
    def test_every_prefix_is_refused(self) -> None:
        data = packed(TWO, TWO_ROWS)
        for length in range(len(data) - 8):
            refused(data[:length], "cannot be read")
        # Without the marker of its end a stream is whole: a file may end so.
        assert read_back(unpack(data[:-8], X)) == TWO_ROWS

    @pytest.mark.parametrize("more", [b"\0", b"\0" * 8, b"\xff" * 8, packed(TWO, TWO_ROWS)])
    def test_trailing_bytes_are_refused(self, more: bytes) -> None:
        refused(packed(TWO, TWO_ROWS) + more, "there is more")

    @pytest.mark.parametrize("data", [b"", b"\0" * 64, b"\xff" * 64, b"ARROW1\0\0", b"PAR1" * 16, b"{}"])
    def test_what_is_no_stream_is_refused(self, data: bytes) -> None:
        refused(data, "cannot be read")

    @pytest.mark.parametrize("rows", [-1, 2**20 + 1, 2**31, 2**62, -(2**63)])
    def test_rows_that_take_no_bytes_are_counted(self, rows: int) -> None:
        batch = record_batch_message(rows, int64s((rows, rows)), b"", 0)
        refused(shard_of(schema_message(Schema((("x", Field("null")),))), batch, b""), "rows|values")
        refused(shard_of(schema_message(Schema(())), record_batch_message(rows, b"", b"", 0), b""), "rows")

    @pytest.mark.parametrize(
        ("nodes", "buffers"),
        [
            (((2, 0),), ((0, 0), (0, 15))),
            (((2, 0),), ((0, 0), (8, 16))),
            (((2, 0),), ((0, 0), (-8, 16))),
            (((2, 0),), ((0, 0), (2**63 - 1, 16))),
            (((2, 0),), ((0, 0), (0, -16))),
            (((2, 0),), ((0, 0), (0, 2**63 - 1))),
            (((3, 0),), ((0, 0), (0, 16))),
            (((2, 3),), ((0, 0), (0, 16))),
            (((2, 1),), ((0, 8), (8, 16))),
            (((2, -1),), ((0, 0), (0, 16))),
            ((), ()),
            (((2, 0), (2, 0)), ((0, 0), (0, 16))),
        ],
    )
    def test_buffers_and_nodes_that_lie(self, nodes: Any, buffers: Any) -> None:
        message = schema_message(Schema((("x", Field("int64")),)))
        assert unpack(
            shard_of(message, record_batch_message(2, int64s((2, 0)), int64s((0, 0), (0, 16)), 16), bytes(16)), X
        ).num_rows
        refused(
            shard_of(message, record_batch_message(2, int64s(*nodes), int64s(*buffers), 16), bytes(16)),
            "cannot be read",
        )

    def test_buffers_do_not_overlap(self) -> None:
        """Ten thousand columns in the same megabyte would be gigabytes of rows."""
        schema = Schema(tuple((f"c{i}", Field("int64")) for i in range(50)))
        buffers = int64s(*((0, 0), (0, 800)) * 50)
        refused(
            shard_of(
                schema_message(schema), record_batch_message(100, int64s((100, 0)) * 50, buffers, 800), bytes(800)
            ),
            "a buffer of",
        )

    @pytest.mark.parametrize("offsets", [(0, -1, 4), (-1, 0, 4), (0, 3, 2), (0, 2, 5), (0, 2, 2**31 - 1), (2, 1, 4)])
    def test_offsets_that_fall_or_lead_outside(self, offsets: tuple[int, ...]) -> None:
        body = struct.pack("<3i4x", *offsets) + b"text\0\0\0\0"
        batch = record_batch_message(2, int64s((2, 0)), int64s((0, 0), (0, 12), (16, 4)), 24)
        refused(shard_of(schema_message(Schema((("x", Field("text")),))), batch, body), "offset")

    @pytest.mark.parametrize(
        ("text", "cut"), [(b"\xff\xfe", 1), ("é".encode(), 1), (b"\xed\xa0\x80", 3), (b"ab\xc3", 2)]
    )
    def test_text_is_utf_8_value_by_value(self, text: bytes, cut: int) -> None:
        body = struct.pack("<3i4x", 0, cut, len(text)) + text.ljust(8, b"\0")
        batch = record_batch_message(2, int64s((2, 0)), int64s((0, 0), (0, 12), (16, len(text))), 24)
        refused(shard_of(schema_message(Schema((("x", Field("text")),))), batch, body), "UTF-8|inside of a character")

    def test_a_bool_is_0_or_1(self) -> None:
        data = bytearray(packed(Schema((("x", Field("bool", (3,))),)), [{"x": [True, True, False]}]))
        data[data.rindex(b"\1\1\0")] = 2
        refused(bytes(data), "a bool that is 2")

    @pytest.mark.parametrize(
        "shape", [[2, 2], [-1, -3], [3.0], [None], [2**40, 2**40], "3", [[3]], [True, 3], ["a", "b"]]
    )
    def test_a_shape_goes_with_its_list_size(self, shape: Any) -> None:
        kind = pa.list_(pa.float32(), 3)
        name = {"ARROW:extension:name": "arrow.fixed_shape_tensor"}
        text = str(shape).replace("None", "null").replace("'", '"').replace("True", "true")
        metadata = {**name, "ARROW:extension:metadata": f'{{"shape":{text}}}'}
        schema = pa.schema([pa.field("x", kind, metadata=metadata)])
        refused(stream(pa.table([pa.array([[1, 2, 3]], kind)], schema=schema)), "shape|dimension")

    @pytest.mark.parametrize("dtype", ["bool", "bfloat16", "complex64", "link", "text", "nonsense", "complex32"])
    def test_a_named_dtype_goes_with_its_storage(self, dtype: str) -> None:
        schema = pa.schema([pa.field("x", pa.int64(), metadata={"torch_ipfs.dtype": dtype})])
        refused(stream(pa.table([[1]], schema=schema)), "does not go with")

    def test_shapes_of_ragged_tensors_are_checked(self) -> None:
        schema = Schema((("x", Field("int8", (None, 3))),))
        data = packed(schema, [{"x": [[1, 2, 3], [4, 5, 6]]}, {"x": []}])
        shape = struct.pack("<4i", 2, 3, 0, 3)
        assert data.count(shape) == 1
        for forged in [(3, 3, 0, 3), (2, 3, 1, 3), (3, 2, 0, 3), (-2, -3, 0, 3), (2, 3, 0, 2), (2**31 - 1, 3, 0, 3)]:
            refused(data.replace(shape, struct.pack("<4i", *forged)), "shape")

    def test_links_are_cids_wherever_they_are(self) -> None:
        link = Field("link")
        nested = Field("list", item=Field("struct", nullable=True, fields=(("l", link),)), nullable=True)
        schema = Schema((("a", link), ("b", nested)))
        x, y, z = (CID.of(name, codec) for name, codec in ((b"x", "raw"), (b"y", "raw"), (b"z", "dag-cbor")))
        rows: list[dict[str, Any]] = [{"a": x, "b": None}, {"a": y, "b": [{"l": z}, None, {"l": x}]}, {"a": z, "b": []}]
        data = packed(schema, rows)
        assert unpack(data, X).num_rows == 3
        for cid in (y, z):
            refused(data.replace(bytes(cid), b"\x09" * len(bytes(cid))), "what is no CID")

    def test_schemas_are_bounded(self) -> None:
        wide = [pa.field(f"c{i}", pa.null()) for i in range(MAX_FIELDS + 1)]
        refused(stream(pa.table({field.name: pa.nulls(0) for field in wide})), "allowed|fields")
        kind = pa.int8()
        for _ in range(MAX_DEPTH + 1):
            kind = pa.list_(kind)
        refused(stream(pa.table({"x": pa.array([], kind)})), "32 deep")
        for _ in range(MAX_DEPTH):
            kind = pa.list_(kind)
        refused(stream(pa.table({"x": pa.array([], kind)})), "levels")

    def test_many_and_deep_tensors_are_read_which_are_several_of_arrows_fields_each(self) -> None:
        ragged = deep = Field("bfloat16", (None,))
        for _ in range(MAX_DEPTH - 1):
            deep = Field("struct", fields=(("x", deep),))
        schema = Schema((("deep", deep), *((f"c{i}", ragged) for i in range(2100))))
        row: dict[str, Any] = dict.fromkeys(schema.names, b"ab")
        for _ in range(MAX_DEPTH - 1):
            row["deep"] = {"x": row["deep"]}
        assert unpack(packed(schema, [row]), X).schema == schema

    def test_no_vector_of_a_message_is_believed_to_be_as_long_as_it_says(self) -> None:
        nodes = bytes(16 * (8 * MAX_FIELDS + 1))
        batch = record_batch_message(1, nodes, b"", 0)
        refused(shard_of(schema_message(Schema((("x", Field("int8")),))), batch, b""), "at most")

    def test_a_schema_whose_fields_refer_to_each_other(self) -> None:
        """A field that is its own child, as offsets alone can say it, is a schema without an end."""
        field = New({0: "x", 1: Scalar("?", False), 2: Scalar("B", 12), 3: New(), 5: []})
        message = bytearray(build(New({0: Scalar("h", 4), 1: Scalar("B", 1), 2: New({1: [field]}), 3: Scalar("q", 0)})))
        for place in range(0, len(message) - 4, 4):
            looped = message.copy()
            for target in range(0, len(message), 4):
                looped[place : place + 4] = struct.pack("<I", (target - place) % 2**32)
                with contextlib.suppress(ManifestError):
                    unpack(shard_of(bytes(looped), record_batch_message(0, b"", b"", 0), b""), X)

    @pytest.mark.parametrize("names", [("x", "x"), ("n" * 2000,)])
    def test_names_that_a_schema_cannot_have(self, names: tuple[str, ...]) -> None:
        refused(stream(pa.Table.from_arrays([[1]] * len(names), names=list(names))), "twice|over")


@pytest.mark.fuzz
def test_nothing_that_a_stranger_writes_ends_the_process() -> None:
    """Mutations of shards of every type, in a process of their own with little memory."""
    child = subprocess.run(
        [sys.executable, "-m", "tests.manifest.unpack_forged"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr[-5000:]
    assert int(child.stdout.split()[0]) > 0


def test_shards_of_one_schema_are_read_as_different_ones() -> None:
    """The schema is looked up by its bytes: what was learnt of one shard must not leak into another."""
    first = packed(TWO, TWO_ROWS)
    other = packed(Schema((("a", Field("int64")), ("b", Field("bytes")))), [{"a": 1, "b": b"x"}])
    for _ in range(2):
        assert read_back(unpack(first, X)) == TWO_ROWS
        assert read_back(unpack(other, X)) == [{"a": 1, "b": b"x"}]
        assert isinstance(unpack(first, X, ["b"]), Shard)
        assert unpack(first, X, ["b"]).schema.names == ("b",)


class TestShardsThatAreAlike:
    """Shards of one layout follow each other: what is the same in all of them is looked at once."""

    NUMBERS = Schema((("x", Field("float32", (3,))), ("n", Field("int64"))))

    def shard(self, first: int, schema: Schema = NUMBERS) -> bytes:
        return packed(schema, [{"x": [i, 2.5, -1], "n": i} for i in range(first, first + 7)])

    @pytest.mark.parametrize("columns", [None, ("n",), ("n", "x")])
    def test_each_has_its_own_rows(self, columns: tuple[str, ...] | None) -> None:
        for first in (0, 100, 200):
            data = self.shard(first)
            shard = unpack(data, X, columns)
            assert tuple(shard.columns) == shard.schema.names
            column = shard.columns["n"]
            assert isinstance(column, FixedColumn)
            assert column.array.tolist() == list(range(first, first + 7))
            assert not column.array.flags.writeable
            assert np.shares_memory(column.array, np.frombuffer(data, np.uint8))

    def test_what_follows_the_rows_is_looked_at_each_time(self) -> None:
        good = self.shard(0)
        assert unpack(good, X).num_rows == 7
        refused(good[:-8] + b"somewhat", "there is more")
        refused(good[:-4], "there is more")
        refused(good[:-20], "goes over its end|is more")
        assert unpack(good[:-8], X).num_rows == 7

    def test_bools_are_looked_at_each_time(self) -> None:
        schema = Schema((("on", Field("bool")),))
        rows = b"\1\0\1\1\0\1\1\1"
        good = packed(schema, [{"on": bool(on)} for on in rows])
        assert unpack(good, X).num_rows == 8
        refused(good.replace(rows, b"\2" + rows[1:]), "a bool that is 2")

    def test_nulls_are_looked_at_each_time(self) -> None:
        schema = schema_message(Schema((("n", Field("int64")),)))
        batch = record_batch_message(3, int64s((3, 0)), int64s((0, 8), (8, 24)), 32)
        rows = struct.pack("<qqq", 1, 2, 3)
        assert unpack(shard_of(schema, batch, b"\x07" + bytes(7) + rows), X).num_rows == 3
        refused(shard_of(schema, batch, b"\x05" + bytes(7) + rows), "nulls")


def test_every_number_type_round_trips() -> None:
    schema, rows = numbers()
    shard = unpack(packed(schema, rows), X)
    assert shard.schema == schema
    assert read_back(shard)[1]["nullable"] is None
