"""One measurement in this process: what child processes run, and the tiny run in place."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import torch_ipfs
from benchmarks.facade import WORKLOAD, Facade, measure_facade
from benchmarks.limit import Batch
from benchmarks.memory import Peak, anonymous_bytes
from benchmarks.readers import READERS, Reading
from benchmarks.workloads import Data

Figures = dict[str, float]

_MEMORY_LOOKS_EVERY = 16


@dataclass(frozen=True, slots=True)
class Writing:
    """Writing one workload packed.

    :param rows: from an iterable of row mappings instead of a mapping of column arrays.
    """

    workload: str
    rows: bool
    hash_function: str


Task = Reading | Writing | Facade


def measure(folder: Path, task: Task) -> Figures:
    """The figures of ``task`` on the data in ``folder``."""
    data = Data.load(folder)
    data.warm(WORKLOAD if isinstance(task, Facade) else task.workload)
    if isinstance(task, Facade):
        return measure_facade(data, task)
    return _measure_reading(data, task) if isinstance(task, Reading) else _measure_writing(data, task)


def _measure_reading(data: Data, reading: Reading) -> Figures:
    """Seconds from construction to the first and the last batch, and of later epochs; then, in one more, peak memory."""
    peak = Peak(anonymous_bytes())
    start_cpu_s, start_s = time.process_time(), time.perf_counter()
    begin = READERS[reading.reader](data, reading)
    samples, first_batch_s, _ = _read(begin(0))
    figures = {
        "samples": samples,
        "first_batch_s": first_batch_s - start_s,
        "first_epoch_s": time.perf_counter() - start_s,
        "first_epoch_cpu_s": time.process_time() - start_cpu_s,
    }
    later = [_read(begin(epoch)) for epoch in range(1, 1 + reading.later_epochs)]
    if not later:
        return figures
    if any(again != samples for again, _, _ in later):
        raise ValueError(f"{reading}: {samples} samples in the first epoch, then {[again for again, _, _ in later]}")
    figures["later_epoch_s"] = median(elapsed_s for _, _, elapsed_s in later)
    for i, _batch in enumerate(begin(1 + reading.later_epochs)):
        if i % _MEMORY_LOOKS_EVERY == 0:
            peak.look()
    return figures | {"grown_bytes": peak.grown_bytes, "proportional_bytes": peak.proportional_bytes}


def _read(batches: Iterable[Batch]) -> tuple[int, float, float]:
    """How many samples a pass gives, when its first batch was there, and the seconds that it took."""
    start_s = time.perf_counter()
    first_batch_s, samples = 0.0, 0
    for batch in batches:
        first_batch_s = first_batch_s or time.perf_counter()
        samples += len(batch["label"])
    return samples, first_batch_s, time.perf_counter() - start_s


def _measure_writing(data: Data, writing: Writing) -> Figures:
    """Seconds from the arrays, or from rows that are there already, to the CAR's end."""
    workload = data.workloads[writing.workload]
    x, label = (np.array(column) for column in data.arrays(writing.workload).open())
    samples: Any = {"x": x, "label": label}
    if writing.rows:
        samples = [{"x": row, "label": value} for row, value in zip(x, label.tolist(), strict=True)]
    path = data.folder / "written.car"
    hash_function: Any = writing.hash_function
    write_dataset = torch_ipfs.write_dataset
    start = time.perf_counter()
    try:
        write_dataset(samples, path, hash_function=hash_function)
        elapsed_s = time.perf_counter() - start
    finally:
        path.unlink(missing_ok=True)
    return {
        "write_s": elapsed_s,
        "samples": workload.num_rows,
        "bytes": workload.total_bytes,
    }
