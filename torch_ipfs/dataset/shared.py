"""What the process that made a dataset says to DataLoader workers that live already, through shared memory.

A tensor, because it pickles plainly (by value) as well as to a worker (by handle); multiprocessing.Value does only the latter.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import get_worker_info

_EPOCH, _START, _RESUMES, _CONSUMED_BY = range(4)
_NOBODY = -1


class SharedControl:
    """Epoch and start of the next pass, as the parent has set them.

    A start that was loaded counts for one pass. Persistent workers see from the number of resumes that it is a new one;
    workers that are started for each pass see from ``pass_id`` (the same for all workers of one pass) that an earlier pass
    has had it.
    """

    def __init__(self) -> None:
        self._words = _shared(torch.tensor([0, 0, 0, _NOBODY], dtype=torch.int64))
        self._passes = 0
        self._resumes = 0

    def publish(self, epoch: int, start: int, *, resumed: bool = False) -> None:
        """Tell workers what their next pass is to be."""
        self._words[_EPOCH], self._words[_START] = epoch, start
        if resumed:
            self._words[_RESUMES] += 1
            self._words[_CONSUMED_BY] = _NOBODY

    def begin_in_worker(self, epoch: int, start: int, pass_id: int) -> tuple[int, int]:
        """Epoch and start of the pass that this worker begins.

        :param epoch: what the worker was started with, with ``start``: its first pass is of that, whatever was said since.
        """
        words = self._words.tolist()
        first, self._passes = self._passes == 0, self._passes + 1
        if first:
            self._resumes = words[_RESUMES]
            if start and words[_CONSUMED_BY] not in (_NOBODY, pass_id):
                return epoch, 0
            self._words[_CONSUMED_BY] = pass_id
            return epoch, start
        resumed, self._resumes = words[_RESUMES] != self._resumes, words[_RESUMES]
        return words[_EPOCH], words[_START] if resumed else 0

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        _shared(self._words)


def _shared(tensor: torch.Tensor) -> torch.Tensor:
    tensor.share_memory_()  # type: ignore[no-untyped-call]
    return tensor


BLOCKS, SHARDS, SAMPLES = range(3)
_COUNTED = ("blocks", "shards", "samples")
_ROWS = 257


class SharedCounters:
    """What the process that made a dataset and its workers have read: a row for each, so that none writes where another does.

    Workers of higher numbers than there are rows share some, and may lose a count to each other.
    """

    def __init__(self) -> None:
        self._rows = _shared(torch.zeros((_ROWS, len(_COUNTED)), dtype=torch.int64))

    def of_this_process(self) -> npt.NDArray[np.int64]:
        """The row to count in, shape (3,), by ``BLOCKS``, ``SHARDS`` and ``SAMPLES``."""
        info = get_worker_info()
        row: npt.NDArray[np.int64] = self._rows[0 if info is None else 1 + info.id % (_ROWS - 1)].numpy()
        return row

    def totals(self) -> dict[str, int]:
        return dict(zip(_COUNTED, self._rows.sum(0).tolist(), strict=True))

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        _shared(self._rows)
