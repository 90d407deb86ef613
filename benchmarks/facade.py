"""What IPFSDataLoader costs beside the dataset that it is made of: lists of samples, from here or a worker, and to_pytorch."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks.workloads import Data
from torch_ipfs import IPFSIterableDataset
from torch_ipfs.loader import IPFSDataLoader

LISTS, LISTS_OF_A_WORKER, TO_PYTORCH = "lists of samples", "lists of samples from a worker", "to_pytorch()"
DATASET = "IPFSIterableDataset"
WAYS = (LISTS, LISTS_OF_A_WORKER, TO_PYTORCH, DATASET)

WORKLOAD = "tabular"
_BATCH_SIZE = 32
"""The specification's default."""


@dataclass(frozen=True, slots=True)
class Facade:
    """Reading the embedded samples, shuffled, through the loader or, beside it, as the dataset.

    :param way: one of ``WAYS``.
    :param later_epochs: read after the first one.
    """

    way: str
    later_epochs: int = 9


def measure_facade(data: Data, task: Facade) -> dict[str, float]:
    """Seconds of the first epoch, loading included, and of later ones."""
    start_s = time.perf_counter()
    batches = _batches(data, task.way)
    samples = _read(batches)
    seconds = [time.perf_counter() - start_s]
    for _ in range(task.later_epochs):
        start_s = time.perf_counter()
        if _read(batches) != samples:
            raise ValueError(f"{task}: another number of samples in a later epoch")
        seconds.append(time.perf_counter() - start_s)
    return {"samples": samples, "first_epoch_s": seconds[0], "later_epoch_s": median(seconds[1:])}


def _batches(data: Data, way: str) -> Iterable[Any]:
    """What an epoch is read from, any number of times."""
    written = data.written(WORKLOAD, "embedded", "sha2-256")
    if way == DATASET:
        return IPFSIterableDataset(written.root, written.car, batch_size=_BATCH_SIZE, shuffle=True)
    loader = IPFSDataLoader(written.car, _BATCH_SIZE, prefetch=2 if way == LISTS_OF_A_WORKER else 0)
    result = loader.load_dataset(written.root)
    if not result["success"]:
        raise ValueError(result["error"])
    return loader.to_pytorch() if way == TO_PYTORCH else loader


def _read(batches: Iterable[Any]) -> int:
    """How many samples a pass gives."""
    return sum(len(batch) if isinstance(batch, list) else len(batch["label"]) for batch in batches)
