"""What torch's and torchdata's own loaders keep of the promise, and what a dataset beside them can know."""

from __future__ import annotations

import multiprocessing
import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

from tests.dataset.conftest import indices
from tests.resume.conftest import Write
from tests.resume.world import plain
from torch_ipfs import IPFSIterableDataset, ShuffleOptions, make_dataloader
from torch_ipfs.testing import assert_resumes_exactly

N = 23
NOT_KNOWN = "how far the training loop has come is not known here"


@pytest.fixture
def make(written: Write) -> Callable[..., IPFSIterableDataset]:
    def make_dataset(**options: Any) -> IPFSIterableDataset:
        return IPFSIterableDataset(*written(N), **{"batch_size": 4, "shuffle": True, "seed": 7, **options})

    return make_dataset


Make = Callable[..., IPFSIterableDataset]


def stateful(dataset: IPFSIterableDataset, num_workers: int, **options: Any) -> Any:
    return StatefulDataLoader(dataset, batch_size=None, num_workers=num_workers, **options)


class TestStatefulDataLoader:
    """A state for each worker, so it resumes at the same number of them; and then exactly, as often as one likes."""

    @pytest.mark.parametrize(
        ("num_workers", "options"),
        [
            (0, {}),
            (1, {}),
            (2, {"prefetch_factor": 5}),
            (3, {"persistent_workers": True}),
            (2, {"snapshot_every_n_steps": 3}),
        ],
    )
    def test_it_resumes_at_every_step_and_twice_over(
        self, make: Make, num_workers: int, options: dict[str, Any]
    ) -> None:
        """The last of what the oracle does is to resume after every item, from the state of a run that was resumed."""
        assert_resumes_exactly(
            lambda: stateful(make(batch_size=5), num_workers, **options),
            max_state_bytes=None,
            nothing_after_the_end=False,
        )

    @settings(max_examples=3)
    @given(
        num_workers=st.integers(1, 3),
        batch_size=st.integers(3, 9),
        rank=st.integers(0, 1),
        shuffle=st.booleans(),
        end=st.fixed_dictionaries({"pad": st.booleans(), "drop_last": st.booleans()}),
    )
    def test_in_each_rank(self, written: Write, num_workers: int, rank: int, end: Any, **options: Any) -> None:
        assert_resumes_exactly(
            lambda: stateful(IPFSIterableDataset(*written(N), rank=rank, world_size=2, **(options | end)), num_workers),
            max_state_bytes=None,
            nothing_after_the_end=False,
        )

    def test_a_worker_that_loads_its_state_speaks_for_no_other(self, make: Make) -> None:
        """Persistent workers that load their states one after another, and then begin a second pass at its beginning."""
        whole = indices(make())
        loader = stateful(make(), 3, persistent_workers=True)
        running = iter(loader)
        for _ in range(4):
            next(running)
        state = loader.state_dict()
        del running, loader
        again = stateful(make(), 3, persistent_workers=True)
        again.load_state_dict(state)
        assert indices(again) == whole[16:]
        assert indices(again) == whole

    @pytest.mark.parametrize("num_workers", [0, 2])
    def test_with_set_epoch_it_goes_on_to_the_next(self, make: Make, num_workers: int) -> None:
        orders = []
        alone = make()
        for epoch in range(3):
            alone.set_epoch(epoch)
            orders.append(indices(alone))
        dataset = make()
        dataset.set_epoch(1)
        loader = stateful(dataset, num_workers)
        running = iter(loader)
        seen = indices([next(running) for _ in range(3)])
        state = loader.state_dict()
        del running
        resumed = make()
        again = stateful(resumed, num_workers)
        again.load_state_dict(state)
        for epoch in (1, 2):
            resumed.set_epoch(epoch)
            seen += indices(again)
        assert seen == orders[1] + orders[2]

    def test_samples_that_torch_batches(self, make: Make) -> None:
        """In sample mode each worker makes batches of its own samples: exactly once and resumable, in an order of its own."""

        def loader() -> Any:
            return StatefulDataLoader(make(batch_size=None, columns=["index"]), batch_size=5, num_workers=2)

        assert sorted(indices(loader())) == list(range(N))
        assert_resumes_exactly(loader, max_state_bytes=None, nothing_after_the_end=False)


