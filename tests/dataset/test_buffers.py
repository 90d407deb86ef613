"""Memory that is used again, and never while anybody can see what was in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

import torch_ipfs
from torch_ipfs import IPFSIterableDataset, IPFSMapDataset, MemoryBlockstore
from torch_ipfs.dataset.buffers import KEPT_BYTES, Buffers

HOLDERS: list[Callable[[Any], Any]] = [
    lambda array: array,
    lambda array: array[5:6],
    lambda array: array.view(np.int32).reshape(2, -1)[1],
    memoryview,
    lambda array: torch.from_numpy(array)[3],
    lambda array: torch.from_numpy(array).view(torch.int16).untyped_storage(),
    lambda array: torch.from_numpy(array).numpy(),
    lambda array: torch.from_numpy(array).__dlpack__(),
]


def address(array: Any) -> int:
    return int(array.__array_interface__["data"][0])


@pytest.mark.parametrize("hold", HOLDERS)
def test_memory_that_is_held_is_not_given_out(hold: Callable[[Any], Any]) -> None:
    buffers = Buffers()
    given = buffers.take(4096)
    at = address(given)
    held = hold(given)
    del given
    assert [address(buffers.take(4096)) == at for _ in range(3)] == [False] * 3
    del held


def test_memory_that_nobody_holds_is_given_out_again() -> None:
    buffers = Buffers()
    at = address(buffers.take(4096))
    assert [address(buffers.take(size)) for size in (4096, 100, 4096)] == [at] * 3
    assert address(buffers.take(8192)) != at


def test_no_more_is_kept_than_a_bound() -> None:
    buffers = Buffers()
    held = [buffers.take(KEPT_BYTES // 4) for _ in range(10)]
    assert len({address(each) for each in held}) == 10
    assert sum(map(len, buffers._buffers)) <= KEPT_BYTES


def in_batches(dataset: IPFSIterableDataset) -> Iterator[Any]:
    return (batch["x"] for batch in dataset)


def by_index(dataset: IPFSMapDataset) -> Iterator[Any]:
    """Samples, which are views of what was read together."""
    return ([sample["x"] for sample in dataset.__getitems__(range(first, first + 8))] for first in range(0, 64, 8))


@pytest.mark.parametrize("read", [in_batches, by_index])
def test_what_is_kept_of_batches_stays_as_it_was(read: Callable[[Any], Iterator[Any]]) -> None:
    """Rows of 64 KiB, eight together: of some all are kept, of others one, of others none."""
    store = MemoryBlockstore()
    x = np.arange(64, dtype=np.int32)[:, None] * np.ones(2**14, dtype=np.int32)
    root = torch_ipfs.write_dataset({"x": x}, store)
    dataset = IPFSIterableDataset(root, store, batch_size=8) if read is in_batches else IPFSMapDataset(root, store)
    kept: list[tuple[torch.Tensor, int]] = []
    for _ in range(2):
        for number, rows in enumerate(read(dataset)):
            assert [int(row[0]) for row in rows] == list(range(8 * number, 8 * number + 8))
            kept += [(rows[i], 8 * number + i) for i in ([], [2], range(8))[number % 3]]
    assert all((row == value).all() for row, value in kept)
