"""The passes of IPFSDataLoader in one process: their epochs, what they skip, where they stand, how they end."""

from __future__ import annotations

import copy
import logging
import multiprocessing
import pickle
import threading
from pathlib import Path
from typing import Any

import pytest

import torch_ipfs
from tests.loader.datasets import N, embedded, labels, linked, loader_of, put, samples
from torch_ipfs import IPFSIterableDataset, MemoryBlockstore, OptionError, ResumeError, make_dataloader
from torch_ipfs.loader import IPFSDataLoader


@pytest.fixture
def loader() -> IPFSDataLoader:
    return loader_of(*embedded(N))


class TestEpochs:
    def test_each_pass_is_whole_and_in_another_order(self, loader: IPFSDataLoader) -> None:
        orders = [labels(loader) for _ in range(4)]
        assert all(sorted(order) == list(range(N)) for order in orders)
        assert len(set(map(tuple, orders))) == 4

    def test_the_seed_tells_them_all(self) -> None:
        loaders = [loader_of(*embedded(N), seed=seed) for seed in (7, 7, 8)]
        one, again, other = ([labels(loader) for _ in range(3)] for loader in loaders)
        assert one == again != other

    def test_an_epoch_that_is_set_stays(self, loader: IPFSDataLoader) -> None:
        orders = [labels(loader) for _ in range(3)]
        loader.set_epoch(1)
        assert [labels(loader) for _ in range(2)] == [orders[1]] * 2
        loader.set_epoch(0)
        assert labels(loader) == orders[0]
        with pytest.raises(OptionError, match="epoch"):
            loader.set_epoch(-1)

    def test_an_epoch_may_be_set_before_there_is_a_dataset(self) -> None:
        store, cid = embedded(N)
        advancing = loader_of(store, cid)
        orders = [labels(advancing) for _ in range(3)]
        early = IPFSDataLoader(store, 5, prefetch=0)
        early.set_epoch(2)
        early.load_dataset(cid)
        assert labels(early) == orders[2]

    def test_without_shuffle_the_order_is_the_datasets(self) -> None:
        loader = loader_of(*embedded(N), shuffle=False)
        assert [labels(loader), labels(loader)] == [list(range(N))] * 2


