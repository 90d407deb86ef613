"""Which rank a process is: as it is told, else as torch.distributed says, else as the environment does; when a pass begins."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader

import torch_ipfs
from tests.dataset.conftest import indices
from torch_ipfs import CID, IPFSIterableDataset, make_dataloader

N = 13
Written = tuple[CID, str]


@pytest.fixture(scope="module")
def car(tmp_path_factory: pytest.TempPathFactory) -> Written:
    path = tmp_path_factory.mktemp("ranks") / "data.car"
    return torch_ipfs.write_dataset({"index": torch.arange(N)}, path), str(path)


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    """A process group of this process alone."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


ALL, FIRST_HALF, SECOND_HALF = list(range(N)), list(range(0, N, 2)), [*range(1, N, 2), 0]


def in_environment(monkeypatch: pytest.MonkeyPatch, rank: int, world_size: int) -> None:
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", str(world_size))


def test_one_process_alone_reads_all(car: Written) -> None:
    assert indices(IPFSIterableDataset(*car)) == ALL


def test_the_environment_counts_where_there_is_no_group(car: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = IPFSIterableDataset(*car)
    in_environment(monkeypatch, 1, 2)
    assert indices(dataset) == SECOND_HALF
    in_environment(monkeypatch, 0, 2)
    assert indices(dataset) == FIRST_HALF


@pytest.mark.usefixtures("group")
def test_the_group_counts_more_than_the_environment(car: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    in_environment(monkeypatch, 1, 2)
    assert indices(IPFSIterableDataset(*car)) == ALL
    assert indices(make_dataloader(IPFSIterableDataset(*car), num_workers=1, persistent_workers=False)) == ALL


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("num_workers", [0, 2])
def test_arguments_count_most(car: Written, monkeypatch: pytest.MonkeyPatch, num_workers: int) -> None:
    in_environment(monkeypatch, 0, 4)
    dataset = IPFSIterableDataset(*car, rank=1, world_size=2)
    loader = make_dataloader(dataset, num_workers=num_workers)
    assert indices(loader) == SECOND_HALF
    assert len(loader) == len(SECOND_HALF)
    loader.close()


def test_tensor_parallel_peers_are_given_one_rank(car: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks 2 and 3 of a 2x2 mesh: the second data-parallel rank of two, both."""
    for rank in (2, 3):
        in_environment(monkeypatch, rank, 4)
        assert indices(IPFSIterableDataset(*car, rank=rank // 2, world_size=2)) == SECOND_HALF


def read_in_rank(dataset: IPFSIterableDataset, rank: int, folder: Path, found: Any) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    ways = [dataset, make_dataloader(dataset, num_workers=1, persistent_workers=False, multiprocessing_context="fork")]
    ways.append(DataLoader(dataset, batch_size=None, num_workers=1, multiprocessing_context="fork"))
    found.put((rank, [indices(way) for way in ways]))
    dist.destroy_process_group()


def test_a_dataset_handed_to_ranks_that_are_started_has_theirs(car: Written, tmp_path: Path) -> None:
    """As torch.multiprocessing.spawn does it: made and pickled where there was no group, read where there is one, in workers
    that are forked there."""
    context = multiprocessing.get_context("forkserver")
    found: Any = context.Queue()
    dataset = IPFSIterableDataset(*car)
    ranks = [context.Process(target=read_in_rank, args=(dataset, rank, tmp_path, found)) for rank in range(2)]
    for rank in ranks:
        rank.start()
    read = dict(found.get(timeout=100) for _ in ranks)
    for rank in ranks:
        rank.join(60)
        assert rank.exitcode == 0
    found.close()
    found.join_thread()
    assert read == {0: [FIRST_HALF] * 3, 1: [SECOND_HALF] * 3}


def test_a_loader_made_before_there_was_a_group(car: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that loaders make of a dataset keeps the rank that was found by then."""
    loader = make_dataloader(IPFSIterableDataset(*car), batch_size=1, num_workers=1, multiprocessing_context="fork")
    in_environment(monkeypatch, 1, 2)
    assert indices(loader) == SECOND_HALF
    loader.close()


@pytest.mark.parametrize(
    "given",
    [
        {"rank": 1},
        {"world_size": 2},
        {"rank": 2, "world_size": 2},
        {"rank": -1, "world_size": 2},
        {"rank": 0, "world_size": 0},
        {"rank": "0", "world_size": "2"},
        {"rank": 0.0, "world_size": 1.0},
        {"rank": True, "world_size": 2},
    ],
)
def test_what_cannot_be_is_refused_at_once(car: Written, given: dict[str, Any]) -> None:
    with pytest.raises(torch_ipfs.OptionError, match="rank"):
        IPFSIterableDataset(*car, **given)


@pytest.mark.parametrize(("rank", "world_size"), [("one", "2"), ("1", ""), ("2", "2"), ("-1", "2")])
def test_an_environment_that_cannot_be_is_refused_when_it_counts(
    car: Written, monkeypatch: pytest.MonkeyPatch, rank: str, world_size: str
) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", world_size)
    assert indices(IPFSIterableDataset(*car, rank=0, world_size=1)) == ALL
    with pytest.raises(torch_ipfs.OptionError, match=r"(?i)rank"):
        iter(IPFSIterableDataset(*car))
