"""Samples and batches: the right ones, once each, in one order, whoever reads them."""

from __future__ import annotations

import copy
import io
import itertools
import math
import multiprocessing
import pickle
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import torch_ipfs
from tests.dataset.conftest import N, Written, columns, indices
from torch_ipfs import CID, IPFSIterableDataset, ShuffleOptions
from torch_ipfs.blockstore import MemoryBlockstore
from torch_ipfs.codec import dag_cbor
from torch_ipfs.dataset.write import LayoutName
from torch_ipfs.errors import ManifestError, OptionError, SampleError

Write = Callable[..., Written]
SMALL_LANES = ShuffleOptions(lanes=4, unit_rows=4, window_rows=20)


class TestSamples:
    def test_every_field_of_every_sample_comes_back(self, written: Write, layout: str) -> None:
        want = columns()
        got = list(IPFSIterableDataset(*written(layout=layout)))
        assert len(got) == N
        for i, sample in enumerate(got):
            assert sample["index"].dtype == torch.int64
            assert sample["index"].shape == ()
            assert sample["index"] == i
            assert torch.equal(sample["features"], want["features"][i])
            assert sample["features"].dtype == torch.float32
            assert sample["name"] == f"sample {i}"

    def test_a_samples_tensors_are_its_own(self, car: Written) -> None:
        first = list(IPFSIterableDataset(*car))
        for sample in first:
            assert sample["features"].untyped_storage().nbytes() == 16
            sample["features"].zero_()
        assert all(sample["features"].any() for sample in list(IPFSIterableDataset(*car))[1:])

    def test_a_transform_sees_samples(self, car: Written) -> None:
        got = list(IPFSIterableDataset(*car, transform=lambda sample: int(sample["index"]) * 2))
        assert got == [2 * i for i in range(N)]

    def test_a_transform_may_give_none(self, car: Written) -> None:
        assert list(IPFSIterableDataset(*car, transform=lambda _: None)) == [None] * N

    def test_torchs_dataloader_batches_them(self, car: Written) -> None:
        loader = DataLoader(IPFSIterableDataset(*car, columns=["index", "features"]), batch_size=8)
        batches = list(loader)
        assert batches[0]["features"].shape == (8, 4)
        assert indices(batches) == list(range(N))

    def test_only_the_columns_asked_for_are_there(self, car: Written, layout: str, written: Write) -> None:
        assert set(next(iter(IPFSIterableDataset(*written(layout=layout), columns=["name"])))) == {"name"}
        with pytest.raises(torch_ipfs.OptionError, match=r"'nme'.*'index', 'features', 'name'"):
            next(iter(IPFSIterableDataset(*car, columns=["nme"])))


class TestBatches:
    def test_they_are_tensors_and_lists(self, written: Write, layout: str) -> None:
        batch = next(iter(IPFSIterableDataset(*written(layout=layout), batch_size=8)))
        want = columns()
        assert torch.equal(batch["index"], want["index"][:8])
        assert torch.equal(batch["features"], want["features"][:8])
        assert batch["name"] == want["name"][:8]

    @pytest.mark.parametrize("batch_size", [1, 7, N - 1, N, N + 1])
    @pytest.mark.parametrize("drop_last", [False, True])
    def test_len_is_what_comes(self, car: Written, batch_size: int, drop_last: bool) -> None:
        dataset = IPFSIterableDataset(*car, batch_size=batch_size, drop_last=drop_last)
        batches = list(dataset)
        assert len(batches) == len(dataset)
        kept = N - N % batch_size if drop_last else N
        assert indices(batches) == list(range(kept))

    def test_a_batchs_tensors_are_its_own(self, car: Written) -> None:
        for batch in IPFSIterableDataset(*car, batch_size=8):
            assert batch["features"].untyped_storage().nbytes() == batch["features"].nbytes
            batch["features"].zero_()
        assert sum(batch["features"].any() for batch in IPFSIterableDataset(*car, batch_size=8))

    def test_transforms_of_samples_and_of_batches(self, car: Written) -> None:
        def double(sample: dict[str, Any]) -> dict[str, Any]:
            return {"twice": sample["features"] * 2, "name": sample["name"].upper()}

        dataset = IPFSIterableDataset(
            *car, batch_size=8, transform=double, batch_transform=lambda b: (b["twice"], b["name"])
        )
        twice, names = next(iter(dataset))
        assert torch.equal(twice, columns()["features"][:8] * 2)
        assert names[0] == "SAMPLE 0"


