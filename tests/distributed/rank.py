"""One rank: goes through all cases and writes down what it has read. Started by torchrun: ``rank.py FOLDER``."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.utils.data import DataLoader

from tests.distributed.cases import CASES, RESUMED, STOPPED_AFTER, Case
from torch_ipfs import IPFSIterableDataset, make_dataloader

Read = list[list[int]]
"""Samples of each step."""


def read(loader: Any, case: Case) -> Generator[list[int]]:
    """The samples of each step. Where counts are equal, ranks wait for each other at each, as they do in training."""
    for item in loader:
        if case.equal:
            dist.all_reduce(torch.ones(1))
        yield item["index"].reshape(-1).tolist()


def opened(folder: Path, case: Case, **options: Any) -> IPFSIterableDataset:
    cid = (folder / f"{case.n}.cid").read_text()
    return IPFSIterableDataset(cid, folder / f"{case.n}.car", batch_size=case.batch_size, **case.options, **options)


def all_epochs(folder: Path, case: Case) -> list[Read]:
    loader = make_dataloader(opened(folder, case), num_workers=case.num_workers)
    passes = []
    for epoch in case.epochs:
        loader.set_epoch(epoch)
        passes.append(list(read(loader, case)))
        assert len(loader) == len(passes[-1])
        dist.barrier()
    loader.close()
    return passes


def by_torchs_loader(folder: Path) -> dict[str, Read]:
    """Ranks known from the process group alone, in workers that are forked and that are spawned."""
    case = CASES["a padded tail"]
    hidden = {name: os.environ.pop(name) for name in ("RANK", "WORLD_SIZE")}
    found = {}
    # To pickle takes an import of torch for each worker: two are enough to see that it works.
    for method in ("fork", "forkserver") if dist.get_world_size() == 2 else ("fork",):
        loader: Any = DataLoader(opened(folder, case), batch_size=None, num_workers=1, multiprocessing_context=method)
        found[method] = list(read(loader, case))
    os.environ.update(hidden)
    return found


def on_a_mesh(folder: Path) -> Read:
    """Two data-parallel ranks of two tensor-parallel peers each: peers read the same, though all four are ranks to torch."""
    case = CASES["a padded tail"]
    mesh = init_device_mesh("cpu", (2, dist.get_world_size() // 2), mesh_dim_names=("dp", "tp"))
    dataset = opened(folder, case, rank=mesh.get_local_rank("dp"), world_size=mesh["dp"].size())
    return list(read(make_dataloader(dataset), case))


def stopped_and_resumed(folder: Path) -> Read:
    """Four ranks stop; two go on with the state that the first of the four had saved."""
    checkpoint = folder / "checkpoint.pt"
    loader = make_dataloader(opened(folder, RESUMED), num_workers=RESUMED.num_workers)
    loader.set_epoch(RESUMED.epochs[0])
    if checkpoint.exists():
        loader.load_state_dict(torch.load(checkpoint, weights_only=True))
        steps = list(read(loader, RESUMED))
    else:
        running = read(loader, RESUMED)
        steps = [next(running) for _ in range(STOPPED_AFTER)]
        dist.barrier()  # a rank that is late would take the checkpoint for one to go on from
        if dist.get_rank() == 0:
            torch.save(loader.state_dict(), checkpoint)
        running.close()
    loader.close()
    return steps


def main(folder: Path) -> None:
    # Made before the process group is there: ranks are looked up when a pass begins.
    early = make_dataloader(opened(folder, CASES["a padded tail"]), num_workers=1)
    before = len(early)
    dist.init_process_group("gloo")
    found: dict[str, Any] = {name: all_epochs(folder, case) for name, case in CASES.items()}
    hidden = {name: os.environ.pop(name) for name in ("RANK", "WORLD_SIZE")}
    found["made early"] = [before, list(read(early, CASES["a padded tail"]))]
    early.close()
    os.environ.update(hidden)
    found["by torch's loader"] = by_torchs_loader(folder)
    found["stopped and resumed"] = stopped_and_resumed(folder)
    if dist.get_world_size() == 4:
        found["on a mesh"] = on_a_mesh(folder)
    (folder / f"rank-{dist.get_rank()}.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
