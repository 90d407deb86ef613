"""Which rank and which worker this process is, looked up when iteration starts and never in a constructor."""

from __future__ import annotations

import os

import torch.distributed
from torch.utils.data import get_worker_info

from torch_ipfs.dataset.arguments import whole_number
from torch_ipfs.errors import OptionError
from torch_ipfs.plan.topology import Topology

Ranks = tuple[int, int]
"""(rank, world_size)"""


def checked_ranks(rank: int | None, world_size: int | None) -> Ranks | None:
    """What the caller gave: both or neither.

    :raises OptionError: one without the other, no whole numbers, or a rank outside of its world.
    """
    if rank is None and world_size is None:
        return None
    if rank is None or world_size is None:
        raise OptionError("give both rank and world_size, or neither and have them found")
    rank_number, size_number = whole_number(rank), whole_number(world_size)
    if rank_number is None or size_number is None:
        raise OptionError(f"rank and world_size must be whole numbers, but are {rank!r} and {world_size!r}")
    Topology(rank_number, size_number)
    return rank_number, size_number


def found_ranks() -> Ranks:
    """From torch.distributed where it is initialised, else from RANK and WORLD_SIZE, else one process alone."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    rank, world_size = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
    if rank is None or world_size is None:
        return 0, 1
    try:
        found = int(rank), int(world_size)
    except ValueError:
        raise OptionError(f"RANK and WORLD_SIZE must be whole numbers, but are {rank!r} and {world_size!r}") from None
    Topology(*found)
    return found


def this_topology(given: Ranks | None, parents: Ranks | None) -> Topology:
    """This process's place.

    :param given: what the caller gave; wins.
    :param parents: what the process that pickled the dataset had found; counts in a DataLoader worker alone, which, when
        spawned, knows no process group.
    """
    info = get_worker_info()
    if info is None:
        return Topology(*(given or found_ranks()))
    return Topology(*(given or parents or found_ranks()), info.id, info.num_workers)
