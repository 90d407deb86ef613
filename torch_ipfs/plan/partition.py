"""Who reads position p: batches of positions, dealt out to ranks and then to workers.

Position p in [0, N) is a place in the epoch's global order. Counted from ``start`` (where a resumed epoch goes on), batch
m holds B positions, rank m % R reads it at its step m // R, in its worker step % W. So the batches of one step, side by
side in rank order, are the batch that one process with B x R would make, and DataLoader, which asks its workers in turn,
gives the same order for every W. With B = 1 this is DistributedSampler's rule.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from torch_ipfs.errors import OptionError
from torch_ipfs.plan.topology import Topology

Int64s = npt.NDArray[np.int64]

_FIRST_RUN_POSITIONS = 256


@dataclass(frozen=True, slots=True)
class Partition:
    """The steps of one epoch, or of what is left of it.

    :param num_samples: N, the positions of the whole epoch.
    :param batch_size: B, positions a rank reads in one step.
    :param world_size: R.
    :param start: position the epoch goes on from.
    :param drop_last: leave out the last step where fewer than B x R positions are left for it.
    :param pad: with R > 1, fill the last step up with positions from the epoch's start so that all ranks get equal
        batches; without it the last ranks may get a short batch there, or none.
    """

    num_samples: int
    batch_size: int
    world_size: int = 1
    start: int = 0
    drop_last: bool = False
    pad: bool = True

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise OptionError(f"batch_size must be at least 1, but is {self.batch_size}")
        if not 0 <= self.start <= self.num_samples:
            raise OptionError(f"start must be a whole number in [0, {self.num_samples}], but is {self.start!r}")

    @property
    def step_positions(self) -> int:
        """B x R: positions that all ranks together read in a full step."""
        return self.batch_size * self.world_size

    @property
    def full_steps(self) -> int:
        return (self.num_samples - self.start) // self.step_positions

    @property
    def tail(self) -> int:
        """Positions left for the last, short step; 0 where there is none."""
        return (self.num_samples - self.start) % self.step_positions

    @property
    def padding(self) -> int:
        """Positions that are read a second time, over all ranks, to fill up the last step."""
        if not self.pad or self.drop_last or self.world_size == 1 or self.tail == 0:
            return 0
        return self._tail_batch * self.world_size - self.tail

    @property
    def _tail_batch(self) -> int:
        return -(-self.tail // self.world_size)

    def num_steps(self, rank: int) -> int:
        """Steps of ``rank``; the same for all ranks unless ``pad`` is off."""
        if self.tail == 0 or self.drop_last:
            return self.full_steps
        has_tail = self.world_size == 1 or self.pad or self.tail > rank * self.batch_size
        return self.full_steps + int(has_tail)

    def position_after(self, steps: int) -> int:
        """The position at which the epoch goes on once every rank has had ``steps`` steps."""
        return min(self.start + steps * self.step_positions, self.num_samples)

    def positions(self, rank: int, step: int) -> Int64s:
        """Positions of ``rank`` at ``step``, in order, each in [0, N). Shape (at most B,)."""
        if step < self.full_steps:
            first = self.start + (step * self.world_size + rank) * self.batch_size
            return np.arange(first, first + self.batch_size, dtype=np.int64)
        return self._tail_positions(rank)

    def _tail_positions(self, rank: int) -> Int64s:
        first = self.start + self.full_steps * self.step_positions
        if self.world_size > 1 and self.pad:
            first += rank * self._tail_batch
            return np.arange(first, first + self._tail_batch, dtype=np.int64) % self.num_samples
        first += rank * self.batch_size
        return np.arange(first, min(first + self.batch_size, self.num_samples), dtype=np.int64)

    def _full_positions(self, steps: range, rank: int) -> Int64s:
        """Positions of ``rank`` at full steps, end to end."""
        if self.world_size == steps.step == 1:  # they follow each other
            first = self.start + steps.start * self.batch_size
            return np.arange(first, first + len(steps) * self.batch_size, dtype=np.int64)
        firsts = (np.asarray(steps, dtype=np.int64) * self.world_size + rank) * self.batch_size + self.start
        return (firsts[:, None] + np.arange(self.batch_size, dtype=np.int64)).ravel()

    def steps_of(self, topology: Topology) -> range:
        """The steps that worker ``topology.worker`` of rank ``topology.rank`` reads."""
        return range(topology.worker, self.num_steps(topology.rank), topology.num_workers)

    def runs(self, topology: Topology, max_positions: int) -> Iterator[tuple[range, Int64s]]:
        """Steps of one reader with their positions, several full steps at a time so that work on them is vectorised.

        The first run is short, and each later one four times as long up to ``max_positions``, so that the first batch waits for
        little more than itself.

        :param max_positions: bound on the positions of one run; a single step may exceed it.
        :returns: pairs of steps and their positions laid end to end, B a step but for the epoch's last.
        """
        steps = self.steps_of(topology)
        full = steps[: len(range(steps.start, min(self.full_steps, steps.stop), steps.step))]
        i, most = 0, min(_FIRST_RUN_POSITIONS, max_positions)
        while i < len(full):
            run = full[i : i + max(1, most // self.batch_size)]
            i, most = i + len(run), min(4 * most, max_positions)
            yield run, self._full_positions(run, topology.rank)
        if len(full) < len(steps):
            yield steps[len(full) :], self._tail_positions(topology.rank)
