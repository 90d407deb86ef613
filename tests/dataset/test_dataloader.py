"""make_dataloader: its state is that of what was received."""

from __future__ import annotations

import copy
import gc
import json
import multiprocessing
import pickle
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

import torch_ipfs
from tests.dataset.conftest import N, Written, indices
from torch_ipfs import IPFSIterableDataset, make_dataloader

Write = Callable[..., Written]


def shuffled(car: Written, batch_size: int | None = 8, **options: Any) -> IPFSIterableDataset:
    return IPFSIterableDataset(*car, batch_size=batch_size, shuffle=True, **options)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_it_is_a_stateful_dataloader_with_the_datasets_order(car: Written, num_workers: int) -> None:
    loader = make_dataloader(shuffled(car), num_workers=num_workers)
    assert isinstance(loader, StatefulDataLoader)
    assert len(loader) == 13
    assert indices(loader) == indices(shuffled(car))
    assert isinstance(loader.dataset, IPFSIterableDataset)
    loader.close()


def test_a_batch_size_is_as_if_the_dataset_had_it(car: Written) -> None:
    loader = make_dataloader(shuffled(car, None), batch_size=10)
    assert len(loader) == 11
    batches = list(loader)
    assert batches[0]["features"].shape == (10, 4)
    with pytest.raises(ValueError, match="batch_size"):
        make_dataloader(shuffled(car, 8), batch_size=8)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_collate_fn_gets_samples(car: Written, num_workers: int) -> None:
    loader = make_dataloader(
        shuffled(car), num_workers=num_workers, collate_fn=lambda samples: [int(s["index"]) for s in samples]
    )
    assert [i for batch in loader for i in batch] == indices(shuffled(car))
    with pytest.raises(torch_ipfs.OptionError, match="collate_fn"):
        make_dataloader(shuffled(car, None), collate_fn=list)
    loader.close()


@pytest.mark.parametrize("num_workers", [0, 1, 3])
@pytest.mark.parametrize("batch_size", [None, 8])
def test_the_state_is_of_what_was_received(car: Written, num_workers: int, batch_size: int | None) -> None:
    loader = make_dataloader(
        shuffled(car, batch_size), num_workers=num_workers, prefetch_factor=4 if num_workers else None
    )
    whole = indices(shuffled(car))
    seen: list[int] = []
    for step, item in enumerate(loader):
        seen += indices([item])
        if step % 5 == 0:
            state = json.loads(json.dumps(loader.state_dict()))
            assert len(json.dumps(state)) < 1024
            resumed = shuffled(car, 6)
            resumed.load_state_dict(state)
            assert indices(resumed) == whole[len(seen) :]
    assert seen == whole
    loader.close()


def test_two_resumes_in_a_row_at_other_sizes(car: Written) -> None:
    whole = indices(shuffled(car))
    seen: list[int] = []
    state: dict[str, Any] = {}
    for num_workers, batch_size, steps in ((2, 8, 3), (0, 5, 4), (3, 7, 2), (1, 50, 50)):
        loader = make_dataloader(shuffled(car, batch_size), num_workers=num_workers)
        if state:
            loader.load_state_dict(state)
        for step, batch in enumerate(loader, start=1):
            seen += indices([batch])
            if step == steps:
                break
        state = loader.state_dict()
        loader.close()
    assert seen == whole


@pytest.mark.parametrize("persistent", [False, True])
def test_after_a_resumed_epoch_the_next_is_whole(car: Written, persistent: bool) -> None:
    loader = make_dataloader(shuffled(car), num_workers=2, persistent_workers=persistent)
    orders = []
    for epoch in range(3):
        loader.set_epoch(epoch)
        orders.append(indices(loader))
    loader.set_epoch(1)
    running = iter(loader)
    taken = indices([next(running), next(running)])
    state = loader.state_dict()
    del running
    loader.load_state_dict(state)
    assert taken + indices(loader) == orders[1]
    assert indices(loader) == orders[1]
    loader.set_epoch(2)
    assert indices(loader) == orders[2]
    loader.close()


def test_a_loader_that_is_closed_in_the_middle_of_a_pass_says_so(car: Written) -> None:
    """Its workers' end looked like that of the epoch."""
    loader = make_dataloader(shuffled(car, 2), num_workers=2)
    running = iter(loader)
    next(running)
    loader.close()
    with pytest.raises(torch_ipfs.OptionError, match="closed in the middle"):
        list(running)
    assert sorted(indices(loader)) == sorted(indices(shuffled(car)))
    loader.close()


