"""What a pass is of is settled when it begins, for workers too that are slow to begin it."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from multiprocessing.synchronize import Event
from typing import Any

import pytest
from torch.utils.data import get_worker_info

from tests.dataset.conftest import indices
from tests.resume.conftest import Write
from tests.resume.world import plain
from torch_ipfs import IPFSIterableDataset, ShuffleOptions, make_dataloader


class WaitsInOneWorker(IPFSIterableDataset):
    """A dataset whose passes do not begin in worker 1 before they are let."""

    let: Event

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        if info is not None and info.id == 1:
            assert self.let.wait(60)
        return super().__iter__()


def make(written: Write, epoch: int = 0, **options: Any) -> WaitsInOneWorker:
    dataset = WaitsInOneWorker(*written(), **{"batch_size": 4, "shuffle": True, **options})
    dataset.let = multiprocessing.get_context("fork").Event()
    dataset.set_epoch(epoch)
    return dataset


def ours(dataset: IPFSIterableDataset) -> Any:
    return make_dataloader(dataset, num_workers=2)


def torchs(dataset: IPFSIterableDataset) -> Any:
    return plain(dataset, 2, persistent_workers=True)


def begun_by_one(loader: Any, let: Event) -> tuple[Any, Iterator[Any]]:
    """The first batch, and the others, of a pass that worker 0 has begun, and worker 1 has not."""
    let.clear()
    running = iter(loader)
    return next(running), running


@pytest.mark.parametrize("make_loader", [ours, torchs])
def test_an_epoch_that_is_set_counts_for_the_next_pass(written: Write, make_loader: Any) -> None:
    orders = [indices(make(written, epoch)) for epoch in range(4)]
    dataset = make(written)
    loader = make_loader(dataset)
    for epoch in range(3):
        first, rest = begun_by_one(loader, dataset.let)
        dataset.set_epoch(epoch + 1)
        dataset.let.set()
        assert indices([first]) + indices(rest) == orders[epoch]


@pytest.mark.parametrize("make_loader", [ours, torchs])
def test_a_state_that_is_loaded_counts_for_the_next_pass(written: Write, make_loader: Any) -> None:
    other = ShuffleOptions(lanes=3, unit_rows=2, window_rows=5)
    state = make(written, shuffle=other).state_at(2, 8)
    dataset = make(written)
    loader = make_loader(dataset)
    dataset.let.set()
    whole = indices(loader)
    first, rest = begun_by_one(loader, dataset.let)
    dataset.load_state_dict(state)
    dataset.let.set()
    assert indices([first]) + indices(rest) == whole
    of_the_state = indices(make(written, 2, shuffle=other))
    assert indices(loader) == of_the_state[8:]
    assert indices(loader) == of_the_state


def test_a_worker_that_is_slow_to_begin_uses_up_no_state_that_was_loaded_since(written: Write) -> None:
    dataset = make(written)
    loader = torchs(dataset)
    dataset.let.set()
    whole = indices(loader)
    first, rest = begun_by_one(loader, dataset.let)
    dataset.load_state_dict(dataset.state_at(0, 8))
    dataset.let.set()
    assert indices([first]) + indices(rest) == whole
    assert indices(dataset) == whole[8:]


@pytest.mark.parametrize("persistent", [False, True])
def test_a_first_pass_that_was_looked_into_uses_up_no_state(written: Write, persistent: bool) -> None:
    """Its second worker begins it after the state was loaded."""
    whole = indices(make(written))
    dataset = make(written)
    loader = plain(dataset, 2, persistent_workers=persistent)
    dataset.load_state_dict(dataset.state_at(0, 4))
    first, rest = begun_by_one(loader, dataset.let)
    dataset.load_state_dict(dataset.state_at(0, 8))
    dataset.let.set()
    assert indices([first]) + indices(rest) == whole[4:]
    assert indices(loader) == whole[8:]
    assert indices(loader) == whole


def test_a_pass_beside_one_that_is_not_over_is_of_its_own_epoch(written: Write) -> None:
    """Workers of its own read it; those that live go on with what they were told."""
    orders = [indices(make(written, epoch)) for epoch in range(4)]
    dataset = make(written)
    dataset.let.set()
    loader = ours(dataset)
    assert indices(loader) == orders[0]
    dataset.set_epoch(1)
    one = iter(loader)
    seen = indices([next(one)])
    dataset.set_epoch(2)
    other = iter(loader)
    dataset.set_epoch(3)
    assert indices(other) == orders[2]
    assert seen + indices(one) == orders[1]
    assert indices(loader) == orders[3]
    loader.close()
