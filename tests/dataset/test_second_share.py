"""Frameworks that would share the dataset out to ranks a second time are noticed, however they do it."""

from __future__ import annotations

import itertools
import multiprocessing
import pickle
import signal
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from torch.utils.data import DataLoader

import torch_ipfs
from torch_ipfs.errors import OptionError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    accelerate = pytest.importorskip("accelerate")
    data_loader = pytest.importorskip("accelerate.data_loader")

Written = tuple[torch_ipfs.CID, str]


@pytest.fixture
def accelerator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """One process for Accelerate, and the first of two for the dataset: no process group is needed to see what happens."""
    found = accelerate.Accelerator(cpu=True)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    yield found
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)


def dispatched(loader: DataLoader[Any]) -> Any:
    return data_loader.prepare_data_loader(loader, put_on_device=True, dispatch_batches=True)


def dealt_out(loader: DataLoader[Any]) -> Any:
    return data_loader.prepare_data_loader(loader, num_processes=2, process_index=0, dispatch_batches=False)


SPAWNED = {"num_workers": 1, "multiprocessing_context": "spawn"}


@pytest.mark.parametrize(
    ("prepare", "batch_size", "workers"),
    [
        *itertools.product((dispatched,), (None, 4), ({}, {"num_workers": 2})),
        *itertools.product((dealt_out,), (4,), ({}, {"num_workers": 2}, SPAWNED)),
    ],
)
def test_a_prepared_loader_says_so_instead_of_leaving_samples_out(
    accelerator: Any, car: Written, prepare: Callable[..., Any], batch_size: int | None, workers: dict[str, Any]
) -> None:
    dataset = torch_ipfs.IPFSIterableDataset(*car, batch_size=None if batch_size else 4, columns=["index"])
    with pytest.raises(OptionError, match="rank=0, world_size=1"):
        read(prepare(DataLoader(dataset, batch_size=batch_size, **workers)))


def read(loader: Any) -> None:
    try:
        list(loader)
    finally:
        # Accelerate's loader outlives the error, and its workers would, until torch has waited five seconds for each. torch
        # takes one that ends before its time for a failure, and raises in whatever runs then.
        torchs_handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for worker in multiprocessing.active_children():
            worker.terminate()
            worker.join()
        signal.signal(signal.SIGCHLD, torchs_handler)


@pytest.mark.parametrize("workers", [{}, {"num_workers": 1}, SPAWNED])
def test_a_share_that_was_given_by_hand_is_not_shared_out_again(
    accelerator: Any, car: Written, workers: dict[str, Any]
) -> None:
    dataset = torch_ipfs.IPFSIterableDataset(*car, columns=["index"], rank=1, world_size=2)
    with pytest.raises(OptionError, match="rank=0, world_size=1"):
        read(dealt_out(DataLoader(dataset, batch_size=4, **workers)))


def test_a_share_that_was_given_by_hand_is_read_where_there_is_one_process(accelerator: Any, car: Written) -> None:
    dataset = torch_ipfs.IPFSIterableDataset(*car, columns=["index"], rank=1, world_size=2)
    for prepared in (dispatched(DataLoader(dataset, batch_size=4)), accelerator.prepare(DataLoader(dataset))):
        seen = [index for batch in prepared for index in batch["index"].tolist()]
        assert seen == [*range(1, 103, 2), 0]


@pytest.mark.parametrize("prepare", [dispatched, dealt_out])
def test_a_dataset_that_gives_every_sample_to_every_rank_may_be_shared_out(
    accelerator: Any, car: Written, prepare: Callable[..., Any]
) -> None:
    dataset = torch_ipfs.IPFSIterableDataset(*car, columns=["index"], rank=0, world_size=1)
    seen = [index for batch in prepare(DataLoader(dataset, batch_size=4)) for index in batch["index"].tolist()]
    mine = range(103) if prepare is dispatched else [i for i in range(104) if i % 8 < 4]
    assert seen == [i % 103 for i in mine]


def test_accelerate_leaves_a_loader_of_ours_as_it_is_and_keeps_its_state(
    accelerator: Any, car: Written, tmp_path: Any
) -> None:
    dataset = torch_ipfs.IPFSIterableDataset(*car, batch_size=4, columns=["index"])
    loader = torch_ipfs.make_dataloader(dataset)
    assert accelerator.prepare(loader) is loader
    batches = iter(loader)
    assert [next(batches)["index"].tolist() for _ in range(3)] == [[0, 1, 2, 3], [8, 9, 10, 11], [16, 17, 18, 19]]
    accelerator.save_state(tmp_path)
    next(batches)
    accelerator.load_state(tmp_path)
    assert next(iter(loader))["index"].tolist() == [24, 25, 26, 27]


def test_a_loader_of_ours_that_is_taken_apart_says_so(accelerator: Any, car: Written) -> None:
    dataset = torch_ipfs.IPFSIterableDataset(*car, batch_size=4, rank=0, world_size=1)
    loader = accelerate.skip_first_batches(torch_ipfs.make_dataloader(dataset), 3)
    with pytest.raises(OptionError, match="load_state_dict"):
        list(loader)


def test_the_sampler_of_a_loader_takes_the_epoch_for_a_pass_that_was_not_begun(car: Written) -> None:
    """As Lightning does it: first the iterator, then the epoch; later first the epoch."""
    dataset = torch_ipfs.IPFSIterableDataset(*car, batch_size=8, shuffle=True, columns=["index"])
    orders = []
    for epoch in (0, 2, 3):
        dataset.set_epoch(epoch)
        orders.append([batch["index"].tolist() for batch in dataset])
    for num_workers in (0, 2):
        loader = torch_ipfs.make_dataloader(
            torch_ipfs.IPFSIterableDataset(*car, batch_size=8, shuffle=True, columns=["index"]), num_workers=num_workers
        )
        batches = iter(loader)
        loader.sampler.set_epoch(2)
        assert [batch["index"].tolist() for batch in batches] == orders[1]
        loader.sampler.set_epoch(3)
        batches = iter(loader)
        first = next(batches)["index"].tolist()
        loader.sampler.set_epoch(0)  # too late for this pass: it has been read from
        assert [first, *(batch["index"].tolist() for batch in batches)] == orders[2]
        assert [batch["index"].tolist() for batch in loader] == orders[0]
        copied = pickle.loads(pickle.dumps(loader))
        copied.sampler.set_epoch(2)
        assert (copied.dataset.epoch, loader.dataset.epoch) == (2, 0)
        loader.close()