def test_states_at_the_ends(car: Written) -> None:
    loader = make_dataloader(shuffled(car))
    start = loader.state_dict()
    whole = indices(loader)
    end = loader.state_dict()
    assert (start["position"], end["position"]) == (0, N)
    loader.load_state_dict(start)
    assert indices(loader) == whole
    loader.load_state_dict(end)
    assert indices(loader) == []
    assert indices(loader) == whole


def test_the_datasets_set_epoch_reaches_its_loader(car: Written) -> None:
    dataset = shuffled(car)
    loader = make_dataloader(dataset, num_workers=2)
    first = indices(loader)
    loader.dataset.set_epoch(1)
    second = indices(loader)
    assert first != second
    loader.close()


def test_a_plain_stateful_dataloader_resumes_at_the_same_workers(car: Written) -> None:
    for num_workers in (0, 1, 3):
        whole = indices(shuffled(car))
        for stop in (1, 4, 5):
            loader: Any = StatefulDataLoader(shuffled(car), batch_size=None, num_workers=num_workers)
            running = iter(loader)
            seen = indices([next(running) for _ in range(stop)])
            state = pickle.loads(pickle.dumps(loader.state_dict()))
            del running
            again: Any = StatefulDataLoader(shuffled(car), batch_size=None, num_workers=num_workers)
            again.load_state_dict(state)
            running = iter(again)
            seen += indices([next(running) for _ in range(3)])
            state = again.state_dict()
            del running
            third: Any = StatefulDataLoader(shuffled(car), batch_size=None, num_workers=num_workers)
            third.load_state_dict(state)
            assert seen + indices(third) == whole


@pytest.mark.parametrize("name", ["shuffle", "drop_last"])
def test_options_of_the_dataset_are_refused(car: Written, name: str) -> None:
    make_dataloader(shuffled(car), **{name: False})  # type: ignore[arg-type]
    with pytest.raises(torch_ipfs.OptionError, match=rf"IPFSIterableDataset\(\.\.\., {name}=True\)"):
        make_dataloader(shuffled(car), **{name: True})  # type: ignore[arg-type]


def test_only_our_datasets_are_taken() -> None:
    with pytest.raises(torch_ipfs.OptionError, match="list"):
        make_dataloader([1, 2])  # type: ignore[arg-type]


@pytest.mark.usefixtures("no_leaks")
def test_nothing_is_left_after_an_abandoned_pass(car: Written) -> None:
    for num_workers in (0, 2):
        loader = make_dataloader(shuffled(car), num_workers=num_workers)
        running = iter(loader)
        next(running)
        del running, loader


@pytest.mark.usefixtures("no_leaks")
def test_a_worker_that_is_ended_while_it_looks_whether_to_stop_holds_nobody_up(car: Written) -> None:
    loader = make_dataloader(shuffled(car), num_workers=1, persistent_workers=False)
    running: Any = iter(loader)
    next(running)
    assert running._outputs._workers_done_event._cond.acquire()  # as by a worker that ends with the lock in its hands
    running.close()


def test_workers_that_read_nothing_ahead_are_refused(car: Written) -> None:
    with pytest.raises(torch_ipfs.OptionError, match="prefetch_factor"):
        make_dataloader(shuffled(car), num_workers=1, prefetch_factor=0)


def test_a_pass_goes_on_whatever_passes_begin_and_end_in_its_middle(car: Written) -> None:
    with closing(make_dataloader(shuffled(car, 40), num_workers=1)) as loader:
        outer = [(batch, indices(loader)) for batch in loader]
        assert indices(batch for batch, _ in outer) == indices(shuffled(car))
        assert [inner for _, inner in outer] == 3 * [indices(shuffled(car))]


def test_a_pass_that_is_over_takes_nothing_of_later_ones(car: Written) -> None:
    """Persistent workers gave it what they had read for another pass, which went without."""
    with closing(make_dataloader(shuffled(car, 10), num_workers=1)) as loader:
        over = iter(loader)
        assert indices(over) == indices(shuffled(car))
        running = iter(loader)
        assert list(over) == []
        assert indices(running) == indices(shuffled(car))


def test_a_shallow_copy_has_workers_and_a_run_of_its_own(car: Written) -> None:
    original = shuffled(car)
    theirs = DataLoader(original, batch_size=None, num_workers=1, persistent_workers=True)
    whole = indices(theirs)
    copied = copy.copy(original)
    copied.load_state_dict(copied.state_at(3, 40))
    assert indices(theirs) == whole
    with closing(make_dataloader(original, num_workers=1)) as ours, closing(copy.copy(ours)) as other:
        for epoch in (2, 3):  # the second time of workers that live already
            ours.set_epoch(epoch)
            other.set_epoch(0)
            assert indices(other) == whole
            assert sorted(indices(ours)) == sorted(whole) != indices(ours)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda original: pickle.loads(pickle.dumps(original))])
