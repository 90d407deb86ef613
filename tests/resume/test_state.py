"""The state: small, quick to load, that of what was received, and refused where it does not belong."""

from __future__ import annotations

import io
import json
import re
import time
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch

import torch_ipfs
from tests.dataset.conftest import indices
from tests.resume.conftest import Write
from torch_ipfs import CID, IPFSIterableDataset, MemoryBlockstore, ResumeError, ShuffleOptions, make_dataloader
from torch_ipfs.codec import dag_cbor

N = 23


@pytest.fixture
def make(written: Write) -> Callable[..., IPFSIterableDataset]:
    def make_dataset(n: int = N, **options: Any) -> IPFSIterableDataset:
        return IPFSIterableDataset(*written(n), **{"batch_size": 4, "shuffle": True, "seed": 7, **options})

    return make_dataset


Make = Callable[..., IPFSIterableDataset]


class TestItsForm:
    def test_it_is_small_plain_and_holds_no_data(self, make: Make) -> None:
        largest = ShuffleOptions(lanes=2**20, unit_rows=2**40, window_rows=2**40)
        dataset = make(seed=-(2**63), shuffle=largest)
        dataset.set_epoch(2**63 - 1)
        for state in (dataset.state_dict(), make_dataloader(dataset).state_dict()):
            text = json.dumps(state)
            assert len(text) < 1024
            assert json.loads(text) == state
            assert not re.search(r"\[|tensor", text)
            file = io.BytesIO()
            torch.save(state, file)
            file.seek(0)
            assert torch.load(file, weights_only=True) == state
            make(seed=-(2**63), shuffle=largest).load_state_dict(state)

    def test_it_is_a_snapshot(self, make: Make) -> None:
        loader = make_dataloader(make())
        running = iter(loader)
        next(running)
        state = loader.state_dict()
        kept = json.dumps(state)
        list(running)
        assert json.dumps(state) == kept

    def test_the_dataset_and_its_loader_say_the_same(self, make: Make) -> None:
        for num_workers in (0, 2):
            dataset = make()
            loader = make_dataloader(dataset, num_workers=num_workers)
            assert loader.state_dict() == dataset.state_dict()
            for _ in loader:
                assert loader.state_dict() == dataset.state_dict()
            assert loader.state_dict() == dataset.state_dict()
            assert dataset.state_dict()["position"] == N
            loader.close()


