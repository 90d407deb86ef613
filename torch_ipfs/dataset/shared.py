"""What the process that made a dataset says to DataLoader workers that live already, through shared memory.

A tensor, because it pickles plainly (by value) as well as to a worker (by handle); multiprocessing.Value does only the latter.
"""

from __future__ import annotations

from dataclasses import astuple
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import get_worker_info

from torch_ipfs.plan.cursor import Cursor
from torch_ipfs.plan.shuffle import ShuffleOptions

_EPOCH, _START, _RESUMES, _BEGUN_BY, _UNFOLLOWED, _LANES, _UNIT_ROWS, _WINDOW_ROWS = range(8)
_WORDS = 8
_NOBODY = -1
_WORKERS = 256
"""Workers of higher numbers are told passes apart by ``pass_id`` alone."""


class SharedControl:
    """Epoch and start of the next pass, as the parent has set them.

    A start that was loaded counts for one pass. Persistent workers see from the number of resumes that it is a new one.
    Workers that are started for each pass see from ``pass_id``, the same for all workers of one pass, that an earlier pass
    has begun there; and, since ``pass_id`` follows from torch's seed and may come again, from what the worker of the same
    number has noted.
    """

    def __init__(self) -> None:
        self._words = _shared(torch.zeros(_WORDS + _WORKERS, dtype=torch.int64))
        self._words[_BEGUN_BY] = _NOBODY
        self._passes = 0
        self._resumes = 0

    def publish(self, epoch: int, start: int) -> None:
        """Tell workers what their next pass is to be."""
        self._words[_EPOCH], self._words[_START], self._words[_UNFOLLOWED] = epoch, start, 0

    def resume(self, cursor: Cursor) -> None:
        """Tell workers that their next pass goes on from ``cursor``, and by which order."""
        self.publish(cursor.epoch, cursor.position)
        if cursor.shuffle is not None:
            self._words[_LANES : _WINDOW_ROWS + 1] = torch.tensor(astuple(cursor.shuffle))
        self._words[_RESUMES] += 1
        self._words[_BEGUN_BY] = _NOBODY

    @property
    def shuffle(self) -> ShuffleOptions | None:
        """The options of the order as the state loaded last has them; ``None`` where none was, or it has none."""
        lanes, unit_rows, window_rows = self._words[_LANES : _WINDOW_ROWS + 1].tolist()
        return ShuffleOptions(lanes, unit_rows, window_rows) if lanes else None

    @property
    def unfollowed(self) -> bool:
        """Whether workers have begun a pass, of what was published last, whose progress the parent does not know."""
        return bool(self._words[_UNFOLLOWED])

    def follow(self) -> None:
        """The parent knows the progress of the pass that begins now."""
        self._words[_UNFOLLOWED] = 0

    def begin_in_worker(
        self, epoch: int, start: int, *, worker: int, pass_id: int, own_start: bool, followed: bool
    ) -> tuple[int, int]:
        """Epoch and start of the pass that this worker begins.

        :param epoch: what the worker was started with, with ``start``: its first pass is of that, whatever was said since.
        :param own_start: ``start`` is this worker's alone, from a state that it has loaded itself.
        :param followed: whether the parent counts what it receives.
        """
        words = self._words[:_WORDS].tolist()
        first, self._passes = self._passes == 0, self._passes + 1
        resumed, self._resumes = words[_RESUMES] != self._resumes, words[_RESUMES]
        if not followed:
            self._words[_UNFOLLOWED] = 1
        if own_start:
            return epoch, start
        if not first:
            return words[_EPOCH], words[_START] if resumed else 0
        return epoch, start if start and self._is_first_there(worker, pass_id, words) else 0

    def _is_first_there(self, worker: int, pass_id: int, words: list[int]) -> bool:
        """Whether no earlier pass has begun at the start that was loaded last; notes that this one does."""
        noted = self._words[_WORDS + worker :][:1]
        if words[_BEGUN_BY] not in (_NOBODY, pass_id) or (words[_RESUMES] and (noted == words[_RESUMES]).any()):
            return False
        self._words[_BEGUN_BY] = pass_id
        noted.fill_(words[_RESUMES])
        return True

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
