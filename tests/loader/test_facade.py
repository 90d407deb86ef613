"""IPFSDataLoader as a Python object: what it loads, what it is told, what it answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import torch_ipfs
from tests.loader.datasets import N, embedded, labels, loader_of, put, put_json, sample, samples
from torch_ipfs import MemoryBlockstore, OptionError
from torch_ipfs.loader import IPFSDataLoader


@pytest.fixture
def loader() -> IPFSDataLoader:
    return loader_of(*embedded(N))


class TestForms:
    """Every form of a dataset that people have."""

    def forms(self, store: MemoryBlockstore) -> dict[str, Any]:
        cids = [put(store, sample(i)) for i in range(N)]
        texts = [str(cid) for cid in cids]
        halves = [put(store, {"data": samples(N)[:10]}), put(store, {"samples": cids[10:]})]
        shards = [{"cid": half, "count": count} for half, count in zip(halves, (10, N - 10), strict=True)]
        return {
            "embedded": put(store, {"data": samples(N)}),
            "links": put(store, {"samples": cids}),
            "texts": put(store, {"samples": texts}),
            "bare links": put(store, cids),
            "bare texts": put(store, texts),
            "bare samples": put(store, samples(N)),
            "shards": put(store, {"shards": shards}),
            "json embedded": put_json(store, {"data": samples(N)}),
            "json texts": put_json(store, {"samples": texts}),
            "json links": put_json(store, {"samples": [{"/": text} for text in texts]}),
            "json bare": put_json(store, samples(N)),
            "json samples": put(store, {"samples": [put_json(store, sample(i)) for i in range(N)]}),
        }

    def test_each_gives_the_same_samples(self) -> None:
        store = MemoryBlockstore()
        for name, cid in self.forms(store).items():
            loader = loader_of(store, cid, shuffle=False)
            batches = list(loader)
            assert [len(batch) for batch in batches] == [5, 5, 5, 5, 3], name
            assert labels(batches) == list(range(N)), name
            first = batches[1][0]
            assert set(first) == {"features", "labels"}
            assert torch.equal(first["features"], torch.tensor(sample(5)["features"])), name
            assert first["features"].dtype == torch.float32
            assert first["labels"].dtype == torch.int64

    def test_what_write_dataset_wrote_is_loaded(self, tmp_path: Path) -> None:
        cid = torch_ipfs.write_dataset(samples(N), tmp_path / "a.car", name="written")
        with loader_of(str(tmp_path / "a.car"), cid) as loader:
            assert loader.dataset_metadata is not None
            assert loader.dataset_metadata["name"] == "written"
            assert sorted(labels(loader)) == list(range(N))

    def test_a_path_names_a_dataset_too(self) -> None:
        store = MemoryBlockstore()
        inner = put(store, {"data": samples(N)})
        outer = put(store, {"versions": [inner]})
        assert labels(loader_of(store, f"/ipfs/{outer}/versions/0", shuffle=False)) == list(range(N))

    @pytest.mark.parametrize(
        ("value", "says"),
        [
            (5, "map or a list"),
            ({"name": "x"}, "exactly one of samples, data and shards"),
            ({"samples": [], "data": []}, "exactly one"),
            ({"data": "text"}, "expected data as a list"),
            ({"samples": [{"features": [1.0]}]}, "go under data"),
            ({"shards": [{"cid": "x", "count": -1}]}, "count"),
        ],
    )
    def test_a_bad_form_is_told_and_not_raised(self, value: Any, says: str) -> None:
        store = MemoryBlockstore()
        cid = put(store, value)
        loader = IPFSDataLoader(store, prefetch=0)
        result = loader.load_dataset(cid)
        assert result["success"] is False
        assert result["dataset_cid"] == str(cid)
        assert result["error_type"] == "ManifestError"
        assert says in result["error"]
        assert str(cid) in result["error"]

    def test_an_empty_dataset_is_one(self) -> None:
        store = MemoryBlockstore()
        loader = loader_of(store, put(store, {"data": []}))
        assert (loader.total_samples, len(loader), list(loader)) == (0, 0, [])

    def test_samples_without_fields_are_counted_too(self) -> None:
        store = MemoryBlockstore()
        cid = put(store, {"data": [{}] * 7})
        for prefetch in (0, 2):
            assert list(loader_of(store, cid, prefetch=prefetch)) == [[{}] * 5, [{}] * 2]


class TestResults:
    def test_of_a_dataset_that_loads(self, loader: IPFSDataLoader) -> None:
        store, cid = embedded(N, version="1.0.0", created_at=1648720000, description="d")
        result = loader_of(store, cid).load_dataset(cid)
        assert result["success"] is True
        assert result["operation"] == "load_dataset"
        assert isinstance(result["timestamp"], float)
        assert result["dataset_cid"] == cid
        assert result["total_samples"] == N
        assert result["metadata"] == {
            "name": "embedded",
            "version": "1.0.0",
            "created_at": 1648720000,
            "description": "d",
        }
        assert "error" not in result

    @pytest.mark.parametrize(
        ("name", "error_type"),
        [
            ("QmYourDatasetCID", "CodecError"),
            ("", "CodecError"),
            (None, "OptionError"),
            (7, "OptionError"),
            ("bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy", "BlockNotFound"),
            ("/ipns/example.org", "OptionError"),
        ],
    )
    def test_of_what_is_no_dataset(self, loader: IPFSDataLoader, name: Any, error_type: str) -> None:
        result = loader.load_dataset(name)
        assert result["success"] is False
        assert result["error_type"] == error_type
        assert result["dataset_cid"] == str(name)
        assert str(name) in result["error"]

    def test_a_source_that_cannot_be_opened_is_told_with_the_cid(self) -> None:
        cid = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"
        for client in (None, "/nowhere/a.car"):
            assert cid in IPFSDataLoader(client).load_dataset(cid)["error"]

    def test_a_failed_load_leaves_nothing_loaded(self, loader: IPFSDataLoader) -> None:
        loader.load_dataset("QmYourDatasetCID")
        assert (loader.total_samples, len(loader), loader.dataset_metadata) == (0, 0, None)
        with pytest.raises(OptionError, match="QmYourDatasetCID"):
            next(iter(loader))

    def test_whatever_a_store_raises_is_told(self) -> None:
        class Broken(MemoryBlockstore):
            def get(self, cid: Any) -> bytes:
                raise RuntimeError("a bug of its own")

        result = IPFSDataLoader(Broken()).load_dataset("bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy")
        assert result["error_type"] == "RuntimeError"
        assert "a bug of its own" in result["error"]


class TestArguments:
    def test_the_first_four_are_positional(self) -> None:
        store, cid = embedded(N)
        loader = IPFSDataLoader(store, 4, False, 0)
        loader.load_dataset(cid)
        assert labels(loader) == list(range(N))
        assert len(loader) == 6

    @pytest.mark.parametrize(
        "options",
        [
            {"batch_size": 0},
            {"batch_size": None},
            {"batch_size": 2.5},
            {"prefetch": -1},
            {"prefetch": None},
            {"transform": 5},
            {"cache": 5},
            {"num_workers": -1},
            {"seed": "x"},
            {"on_error": "ignore"},
            {"shuffle": "yes"},
            {"drop_last": "no"},
            {"rank": 1},
        ],
    )
    def test_what_cannot_work_is_a_value_error(self, options: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=next(iter(options))):
            IPFSDataLoader(MemoryBlockstore(), **options)

    @pytest.mark.parametrize("options", [{"num_workers": "2"}, {"collate_fn": "list"}, {"batch_size": "4"}])
    def test_so_are_options_of_to_pytorch(self, options: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=next(iter(options))):
            loader_of(*embedded(N)).to_pytorch(**options)

    def test_whole_numbers_are_of_any_type(self) -> None:
        two: Any = np.int64(2)
        loader = loader_of(
            *embedded(N), batch_size=two, prefetch=two, seed=two, num_workers=two, rank=two, world_size=4
        )
        loader.set_epoch(two)
        same = loader_of(*embedded(N), batch_size=2, seed=2, rank=2, world_size=4)
        same.set_epoch(2)
        assert labels(loader) == labels(same)
        assert json.loads(json.dumps(loader.state_dict())) == same.state_dict()
        loader.close()

    def test_without_a_dataset(self) -> None:
        loader = IPFSDataLoader(MemoryBlockstore())
        assert (loader.total_samples, len(loader), bool(loader)) == (0, 0, True)
        for use in (iter, next, IPFSDataLoader.to_pytorch, IPFSDataLoader.state_dict):
            with pytest.raises(OptionError, match="load_dataset"):
                use(loader)

    def test_drop_last_and_length(self) -> None:
        loader = loader_of(*embedded(N), drop_last=True)
        assert len(loader) == len(list(loader)) == 4

    def test_a_transform_gives_what_it_gives(self) -> None:
        def shout(item: dict[str, Any]) -> dict[str, Any]:
            i = int(item["labels"])
            return {"i": i, "text": f"{i}!", "ragged": item["features"][: i % 3], "whole": item["features"]}

        for prefetch in (0, 2):
            got = [item for batch in loader_of(*embedded(N), transform=shout, prefetch=prefetch) for item in batch]
            assert sorted(item["i"] for item in got) == list(range(N))
            assert all(type(item["i"]) is int and item["text"] == f"{item['i']}!" for item in got)
            assert all(len(item["ragged"]) == item["i"] % 3 for item in got)
            assert all(torch.equal(item["whole"], torch.tensor(sample(item["i"])["features"])) for item in got)

    def test_a_transform_may_make_something_other_than_maps(self) -> None:
        for prefetch in (0, 1):
            pairs = loader_of(*embedded(N), transform=_pair, prefetch=prefetch, shuffle=False)
            assert [batch[0][1] for batch in pairs] == [0, 5, 10, 15, 20]
            numbers = loader_of(*embedded(N), transform=_label, prefetch=prefetch, shuffle=False)
            assert [item for batch in numbers for item in batch] == list(range(N))


def _pair(item: dict[str, Any]) -> tuple[torch.Tensor, int]:
    return item["features"], int(item["labels"])


def _label(item: dict[str, Any]) -> int:
    return int(item["labels"])


def test_options_are_told_and_not_changed_in_silence(loader: IPFSDataLoader) -> None:
    assert (loader.batch_size, loader.shuffle, loader.prefetch) == (5, True, 0)
    for name in ("batch_size", "shuffle", "prefetch"):
        with pytest.raises(AttributeError, match=name):
            setattr(loader, name, 1)
