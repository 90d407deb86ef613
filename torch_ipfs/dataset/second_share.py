"""Frameworks that share an iterable dataset out to ranks once more, and what is done about it.

Accelerate, and transformers.Trainer with it, take a ``DataLoader`` over an ``IterableDataset`` for one that gives the same
samples in every process: they deal its batches out to the ranks, or read them in one process and send them to the others.
Of a dataset that reads its own share alone, most samples would never be seen, and nothing would say so. Their loaders are
found on the stack, where they are when a pass begins, in forked workers too, or when a dataset is pickled for spawned ones.
"""

from __future__ import annotations

import sys
from types import FrameType

from torch_ipfs.errors import OptionError

_SHARERS = ("accelerate.data_loader", "transformers.trainer_pt_utils")


def check_shared_once(*, ranks_given: bool, world_size: int, for_loader: bool) -> None:
    """Check, where a pass begins or a dataset is pickled, that nobody else shares it out.

    :param ranks_given: whether the user has said which share is to be read.
    :param for_loader: whether the dataset is that of a loader of ``make_dataloader``, whose outputs it alone can read.
    :raises OptionError: somebody does.
    """
    if not for_loader and world_size == 1:
        return
    sharer = _sharer()
    if sharer is None:
        return
    package, processes = sharer
    if for_loader:
        raise OptionError(
            f"{package} has made a loader of its own out of one of make_dataloader, and cannot read what comes of it; use "
            "the loader as it is, which reads the right share in each rank and resumes by load_state_dict"
        )
    if ranks_given and processes == 1:
        return  # who gives the share to a framework that knows of one process deals out himself
    raise OptionError(
        f"{package} shares the batches of this loader out to its processes, and the dataset reads one share of "
        f"{world_size} already: all others would be left out. Make the dataset with rank=0, world_size=1; or use "
        "make_dataloader, whose loaders need no preparing"
    )


def _sharer() -> tuple[str, int] | None:
    """The package of a loader that shares out and is at work in this call, and to how many processes it does."""
    if not any(name in sys.modules for name in _SHARERS):
        return None
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - the documented way to walk one's own stack
    while frame is not None:
        name = frame.f_globals.get("__name__")
        if name in _SHARERS:
            return str(name).split(".", maxsplit=1)[0], _processes(frame.f_locals.get("self"))
        frame = frame.f_back
    return None


def _processes(loader: object) -> int:
    """To how many processes a loader of Accelerate's, or the dataset in it, deals out."""
    for holder in (loader, getattr(loader, "state", None), getattr(loader, "dataset", None)):
        processes = getattr(holder, "num_processes", None)
        if isinstance(processes, int):
            return processes
    return 1
