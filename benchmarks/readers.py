"""Everything that reads a workload, under one face: made once, then one pass an epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler

from benchmarks.limit import Batch, MemmapBatches, MemmapRows, MemmapSamples
from benchmarks.workloads import Data
from torch_ipfs import IPFSIterableDataset, IPFSMapDataset

Pass = Callable[[int], Iterable[Batch]]
"""Epoch -> its batches."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One way of reading one workload.

    :param reader: a key of ``READERS``.
    :param layout: of what torch_ipfs reads.
    :param num_workers: of a DataLoader; ``None`` iterates the dataset itself.
    :param later_epochs: read after the first one, in the same process.
    """

    reader: str
    workload: str
    shuffle: bool = False
    num_workers: int | None = None
    layout: str = "packed"
    hash_function: str = "sha2-256"
    later_epochs: int = 3


def _loaded(dataset: Any, num_workers: int | None) -> Iterable[Batch]:
    """``dataset``, which makes batches itself, as it is or in the workers of a DataLoader that live on."""
    if num_workers is None:
        return dataset  # type: ignore[no-any-return]
    return DataLoader(dataset, batch_size=None, num_workers=num_workers, persistent_workers=num_workers > 0)


def _memmap(data: Data, reading: Reading) -> Pass:
    batches = _loaded(MemmapBatches(data, reading.workload, shuffle=reading.shuffle), reading.num_workers)
    return lambda _epoch: batches


def _memmap_batch_sampler(data: Data, reading: Reading) -> Pass:
    dataset, num_workers = MemmapRows(data, reading.workload), reading.num_workers or 0
    rows = RandomSampler(dataset) if reading.shuffle else SequentialSampler(dataset)
    sampler = BatchSampler(rows, data.workloads[reading.workload].batch_size, drop_last=False)
    loader = DataLoader(
        dataset, batch_size=None, sampler=sampler, num_workers=num_workers, persistent_workers=num_workers > 0
    )
    return lambda _epoch: loader


def _memmap_samples(data: Data, reading: Reading) -> Pass:
    batch_size = data.workloads[reading.workload].batch_size
    dataset = MemmapSamples(data, reading.workload)
    loader = DataLoader(dataset, batch_size, shuffle=reading.shuffle, num_workers=reading.num_workers or 0)
    return lambda _epoch: loader


def _torch_ipfs(data: Data, reading: Reading) -> Pass:
    written = data.written(reading.workload, reading.layout, reading.hash_function)
    dataset = IPFSIterableDataset(
        written.root,
        written.car,
        batch_size=data.workloads[reading.workload].batch_size,
        shuffle=reading.shuffle,
    )
    batches = _loaded(dataset, reading.num_workers)

    def begin(epoch: int) -> Iterable[Batch]:
        dataset.set_epoch(epoch)
        return batches

    return begin


def _torch_ipfs_map(data: Data, reading: Reading) -> Pass:
    """Random access: DataLoader samples at random and asks for each batch by ``__getitems__``."""
    written = data.written(reading.workload, reading.layout, reading.hash_function)
    dataset = IPFSMapDataset(written.root, written.car)
    batch_size = data.workloads[reading.workload].batch_size
    loader = DataLoader(dataset, batch_size, shuffle=reading.shuffle, num_workers=reading.num_workers or 0)
    return lambda _epoch: loader


READERS: dict[str, Callable[[Data, Reading], Pass]] = {
    "memmap": _memmap,
    "memmap batch sampler": _memmap_batch_sampler,
    "memmap samples": _memmap_samples,
    "torch_ipfs": _torch_ipfs,
    "torch_ipfs map": _torch_ipfs_map,
}