class TestShuffle:
    def test_it_is_a_permutation_that_seed_and_epoch_change(self, written: Write, layout: str) -> None:
        dataset = IPFSIterableDataset(*written(layout=layout), batch_size=8, shuffle=True, seed=3)
        first = indices(dataset)
        assert sorted(first) == list(range(N))
        assert indices(dataset) == first
        dataset.set_epoch(1)
        second = indices(dataset)
        assert sorted(second) == list(range(N))
        assert second != first
        other_seed = indices(IPFSIterableDataset(*written(layout=layout), batch_size=8, shuffle=True, seed=4))
        assert other_seed not in (first, second)

    def test_batch_size_does_not_change_it(self, car: Written) -> None:
        orders = [indices(IPFSIterableDataset(*car, batch_size=b, shuffle=True)) for b in (None, 1, 8, 50)]
        assert all(order == orders[0] for order in orders)

    def test_one_shard_is_shuffled_too(self, written: Write) -> None:
        order = indices(IPFSIterableDataset(*written(shard_bytes=2**20), shuffle=True))
        assert sorted(order) == list(range(N))
        assert order != list(range(N))


class TestSharedOut:
    @pytest.mark.parametrize(
        ("num_workers", "method"), [(1, "fork"), (2, "fork"), (5, "fork"), (2, "spawn"), (2, "forkserver")]
    )
    def test_workers_do_not_change_the_order(self, car: Written, num_workers: int, method: str) -> None:
        for batch_size in (8, None) if method == "fork" else (8,):
            dataset = IPFSIterableDataset(*car, batch_size=batch_size, shuffle=SMALL_LANES, columns=["index"])
            alone = indices(dataset)
            loader = DataLoader(
                dataset, batch_size=None, num_workers=num_workers, multiprocessing_context=method, timeout=60
            )
            assert len(loader) == len(dataset)
            assert indices(loader) == alone

    def test_more_workers_than_samples(self, written: Write) -> None:
        dataset = IPFSIterableDataset(*written(n=3))
        assert indices(DataLoader(dataset, batch_size=None, num_workers=5)) == [0, 1, 2]

    @pytest.mark.parametrize("world_size", [2, 3, 8, 200])
    @pytest.mark.parametrize("batch_size", [None, 4])
    def test_ranks_side_by_side_are_one_process(self, car: Written, world_size: int, batch_size: int | None) -> None:
        together = indices(IPFSIterableDataset(*car, shuffle=SMALL_LANES))
        ranks = [
            IPFSIterableDataset(
                *car, batch_size=batch_size, shuffle=SMALL_LANES, rank=rank, world_size=world_size, columns=["index"]
            )
            for rank in range(world_size)
        ]
        shares = [list(rank) for rank in ranks]
        assert {len(share) for share in shares} == {len(ranks[0])}
        side_by_side = [i for step in zip(*shares, strict=True) for i in indices(step)]
        assert side_by_side[:N] == together
        assert side_by_side[N:] == [together[i % N] for i in range(len(side_by_side) - N)]

    def test_the_environment_says_rank_and_world(self, car: Written, monkeypatch: pytest.MonkeyPatch) -> None:
        dataset = IPFSIterableDataset(*car)
        monkeypatch.setenv("RANK", "1")
        monkeypatch.setenv("WORLD_SIZE", "2")
        assert indices(dataset) == [*range(1, N, 2), 0]
        assert indices(DataLoader(dataset, batch_size=None, num_workers=2)) == [*range(1, N, 2), 0]
        monkeypatch.setenv("RANK", "two")
        with pytest.raises(torch_ipfs.OptionError, match="RANK"):
            iter(dataset)

    def test_a_spawned_worker_has_its_parents_rank(self, car: Written, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RANK", "1")
        monkeypatch.setenv("WORLD_SIZE", "2")
        travelled = pickle.loads(pickle.dumps(IPFSIterableDataset(*car)))
        monkeypatch.setenv("RANK", "0")
        assert indices(travelled)[:2] == [0, 2], "outside of a worker the process's own rank counts"


class TestEpochs:
    def test_set_epoch_reaches_persistent_workers(self, car: Written) -> None:
        dataset = IPFSIterableDataset(*car, batch_size=8, shuffle=True)
        alone = []
        for epoch in range(3):
            dataset.set_epoch(epoch)
            alone.append(indices(dataset))
        for method in ("fork", "spawn"):
            dataset.set_epoch(0)
            loader: Any = DataLoader(
                dataset, batch_size=None, num_workers=2, persistent_workers=True, multiprocessing_context=method
            )
            for epoch in (0, 2, 1):
                dataset.set_epoch(epoch)
                assert indices(loader) == alone[epoch]

    def test_a_pass_keeps_the_epoch_it_began_with(self, car: Written) -> None:
        dataset = IPFSIterableDataset(*car, batch_size=8, shuffle=True)
        whole = indices(dataset)
        begun = iter(dataset)
        dataset.set_epoch(1)
        assert indices(begun) == whole

    def test_two_passes_at_once(self, car: Written) -> None:
        dataset = IPFSIterableDataset(*car, batch_size=8)
        for one, other in zip(dataset, dataset, strict=True):
            assert torch.equal(one["index"], other["index"])

    @pytest.mark.parametrize("epoch", [-1, 1.0, "1", None])
    def test_no_epoch(self, car: Written, epoch: Any) -> None:
        with pytest.raises(torch_ipfs.OptionError, match="epoch"):
            IPFSIterableDataset(*car).set_epoch(epoch)


class TestState:
    @pytest.mark.parametrize("batch_size", [None, 7])
    def test_it_goes_on_after_any_step(self, car: Written, batch_size: int | None) -> None:
        dataset = IPFSIterableDataset(*car, batch_size=batch_size, shuffle=True)
        whole = indices(dataset)
        running = iter(dataset)
        seen: list[int] = []
        for _ in range(len(dataset) + 1):
            file = io.BytesIO()
            torch.save(dataset.state_dict(), file)
            file.seek(0)
            resumed = IPFSIterableDataset(*car, batch_size=5, shuffle=True)
            resumed.load_state_dict(torch.load(file, weights_only=True))
            assert indices(resumed) == whole[len(seen) :]
            assert indices(resumed) == whole, "a state counts for one pass"
            item = next(running, None)
            seen += [] if item is None else indices([item])
        assert seen == whole

    def test_workers_take_it_up_once(self, car: Written) -> None:
        dataset = IPFSIterableDataset(*car, batch_size=8, shuffle=True)
        whole = indices(dataset)
        running = iter(dataset)
        for _ in range(3):
            next(running)
        state = dataset.state_dict()
        for persistent in (False, True):
            resumed = IPFSIterableDataset(*car, batch_size=8, shuffle=True)
            resumed.load_state_dict(state)
            loader: Any = DataLoader(resumed, batch_size=None, num_workers=2, persistent_workers=persistent)
            assert indices(loader) == whole[24:]
            assert indices(loader) == whole
            resumed.load_state_dict(state)
            assert indices(loader) == whole[24:]

    def test_set_epoch_to_the_states_epoch_keeps_the_position(self, car: Written) -> None:
        dataset = IPFSIterableDataset(*car, batch_size=8, shuffle=True)
        dataset.set_epoch(4)
        running = iter(dataset)
        next(running)
        state = dataset.state_dict()
        rest = indices(running)
        resumed = IPFSIterableDataset(*car, batch_size=8, shuffle=True)
        resumed.load_state_dict(state)
        resumed.set_epoch(4)
        assert indices(resumed) == rest
        resumed.load_state_dict(state)
        resumed.set_epoch(5)
        assert len(indices(resumed)) == N

    @pytest.mark.parametrize(
        ("change", "named"), [({"seed": 9}, "seed"), ({"shuffle": False}, "shuffle"), ({"n": 5}, "root")]
    )
    def test_a_state_of_another_run_is_refused(self, written: Write, change: dict[str, Any], named: str) -> None:
        state = IPFSIterableDataset(*written(), shuffle=True).state_dict()
        other = IPFSIterableDataset(*written(n=change.pop("n", N)), **{"shuffle": True, **change})
        with pytest.raises(torch_ipfs.ResumeError, match=named):
            other.load_state_dict(state)

    def test_a_position_beyond_the_end_is_refused(self, car: Written) -> None:
        dataset = IPFSIterableDataset(*car)
        with pytest.raises(torch_ipfs.ResumeError, match="position"):
            dataset.load_state_dict({**dataset.state_dict(), "position": N + 1})


class TestWhatIsWrong:
    @pytest.mark.parametrize(
        "options",
        [
            {"batch_size": 0},
            {"batch_size": -1},
            {"batch_size": 2.0},
            {"batch_size": True},
            {"on_error": "ignore"},
            {"seed": "1"},
            {"shuffle": 3},
            {"rank": 0},
            {"world_size": 2},
            {"rank": 2, "world_size": 2},
            {"columns": "index"},
            {"batch_transform": len},
        ],
    )
    def test_options_are_refused_at_once(self, car: Written, options: dict[str, Any]) -> None:
        with pytest.raises(torch_ipfs.OptionError) as caught:
            IPFSIterableDataset(*car, **options)
        assert isinstance(caught.value, ValueError)
        assert next(iter(options)) in str(caught.value)

    def test_the_constructor_reads_nothing(self, tmp_path: Path) -> None:
        dataset = IPFSIterableDataset("bafkqaaa", str(tmp_path / "missing.car"))
        copy.copy(dataset)
        pickle.loads(pickle.dumps(dataset))
        assert "missing.car" in repr(dataset)
        with pytest.raises(torch_ipfs.TorchIPFSError, match=r"missing\.car"):
            len(dataset)

    def test_an_empty_dataset_is_empty(self, tmp_path: Path) -> None:
        cid = torch_ipfs.write_dataset([], tmp_path / "empty.car")
        for options in ({}, {"batch_size": 4}, {"shuffle": True}, {"rank": 1, "world_size": 2}):
            dataset = IPFSIterableDataset(cid, str(tmp_path / "empty.car"), **options)
            assert len(dataset) == 0
            assert list(dataset) == []


@pytest.mark.usefixtures("no_leaks")
class TestNothingIsLeft:
    def test_after_an_abandoned_pass(self, car: Written) -> None:
        dataset = IPFSIterableDataset(*car, batch_size=8)
        running = iter(dataset)
        next(running)
        del running, dataset

    def test_after_abandoned_workers(self, car: Written) -> None:
        loader = DataLoader(IPFSIterableDataset(*car, batch_size=8), batch_size=None, num_workers=2)
        running = iter(loader)
        next(running)
        del running, loader


class Eager(torch_ipfs.MemoryBlockstore):
    """As a store of the network, it wants to know far ahead what comes."""

    def get_many(self, cids: Iterable[CID], **options: Any) -> Iterator[Any]:
        cids = iter(cids)
        while ahead := list(itertools.islice(cids, 40)):
            yield from super().get_many(ahead, **options)


@pytest.mark.parametrize("layout", ["packed", "samples", "embedded"])
def test_leaves_that_are_not_open_are_forgotten(layout: LayoutName, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a reader knows of shards is bounded, however many an epoch has; no sample is lost or taken for another."""
    monkeypatch.setattr("torch_ipfs.dataset.reader._KEPT_LEAVES", 32)
    monkeypatch.setattr("torch_ipfs.dataset.epoch._RUN_POSITIONS", 128)
    monkeypatch.setattr("torch_ipfs.dataset.batch_stream._LOOKAHEAD_ROWS", 256)
    store, n, rows = Eager(), 3000, 15
    index = torch.arange(n)
    parts = [
        torch_ipfs.write_dataset({"index": part, "square": part**2}, store, layout=layout) for part in index.split(rows)
    ]
    dataset = IPFSIterableDataset(torch_ipfs.merge_datasets(parts, store), store, batch_size=16, shuffle=SMALL_LANES)
    table = dataset._opening.reader.table
    table._budget_bytes = 50_000  # of a few shards
    for _ in range(2):
        batches = list(dataset)
        read = torch.cat([batch["index"] for batch in batches])
        assert sorted(read.tolist()) == index.tolist()
        assert torch.equal(torch.cat([batch["square"] for batch in batches]), read**2)
    assert len(table.open) < n // rows


def test_a_batch_of_more_than_there_is_costs_no_more() -> None:
    store = torch_ipfs.MemoryBlockstore()
    root = torch_ipfs.write_dataset({"x": [1, 2, 3]}, store)
    for batch_size in (10**9, 2**62, 2**70):
        assert [batch["x"].tolist() for batch in IPFSIterableDataset(root, store, batch_size=batch_size)] == [[1, 2, 3]]


def test_a_shard_with_a_field_that_the_dataset_lacks_is_an_error() -> None:
    store = torch_ipfs.MemoryBlockstore()
    roots = [torch_ipfs.write_dataset(columns, store) for columns in ({"x": [1]}, {"x": [2], "y": [3]})]
    data = dag_cbor.encode({"shards": [dag_cbor.decode(bytes(store.get(root)))["shards"][0] for root in roots]})
    root = CID.of(data, "dag-cbor")
    store.put(root, data)
    samples = iter(IPFSIterableDataset(root, store))
    assert next(samples)["x"] == 1
    with pytest.raises(ManifestError, match="it has a field 'y'"):
        next(samples)
    assert next(iter(IPFSIterableDataset(roots[1], store, columns=["x"]))) == {"x": torch.tensor(2)}


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"columns": 5}, "columns must be a list"),
        ({"transform": 5}, "transform must be a function"),
        ({"batch_size": 2, "batch_transform": 5}, "batch_transform must be a function"),
        ({"rank": 2**70, "world_size": 2**71}, "world_size must be at most"),
    ],
)
def test_options_that_cannot_work_are_refused_at_once(options: dict[str, Any], match: str) -> None:
    with pytest.raises(OptionError, match=match):
        IPFSIterableDataset(CID.of(b""), **options)


def test_columns_may_come_from_a_generator() -> None:
    store = torch_ipfs.MemoryBlockstore()
    root = torch_ipfs.write_dataset({"x": [1], "y": [2]}, store)
    names: Any = (name for name in ["y"])
    assert list(IPFSIterableDataset(root, store, columns=names)) == [{"y": torch.tensor(2)}]


@pytest.mark.parametrize(
    ("transform", "match"),
    [
        (lambda x: {"a": 1} if x < 1 else {"b": 1}, "field 'a' is in some samples"),
        (lambda x: {"a": 1} if x < 1 else {"a": 1, "b": 1}, "field 'b' is in some samples"),
        (lambda x: {"a": 1} if x < 1 else 5, "'sample' is a map in some samples"),
        (lambda x: {"a": {"c": 1} if x < 1 else 5}, "'a' is a map in some samples"),
        (lambda x: (1, 2) if x < 1 else (1,), "'sample' is a tuple of 2"),
    ],
)
def test_transformed_samples_that_are_not_alike_make_no_batch(transform: Callable[[int], Any], match: str) -> None:
    store = torch_ipfs.MemoryBlockstore()
    root = torch_ipfs.write_dataset({"x": [0, 1]}, store)
    dataset = IPFSIterableDataset(root, store, batch_size=2, transform=lambda sample: transform(int(sample["x"])))
    with pytest.raises(SampleError, match=match):
        next(iter(dataset))


def test_samples_that_a_transform_gives_back_make_batches_by_their_schema() -> None:
    store = torch_ipfs.MemoryBlockstore()
    root = torch_ipfs.write_dataset({"x": [torch.zeros(1), torch.zeros(2)], "n": [None, 1.0]}, store)

    def in_place(sample: dict[str, Any]) -> dict[str, Any]:
        sample["x"].add_(1)
        return sample

    batches = list(IPFSIterableDataset(root, store, batch_size=2, transform=in_place))
    assert repr(batches) == repr([{"x": [torch.ones(1), torch.ones(2)], "n": [None, torch.tensor(1.0)]}])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_loader_that_batches_samples_itself_has_the_batches_of_the_dataset(num_workers: int) -> None:
    store = torch_ipfs.MemoryBlockstore()
    lists = [[1, 2], [3, 4], [5, 6], [7, 8, 9]]
    samples = [{"l": many, "n": None if i == 3 else float(i), "t": f"{i}", "i": i} for i, many in enumerate(lists)]
    root = torch_ipfs.write_dataset(samples, store)
    batches = list(IPFSIterableDataset(root, store, batch_size=2))
    by_samples = DataLoader(IPFSIterableDataset(root, store), batch_size=2, num_workers=min(num_workers, 1))
    assert list(map(repr, by_samples)) == list(map(repr, batches))
    assert [type(batch["l"]) for batch in batches] == [list, list]
    assert [type(batch["n"]) for batch in batches] == [list, list]
    plain = DataLoader(IPFSIterableDataset(root, store), batch_size=None, num_workers=num_workers)
    assert len({type(sample) for sample in plain} - {dict}) == 0


def _open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def _start_a_process() -> None:
    process = multiprocessing.get_context("fork").Process(target=int)
    process.start()
    process.join()


def test_many_datasets_in_a_forked_process_whose_parent_has_used_torchs_threads() -> None:
    root = torch_ipfs.write_dataset([{"index": 0}], torch_ipfs.MemoryBlockstore())
    datasets = [torch_ipfs.IPFSIterableDataset(root, torch_ipfs.MemoryBlockstore()) for _ in range(100)]
    assert (torch.ones(2**20) + 1).sum() == 2**21
    process = multiprocessing.get_context("fork").Process(target=_start_a_process)
    process.start()
    process.join(60)
    exit_code = process.exitcode
    process.kill()
    assert exit_code == 0
    assert len(datasets) == 100


def test_datasets_hold_no_descriptors_of_their_own() -> None:
    root = torch_ipfs.write_dataset([{"index": 0}], torch_ipfs.MemoryBlockstore())
    before = _open_descriptors()
    datasets = [torch_ipfs.IPFSIterableDataset(root, torch_ipfs.MemoryBlockstore()) for _ in range(50)]
    assert _open_descriptors() < before + len(datasets)  # what other tests have left may come and go
    process = multiprocessing.get_context("fork").Process(target=int)
    process.start()
    process.join()
    process.close()
    assert _open_descriptors() < before + len(datasets)
    del datasets


@pytest.mark.parametrize("order", list(itertools.permutations(("packed", "embedded", "samples"))), ids=" ".join)
def test_a_root_put_over_datasets_by_hand_reads_them_alike(order: tuple[LayoutName, ...]) -> None:
    store = MemoryBlockstore()
    rows: list[dict[str, Any]] = [
        {
            "z": np.uint8(3),
            "a": torch.tensor([1.5, math.nan], dtype=torch.bfloat16),
            "s": {"z": 1, "a": [{"z": 2, "a": "x"}]},
        },
        {"z": np.uint8(4), "a": torch.tensor([1.5, 2.0], dtype=torch.bfloat16), "s": {"z": 2, "a": []}},
    ]
    shards = [{"cid": torch_ipfs.write_dataset(rows, store, layout=layout), "count": 2} for layout in order]
    for _ in range(2):
        block = dag_cbor.encode({"shards": shards})
        root = CID.of(block, "dag-cbor")
        store.put(root, block)
        shards = [{"cid": root, "count": 6}]
    samples = list(IPFSIterableDataset(root, store))
    for sample, row in zip(samples, rows * 3, strict=True):
        assert sample["z"].dtype == torch.uint8
        assert sample["a"].dtype == torch.bfloat16
        torch.testing.assert_close(sample["a"], row["a"], equal_nan=True)
        assert {**sample, "a": 0} == {**row, "a": 0}
