"""Which reader this is, among all ranks and their DataLoader workers."""

from __future__ import annotations

from dataclasses import dataclass

from torch_ipfs.errors import OptionError

MOST_RANKS = 2**31


@dataclass(frozen=True, slots=True)
class Topology:
    """One reader of ``world_size * num_workers``.

    :param rank: data-parallel rank, ``0 <= rank < world_size``.
    :param worker: DataLoader worker, ``0 <= worker < num_workers``; ``num_workers`` is 1 where the caller reads itself.
    """

    rank: int = 0
    world_size: int = 1
    worker: int = 0
    num_workers: int = 1

    def __post_init__(self) -> None:
        if self.world_size > MOST_RANKS:
            raise OptionError(f"world_size must be at most {MOST_RANKS}, but is {self.world_size}")
        if self.world_size < 1 or not 0 <= self.rank < self.world_size:
            raise OptionError(
                f"rank must be in [0, world_size), but rank is {self.rank} and world_size is {self.world_size}"
            )
        if self.num_workers < 1 or not 0 <= self.worker < self.num_workers:
            raise OptionError(f"worker must be in [0, num_workers), but is {self.worker} of {self.num_workers}")
