"""What the process that made a dataset and its DataLoader workers say to each other while they live, through shared memory."""

from __future__ import annotations

import os
import weakref
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from multiprocessing.context import get_spawning_popen
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import get_worker_info

from torch_ipfs.errors import OptionError
from torch_ipfs.plan.cursor import Cursor
from torch_ipfs.plan.shuffle import ShuffleOptions

Int64s = npt.NDArray[np.int64]


class SharedWords:
    """Integers that a process has in common with the DataLoader workers that it starts.

    They are plain memory until it starts some. What is forked then, or pickled for a process that is started, finds them in
    shared memory: all that are not there yet in one piece, since each piece holds a file descriptor. Any other copy is a copy,
    and so is that of a forked process that is no worker: it has workers, and a run, of its own.
    """

    def __init__(self, words: torch.Tensor, process: int | None = None) -> None:
        """:param process: whose they are, where that is another one, which has them in shared memory."""
        self.tensor = words
        self.process = os.getpid() if process is None else process
        _KNOWN.add(weakref.ref(self, _KNOWN.discard))

    @property
    def array(self) -> Int64s:
        """The words where they are now. Not to be held: they may move.

        :raises OptionError: this is a worker, and there was no shared memory when it was started.
        """
        if self.process != os.getpid():
            if get_worker_info() is None:
                self.tensor, self.process = self.tensor.clone(), os.getpid()
            elif not self.tensor.is_shared():  # type: ignore[no-untyped-call]
                raise OptionError(
                    "there was no shared memory when this worker was started, so that it would hear of no epoch and no state: "
                    "is /dev/shm full, or are there too many open files?"
                )
        return self.tensor.numpy()

    def __reduce__(self) -> tuple[Any, ...]:
        return SharedWords, (self.tensor.clone(),)


_KNOWN: set[weakref.ref[SharedWords]] = set()


def _share_all() -> None:
    unshared = []
    for ref in _KNOWN.copy():  # no iterator: the collector may run meanwhile, or a thread make another
        words = ref()
        if words is not None:
            _ = words.array  # those of the process that this one was forked from become its own
            if not words.tensor.is_shared():  # type: ignore[no-untyped-call]
                unshared.append(words)
    if unshared:
        size_bytes = sum(words.tensor.nbytes for words in unshared)
        storage: Any = torch.UntypedStorage
        together: torch.Tensor = torch.empty(0, dtype=torch.int64).set_(storage._new_shared(size_bytes))  # noqa: SLF001
        start = 0
        for words in unshared:
            moved = together[start : start + words.tensor.numel()].view(words.tensor.shape)
            # By numpy: torch copies much at once with threads, which a forked process waits for in vain.
            moved.numpy()[...] = words.tensor.numpy()
            words.tensor = moved
            start += words.tensor.numel()


_GIVEN: weakref.WeakKeyDictionary[Any, list[torch.Tensor]] = weakref.WeakKeyDictionary()
"""What each process was given: a descriptor that it is to inherit must be open until it does, whoever has let go by then, as
loaders do of the copies that they pickle.
"""


def _for_new_process(words: SharedWords) -> tuple[Any, ...]:
    """What is pickled for a process that is started: a handle, where others get the values."""
    _share_all()
    started = get_spawning_popen()
    if started is not None:
        _GIVEN.setdefault(started, []).append(words.tensor)
    return SharedWords, (words.tensor, words.process)


os.register_at_fork(before=_share_all)
ForkingPickler.register(SharedWords, _for_new_process)