@pytest.mark.parametrize("made", [lambda dataset: dataset, make_dataloader], ids=["dataset", "loader"])
def test_a_copy_stands_where_the_original_stood(made: Any, copied: Any, car: Written) -> None:
    original = made(shuffled(car))
    batches = iter(original)
    next(batches)
    other, state = copied(original), original.state_dict()
    next(batches)
    assert other.state_dict() == state != original.state_dict()


def test_torchs_loader_sees_the_same(car: Written) -> None:
    theirs = DataLoader(shuffled(car), batch_size=None, num_workers=2)
    for one, other in zip(theirs, make_dataloader(shuffled(car)), strict=True):
        assert torch.equal(one["features"], other["features"])


def test_a_ctrl_c_as_workers_are_started_leaves_none_and_prints_nothing(
    car: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = set(multiprocessing.active_children())
    ignored: list[Any] = []
    monkeypatch.setattr("sys.unraisablehook", ignored.append)

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with closing(make_dataloader(shuffled(car), num_workers=2)) as loader:
        with monkeypatch.context() as patched:
            patched.setattr("torch.utils.data._utils.signal_handling._set_worker_pids", interrupted)
            with pytest.raises(KeyboardInterrupt):
                iter(loader)
        gc.collect()
        assert set(multiprocessing.active_children()) == others
        assert ignored == []
        assert indices(loader) == indices(shuffled(car))


def test_a_loader_whose_worker_was_killed_goes_on_with_new_ones(car: Written) -> None:
    others = set(multiprocessing.active_children())
    with closing(make_dataloader(shuffled(car), num_workers=2)) as loader:
        running = iter(loader)
        received = [next(running)]
        for worker in set(multiprocessing.active_children()) - others:
            worker.kill()
        with pytest.raises(RuntimeError, match="worker"):
            received.extend(running)
        loader.load_state_dict(loader.state_dict())
        assert indices([*received, *loader]) == indices(shuffled(car))


def test_workers_of_a_pass_that_failed_are_not_kept(car: Written, tmp_path: Path) -> None:
    """One that got a Ctrl-C tells of it, and ends some time later."""

    def interrupted_once(batch: Any) -> Any:
        if not (tmp_path / "was interrupted").exists():
            (tmp_path / "was interrupted").touch()
            raise KeyboardInterrupt
        return batch

    others = set(multiprocessing.active_children())
    with closing(make_dataloader(shuffled(car, batch_transform=interrupted_once), num_workers=2)) as loader:
        with pytest.raises((RuntimeError, OSError)):
            list(loader)
        assert set(multiprocessing.active_children()) <= others
        state = loader.state_dict()  # the other worker's batch may have been received
        loader.load_state_dict(state)
        assert indices(loader) == indices(shuffled(car))[state["position"] :]


def test_a_loader_whose_workers_are_its_parents_starts_its_own(car: Written) -> None:
    with closing(make_dataloader(shuffled(car), num_workers=1)) as loader:
        whole = indices(loader)
        receiving, sending = multiprocessing.get_context("fork").Pipe(duplex=False)
        child = multiprocessing.get_context("fork").Process(target=lambda: sending.send(indices(loader)))
        child.start()
        assert receiving.poll(60)
        assert receiving.recv() == whole
        child.join()
        assert indices(loader) == whole


def test_a_pass_with_workers_is_its_own_processs(car: Written) -> None:
    """A forked process took batches of its parent's, and both waited for more."""
    fork = multiprocessing.get_context("fork")
    with closing(make_dataloader(shuffled(car), num_workers=1)) as loader:
        running = iter(loader)
        before = indices([next(running)])
        receiving, sending = fork.Pipe(duplex=False)

        def go_on() -> None:
            with pytest.raises(torch_ipfs.OptionError, match="forked"):
                next(running)
            sending.send(indices(loader))

        child = fork.Process(target=go_on)
        child.start()
        assert receiving.poll(60)
        assert receiving.recv() == indices(shuffled(car))
        child.join()
        assert before + indices(running) == indices(shuffled(car))


def test_a_loader_whose_worker_was_too_slow_goes_on_with_new_ones(car: Written, tmp_path: Path) -> None:
    def stuck_once(batch: Any) -> Any:
        if not (tmp_path / "was stuck").exists():
            (tmp_path / "was stuck").touch()
            time.sleep(600)
        return batch

    dataset = shuffled(car, batch_transform=stuck_once)
    with closing(make_dataloader(dataset, num_workers=1, timeout=1)) as loader:
        with pytest.raises(RuntimeError, match="timed out"):
            list(loader)
        loader.load_state_dict(loader.state_dict())
        assert indices(loader) == indices(shuffled(car))
