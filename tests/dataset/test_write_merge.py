"""merge_datasets: many datasets as one, without touching their shards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import torch_ipfs
from torch_ipfs.blockstore.local import LocalBlockstore
from torch_ipfs.blockstore.memory import MemoryBlockstore
from torch_ipfs.codec import dag_cbor
from torch_ipfs.codec.cid import CID
from torch_ipfs.dataset.write import write_dataset
from torch_ipfs.dataset.write_merge import merge_datasets
from torch_ipfs.errors import ManifestError, OptionError


def part(store: Any, start: int, stop: int, **options: Any) -> CID:
    return write_dataset({"x": np.arange(start, stop)}, store, **{"shard_bytes": 1024, **options})


def test_samples_follow_each_other() -> None:
    store = MemoryBlockstore()
    parts = [
        part(store, 0, 1000),
        part(store, 1000, 1005, layout="embedded"),
        part(store, 1005, 1005),
        part(store, 1005, 1300, layout="samples"),
        part(store, 1300, 300_000, hash_function="blake3"),
    ]
    before = set(store.cids())
    root = merge_datasets(parts, store, name="merged")
    dataset = torch_ipfs.IPFSMapDataset(root, store)
    assert len(dataset) == 300_000
    for i in (0, 999, 1000, 1004, 1005, 1299, 1300, 299_999):
        assert dataset[i]["x"] == i
    assert dataset.manifest.metadata["name"] == "merged"
    new = set(store.cids()) - before
    assert sum(len(store.get(cid)) for cid in new) < 10_000


def test_a_file_that_is_merged_from_is_not_replaced(tmp_path: Path) -> None:
    car = tmp_path / "a.car"
    cid = part(car, 0, 100)
    (tmp_path / "link.car").symlink_to(car)
    sources: list[Any] = [car, [tmp_path, car], torch_ipfs.CarBlockstore(car)]
    for source in sources:
        with pytest.raises(OptionError, match="would be replaced"):
            merge_datasets([cid, cid], source, tmp_path / "link.car")
    assert torch_ipfs.IPFSMapDataset(cid, car)[99]["x"] == 99


def test_merging_what_was_merged_is_merging_at_once() -> None:
    store = MemoryBlockstore()
    parts = [part(store, 100 * i, 100 * i + 100) for i in range(5)]
    at_once = merge_datasets(parts, store)
    assert merge_datasets([merge_datasets(parts[:2], store), merge_datasets(parts[2:], store)], store) == at_once
    assert merge_datasets(parts[::-1], store) != at_once


def test_several_writers_several_files(tmp_path: Path) -> None:
    cars = [str(tmp_path / f"{i}.car") for i in range(3)]
    parts = [part(car, 100 * i, 100 * i + 100) for i, car in enumerate(cars)]
    root = merge_datasets([str(cid) for cid in parts], cars, tmp_path / "all.car")
    dataset = torch_ipfs.IPFSMapDataset(root, [str(tmp_path / "all.car"), *cars])
    assert [int(dataset[i]["x"]) for i in range(300)] == list(range(300))


def test_a_pin_of_the_merged_keeps_the_parts(tmp_path: Path) -> None:
    store = LocalBlockstore(tmp_path)
    parts = [part(store, 0, 500), part(store, 500, 700)]
    root = merge_datasets(parts, store)
    for cid in parts:
        store.unpin(cid)
    store.gc(grace_s=0)
    assert len(torch_ipfs.IPFSMapDataset(root, store)) == 700


@pytest.mark.parametrize(
    ("other", "match"),
    [
        ({"x": np.zeros(3)}, "field 'x': it is float64 here, and int64 in"),
        ({"x": [1, None]}, "field 'x': it is nullable int64 here"),
        ({"x": [1], "y": [2]}, "field 'y': it is int64 here, and not there in"),
        ({"z": [1]}, "field 'x': it is not there here"),
    ],
)
def test_schemas_agree_or_the_field_is_named(other: Any, match: str) -> None:
    store = MemoryBlockstore()
    second = write_dataset(other, store)
    with pytest.raises(OptionError, match=match) as caught:
        merge_datasets([part(store, 0, 3), second], store)
    assert caught.value.cid == str(second)


def test_the_order_of_fields_is_part_of_a_schema() -> None:
    store = MemoryBlockstore()
    one, other = write_dataset({"a": [1], "b": [2]}, store), write_dataset({"b": [1], "a": [2]}, store)
    with pytest.raises(OptionError, match="order of their fields"):
        merge_datasets([one, other], store)


def test_foreign_datasets_show_their_schema() -> None:
    store = MemoryBlockstore()
    block = dag_cbor.encode({"data": [{"x": 7}, {"x": 8}]})
    foreign = CID.of(block, "dag-cbor")
    store.put(foreign, block)
    dataset = torch_ipfs.IPFSMapDataset(merge_datasets([foreign, part(store, 0, 3)], store), store)
    assert [int(dataset[i]["x"]) for i in range(5)] == [7, 8, 0, 1, 2]


def test_what_cannot_be_merged() -> None:
    store = MemoryBlockstore()
    with pytest.raises(OptionError, match="one dataset at least"):
        merge_datasets([], store)
    block = dag_cbor.encode({"no": "dataset"})
    store.put(CID.of(block, "dag-cbor"), block)
    with pytest.raises(ManifestError):
        merge_datasets([CID.of(block, "dag-cbor")], store)


@pytest.mark.parametrize("hash_function", ["sha1", "md5", None])
def test_a_merged_root_is_hashed_as_datasets_are(hash_function: Any) -> None:
    store = MemoryBlockstore()
    with pytest.raises(OptionError, match="hash_function is one of"):
        merge_datasets([part(store, 0, 1)], store, hash_function=hash_function)


@pytest.mark.parametrize("as_text", [False, True])
def test_one_root_is_no_list(as_text: bool) -> None:
    store = MemoryBlockstore()
    root: Any = part(store, 0, 1)
    with pytest.raises(OptionError, match="roots is a list"):
        merge_datasets(str(root) if as_text else root, store)
