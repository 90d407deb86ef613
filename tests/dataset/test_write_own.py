"""Iterators that fill the same memory anew for each sample, as readers of sensors and files do."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

import torch_ipfs
from torch_ipfs.blockstore.memory import MemoryBlockstore
from torch_ipfs.dataset.write import write_dataset
from torch_ipfs.errors import SampleError

N = 200


class Pair(NamedTuple):
    buffer: Any
    number: int


def with_arrays(buffer: np.ndarray[Any, Any]) -> Iterator[tuple[int, Any]]:
    for i in range(N):
        buffer[:] = i
        yield i, buffer


def arrays() -> Iterator[Any]:
    yield from ({"x": x} for _, x in with_arrays(np.zeros(3)))


def tensors() -> Iterator[Any]:
    tensor, sample = torch.zeros(2), dict[str, Any]()
    for i in range(N):
        tensor.fill_(i)
        sample["x"] = tensor[:1]
        yield sample


def taking_turns() -> Iterator[Any]:
    buffers = [np.zeros(2) for _ in range(100)]
    for i in range(N):
        buffers[i % 100][:] = i
        yield {"x": buffers[i % 100]}


def windows() -> Iterator[Any]:
    buffer = np.zeros(N + 1)
    for i in range(N):
        buffer[i : i + 2] = i
        yield {"x": buffer[i : i + 2]}
        buffer[:] = -1


def byte_arrays() -> Iterator[Any]:
    buffer = bytearray(4)
    for i in range(N):
        buffer[:] = bytes([i]) * 4
        yield {"x": buffer}


def memory_views() -> Iterator[Any]:
    for sample in byte_arrays():
        yield memoryview(sample["x"])


def named_tuples() -> Iterator[Any]:
    yield from ({"x": Pair(x, i)} for i, x in with_arrays(np.zeros(2)))


def objects() -> Iterator[Any]:
    held = np.empty(1, object)
    for _, held[0] in with_arrays(np.zeros(2)):
        yield {"x": held}


def records() -> Iterator[Any]:
    record = np.zeros(1, [("x", "<i4"), ("y", "<f4")])
    for i in range(N):
        record["x"] = i
        yield record[0]


def lists() -> Iterator[Any]:
    held = [[0]]
    for i in range(N):
        held[0][0] = i
        yield {"x": held}


def first_of(value: Any) -> int:
    """The first number in a value."""
    if isinstance(value, dict):
        return first_of(next(iter(value.values())))
    if isinstance(value, torch.Tensor):
        return int(value.flatten()[0])
    return first_of(value[0]) if isinstance(value, list | bytes) else value


def read(samples: Any, layout: Any = "packed") -> list[int]:
    store = MemoryBlockstore()
    root = write_dataset(samples, store, layout=layout)
    return [first_of(sample) for sample in torch_ipfs.IPFSIterableDataset(root, store)]


@pytest.mark.parametrize("layout", ["packed", "embedded", "samples"])
@pytest.mark.parametrize(
    "samples",
    [
        arrays,
        tensors,
        taking_turns,
        windows,
        byte_arrays,
        memory_views,
        named_tuples,
        objects,
        records,
        lists,
    ],
)
def test_an_iterator_may_fill_the_same_memory_again(samples: Any, layout: str) -> None:
    assert read(samples(), layout) == list(range(N))


def test_the_frames_of_an_image_are_one_image() -> None:
    file, frames = io.BytesIO(), [Image.new("L", (2, 2), 20 * i) for i in range(5)]
    frames[0].save(file, "TIFF", save_all=True, append_images=frames[1:])
    with Image.open(io.BytesIO(file.getvalue())) as image:
        assert read({"x": frame} for frame in ImageSequence.Iterator(image)) == [0, 20, 40, 60, 80]


def test_a_column_may_make_its_values_when_it_is_asked_for_them() -> None:
    class Made(Sequence[Any]):
        def __init__(self) -> None:
            self.buffer = np.zeros(2)

        def __len__(self) -> int:
            return N

        def __getitem__(self, row: Any) -> Any:
            if isinstance(row, slice):
                return [self[i] for i in range(*row.indices(N))]
            self.buffer[:] = range(N)[row]
            return self.buffer

    assert read({"x": Made()}) == list(range(N))


@pytest.mark.parametrize("as_rows", [list, iter], ids=["list", "iterator"])
def test_a_broken_image_is_no_sample(as_rows: Any) -> None:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)).save(file, "PNG")
    data = bytearray(file.getvalue())
    data[len(data) // 2] ^= 0xFF
    for broken in (data, data[: len(data) // 2]):
        rows = [{"x": Image.new("RGB", (64, 64))}, {"x": Image.open(io.BytesIO(bytes(broken)))}]
        with pytest.raises(SampleError, match=r"sample 1.* an image cannot be read"):
            write_dataset(as_rows(rows), MemoryBlockstore())


def test_a_column_that_is_made_when_it_is_asked_for_is_made_twice_at_most() -> None:
    class Made(Sequence[Any]):
        made = 0

        def __len__(self) -> int:
            return 200

        def __getitem__(self, row: Any) -> Any:
            self.made += 1
            return np.full(100_000, row, np.uint8)

    column = Made()
    assert read({"x": column}) == list(range(200))
    assert column.made < 3 * len(column)