_EPOCH, _START, _RESUMES, _BEGUN_BY, _UNFOLLOWED, _LANES, _UNIT_ROWS, _WINDOW_ROWS, _AGREED = range(9)
_NOTED = _AGREED + 8
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
        self._shared = SharedWords(torch.zeros(_NOTED + _WORKERS, dtype=torch.int64))
        self._words[_BEGUN_BY] = self._words[_AGREED] = _NOBODY
        self._passes = 0
        self._resumes = 0

    @property
    def _words(self) -> Int64s:
        return self._shared.array

    def publish(self, epoch: int, start: int) -> None:
        """Tell workers what their next pass is to be."""
        self._words[_EPOCH], self._words[_START], self._words[_UNFOLLOWED] = epoch, start, 0

    def resume(self, cursor: Cursor) -> None:
        """Tell workers that their next pass goes on from ``cursor``, and by which order."""
        self.publish(cursor.epoch, cursor.position)
        if cursor.shuffle is not None:
            self._words[_LANES : _WINDOW_ROWS + 1] = astuple(cursor.shuffle)
        self._words[_RESUMES] += 1
        self._words[_BEGUN_BY] = _NOBODY
        self._resumes = int(self._words[_RESUMES])

    @property
    def unfollowed(self) -> bool:
        """Whether workers have begun a pass, of what was published last, whose progress the parent does not know."""
        return bool(self._words[_UNFOLLOWED])

    @property
    def begun(self) -> bool:
        """Whether workers have begun a pass at the start that was loaded last."""
        return bool(self._words[_BEGUN_BY] != _NOBODY)

    def follow(self) -> None:
        """The parent knows the progress of the pass that begins now, which uses up the start."""
        self._words[_START] = self._words[_UNFOLLOWED] = 0

    def begin_in_worker(self, own: Told, *, worker: int, pass_id: int, own_start: bool) -> Told:
        """What the pass is of that this worker begins; the parent does not count what it receives of it.

        :param own: what the worker was started with: its first pass is of that, whatever was said since.
        :param own_start: the start is this worker's alone, from a state that it has loaded itself.
        """
        words = self._words[:_AGREED].tolist()
        number, self._passes = self._passes, self._passes + 1
        agreed = None if own_start or number == 0 else self._agreed(pass_id, number)
        if agreed is not None:
            return agreed
        self._words[_UNFOLLOWED] = 1
        if own_start:
            return own
        if number == 0:
            self._words[_AGREED] = _NOBODY
            return own if own.start and self._is_first_there(worker, pass_id, words) else replace(own, start=0)
        resumed = words[_RESUMES] != self._resumes and words[_BEGUN_BY] in (_NOBODY, pass_id)
        self._resumes = words[_RESUMES]
        if resumed:
            self._words[_BEGUN_BY] = pass_id
        told = Told.from_words([words[_EPOCH], words[_START] if resumed else 0, *words[_LANES : _WINDOW_ROWS + 1]])
        self._words[_AGREED + 1 : _NOTED] = (number, self._resumes, *told.to_words())
        self._words[_AGREED] = pass_id
        return told

    def _agreed(self, pass_id: int, number: int) -> Told | None:
        """What the first worker that began this pass was told, if one has: one that is slow to begin may find other words by
        then, which are for others to begin at.
        """
        first_id, first_number, resumes, *agreed = self._words[_AGREED:_NOTED].tolist()
        if (first_id, first_number) != (pass_id, number):
            return None
        self._resumes = resumes
        return Told.from_words(agreed)

    def _is_first_there(self, worker: int, pass_id: int, words: list[int]) -> bool:
        """Whether no earlier pass has begun at the start that was loaded when this worker was started; notes that this one
        does. What was loaded since is for others to begin at.
        """
        noted = self._words[_NOTED + worker :][:1]
        if self._resumes and (noted >= self._resumes).any():
            return False
        if self._resumes == words[_RESUMES]:
            if words[_BEGUN_BY] not in (_NOBODY, pass_id):
                return False
            self._words[_BEGUN_BY] = pass_id
        noted.fill(self._resumes)
        return True


class ToldPasses:
    """What the persistent workers of one loader are told of each pass, fixed when it begins: a worker that is slow to begin
    it reads the same, whatever epoch is set and whatever state is loaded by then.

    Two places are enough: torch begins no pass before each worker has begun the one before.
    """

    def __init__(self) -> None:
        self._shared = SharedWords(torch.zeros((2, 5), dtype=torch.int64))
        self._told = self._begun = 0

    def restart(self) -> None:
        """Workers are started. Their first pass is of what they are started with."""
        self._told = 0

    def tell(self, told: Told) -> None:
        """Workers that live are to begin a pass."""
        self._told += 1
        self._shared.array[self._told % 2] = told.to_words()

    def next_in_worker(self) -> Told | None:
        """What the pass is of that this worker begins; ``None`` for its first."""
        number, self._begun = self._begun, self._begun + 1
        return Told.from_words(self._shared.array[number % 2].tolist()) if number else None


BLOCKS, SHARDS, SAMPLES = range(3)
_COUNTED = ("blocks", "shards", "samples")
_ROWS = 256


class SharedCounters:
    """What the process that made a dataset and its workers have read: a row for each, so that none writes where another does.

    Workers of higher numbers than there are rows share some, and may lose a count to each other.
    """

    def __init__(self) -> None:
        self._own: Int64s = np.zeros(len(_COUNTED), dtype=np.int64)
        self._of_workers = SharedWords(torch.zeros((_ROWS, len(_COUNTED)), dtype=torch.int64))

    def of_this_process(self) -> Int64s:
        """The row to count in, shape (3,), by ``BLOCKS``, ``SHARDS`` and ``SAMPLES``."""
        info = get_worker_info()
        row: Int64s = self._own if info is None else self._of_workers.array[info.id % _ROWS]
        return row

    def totals(self) -> dict[str, int]:
        return dict(zip(_COUNTED, (self._own + self._of_workers.array.sum(0)).tolist(), strict=True))
