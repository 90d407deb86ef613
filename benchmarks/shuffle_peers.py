"""The orders in which other loaders read by default, simulated from their documents.

WebDataset (its README and the signatures of ``WebDataset`` and ``shuffle``): ``shardshuffle=100`` draws shards out of a
buffer of 100, each reader takes every n-th shard of that list, and ``.shuffle(1000)``, the size that its examples use, draws
samples out of a buffer of 1,000 that is begun to be drawn from at 100.

MosaicML Streaming (docs/source/dataset_configuration/shuffling.md): ``py1e``, as many canonical nodes as physical ones (here
of 8 ranks), and a block of max(4,000,000 / canonical nodes, 2**18) samples. Shards are permuted and dealt to canonical nodes;
each shard's samples are spread over a range of one block, of 0.75 to 1.25 times its size, and stay in their canonical node.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from benchmarks.shuffle import Sorted

Int64s = npt.NDArray[np.int64]
Item = TypeVar("Item")

_RANKS_A_NODE = 8


def webdataset_order(data: Sorted, ranks: int, workers: int) -> tuple[Int64s, Int64s]:
    """Samples, and the reader of each batch: each reader's stream, side by side batch by batch."""
    rng = random.Random(0)
    shards = list(_drawn(range(data.num_shards), 100, 100, rng))
    readers = ranks * workers
    streams = [
        np.fromiter(_drawn(_rows(data, shards[reader::readers]), 1000, 100, rng), dtype=np.int64)
        for reader in range(readers)
    ]
    batches = [
        (at, reader, stream[at : at + data.batch_size])
        for reader, stream in enumerate(streams)
        for at in range(0, len(stream) - data.batch_size + 1, data.batch_size)
    ]
    batches.sort(key=lambda batch: batch[:2])
    samples = np.concatenate([batch for _, _, batch in batches])
    return samples, np.array([reader for _, reader, _ in batches], dtype=np.int64)


def _rows(data: Sorted, shards: list[int]) -> Iterator[int]:
    for shard in shards:
        yield from range(shard * data.shard_rows, (shard + 1) * data.shard_rows)


def _drawn(items: Iterable[Item], size: int, initial: int, rng: random.Random) -> Iterator[Item]:
    """``items`` through a buffer: until it is full, two come in for each that goes out."""
    buffer: list[Item] = []
    source = iter(items)
    for item in source:
        buffer.append(item)
        if len(buffer) < size:
            buffer.extend(item for item in (next(source, None),) if item is not None)
        if len(buffer) >= initial:
            yield _taken(buffer, rng)
    while buffer:
        yield _taken(buffer, rng)


def _taken(buffer: list[Item], rng: random.Random) -> Item:
    at = int(rng.random() * len(buffer))
    buffer[at], buffer[-1] = buffer[-1], buffer[at]
    return buffer.pop()


def streaming_order(data: Sorted, ranks: int, workers: int) -> tuple[Int64s, Int64s]:
    """Samples, and the reader of each batch: each node's stream dealt to its ranks and workers, nodes side by side."""
    nodes = max(1, ranks // _RANKS_A_NODE)
    block = max(4_000_000 // nodes, 2**18)
    rng = np.random.default_rng(0)
    parts = np.array_split(rng.permutation(data.num_shards), nodes)
    streams = [_spread(data, shards, block, rng) for shards in parts]
    rows = min(map(len, streams)) // data.batch_size * data.batch_size
    side_by_side = np.stack([stream[:rows].reshape(-1, data.batch_size) for stream in streams], axis=1)
    batch = np.arange(side_by_side.shape[0])[:, None]
    readers = np.arange(nodes)[None, :] + nodes * (batch % (ranks * workers // nodes))
    return side_by_side.ravel(), readers.ravel()


def _spread(data: Sorted, shards: Int64s, block: int, rng: np.random.Generator) -> Int64s:
    """A canonical node's samples in order."""
    rows, count = data.shard_rows, len(shards) * data.shard_rows
    starts = np.arange(0, count, rows)
    reach = (rng.integers(int(0.75 * block), int(1.25 * block), size=len(shards)) - rows) / 2
    low, high = np.maximum(-reach, -starts), np.minimum(reach, count - starts - rows)
    shifts = rng.random((len(shards), rows)) * (high - low)[:, None] + low[:, None]
    samples = (shards[:, None] * rows + rng.permuted(np.tile(np.arange(rows), (len(shards), 1)), axis=1)).ravel()
    order: Int64s = samples[np.argsort(np.arange(count) + shifts.ravel())]
    return order
