"""Rows out of many shards at once: the right ones, aligned or not, and never memory that is not a shard's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torch_ipfs.dataset.gather import Gather, Picked
from torch_ipfs.manifest.schema import STORAGE, Field


def unaligned(array: np.ndarray[Any, Any], offset: int) -> np.ndarray[Any, Any]:
    """``array`` somewhere in a larger buffer, read-only, as a shard's column lies in a mapped CAR."""
    buffer = np.zeros(array.nbytes + 64, dtype=np.uint8)
    buffer[offset : offset + array.nbytes] = np.frombuffer(array.tobytes(), dtype=np.uint8)
    view = np.frombuffer(buffer.data[offset : offset + array.nbytes], dtype=array.dtype).reshape(array.shape)
    view.flags.writeable = False
    return view


FIELDS = [
    Field("int64"),
    Field("uint8", (3, 5)),
    Field("float32", (10,)),
    Field("bool"),
    Field("complex64", (2,)),
    Field("uint8", (2**15,)),
    Field("float64", (0,)),
    Field("complex32", (2,)),
]


def shard(field: Field, rows: int, seed: int) -> np.ndarray[Any, Any]:
    storage = STORAGE[field.dtype]
    shape = (rows, *(size or 0 for size in field.shape), *storage.shape)
    generator = np.random.default_rng(seed)
    if storage.base == np.bool_:
        return generator.integers(0, 2, shape).astype(np.bool_)
    return generator.integers(0, 100, shape).astype(storage.base)


@pytest.mark.parametrize("field", FIELDS, ids=str)
@settings(max_examples=30)
@given(data=st.data())
def test_parts_are_the_rows_asked_for(field: Field, data: st.DataObject) -> None:
    lengths = data.draw(st.lists(st.integers(1, 20), min_size=1, max_size=3))
    shards = [unaligned(shard(field, rows, i), data.draw(st.integers(0, 9))) for i, rows in enumerate(lengths)]
    gather = Gather(field)
    for slot, array in enumerate(shards):
        gather.set(slot, array)
    if data.draw(st.booleans()):  # one after the other, over the shards' ends
        wanted = [(slot, row) for slot, rows in enumerate(lengths) for row in range(rows)]
    else:
        slot_rows = st.integers(0, len(lengths) - 1).flatmap(
            lambda slot: st.tuples(st.just(slot), st.integers(0, lengths[slot] - 1))
        )
        wanted = data.draw(st.lists(slot_rows, min_size=1, max_size=50))
    batch_rows = data.draw(st.integers(1, 60))
    slots, rows = (np.array(part, dtype=np.int64) for part in zip(*wanted, strict=True))
    parts = gather.parts(Picked.of(slots, rows, batch_rows))
    assert [len(part) for part in parts] == [
        min(batch_rows, len(wanted) - at) for at in range(0, len(wanted), batch_rows)
    ]
    got = [row for part in parts for row in part]
    for row, (slot, at) in zip(got, wanted, strict=True):
        assert row.tobytes() == shards[slot][at].tobytes()
    for part in parts:
        assert part.flags.writeable
        owner = part if part.base is None else part.base
        assert owner.flags.owndata
        assert part.flags.aligned


@pytest.mark.parametrize("field", [Field("int64"), Field("uint16", (20_000,))], ids=str)
@pytest.mark.parametrize(("slot", "row"), [(0, 5), (0, -1), (1, 0), (0, 2**40)])
def test_what_no_shard_holds_is_refused(field: Field, slot: int, row: int) -> None:
    gather = Gather(field)
    gather.set(0, shard(field, 5, 0))
    gather.set(1, shard(field, 5, 1))
    gather.set(1, None)
    for picked in (
        Picked.of(np.array([slot]), np.array([row]), 8),
        Picked.of(np.array([0, slot]), np.array([1, row]), 8),
    ):
        with pytest.raises(IndexError):
            gather.parts(picked)
