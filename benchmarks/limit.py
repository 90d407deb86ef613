"""The limit: numpy.memmap, which verifies nothing, read in whole batches; and, for comparison, a sample at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from benchmarks.workloads import Data

Batch = dict[str, torch.Tensor]


class MemmapBatches(IterableDataset[Batch]):
    """Batches sliced out of memory maps; shuffled, gathered from anywhere in them by a permutation of all rows.

    In DataLoader workers each takes every num_workers-th batch. Every pass is a new epoch.
    """

    def __init__(self, data: Data, name: str, *, shuffle: bool) -> None:
        self._data, self._name, self._shuffle = data, name, shuffle
        self._batch_size = data.workloads[name].batch_size
        self._maps: tuple[npt.NDArray[Any], npt.NDArray[np.int64]] | None = None
        self._epoch = 0

    def __iter__(self) -> Iterator[Batch]:
        epoch, self._epoch = self._epoch, self._epoch + 1
        if self._maps is None:
            self._maps = self._data.arrays(self._name).open()
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        starts = range(first * self._batch_size, len(self._maps[0]), step * self._batch_size)
        return self._gathered(starts, epoch) if self._shuffle else self._sliced(starts)

    def _sliced(self, starts: range) -> Iterator[Batch]:
        assert self._maps is not None
        x, label = self._maps
        for start in starts:
            rows = slice(start, start + self._batch_size)
            yield {"x": torch.from_numpy(np.array(x[rows])), "label": torch.from_numpy(np.array(label[rows]))}

    def _gathered(self, starts: range, epoch: int) -> Iterator[Batch]:
        assert self._maps is not None
        x, label = self._maps
        order = np.random.default_rng(epoch).permutation(len(x))
        for start in starts:
            rows = order[start : start + self._batch_size]
            yield {"x": torch.from_numpy(x[rows]), "label": torch.from_numpy(label[rows])}


class MemmapRows(Dataset[Batch]):
    """Rows by lists of their numbers, as a BatchSampler gives them: the usual way to have DataLoader ask for whole batches."""

    def __init__(self, data: Data, name: str) -> None:
        self._x, self._label = data.arrays(name).open()

    def __len__(self) -> int:
        return len(self._x)

    def __getitem__(self, rows: list[int]) -> Batch:
        return {"x": torch.from_numpy(self._x[rows]), "label": torch.from_numpy(self._label[rows])}


class MemmapSamples(Dataset[dict[str, Any]]):
    """What most people write: one row at a time, which DataLoader collates."""

    def __init__(self, data: Data, name: str) -> None:
        self._x, self._label = data.arrays(name).open()

    def __len__(self) -> int:
        return len(self._x)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"x": torch.from_numpy(np.array(self._x[index])), "label": int(self._label[index])}