class TestItIsOfWhatWasReceived:
    @pytest.mark.parametrize("num_workers", [0, 1, 3])
    def test_whatever_was_prefetched(self, make: Make, num_workers: int) -> None:
        options: dict[str, Any] = {"prefetch_factor": 8} if num_workers else {}
        loader = make_dataloader(make(), num_workers=num_workers, **options)
        positions = [loader.state_dict()["position"]]
        for _ in loader:
            positions.append(loader.state_dict()["position"])  # noqa: PERF401 - the state is asked for between batches
        assert positions == [0, 4, 8, 12, 16, 20, 23]
        loader.close()

    @pytest.mark.parametrize("num_workers", [0, 2])
    @pytest.mark.parametrize("at", ["transform", "batch_transform"])
    def test_it_stands_before_a_batch_that_failed(self, make: Make, num_workers: int, at: str) -> None:
        """The pass is over then: a loop that went on would leave out what had failed, and whatever was read with it."""

        def fails(item: dict[str, Any]) -> dict[str, Any]:
            if 9 in item["index"].reshape(-1):
                raise RuntimeError("sample 9 is odd")
            return item

        whole = indices(make())
        options: dict[str, Any] = {at: fails}
        loader = make_dataloader(make(**options), num_workers=num_workers)
        running = iter(loader)
        seen: list[int] = []
        with pytest.raises(RuntimeError, match="sample 9 is odd"):
            seen.extend(i for batch in running for i in indices([batch]))
        assert seen == whole[: whole.index(9) // 4 * 4]
        with pytest.raises(RuntimeError, match="sample 9 is odd"):
            next(running)
        state = loader.state_dict()
        loader.close()
        assert state["position"] == len(seen)
        resumed = make()
        resumed.load_state_dict(state)
        assert seen + indices(resumed) == whole

    def test_a_pass_of_samples_that_failed_is_over_too(self, make: Make) -> None:
        def fails(sample: dict[str, Any]) -> dict[str, Any]:
            if sample["index"] == 9:
                raise RuntimeError("sample 9 is odd")
            return sample

        running = iter(make(batch_size=None, transform=fails, shuffle=False))
        assert indices([next(running) for _ in range(9)]) == list(range(9))
        for _ in range(2):
            with pytest.raises(RuntimeError, match="sample 9 is odd"):
                next(running)


class TestEpochs:
    @pytest.mark.parametrize("num_workers", [0, 2])
    def test_a_training_script_stopped_anywhere(self, make: Make, num_workers: int) -> None:
        """The loop that everybody writes, stopped after any number of steps and started again with the checkpoint."""

        def run(state: dict[str, Any] | None, steps: int) -> tuple[list[int], dict[str, Any]]:
            loader = make_dataloader(make(), num_workers=num_workers)
            seen: list[int] = []
            if state is not None:
                loader.load_state_dict(state)
            for epoch in range(loader.dataset.epoch, 3):
                loader.set_epoch(epoch)
                for batch in loader:
                    seen += indices([batch])
                    steps -= 1
                    if steps == 0:
                        state = loader.state_dict()
                        loader.close()
                        return seen, state
            state = loader.state_dict()
            loader.close()
            return seen, state

        whole, ended = run(None, 1000)
        assert sorted(whole) == sorted(list(range(N)) * 3)
        assert run(ended, 1000) == ([], ended)
        for stops in ([1, 5, 1], [6, 6], [2, 10, 3, 1], [17], [18]):
            seen: list[int] = []
            state = None
            for steps in [*stops, 1000]:
                part, state = run(state, steps)
                seen += part
            assert seen == whole, stops

    def test_another_epoch_than_the_states_begins_at_its_beginning(self, make: Make) -> None:
        dataset = make()
        running = iter(dataset)
        next(running)
        state = dataset.state_dict()
        other = make()
        other.load_state_dict(state)
        other.set_epoch(1)
        assert other.state_dict() == {**state, "epoch": 1, "position": 0}
        assert len(indices(other)) == N

    @pytest.mark.parametrize("num_workers", [0, 2])
    def test_the_datasets_set_epoch_is_its_loaders(self, make: Make, num_workers: int) -> None:
        alone = make()
        dataset = make()
        loader = make_dataloader(dataset, num_workers=num_workers)
        for epoch in (0, 3, 1):
            alone.set_epoch(epoch)
            dataset.set_epoch(epoch)
            running = iter(loader)
            seen = indices([next(running)])
            assert (loader.state_dict()["epoch"], loader.state_dict()["position"]) == (epoch, 4)
            assert seen + indices(running) == indices(alone)
        loader.close()

    def test_a_batch_size_given_to_the_loader_leaves_the_run_in_common(self, make: Make) -> None:
        dataset = make(batch_size=None)
        loader = make_dataloader(dataset, batch_size=5)
        dataset.set_epoch(2)
        running = iter(loader)
        next(running)
        assert dataset.state_dict()["epoch"] == 2
        assert dataset.state_dict()["position"] == 5
        dataset.load_state_dict(dataset.state_dict())
        alone = make(batch_size=None)
        alone.set_epoch(2)
        assert indices(loader) == indices(alone)[5:]

    def test_a_state_that_the_dataset_loads_counts_in_its_loader(self, make: Make) -> None:
        dataset = make()
        loader = make_dataloader(dataset)
        running = iter(loader)
        next(running)
        state = loader.state_dict()
        list(running)
        dataset.load_state_dict(state)
        assert loader.state_dict() == state
        assert len(indices(loader)) == N - 4


class TestTheOrderIsTheStates:
    OTHER = ShuffleOptions(lanes=3, unit_rows=2, window_rows=5)

    @pytest.mark.parametrize("num_workers", [0, 2])
    def test_and_not_what_defaults_would_make_of_it(self, make: Make, num_workers: int) -> None:
        """A state of a version, or a call, with other options; loaded where persistent workers live already, too."""
        whole = indices(make(shuffle=self.OTHER))
        dataset = make(shuffle=self.OTHER)
        running = iter(dataset)
        seen = indices([next(running), next(running)])
        state = dataset.state_dict()
        loader = make_dataloader(make(), num_workers=num_workers)
        assert indices(loader) != whole
        loader.load_state_dict(state)
        assert loader.state_dict() == state
        assert seen + indices(loader) == whole
        assert indices(loader) == whole
        loader.close()

    def test_without_shuffle_the_seed_does_not_matter(self, make: Make) -> None:
        state = make(shuffle=False, seed=1).state_dict()
        make(shuffle=False, seed=2).load_state_dict({**state, "position": 5})


def one_block_a_hundred_million_times(num_samples: int = 10**8) -> tuple[CID, MemoryBlockstore]:
    """A dataset whose shards are all the same block: 3 blocks, however many samples."""
    store = MemoryBlockstore()
    rows, fanout = 1000, 2000
    cid = torch_ipfs.write_dataset({"index": torch.arange(rows)}, store)
    [shard] = dag_cbor.decode(store.get(cid))["shards"]
    schema = dag_cbor.decode(store.get(cid))["schema"]

    def put(node: dict[str, Any]) -> CID:
        data = dag_cbor.encode(node)
        name = CID.of(data, "dag-cbor")
        store.put(name, data)
        return name

    inner = put({"shards": [shard] * fanout})
    entry = {"cid": inner, "count": rows * fanout, "format": "manifest"}
    root = put({"shards": [entry] * (num_samples // (rows * fanout)), "schema": schema})
    return root, store


class Asked(MemoryBlockstore):
    """Counts what it is asked for."""

    asked = 0

    def get(self, cid: CID) -> Any:
        self.asked += 1
        return super().get(cid)


class TestLoadingIsQuick:
    @pytest.mark.parametrize("shuffle", [False, True])
    def test_at_nine_tenths_of_a_hundred_million_samples(self, shuffle: bool) -> None:
        root, blocks = one_block_a_hundred_million_times()

        def first_batch_at(position: int) -> tuple[float, int, float]:
            """Seconds of the processor, blocks asked for, and samples read up to the first batch."""
            store = Asked()
            store.put_many((cid, blocks.get(cid)) for cid in blocks.cids())
            begin = time.process_time()
            dataset = IPFSIterableDataset(root, store, batch_size=64, shuffle=shuffle)
            dataset.load_state_dict({**dataset.state_dict(), "position": position})
            next(iter(dataset))
            seconds = time.process_time() - begin
            return seconds, store.asked, dataset.stats()["samples"]

        early = [first_batch_at(0) for _ in range(2)]
        late = [first_batch_at(9 * 10**7) for _ in range(2)]
        # Lanes stand at different places of their windows, so a first batch lies in a few shards more or fewer.
        assert late[0][1] == pytest.approx(early[0][1], rel=0.5, abs=3)
        assert late[0][2] == early[0][2]
        assert min(late)[0] < 3 * min(early)[0] + 0.1

    def test_and_exact_there(self) -> None:
        root, store = one_block_a_hundred_million_times()
        dataset = IPFSIterableDataset(root, store, batch_size=64, shuffle=True, rank=1, world_size=4)
        position = 9 * 10**7 + 17
        dataset.load_state_dict({**dataset.state_dict(), "position": position})
        batch = next(iter(dataset))
        receipt = dataset.samples_at(0, 0, start=position)
        assert receipt.positions.tolist() == list(range(position, position + 256))
        assert batch["index"].tolist() == (receipt.samples[receipt.ranks == 1] % 1000).tolist()
        assert dataset.state_dict()["position"] == position + 256


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        ("change", "named", "to_do"),
        [
            ({"n": 5}, "root", "make the dataset from the state's root"),
            ({"seed": 9}, "seed", "make it with seed=7"),
            ({"shuffle": False}, "shuffle", "make it with shuffle=True"),
        ],
    )
    def test_a_state_of_another_run(self, make: Make, change: dict[str, Any], named: str, to_do: str) -> None:
        state = make().state_dict()
        for other in (make(**change), make_dataloader(make(**change))):
            with pytest.raises(ResumeError) as caught:
                other.load_state_dict(state)
            assert f"field '{named}' of the state" in str(caught.value)
            assert to_do in str(caught.value)
            assert len(indices(other)) == change.get("n", N), "what was refused changed nothing"

    def test_an_unshuffled_state_where_the_dataset_shuffles(self, make: Make) -> None:
        with pytest.raises(ResumeError, match=r"field 'shuffle' .* make it with shuffle=False"):
            make().load_state_dict(make(shuffle=False).state_dict())

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"version": 2}, "field 'version' of the state is 2, expected 1.*start the run anew"),
            ({"version": 1.0}, r"field 'version' of the state is 1\.0, expected 1"),
            ({"version": True}, "field 'version' of the state is True, expected 1"),
            ({"world_size": 2}, "field 'world_size' of the state is unknown.*another checkpoint"),
            ({"position": N + 1}, f"field 'position' of the state is {N + 1}, but the dataset has {N}"),
            ({"position": -1}, "field 'position'.*another checkpoint"),
            ({"position": None}, "field 'position'.*another checkpoint"),
            ({"position": 2**70}, "field 'position'.*another checkpoint"),
            ({"epoch": "3"}, "field 'epoch'.*another checkpoint"),
            ({"seed": 1.5}, "field 'seed'.*another checkpoint"),
            ({"root": 5}, "field 'root'.*another checkpoint"),
            ({"root": "no CID"}, "field 'root'"),
            ({"shuffle": {"lanes": 2**62, "unit_rows": 1, "window_rows": 1}}, "field 'shuffle'.*another checkpoint"),
            ({"shuffle": {"lanes": 0, "unit_rows": 1, "window_rows": 1}}, "field 'shuffle.lanes'.*another checkpoint"),
            ({"shuffle": [1, 2, 3]}, "field 'shuffle'.*another checkpoint"),
        ],
    )
    def test_a_state_that_was_changed(self, make: Make, change: dict[str, Any], said: str) -> None:
        with pytest.raises(ResumeError, match=said):
            make().load_state_dict({**make().state_dict(), **change})

    @pytest.mark.parametrize("name", ["version", "root", "seed", "epoch", "position", "shuffle"])
    def test_a_state_that_has_lost_a_field(self, make: Make, name: str) -> None:
        dataset = make(shuffle=False)
        state = dataset.state_dict()
        del state[name]
        with pytest.raises(ResumeError, match=f"field '{name}' of the state is"):
            dataset.load_state_dict(state)

    @pytest.mark.parametrize("state", [None, 0, "state", [], {}, {"_snapshot": {"_snapshot_step": 3}}, {1: 2}])
    def test_nonsense(self, make: Make, state: Any) -> None:
        with pytest.raises(ResumeError, match=r"state_dict\(\)"):
            make().load_state_dict(state)

    @pytest.mark.parametrize(
        "shuffle",
        [
            {"lanes": 2**20, "unit_rows": 2**20, "window_rows": 2**30},
            {"lanes": 2**20, "unit_rows": 1, "window_rows": 2**40},
            {"lanes": 1, "unit_rows": 2**40, "window_rows": 2**40},
        ],
    )
    def test_options_far_larger_than_the_dataset_take_no_memory_for_it(
        self, make: Make, shuffle: dict[str, int]
    ) -> None:
        dataset = make()
        dataset.load_state_dict({**dataset.state_dict(), "shuffle": shuffle})
        assert sorted(indices(dataset)) == list(range(N))

    def test_an_order_of_batches_that_no_state_could_tell(self, make: Make) -> None:
        with pytest.raises(torch_ipfs.OptionError, match="in_order"):
            make_dataloader(make(), num_workers=2, in_order=False)


def test_taking_the_state_warns_of_nothing_that_is_known(make: Make) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = make()
        list(dataset)
        loader = make_dataloader(dataset, num_workers=2)
        list(loader)
        dataset.state_dict()
        loader.state_dict()
        loader.close()
