"""IPFSMapDataset: any sample by its index, and batches of them without taking them apart."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any, NamedTuple
from unittest.mock import ANY

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    Subset,
    default_collate,
)

import torch_ipfs
from tests.dataset.conftest import N, Written, columns, indices
from torch_ipfs import CID, IPFSIterableDataset, IPFSMapDataset
from torch_ipfs.codec import dag_cbor

Write = Callable[..., Written]


def test_samples_by_index(written: Write, layout: str) -> None:
    dataset = IPFSMapDataset(*written(layout=layout))
    want = columns()
    assert len(dataset) == N
    for i in (0, 50, N - 1, -1, -N):
        assert dataset[i]["index"] == i % N
        assert torch.equal(dataset[i]["features"], want["features"][i])
        assert dataset[i]["name"] == want["name"][i]
    for i in (N, -N - 1):
        with pytest.raises(IndexError, match=str(i)):
            dataset[i]


def test_many_together_in_any_order_with_repeats(car: Written) -> None:
    asked = [5, 99, 5, 0, -1]
    samples = IPFSMapDataset(*car).__getitems__(asked)
    assert [int(sample["index"]) for sample in samples] == [5, 99, 5, 0, N - 1]
    assert samples[1]["name"] == "sample 99"
    assert len(samples) == 5
    samples[0]["features"].zero_()
    assert IPFSMapDataset(*car)[5]["features"].any()


def test_default_collate_takes_the_columns(car: Written) -> None:
    loader = DataLoader(IPFSMapDataset(*car), batch_size=10, sampler=RandomSampler(range(N)))
    batches = list(loader)
    assert sorted(indices(batches)) == list(range(N))
    assert batches[0]["features"].shape == (10, 4)
    for batch in batches:
        assert torch.equal(batch["features"][:, 0], batch["index"] / 2)
        assert batch["name"] == [f"sample {i}" for i in batch["index"].tolist()]


def test_a_batch_sampler_may_be_of_tensors(car: Written) -> None:
    batches = torch.arange(N).split(10)
    assert indices(DataLoader(IPFSMapDataset(*car), batch_sampler=list(batches))) == list(range(N))  # with no warning


@pytest.mark.parametrize("transform", [None, dict])
def test_a_batch_of_indices_is_the_one_that_a_loader_makes(car: Written, transform: Any) -> None:
    dataset = IPFSMapDataset(*car, transform=transform)
    (want,) = DataLoader(Subset(dataset, [5, 99, 5, N - 1]), batch_size=4)
    asked = [5, 99, 5, -1]
    for index in (asked, torch.tensor(asked), np.array(asked, np.int32)):
        batch = dataset[index]
        assert batch.keys() == want.keys()
        assert all(torch.equal(batch[name], want[name]) for name in ("index", "features"))
        assert batch["name"] == want["name"]
    assert dataset[-2:]["index"].tolist() == [N - 2, N - 1]
    assert dataset[torch.tensor(3)]["index"] == 3
    mask = torch.tensor([True] * N)
    for booleans in (mask, mask.numpy(), mask.tolist()):
        with pytest.raises(TypeError, match="a mask's"):
            dataset[booleans]
    nothings: list[Any] = [[], slice(3, 3)]
    for nothing in nothings:
        with pytest.raises(IndexError, match="one sample at least"):
            dataset[nothing]


def test_a_sampler_of_batches_where_the_loader_makes_none(car: Written) -> None:
    dataset = IPFSMapDataset(*car)
    for given in (dataset, Subset(dataset, range(N))):
        sampler = BatchSampler(SequentialSampler(range(N)), 30, drop_last=False)
        assert indices(DataLoader(given, batch_size=None, sampler=sampler)) == list(range(N))


def test_default_collate_of_rows_from_anywhere(car: Written) -> None:
    dataset = IPFSMapDataset(*car)
    batch = default_collate([dataset[3], dataset[8]])
    assert batch["index"].tolist() == [3, 8]
    assert batch["name"] == ["sample 3", "sample 8"]
    assert indices(DataLoader(Subset(dataset, [7, 1, 4]), batch_size=2)) == [7, 1, 4]


def test_samples_read_one_by_one_are_collated_by_their_schema() -> None:
    """A field that may be None is a list in each batch, also in one that holds none."""
    store = torch_ipfs.MemoryBlockstore()
    samples = [{"x": None if i == 5 else float(i), "in": {"y": None if i == 5 else i}, "z": i} for i in range(8)]
    mapped = IPFSMapDataset(torch_ipfs.write_dataset(samples, store), store)
    batches = list(DataLoader(ConcatDataset([mapped, mapped]), batch_size=4))
    assert batches == [batch | {"z": ANY} for batch in [*DataLoader(mapped, batch_size=4)] * 2]
    assert [[kind(column) for column in batch.values()] for batch in batches] == [
        [list, list, torch.Tensor] for _ in batches
    ]


def test_shapes_that_vary_are_lists_in_each_batch_however_it_is_collated() -> None:
    store = torch_ipfs.MemoryBlockstore()
    samples = [{"x": torch.ones(size), "in": {"y": torch.ones(size)}} for size in (2, 2, 3, 4)]
    root = torch_ipfs.write_dataset(samples, store)
    mapped = IPFSMapDataset(root, store)
    datasets: list[Any] = [mapped, ConcatDataset([mapped])]
    datasets += [of(root, store, transform=untouched) for of in (IPFSMapDataset, IPFSIterableDataset)]
    for dataset in datasets:
        for batch in DataLoader(dataset, batch_size=2):
            assert isinstance(batch["x"], list)
            assert isinstance(batch["in"]["y"], list)


def test_values_of_any_kind_are_lists_in_each_batch_until_a_transform_makes_them_numbers() -> None:
    """They came as a tensor where a batch happened to hold numbers alone, and some batches were an error."""
    samples = [{"x": x, "in": {"y": x}} for x in (1, 2, "three", {"z": 4}, 5, "six")]
    root, store = embedded(samples)
    mapped = IPFSMapDataset(root, store)
    expected = list(IPFSIterableDataset(root, store, batch_size=2))
    assert expected[0] == {"x": [1, 2], "in": {"y": [1, 2]}}
    samples_alone: list[Any] = [ConcatDataset([mapped]), IPFSIterableDataset(root, store)]
    assert [list(DataLoader(dataset, batch_size=2)) for dataset in samples_alone] == [expected] * 2
    lengths = IPFSIterableDataset(root, store, batch_size=6, transform=lambda s: {"x": len(str(s["x"]))})
    assert [batch["x"].tolist() for batch in lengths] == [[1, 1, 5, 8, 1, 3]]


class Pair(NamedTuple):
    index: Any
    inner: Any


def test_tuples_whose_fields_have_names_keep_them_in_batches_of_either_kind(car: Written) -> None:
    def pair(sample: dict[str, Any]) -> Pair:
        return Pair(sample["index"], {"again": Pair(sample["index"], 1.0)})

    here = list(IPFSIterableDataset(*car, batch_size=7, transform=pair))
    there = list(DataLoader(IPFSMapDataset(*car, transform=pair), batch_size=7))
    assert [batch.inner["again"].index.tolist() for batch in here] == [batch.index.tolist() for batch in there]
    assert type(here[0]) is type(there[0]) is type(here[0].inner["again"]) is Pair


def embedded(samples: list[Any]) -> tuple[CID, torch_ipfs.MemoryBlockstore]:
    """A dataset of ``samples`` as somebody else made it, who says no schema."""
    block = dag_cbor.encode({"data": samples})
    root = CID.of(block, "dag-cbor")
    return root, torch_ipfs.MemoryBlockstore({root: block})


def untouched(sample: Any) -> Any:
    return sample


def kind(column: Any) -> type:
    return kind(column["y"]) if isinstance(column, dict) else type(column)


def test_workers_and_a_transform(car: Written) -> None:
    dataset = IPFSMapDataset(*car, columns=["index"], transform=lambda sample: sample["index"] + 1)
    got = torch.cat(list(DataLoader(dataset, batch_size=10, num_workers=2)))
    assert got.tolist() == list(range(1, N + 1))


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
@pytest.mark.parametrize("drop_last", [False, True])
def test_distributed_sampler_deals_as_the_iterable_does(car: Written, world_size: int, drop_last: bool) -> None:
    for rank in range(world_size):
        sampler: Any = DistributedSampler(IPFSMapDataset(*car), world_size, rank, shuffle=False, drop_last=drop_last)
        mapped = indices(DataLoader(IPFSMapDataset(*car), batch_size=5, sampler=sampler))
        iterable = IPFSIterableDataset(*car, rank=rank, world_size=world_size, drop_last=drop_last)
        assert mapped == indices(iterable)
        assert len(iterable) == len(mapped)


def test_unknown_columns(car: Written) -> None:
    with pytest.raises(torch_ipfs.OptionError, match="'nme'"):
        IPFSMapDataset(*car, columns=["nme"])[0]


def normalised(samples: list[Any]) -> Any:
    for sample in samples:
        sample["x"] = (sample["x"] - 1) / 2
        del sample["i"]
    return default_collate(samples)


def in_place(samples: list[Any]) -> Any:
    for sample in samples:
        sample["x"].sub_(1).div_(2)
        sample.pop("i")
    return default_collate(samples)


def the_first_alone(samples: list[Any]) -> Any:
    samples[0]["x"] = samples[0]["x"] + 10
    return default_collate(samples)


@pytest.fixture
def numbers() -> IPFSMapDataset:
    store = torch_ipfs.MemoryBlockstore()
    root = torch_ipfs.write_dataset({"i": range(6), "x": torch.arange(12.0).reshape(6, 2)}, store)
    return IPFSMapDataset(root, store)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("collate", [normalised, in_place])
def test_a_collate_fn_may_change_its_samples(numbers: IPFSMapDataset, collate: Any, num_workers: int) -> None:
    for batch in DataLoader(numbers, batch_size=3, collate_fn=collate, num_workers=num_workers):
        assert list(batch) == ["x"]
    (batch,) = DataLoader(numbers, batch_size=6, collate_fn=collate)
    assert torch.equal(batch["x"], (torch.arange(12.0).reshape(6, 2) - 1) / 2)


def test_a_sample_that_was_looked_at_first_is_the_one_that_is_collated(numbers: IPFSMapDataset) -> None:
    (batch,) = DataLoader(numbers, batch_size=6, collate_fn=the_first_alone)
    assert batch["x"][:2].tolist() == [[10.0, 11.0], [2.0, 3.0]]


def test_samples_that_were_read_together_are_a_list(numbers: IPFSMapDataset) -> None:
    def rows() -> Any:
        return numbers.__getitems__([4, 2, 0])

    for used in (
        lambda rows: rows,
        lambda rows: rows[:],
        lambda rows: [*rows],
        lambda rows: rows + rows[:0],
        lambda rows: rows.copy(),
        lambda rows: [rows[0], rows[1], rows[2]],
        lambda rows: pickle.loads(pickle.dumps(rows)),
    ):
        samples = used(rows())
        assert isinstance(samples, list)
        assert len(samples) == 3
        assert [int(sample["i"]) for sample in samples] == [4, 2, 0]
    changed = rows()
    changed.sort(key=lambda sample: int(sample["i"]))
    changed.append({"i": torch.tensor(9)})
    changed.pop(0)
    assert [int(sample["i"]) for sample in changed] == [2, 4, 9]
    kept = rows()
    kept[0]["i"] = -1
    assert (kept[0]["i"], kept[-3]["i"]) == (-1, -1)


def test_samples_that_a_wrapper_has_mended_are_collated_as_they_are() -> None:
    store = torch_ipfs.MemoryBlockstore()
    samples = [{"x": torch.ones(size), "y": None if size == 3 else 1.0} for size in (1, 2, 3, 2)]
    mapped = IPFSMapDataset(torch_ipfs.write_dataset(samples, store), store)

    class Padded(Dataset[Any]):
        def __len__(self) -> int:
            return len(mapped)

        def __getitem__(self, index: int) -> Any:
            row = mapped[index]
            row["x"] = torch.nn.functional.pad(row["x"], (0, 3 - len(row["x"])))
            row["y"] = 0.0 if row["y"] is None else row["y"]
            return row

    for batch in DataLoader(Padded(), batch_size=2):
        assert batch["x"].shape == (2, 3)
        assert batch["y"].shape == (2,)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_transform_that_raises_stop_iteration_does_not_end_the_epoch(car: Written, num_workers: int) -> None:
    def stopping(sample: Any) -> Any:
        return sample if sample["index"] < 20 else next(iter(()))

    dataset = IPFSMapDataset(*car, transform=stopping)
    with pytest.raises(RuntimeError, match="StopIteration"):
        list(DataLoader(dataset, batch_size=10, num_workers=num_workers))


def test_frameworks_may_make_a_sample_of_what_was_in_one(numbers: IPFSMapDataset) -> None:
    moved = [type(sample)({name: tensor + 1 for name, tensor in sample.items()}) for sample in (numbers[0], numbers[1])]
    assert default_collate(moved)["i"].tolist() == [1, 2]


def test_a_transform_may_read_another_sample_of_its_dataset(car: Written) -> None:
    """As mixup and pairs do; it waited for ever for the lock that it held."""

    def paired(sample: dict[str, Any]) -> dict[str, Any]:
        index = int(sample["index"])
        return {**sample, "other": int(dataset[index + 1]["index"])} if index % 2 == 0 else sample

    dataset = IPFSMapDataset(*car, transform=paired)
    assert [sample["other"] for sample in dataset.__getitems__([4, 8])] == [5, 9]