class TestDataLoader:
    def test_without_workers_the_dataset_knows(self, make: Make) -> None:
        dataset = make()
        running = iter(plain(dataset))
        seen = indices([next(running), next(running)])
        resumed = make()
        resumed.load_state_dict(dataset.state_dict())
        assert seen + indices(plain(resumed)) == indices(make())

    def test_without_workers_and_batched_by_torch_too(self, make: Make) -> None:
        dataset = make(batch_size=None, columns=["index"])
        running = iter(DataLoader(dataset, batch_size=6))
        seen = indices([next(running), next(running)])
        assert dataset.state_dict()["position"] == len(seen) == 12

    @pytest.mark.parametrize("persistent", [False, True])
    def test_with_workers_it_takes_a_state_up(self, make: Make, persistent: bool) -> None:
        """From anywhere, once. Whoever has the state (the training loop can count) resumes a plain loader exactly."""
        whole = indices(make())
        dataset = make()
        loader = plain(dataset, 2, persistent_workers=persistent)
        for position in (8, 23, 0, 15):
            dataset.load_state_dict(dataset.state_at(0, position))
            assert indices(loader) == whole[position:]
            assert indices(loader) == whole

    @pytest.mark.parametrize("num_workers", [1, 3])
    def test_a_state_counts_once_even_where_torchs_seed_repeats(self, make: Make, num_workers: int) -> None:
        whole = indices(make())
        dataset = make()
        dataset.load_state_dict(dataset.state_at(0, 8))
        passes = []
        for _ in range(3):
            torch.manual_seed(0)
            passes.append(indices(plain(dataset, num_workers)))
        assert passes == [whole[8:], whole, whole]
        dataset.load_state_dict(dataset.state_at(0, 16))
        torch.manual_seed(0)
        assert indices(plain(dataset, num_workers)) == whole[16:]

    def test_what_workers_have_read_the_dataset_does_not_know_and_says_so(self, make: Make) -> None:
        dataset = make()
        start = dataset.state_dict()
        running = iter(plain(dataset, 2))
        next(running)
        with pytest.warns(UserWarning, match=NOT_KNOWN):
            assert dataset.state_dict() == start
        del running

    def test_it_knows_again_once_a_new_epoch_is_to_begin(self, make: Make) -> None:
        dataset = make()
        list(plain(dataset, 2))
        dataset.set_epoch(1)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert dataset.state_dict()["epoch"] == 1
            list(dataset)
            assert dataset.state_dict()["position"] == N

    def test_the_order_of_a_loaded_state_reaches_workers_that_live(self, make: Make) -> None:
        other = ShuffleOptions(lanes=2, unit_rows=3, window_rows=4)
        whole = indices(make(shuffle=other))
        dataset = make()
        loader = plain(dataset, 2, persistent_workers=True)
        assert indices(loader) != whole
        dataset.load_state_dict(make(shuffle=other).state_at(0, 4))
        assert indices(loader) == whole[4:]
        dataset.set_epoch(1)
        alone = make(shuffle=other)
        alone.set_epoch(1)
        assert indices(loader) == indices(alone)

    def test_a_state_counts_once_for_workers_and_parent_together(self, make: Make) -> None:
        whole = indices(make())
        dataset = make()
        readers = [plain(dataset, workers, persistent_workers=True) for workers in (2, 1)]
        readers += [dataset, make_dataloader(dataset, num_workers=1)]
        for reader in readers:
            dataset.load_state_dict(dataset.state_at(0, 8))
            assert indices(reader) == whole[8:]
            assert [indices(other) for other in readers] == [whole] * 4

    def test_ranks_forked_from_one_process_resume_with_workers_of_their_own(self, make: Make) -> None:
        """What one rank tells its workers, those of another, which have the same dataset, do not take for theirs."""
        whole = indices(make())
        dataset = make(rank=0, world_size=1)
        dataset.load_state_dict(dataset.state_at(0, 8))
        fork = multiprocessing.get_context("fork")
        for _ in range(2):
            receiving, sending = fork.Pipe(duplex=False)
            rank = fork.Process(target=lambda pipe=sending: pipe.send(indices(plain(dataset, 2))))
            rank.start()
            assert receiving.poll(60)
            assert receiving.recv() == whole[8:]
            rank.join()


def test_the_documents_name_what_warns() -> None:
    """A warning is for those who have not read the document; those who have find the same words there."""
    from pathlib import Path

    text = Path(__file__).parents[2].joinpath("docs", "resume.md").read_text()
    assert NOT_KNOWN in re.sub(r"\s+", " ", text)
