"""Embedded and linked samples: what arrays hold survives DAG-CBOR."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given

from tests.manifest.strategies import all_bits, datasets, read_back
from torch_ipfs.codec import dag_cbor
from torch_ipfs.codec.cid import CID
from torch_ipfs.manifest.embed import samples_of
from torch_ipfs.manifest.rows import arrays_from_rows, shard_from_rows
from torch_ipfs.manifest.schema import Field, Schema
from torch_ipfs.manifest.values import Typed


def through_dag_cbor(samples: list[dict[str, Any]], schema: Schema) -> list[dict[str, Any]]:
    embedded = samples_of(arrays_from_rows(samples, schema), schema, 0, len(samples))
    decoded: list[dict[str, Any]] = dag_cbor.decode(dag_cbor.encode(embedded))
    return decoded


@given(datasets())
def test_samples_come_back_bit_for_bit(dataset: tuple[Schema, list[dict[str, Any]]]) -> None:
    schema, samples = dataset
    decoded = through_dag_cbor(samples, schema)
    shard = shard_from_rows(decoded, schema, first_position=0, cid=CID.of(b""))
    assert all_bits(read_back(shard), schema) == all_bits(samples, schema)


@pytest.mark.parametrize(
    ("field", "value", "embedded"),
    [
        (Field("float32"), 0.5, 0.5),
        (Field("float32", (2,)), [1, 2], [1.0, 2.0]),
        (Field("float32", (2,)), [1, math.nan], np.array([1, math.nan], "<f4").tobytes()),
        (Field("float64"), math.inf, np.array(math.inf).tobytes()),
        (Field("float64"), -0.0, np.array(-0.0).tobytes()),
        (Field("bool", (2,)), [True, False], [True, False]),
        (Field("uint64"), 2**64 - 1, 2**64 - 1),
        (Field("bfloat16"), 1.5, 1.5),
        (Field("complex64"), 1j, np.array(1j, "<c8").tobytes()),
        (Field("int8", (None, 2)), [[1, 2]], [[1, 2]]),
        (Field("int8", (None, None)), np.zeros((0, 3), np.int8), {"shape": [0, 3], "data": b""}),
        (Field("float32", (None,)), [math.inf], {"shape": [1], "data": np.array(math.inf, "<f4").tobytes()}),
        (Field("list", item=Field("float64")), [0.1, math.nan], [0.1, np.array(math.nan).tobytes()]),
        (Field("any"), np.float32(0.5), 0.5),
        (
            Field("any"),
            [{"a": np.ones(2)}, Typed("bfloat16", np.array([0x3F80], np.uint16))],
            [{"a": [1.0, 1.0]}, [1.0]],
        ),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_is_a_number_and_what_is_bytes(field: Field, value: Any, embedded: Any) -> None:
    """The spec's own form where it can say it."""
    assert through_dag_cbor([{"x": value}], Schema((("x", field),))) == [{"x": embedded}]
