"""Packed shards of every type, ours and others', and what a stranger may make of them."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pyarrow as pa

from tests.fuzz.mutation import mutated
from torch_ipfs.codec.cid import CID
from torch_ipfs.manifest.pack import Packer
from torch_ipfs.manifest.rows import arrays_from_rows
from torch_ipfs.manifest.schema import STORAGE, Field, Schema

Dataset = tuple[Schema, list[dict[str, Any]]]


def packed(schema: Schema, samples: list[dict[str, Any]]) -> bytes:
    return Packer(schema).pack(arrays_from_rows(samples, schema), 0, len(samples))


def numbers() -> Dataset:
    """Every numeric dtype, as scalar and tensor, nullable and ragged."""
    named = [(dtype, Field(dtype, (2,))) for dtype in sorted(STORAGE)]
    named += [(f"{dtype} scalar", Field(dtype)) for dtype in sorted(STORAGE)]
    schema = Schema((*named, ("nullable", Field("int16", nullable=True)), ("ragged", Field("complex64", (None, 2)))))
    sample = {name: bytes([1] * field.row_bytes) for name, field in named}
    return schema, [
        {**sample, "nullable": 7, "ragged": {"shape": [1, 2], "data": bytes(range(16))}},
        {**sample, "nullable": None, "ragged": {"shape": [0, 2], "data": b""}},
    ]


def objects() -> Dataset:
    """Text, bytes, links, lists, structs, null and nothing."""
    item = Field("struct", fields=(("score", Field("float64")), ("label", Field("text", nullable=True))))
    leaf = Field("list", item=Field("uint8", (2,)))
    schema = Schema(
        (
            ("text", Field("text")),
            ("bytes", Field("bytes", nullable=True)),
            ("link", Field("link")),
            ("boxes", Field("list", item=item)),
            ("tree", Field("struct", nullable=True, fields=(("leaf", leaf),))),
            ("nothing", Field("null")),
        )
    )
    boxes: list[Any] = [{"score": 0.1, "label": "é"}, {"score": 2}]
    first = {"text": "naïve", "bytes": b"\0\xff", "link": CID.of(b"x"), "boxes": boxes}
    second: dict[str, Any] = {"text": "", "bytes": None, "link": CID.of(b"y"), "boxes": [], "tree": None}
    return schema, [{**first, "tree": {"leaf": [[1, 2], [3, 4]]}}, second]


def stream(table: pa.Table, **options: Any) -> bytes:
    """A table as pyarrow writes it."""
    out = pa.BufferOutputStream()
    with pa.ipc.new_stream(out, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table)
    return bytes(out.getvalue())


def foreign_table() -> pa.Table:
    return pa.table(
        {
            "bool": pa.array([True, None, False]),
            "large text": pa.array(["a", "é", None], pa.large_string()),
            "large bytes": pa.array([b"a", b"", b"c"], pa.large_binary()),
            "large list": pa.array([[1], [2, None], None], pa.large_list(pa.int32())),
            "pixels": pa.array([[[1, 2]], [[3, 4]], [[5, 6]]], pa.list_(pa.list_(pa.uint8(), 2), 1)),
            "nullable pixels": pa.array([[1, 2], None, [5, 6]], pa.list_(pa.uint8(), 2)),
            "half": pa.array(np.array([1, 2, 3], np.float16)),
            "struct": pa.array([{"a": 1, "b": "x"}, None, {"a": None, "b": "z"}]),
        }
    )


def corpus() -> list[bytes]:
    small = Schema((("image", Field("uint8", (2, 2))), ("label", Field("int64")), ("on", Field("bool"))))
    rows = [{"image": bytes([i] * 4), "label": i, "on": i % 2 == 0} for i in range(5)]
    ours = [packed(small, rows), packed(*numbers()), packed(*objects()), packed(Schema(()), [{}, {}])]
    columns = foreign_table()
    return ours + [stream(columns)] + [stream(columns.select([name])) for name in columns.column_names]


_WORDS = [
    0,
    1,
    2,
    3,
    4,
    7,
    8,
    16,
    63,
    64,
    255,
    2**15,
    2**16,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**62,
    2**63 - 1,
    2**63,
    2**64 - 1,
]


def forged(rng: random.Random, shards: list[bytes]) -> bytes:
    """A shard with bytes changed at random, or with numbers in its tables and offsets changed into telling ones."""
    if rng.random() < 0.4:
        return mutated(rng, shards)
    data = bytearray(rng.choice(shards))
    for _ in range(rng.randint(1, 3)):
        size = rng.choice((1, 2, 4, 4, 8, 8))
        place = rng.randrange(0, len(data) - size + 1, size)
        word = rng.choice(_WORDS) if rng.random() < 0.7 else rng.randrange(len(data))
        data[place : place + size] = (word % 2 ** (8 * size)).to_bytes(size, "little")
    return bytes(data)
