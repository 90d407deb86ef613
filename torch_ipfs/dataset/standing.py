"""Where a run stands in this process: what a dataset has in common with the forms of it that loaders read."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch.utils.data import get_worker_info

from torch_ipfs.dataset.shared import SharedControl, Told
from torch_ipfs.errors import ResumeError
from torch_ipfs.manifest.tree import Manifest
from torch_ipfs.plan.cursor import Cursor
from torch_ipfs.plan.shuffle import ShuffleOptions


class Position(Protocol):
    """How far a pass has come."""

    @property
    def epoch(self) -> int: ...

    @property
    def position(self) -> int:
        """Positions of the epoch that every rank together has had."""
        ...


@dataclass(frozen=True, slots=True)
class Stood:
    """How far a pass had come when what counts it was copied: the copy's own run stands there."""

    epoch: int
    position: int


@dataclass(slots=True)
class Standing:
    """Epoch, start and progress of the passes of one dataset.

    :param start: position at which the next pass begins, and only that one.
    :param shuffle: the options of the order as the state loaded last has them.
    :param resumes: states loaded so far.
    :param latest: the latest pass of which this process knows how far it has come.
    :param control: what workers that live already are told.
    :param loaded_in_worker: whether the start comes from a state that was loaded in this very worker.
    """

    epoch: int = 0
    epoch_is_set: bool = False
    start: int = 0
    shuffle: ShuffleOptions | None = None
    resumes: int = 0
    latest: Position | None = None
    control: SharedControl = field(default_factory=SharedControl)
    loaded_in_worker: bool = False

    def set_epoch(self, epoch: int) -> None:
        """Have the next pass be of ``epoch``: from its beginning, but for the epoch that a loaded state stands in."""
        self.epoch_is_set = True
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0
            self.control.publish(epoch, 0)

    def resume(self, cursor: Cursor) -> None:
        """Have the next pass go on from ``cursor``."""
        self.epoch, self.start, self.shuffle = cursor.epoch, cursor.position, cursor.shuffle
        self.latest = None
        self.resumes += 1
        # A worker that loads a state (torchdata's StatefulDataLoader has each load its own) speaks for nobody else.
        self.loaded_in_worker = get_worker_info() is not None
        if not self.loaded_in_worker:
            self.control.resume(cursor)

    def begin(self, *, followed: bool, told: Told | None) -> tuple[int, int]:
        """Epoch and start of a pass that begins now; the start counts once.

        :param followed: whether a loader in the parent process counts what is received of it.
        :param told: what that loader says to workers that have read passes before.
        """
        info = get_worker_info()
        if info is not None and not followed:
            own, self.loaded_in_worker = self.loaded_in_worker, False
            told = self.control.begin_in_worker(
                Told(self.epoch, self.start, self.shuffle), worker=info.id, pass_id=info.seed - info.id, own_start=own
            )
        if told is not None:
            self.epoch, self.start, self.shuffle = told.epoch, told.start, told.shuffle or self.shuffle
        self.settle_start()
        start, self.start = self.start, 0
        return self.epoch, start

    def settle_start(self) -> None:
        """A pass is to begin. A start that workers have begun at, without anybody here counting, is used up."""
        if get_worker_info() is None and self.control.begun:
            self.start = 0

    def follow(self, latest: Position) -> None:
        """A pass has begun that this process knows how far it has come: as it is read here, or received from workers."""
        self.latest, self.start = latest, 0
        if get_worker_info() is None:
            self.control.follow()

    @property
    def position(self) -> int:
        """Where the run stands in ``epoch``, as far as it is known here."""
        return self.start if self.latest is None or self.latest.epoch != self.epoch else self.latest.position

    @property
    def is_known(self) -> bool:
        """Whether no worker has read since without anybody here counting it."""
        return get_worker_info() is not None or not self.control.unfollowed

    def beside(self) -> Standing:
        """For a dataset that goes its own way, with workers of its own, from the beginning of the same epoch on."""
        return dataclasses.replace(self, latest=None, start=0, control=SharedControl(), loaded_in_worker=False)

    def __getstate__(self) -> tuple[None, dict[str, Any]]:
        latest = None if self.latest is None else Stood(self.latest.epoch, self.latest.position)
        return None, {field.name: getattr(self, field.name) for field in dataclasses.fields(self)} | {"latest": latest}


def check_resumable(cursor: Cursor, manifest: Manifest, *, shuffle: bool, seed: int) -> None:
    """Check that a run that stands at ``cursor`` is one of this dataset.

    :raises ResumeError: it is not; says which field differs and what to do.
    """
    if cursor.root != str(manifest.root):
        raise ResumeError(
            f"field 'root' of the state is {cursor.root}, but this dataset is {manifest.root}: a position in one says nothing "
            "about the other; make the dataset from the state's root, or start the run anew"
        )
    if (cursor.shuffle is not None) != shuffle:
        raise ResumeError(
            f"field 'shuffle' of the state is {cursor.shuffle}, but the dataset was made with shuffle={shuffle}: the order "
            f"would be another; make it with shuffle={cursor.shuffle is not None}"
        )
    if cursor.shuffle is not None and cursor.seed != seed:
        raise ResumeError(
            f"field 'seed' of the state is {cursor.seed}, but the dataset's is {seed}: the order would be another; make it "
            f"with seed={cursor.seed}"
        )
    if cursor.position > manifest.num_samples:
        raise ResumeError(
            f"field 'position' of the state is {cursor.position}, but the dataset has {manifest.num_samples} samples: the "
            "state was changed since state_dict() gave it; load that of another checkpoint"
        )
