"""Real ranks: side by side their batches are those of one process, they have as many each, and none waits for ever."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

import torch_ipfs
from tests.distributed.cases import CASES, RESUMED, STOPPED_AFTER, Case
from tests.distributed.launch import results, torchrun
from torch_ipfs import IPFSIterableDataset

RANK = Path(__file__).with_name("rank.py")
WORLDS = (4, 2)
"""Four ranks first: the two go on from where these have stopped."""

Read = list[list[int]]
"""Samples of each step."""
Found = dict[int, list[dict[str, Any]]]
"""What every rank has read, by the number of ranks."""


def write_datasets(folder: Path) -> None:
    for n in {case.n for case in (*CASES.values(), RESUMED)}:
        # Notes of growing length: shards of uneven lengths.
        samples = [{"index": torch.tensor(i), "note": "." * (7 * i)} for i in range(n)]
        cid = torch_ipfs.write_dataset(samples, folder / f"{n}.car", shard_bytes=1200)
        (folder / f"{n}.cid").write_text(str(cid))


@pytest.mark.timeout(600)
def test_ranks_read_what_one_process_would(tmp_path: Path) -> None:
    """One test, since to start ranks is what takes the time."""
    write_datasets(tmp_path)
    found: Found = {}
    for world_size in WORLDS:
        torchrun(world_size, RANK, str(tmp_path))
        found[world_size] = results(tmp_path, world_size)
    for ranks in found.values():
        for name, case in CASES.items():
            check_side_by_side_they_are_one_process(tmp_path, case, [rank[name] for rank in ranks])
            check_each_has_its_promise(case, [rank[name] for rank in ranks])
        check_workers_know_the_rank_of_their_process(ranks)
    check_tensor_parallel_peers_read_the_same(found)
    check_two_ranks_go_on_where_four_have_stopped(tmp_path, found)


def alone(folder: Path, case: Case, epoch: int, batch_size: int) -> Read:
    """The batches of one process, nothing left out or repeated."""
    options = {name: value for name, value in case.options.items() if name == "shuffle"}
    cid, car = (folder / f"{case.n}.cid").read_text(), folder / f"{case.n}.car"
    dataset = IPFSIterableDataset(cid, car, batch_size=batch_size, rank=0, world_size=1, **options)
    dataset.set_epoch(epoch)
    return [batch["index"].tolist() for batch in dataset]


def side_by_side(shares: list[Read]) -> Read:
    """The ranks' batches of each step as one."""
    return [list(itertools.chain(*step)) for step in itertools.zip_longest(*shares, fillvalue=[])]


def check_side_by_side_they_are_one_process(folder: Path, case: Case, ranks: list[list[Read]]) -> None:
    step_samples = (case.batch_size or 1) * len(ranks)
    for number, epoch in enumerate(case.epochs):
        steps = side_by_side([rank[number] for rank in ranks])
        whole = alone(folder, case, epoch, step_samples)
        tail = case.n % step_samples
        if case.options.get("drop_last") and tail:
            whole.pop()
        elif case.options.get("pad", True) and tail:
            missing = -tail % len(ranks)
            order = list(itertools.chain(*whole))
            whole[-1] += [order[i % case.n] for i in range(missing)]
        assert steps == whole, case


def check_each_has_its_promise(case: Case, ranks: list[list[Read]]) -> None:
    """Equal batches; or, without padding, each sample once."""
    if case.equal:
        shapes = [[[len(batch) for batch in steps] for steps in rank] for rank in ranks]
        assert all(shape == shapes[0] for shape in shapes), case
    else:
        read = [i for rank in ranks for batch in rank[0] for i in batch]
        assert sorted(read) == list(range(case.n)), case


def check_workers_know_the_rank_of_their_process(ranks: list[dict[str, Any]]) -> None:
    """With no word of it in the environment; and of a loader that was made before there was a process group."""
    for rank in ranks:
        [expected] = rank["a padded tail"]
        assert all(steps == expected for steps in rank["by torch's loader"].values())
        assert rank["made early"] == [len(expected), expected]


def check_tensor_parallel_peers_read_the_same(found: Found) -> None:
    four = [rank["on a mesh"] for rank in found[4]]
    two = [rank["a padded tail"][0] for rank in found[2]]
    assert four == [two[0], two[0], two[1], two[1]]


def check_two_ranks_go_on_where_four_have_stopped(folder: Path, found: Found) -> None:
    four, two = (side_by_side([rank["stopped and resumed"] for rank in found[world_size]]) for world_size in WORLDS)
    assert len(four) == STOPPED_AFTER
    read = list(itertools.chain(*four, *two))
    assert read == list(itertools.chain(*alone(folder, RESUMED, RESUMED.epochs[0], 5)))
