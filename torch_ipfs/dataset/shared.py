"""What the process that made a dataset says to DataLoader workers that live already, through shared memory.

A tensor, because it pickles plainly (by value) as well as to a worker (by handle); multiprocessing.Value does only the latter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
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


@dataclass(frozen=True, slots=True)
class Told:
    """What a pass is of.

    :param shuffle: the options of its order; ``None`` where nothing is said of them.
    """

    epoch: int
    start: int
    shuffle: ShuffleOptions | None

    def to_words(self) -> tuple[int, ...]:
        return (self.epoch, self.start, *((0, 0, 0) if self.shuffle is None else astuple(self.shuffle)))

    @classmethod
    def from_words(cls, words: Sequence[int]) -> Told:
        epoch, start, *order = words
        return cls(epoch, start, ShuffleOptions(*order) if order[0] else None)


class SharedControl:
    """Epoch and start of the next pass, as the parent has set them.

    A start that was loaded counts for one pass. Persistent workers see from the number of resumes that it is a new one.
    They agree on what the first of them that begins a pass has read.
    Workers that are started for each pass see from ``pass_id``, the same for all workers of one pass, that an earlier pass
    has begun there; and, since ``pass_id`` follows from torch's seed and may come again, from what the worker of the same
    number has noted.
    """

    def __init__(self) -> None:
        self._words = _shared(torch.zeros(_WORDS + _WORKERS, dtype=torch.int64))
        self._words[_BEGUN_BY] = _NOBODY
        self._agreed = _shared(torch.full((8,), _NOBODY))
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
    def unfollowed(self) -> bool:
        """Whether workers have begun a pass, of what was published last, whose progress the parent does not know."""
        return bool(self._words[_UNFOLLOWED])

    def follow(self) -> None:
        """The parent knows the progress of the pass that begins now."""
        self._words[_UNFOLLOWED] = 0

    def begin_in_worker(self, own: Told, *, worker: int, pass_id: int, own_start: bool) -> Told:
        """What the pass is of that this worker begins; the parent does not count what it receives of it.

        :param own: what the worker was started with: its first pass is of that, whatever was said since.
        :param own_start: the start is this worker's alone, from a state that it has loaded itself.
        """
        words = self._words[:_WORDS].tolist()
        number, self._passes = self._passes, self._passes + 1
        resumed, self._resumes = words[_RESUMES] != self._resumes, words[_RESUMES]
        self._words[_UNFOLLOWED] = 1
        if own_start:
            return own
        if number == 0:
            self._agreed[0] = _NOBODY
            return own if own.start and self._is_first_there(worker, pass_id, words) else replace(own, start=0)
        told = Told.from_words([words[_EPOCH], words[_START] if resumed else 0, *words[_LANES : _WINDOW_ROWS + 1]])
        return self._agree(pass_id, number, told)

    def _agree(self, pass_id: int, number: int, told: Told) -> Told:
        """What the first worker that began this pass was told: one that is slow to begin may find other words by then."""
        first_id, first_number, resumes, *agreed = self._agreed.tolist()
        if (first_id, first_number) == (pass_id, number):
            self._resumes = resumes
            return Told.from_words(agreed)
        self._agreed[1:] = torch.tensor((number, self._resumes, *told.to_words()))
        self._agreed[0] = pass_id
        return told

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
        _shared(self._agreed)


class ToldPasses:
    """What the persistent workers of one loader are told of each pass, fixed when it begins: a worker that is slow to begin
    it reads the same, whatever epoch is set and whatever state is loaded by then.

    Two places are enough: torch begins no pass before each worker has begun the one before.
    """

    def __init__(self) -> None:
        self._words = _shared(torch.zeros((2, 5), dtype=torch.int64))
        self._told = self._begun = 0

    def restart(self) -> None:
        """Workers are started. Their first pass is of what they are started with."""
        self._told = 0

    def tell(self, told: Told) -> None:
        """Workers that live are to begin a pass."""
        self._told += 1
        self._words[self._told % 2] = torch.tensor(told.to_words())

    def next_in_worker(self) -> Told | None:
        """What the pass is of that this worker begins; ``None`` for its first."""
        number, self._begun = self._begun, self._begun + 1
        return Told.from_words(self._words[number % 2].tolist()) if number else None

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
