"""Real ranks: side by side their batches are those of one process, they have as many each, and none waits for ever."""

from __future__ import annotations

import itertools
import shutil
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

pytestmark = pytest.mark.timeout(600)

Found = dict[int, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("distributed")
    for n in {case.n for case in (*CASES.values(), RESUMED)}:
        # Notes of growing length: shards of uneven lengths.
        samples = [{"index": torch.tensor(i), "note": "." * (7 * i)} for i in range(n)]
        cid = torch_ipfs.write_dataset(samples, folder / f"{n}.car", shard_bytes=1200)
        (folder / f"{n}.cid").write_text(str(cid))
    return folder


@pytest.fixture(scope="module")
def found(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What every rank has read, by the number of ranks."""
    ranks = {}
    for world_size in WORLDS:
        torchrun(world_size, RANK, str(folder))
        ranks[world_size] = results(folder, world_size)
        shutil.move(folder / "rank-0.json", tmp_path_factory.mktemp("seen") / "rank-0.json")
    return ranks


def alone(folder: Path, case: Case, epoch: int, batch_size: int) -> list[list[int]]:
    """The batches of one process, nothing left out or repeated."""
    options = {name: value for name, value in case.options.items() if name == "shuffle"}
    cid, car = (folder / f"{case.n}.cid").read_text(), folder / f"{case.n}.car"
    dataset = IPFSIterableDataset(cid, car, batch_size=batch_size, rank=0, world_size=1, **options)
    dataset.set_epoch(epoch)
    return [batch["index"].tolist() for batch in dataset]


def side_by_side(shares: list[list[list[int]]]) -> list[list[int]]:
    """The ranks' batches of each step as one."""
    return [list(itertools.chain(*step)) for step in itertools.zip_longest(*shares, fillvalue=[])]


@pytest.mark.parametrize("world_size", WORLDS)
@pytest.mark.parametrize("name", CASES)
def test_side_by_side_they_are_one_process(folder: Path, found: Found, name: str, world_size: int) -> None:
    case = CASES[name]
    step_samples = (case.batch_size or 1) * world_size
    for number, epoch in enumerate(case.epochs):
        steps = side_by_side([rank[name][number] for rank in found[world_size]])
        whole = alone(folder, case, epoch, step_samples)
        tail = case.n % step_samples
        if case.options.get("drop_last") and tail:
            whole.pop()
        elif case.options.get("pad", True) and tail:
            missing = -tail % world_size
            order = list(itertools.chain(*whole))
            whole[-1] += [order[i % case.n] for i in range(missing)]
        assert steps == whole


@pytest.mark.parametrize("world_size", WORLDS)
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.equal])
def test_they_have_equal_batches(found: Found, name: str, world_size: int) -> None:
    shapes = [[[len(batch) for batch in steps] for steps in rank[name]] for rank in found[world_size]]
    assert all(shape == shapes[0] for shape in shapes)


@pytest.mark.parametrize("world_size", WORLDS)
def test_without_padding_each_sample_comes_once(found: Found, world_size: int) -> None:
    for name, case in CASES.items():
        if not case.options.get("pad", True):
            read = [i for rank in found[world_size] for batch in rank[name][0] for i in batch]
            assert sorted(read) == list(range(case.n))


@pytest.mark.parametrize("world_size", WORLDS)
def test_workers_know_the_rank_of_their_process(found: Found, world_size: int) -> None:
    """With no word of it in the environment; and of a loader that was made before there was a process group."""
    for rank in found[world_size]:
        [expected] = rank["a padded tail"]
        assert all(steps == expected for steps in rank["by torch's loader"].values())
        assert rank["made early"] == [len(expected), expected]


def test_tensor_parallel_peers_read_the_same(found: Found) -> None:
    four = [rank["on a mesh"] for rank in found[4]]
    two = [rank["a padded tail"][0] for rank in found[2]]
    assert four == [two[0], two[0], two[1], two[1]]


def test_two_ranks_go_on_where_four_have_stopped(folder: Path, found: Found) -> None:
    [before], after = WORLDS[:1], WORLDS[1]
    four = side_by_side([rank["stopped and resumed"] for rank in found[before]])
    two = side_by_side([rank["stopped and resumed"] for rank in found[after]])
    assert len(four) == STOPPED_AFTER
    read = list(itertools.chain(*four, *two))
    assert read == list(itertools.chain(*alone(folder, RESUMED, RESUMED.epochs[0], 5)))