class TestNext:
    def test_without_iter_it_begins_a_pass(self, loader: IPFSDataLoader) -> None:
        batches = [next(loader) for _ in range(len(loader))]
        assert sorted(labels(batches)) == list(range(N))
        for _ in range(2):
            with pytest.raises(StopIteration):
                next(loader)
        assert sorted(labels(loader)) == list(range(N))

    def test_after_iter_it_draws_from_that_pass(self) -> None:
        store, cid = embedded(N)
        expected = list(loader_of(store, cid))
        loader = loader_of(store, cid)
        iter(loader)
        assert labels([next(loader)]) == labels(expected[:1])
        running = iter(loader_of(store, cid))
        loader = loader_of(store, cid)
        running = iter(loader)
        mixed = [next(running), next(loader), next(running), next(loader), next(running)]
        assert labels(mixed) == labels(expected)

    def test_two_iterators_are_two_passes(self, loader: IPFSDataLoader) -> None:
        one, other = iter(loader), iter(loader)
        mixed = [(labels([a]), labels([b])) for a, b in zip(one, other, strict=True)]
        assert sorted(i for a, _ in mixed for i in a) == sorted(i for _, b in mixed for i in b) == list(range(N))

    def test_an_iterator_that_is_over_stays_so(self, loader: IPFSDataLoader) -> None:
        running = iter(loader)
        list(running)
        assert list(running) == []

    def test_a_dropped_iterator_leaves_the_next_pass_whole(self, loader: IPFSDataLoader) -> None:
        for _ in loader:
            break
        assert sorted(labels(loader)) == list(range(N))

    def test_threads_share_the_batches_of_one_pass(self, loader: IPFSDataLoader) -> None:
        running = iter(loader_of(*embedded(500), batch_size=3))
        got: list[int] = []

        def draw() -> None:
            for batch in running:
                got.extend(labels([batch]))

        threads = [threading.Thread(target=draw) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(got) == list(range(500))

    def test_threads_may_each_have_a_pass(self) -> None:
        loader = loader_of(*linked(200), batch_size=7)
        orders: list[list[int]] = []
        threads = [threading.Thread(target=lambda: orders.append(labels(loader))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [sorted(order) for order in orders] == [list(range(200))] * 4
        assert len(set(map(tuple, orders))) == 4


class TestSkipping:
    LOST = (3, 4, 11)

    def test_the_missing_are_skipped_counted_and_told(self, caplog: pytest.LogCaptureFixture) -> None:
        for prefetch in (0, 2):
            loader = loader_of(*linked(N, self.LOST), prefetch=prefetch, shuffle=False)
            for _ in range(2):
                caplog.clear()
                with pytest.warns(UserWarning, match="3 samples"):
                    got = labels(loader)
                assert got == [i for i in range(N) if i not in self.LOST]
                assert loader.skipped == 3
                closing = [record.getMessage() for record in caplog.records if "skipped" in record.getMessage()][-1]
                assert "3 samples" in closing
                assert "sample 3" in closing

    def test_beside_a_field_of_empty_maps(self) -> None:
        store = MemoryBlockstore()
        cids = [put(store if i != 3 else MemoryBlockstore(), {"a": {}, "labels": i}) for i in range(N)]
        with pytest.warns(UserWarning, match="1 samples"):
            assert len(labels(loader_of(store, str(put(store, {"samples": cids}))))) == N - 1

    def test_the_count_is_this_epochs(self) -> None:
        loader = loader_of(*linked(N, [0]), shuffle=False)
        running = iter(loader)
        next(running)
        assert loader.skipped == 1
        running = iter(loader)
        assert loader.skipped == 0

    def test_raise_is_one_word_away(self) -> None:
        loader = loader_of(*linked(N, self.LOST), shuffle=False, on_error="raise")
        running = iter(loader)
        with pytest.raises(torch_ipfs.BlockNotFound):
            list(running)

    def test_an_epoch_with_nothing_left_raises(self) -> None:
        store, cid = linked(N, range(N))
        loader = IPFSDataLoader(store, prefetch=0)
        assert loader.load_dataset(cid)["success"]
        with pytest.raises(torch_ipfs.TorchIPFSError):
            list(loader)

    @pytest.mark.filterwarnings("ignore:3 samples")
    def test_loaders_of_torch_count_too(self) -> None:
        loader = loader_of(*linked(N, self.LOST))
        batches = loader.to_pytorch()
        assert sum(len(labels_) for _, labels_ in batches) == N - 3
        assert batches.skipped == loader.skipped == 3


class TestState:
    @pytest.mark.parametrize("prefetch", [0, 2])
    def test_resumes_exactly_at_each_batch(self, prefetch: int) -> None:
        store, cid = embedded(N)
        whole = loader_of(store, cid)
        epochs = [labels([batch]) for _ in range(2) for batch in whole]
        for k in range(len(whole) + 1):
            first = loader_of(store, cid, prefetch=prefetch)
            running = iter(first)
            for _ in range(k):
                next(running)
            state = first.state_dict()
            second = loader_of(store, cid, prefetch=prefetch)
            second.load_state_dict(copy.deepcopy(state))
            assert second.state_dict() == state
            rest = [labels([batch]) for _ in range(2) for batch in second]
            assert rest == epochs[k:]

    def test_after_a_whole_pass_it_stands_at_the_next(self, loader: IPFSDataLoader) -> None:
        store, cid = embedded(N)
        both = loader_of(store, cid)
        labels(both)
        expected = labels(both)
        labels(loader)
        resumed = loader_of(store, cid)
        resumed.load_state_dict(loader.state_dict())
        assert labels(resumed) == expected

    def test_another_batch_size_goes_on_at_the_same_sample(self) -> None:
        store, cid = embedded(N)
        whole = labels(loader_of(store, cid))
        first = loader_of(store, cid, batch_size=4)
        running = iter(first)
        seen = labels([next(running), next(running)])
        second = loader_of(store, cid, batch_size=6)
        second.load_state_dict(first.state_dict())
        assert seen + labels(second) == whole

    def test_a_second_resume_goes_on_from_the_first(self) -> None:
        store, cid = embedded(N)
        whole = labels(loader_of(store, cid))
        seen: list[int] = []
        state = loader_of(store, cid).state_dict()
        for _ in range(3):
            again = loader_of(store, cid)
            again.load_state_dict(state)
            seen += labels([next(again)])
            state = again.state_dict()
        assert seen == whole[:15]

    def test_it_goes_on_in_torchs_loader_and_from_there(self) -> None:
        store, cid = embedded(N)
        whole = labels(loader_of(store, cid))
        first = loader_of(store, cid)
        next(first)
        second = loader_of(store, cid)
        second.load_state_dict(first.state_dict())
        batches = iter(second.to_pytorch())
        assert next(batches)[1].tolist() == whole[5:10]
        third = loader_of(store, cid)
        third.load_state_dict(second.state_dict())
        assert labels(third) == whole[10:]

    def test_another_datasets_state_is_refused(self, loader: IPFSDataLoader) -> None:
        other = loader_of(*embedded(N, version="2"))
        with pytest.raises(ResumeError, match="root"):
            other.load_state_dict(loader.state_dict())


class TestEnd:
    def test_loading_again_in_the_middle(self) -> None:
        store, cid = embedded(N)
        other = str(put(store, {"data": samples(9)}))
        loader = loader_of(store, cid)
        running = iter(loader)
        seen = labels([next(running)])
        assert loader.load_dataset(other)["total_samples"] == loader.total_samples == 9
        assert labels(loader) == labels(loader_of(store, other))
        assert sorted(seen + labels(running)) == list(range(N))

    def test_a_dataset_that_is_loaded_again_goes_on_to_the_next_epoch(self) -> None:
        store, cid = embedded(N)
        loader = loader_of(store, cid)
        first = labels(loader)
        loader.load_dataset(cid)
        second = labels(loader)
        assert sorted(second) == sorted(first)
        assert second != first

    def test_close_may_be_called_twice_and_ends_passes(self, loader: IPFSDataLoader) -> None:
        running, batches = iter(loader), loader.to_pytorch()
        next(running)
        loader.close()
        loader.close()
        with pytest.raises(OptionError, match="closed"):
            next(running)
        with pytest.raises(OptionError, match="closed"):
            iter(loader)
        assert (len(loader), loader.total_samples) == (0, 0)
        assert batches

    def test_after_close_a_dataset_may_be_loaded(self, tmp_path: Path) -> None:
        cid = torch_ipfs.write_dataset(samples(N), tmp_path / "a.car")
        loader = loader_of(str(tmp_path / "a.car"), cid)
        loader.close()
        assert loader.load_dataset(cid)["success"]
        assert sorted(labels(loader)) == list(range(N))

    def test_the_callers_store_stays_open(self) -> None:
        closed = []

        class Store(MemoryBlockstore):
            def close(self) -> None:
                closed.append(1)

        memory, cid = embedded(N)
        with loader_of(Store([(c, memory.get(c)) for c in memory.cids()]), cid):
            pass
        assert closed == []

    @pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda loader: pickle.loads(pickle.dumps(loader))])
    @pytest.mark.parametrize("form", [lambda loader: loader, IPFSDataLoader.to_pytorch])
    def test_a_copy_stands_where_it_was_made_and_has_a_run_of_its_own(self, form: Any, copied: Any) -> None:
        """Its epochs were the loader's, which could begin no pass any more once the copy was closed."""
        loader = loader_of(*embedded(N), shuffle=False)
        read = form(loader)
        running = iter(read)
        next(running)
        state = read.state_dict()
        other = copied(read)
        assert other.state_dict() == state
        assert len(list(other)) == len(loader)
        assert read.state_dict() == loader.state_dict() == state
        other.close()
        assert len(list(running)) == len(loader) - 1
        assert [len(list(read)), loader.state_dict()["epoch"]] == [len(loader), 2]


def counted(loaders: list[Any], told: Any) -> None:
    told.send([sum(1 for _ in loader) for loader in loaders])


def test_loaders_go_to_processes_that_are_spawned_for_training() -> None:
    store, root = embedded(N)
    loader = loader_of(store, root)
    ours = make_dataloader(IPFSIterableDataset(root, store, batch_size=1))
    spawning = multiprocessing.get_context("spawn")
    reader, writer = spawning.Pipe(duplex=False)
    process = spawning.Process(target=counted, args=([loader, loader.to_pytorch(), ours], writer))
    process.start()
    writer.close()
    assert reader.recv() == [len(loader), len(loader), N]
    process.join()


def test_its_log_is_the_packages(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "torch_ipfs"), pytest.warns(UserWarning, match="1 samples"):
        labels(loader_of(*linked(N, [1])))
    assert any(record.name.startswith("torch_ipfs.loader") for record in caplog.records)
