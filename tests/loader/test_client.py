"""What an ipfs_client may be."""

from __future__ import annotations

import threading
import warnings
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

import torch_ipfs
from tests.loader.datasets import embedded, labels, linked, loader_of, sample, samples
from tests.network.nodes import KuboNode
from torch_ipfs.blockstore.cached import CachedBlockstore
from torch_ipfs.blockstore.gateway import GatewayBlockstore
from torch_ipfs.blockstore.kubo import KuboBlockstore
from torch_ipfs.blockstore.open import is_uncached, open_cached
from torch_ipfs.blockstore.tiered import TieredBlockstore
from torch_ipfs.kit import ipfs_kit
from torch_ipfs.loader import IPFSDataLoader
from torch_ipfs.loader.client import store_of

N = 12


class Client:
    """A fake as people write them: placeholder names, result dictionaries."""

    def __init__(self, objects: dict[str, Any]) -> None:
        self.objects = objects
        self.asked: list[str] = []

    def dag_get(self, cid: str) -> dict[str, Any]:
        self.asked.append(cid)
        if cid not in self.objects:
            return {"success": False, "operation": "dag_get", "error": f"no {cid}", "error_type": "NotFound"}
        return {"success": True, "operation": "dag_get", "object": self.objects[cid]}


def fake(count: int = N) -> Client:
    names = [f"QmSample{i}CID" for i in range(count)]
    objects: dict[str, Any] = {name: sample(i) for i, name in enumerate(names)}
    objects["QmDatasetCID"] = {"name": "example", "version": "1.0.0", "samples": names}
    objects["QmEmbedded"] = {"data": samples(count)}
    objects["QmBareNames"] = names
    objects["QmBareTexts"] = ["a", "b"]
    return Client(objects)


class TestStores:
    def test_a_source_string(self, tmp_path: Path) -> None:
        cid = torch_ipfs.write_dataset(samples(N), tmp_path / "a.car")
        assert sorted(labels(loader_of(str(tmp_path / "a.car"), cid))) == list(range(N))
        assert sorted(labels(loader_of(tmp_path / "a.car", cid))) == list(range(N))
        assert sorted(labels(loader_of([str(tmp_path / "a.car")], cid))) == list(range(N))

    def test_a_source_that_is_not_there_is_told_on_loading(self) -> None:
        result = IPFSDataLoader("/nowhere/a.car").load_dataset("bafkqaaa")
        assert (result["success"], result["error_type"]) == (False, "OptionError")
        assert "/nowhere/a.car" in result["error"]

    def test_a_kit_and_its_operations(self, tmp_path: Path) -> None:
        kit = ipfs_kit(source=_made(tmp_path / "store"))
        cid = kit.ipfs.dag_put({"data": samples(N)})["cid"]
        for client in (kit, kit.ipfs):
            assert sorted(labels(loader_of(client, cid))) == list(range(N))

    @pytest.mark.parametrize("client", [None, 5, object(), b"bytes", {"dag_get": 1}, mock.Mock(spec=["get"])])
    def test_without_a_client_there_is_an_error_and_no_data(self, client: Any) -> None:
        loader = IPFSDataLoader(client)
        result = loader.load_dataset("bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy")
        assert (result["success"], result["error_type"]) == (False, "OptionError")
        assert "ipfs_client" in result["error"]
        with pytest.raises(torch_ipfs.OptionError):
            iter(loader)


class TestCache:
    def test_what_comes_over_a_network_is_cached(self, tmp_path: Path) -> None:
        kubo, gateway = KuboBlockstore("kubo://127.0.0.1:5001"), GatewayBlockstore("http://127.0.0.1:8080")
        for client in (kubo, gateway):
            store, own = store_of(client)
            assert isinstance(store, CachedBlockstore)
            assert (store.store, own) == (client, False)
        memory = embedded(1)[0]
        assert store_of(memory)[0] is memory
        there = store_of(memory, cache=tmp_path)[0]
        assert isinstance(there, CachedBlockstore)
        assert there.cache_dir == tmp_path
        assert isinstance(store_of(memory, cache=True)[0], CachedBlockstore)

    def test_no_cache_is_wanted(self, tmp_path: Path) -> None:
        car = tmp_path / "a.car"
        torch_ipfs.write_dataset([{"i": 1}], car)
        nodes = ["kubo://127.0.0.1:5001", "http://127.0.0.1:8080"]
        for client in (nodes[0], nodes, KuboBlockstore(nodes[0]), ipfs_kit(source=nodes[0])):
            store = open_cached(store_of(client, cache=False)[0])  # as a dataset opens it
            assert is_uncached(store)
            assert not isinstance(store.store, CachedBlockstore)  # type: ignore[attr-defined]
        for cache, kept in ((False, TieredBlockstore), (tmp_path, CachedBlockstore)):
            store, _ = store_of([car, *nodes], cache=cache)
            assert isinstance(store, kept)
            below: Any = getattr(store, "store", store)
            assert not any(isinstance(part, CachedBlockstore) for part in below.stores)

    def test_a_cached_source_is_read_once(self, tmp_path: Path) -> None:
        store, cid = linked(N)
        labels(loader_of(store, cid, cache=tmp_path))
        assert sorted(labels(loader_of(torch_ipfs.MemoryBlockstore(), cid, cache=tmp_path))) == list(range(N))


class TestHttpClient:
    @pytest.mark.filterwarnings("ignore::FutureWarning")
    def test_its_address_and_secrets_are_taken_over(self) -> None:
        import ipfshttpclient

        client = ipfshttpclient.Client("/dns/example.org/tcp/5002/https", auth=("me", "secret"))
        store, own = store_of(client)
        assert own
        assert isinstance(store, CachedBlockstore)
        assert store.source == "https://example.org:5002/api/v0"
        assert "secret" not in repr(store)
        headers = {"Authorization": "Bearer token"}
        store, _ = store_of(ipfshttpclient.Client("/ip4/127.0.0.1/tcp/5001", headers=headers))
        assert isinstance(store, CachedBlockstore)
        assert isinstance(store.store, KuboBlockstore)
        assert dict(store.store.endpoint.headers) == headers
        with pytest.raises(torch_ipfs.OptionError, match="X-Other"):
            store_of(ipfshttpclient.Client("/ip4/127.0.0.1/tcp/5001", headers={"X-Other": "x"}))

    @pytest.mark.kubo
    @pytest.mark.filterwarnings("ignore::FutureWarning")
    def test_it_reads_from_its_node(self, kubo_node: KuboNode) -> None:
        import ipfshttpclient

        kit = ipfs_kit(source=kubo_node.rpc)
        cid = kit.ipfs.dag_put({"data": samples(N)})["cid"]
        client = ipfshttpclient.Client(f"/ip4/127.0.0.1/tcp/{kubo_node.rpc_port}")
        with loader_of(client, cid) as loader:
            assert sorted(labels(loader)) == list(range(N))
        client.close()
        kit.close()


@pytest.mark.filterwarnings("ignore:dag_get of")
class TestDagGet:
    @pytest.mark.parametrize("name", ["QmDatasetCID", "QmEmbedded", "QmBareNames"])
    @pytest.mark.parametrize("prefetch", [0, 2])
    def test_placeholders_are_names_that_it_answers(self, name: str, prefetch: int) -> None:
        loader = loader_of(fake(), name, shuffle=False, prefetch=prefetch)
        batches = list(loader)
        assert labels(batches) == list(range(N))
        assert torch.equal(batches[0][1]["features"], torch.tensor(sample(1)["features"]))

    def test_bare_texts_that_it_does_not_know_are_samples(self) -> None:
        values = [item["value"] for batch in loader_of(fake(), "QmBareTexts", shuffle=False) for item in batch]
        assert values == ["a", "b"]

    def test_real_cids_are_names_too(self) -> None:
        store, cid = linked(N)
        objects = {str(c): torch_ipfs.codec.decode(c, store.get(c)) for c in store.cids()}
        assert sorted(labels(loader_of(Client(objects), cid))) == list(range(N))

    def test_one_warning_says_that_nothing_is_verified(self) -> None:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            loader = loader_of(fake(), "QmDatasetCID", prefetch=2)
            for _ in range(2):
                labels(loader)
            loader.load_dataset("QmEmbedded")
        # Newer Pythons warn of forks beside threads, whoever's they are.
        told = [str(warning.message) for warning in caught if warning.category is not DeprecationWarning]
        assert ["taken as given" in text for text in told] == [True]

    def test_what_it_does_not_have_is_told_by_its_name(self) -> None:
        result = IPFSDataLoader(fake()).load_dataset("QmYourDatasetCID")
        assert (result["success"], result["error_type"]) == (False, "BlockNotFound")
        assert result["dataset_cid"] == "QmYourDatasetCID"
        assert "no QmYourDatasetCID" in result["error"]
        assert "baf" not in result["error"]

    def test_a_bad_form_is_told_by_its_name(self) -> None:
        result = IPFSDataLoader(Client({"QmBad": {"samples": 5}})).load_dataset("QmBad")
        assert result["error_type"] == "ManifestError"
        assert "QmBad" in result["error"]

    @pytest.mark.filterwarnings("ignore:2 samples")
    def test_missing_and_failing_samples_are_skipped(self) -> None:
        client = fake()
        del client.objects["QmSample3CID"]
        answer = client.dag_get

        def failing(cid: str) -> dict[str, Any]:
            if cid == "QmSample5CID":
                raise ConnectionError("reset by peer")
            return answer(cid)

        client.dag_get = failing  # type: ignore[method-assign]
        loader = loader_of(client, "QmDatasetCID", shuffle=False)
        assert labels(loader) == [i for i in range(N) if i not in (3, 5)]
        assert loader.skipped == 2

    @pytest.mark.parametrize(
        "answer", [None, 5, {"object": None}, {"success": True}, "text", {"success": True, "object": 3}]
    )
    def test_other_answers_are_no_dataset(self, answer: Any) -> None:
        client = fake()
        client.dag_get = lambda cid: answer  # type: ignore[method-assign]
        result = IPFSDataLoader(client).load_dataset("QmDatasetCID")
        assert (result["success"], result["error_type"]) == (False, "ManifestError")

    def test_arrays_in_answers_are_numbers(self) -> None:
        import numpy as np

        client = Client({"x": {"data": [{"features": np.arange(3) / 2, "labels": np.int64(i)} for i in range(4)]}})
        batches = list(loader_of(client, "x", shuffle=False))
        assert labels(batches) == [0, 1, 2, 3]
        assert batches[0][0]["features"].tolist() == [0.0, 0.5, 1.0]

    def test_mocks_have_every_attribute_and_are_clients_all_the_same(self) -> None:
        client = mock.MagicMock()
        client.dag_get.side_effect = fake().dag_get
        assert sorted(labels(loader_of(client, "QmDatasetCID", prefetch=2))) == list(range(N))

    def test_one_that_does_not_pickle_is_read_in_the_caller(self, no_leaks: None) -> None:
        client = fake()
        client.lock = threading.Lock()  # type: ignore[attr-defined]
        loader = loader_of(client, "QmDatasetCID", prefetch=2)
        assert sorted(labels(loader)) == list(range(N))
        assert set(client.asked) >= {f"QmSample{i}CID" for i in range(N)}
        assert loader.to_pytorch().num_workers == 0
        here = loader.to_pytorch(num_workers=2, persistent_workers=True, prefetch_factor=4)
        assert sorted(i for _, numbers in here for i in numbers.tolist()) == list(range(N))

    def test_workers_of_to_pytorch_alone_have_a_copy_too(self) -> None:
        client = fake()
        loader = loader_of(client, "QmEmbedded", prefetch=0)
        assert sorted(i for _, numbers in loader.to_pytorch(num_workers=1) for i in numbers.tolist()) == list(range(N))

    def test_one_that_pickles_is_copied_for_workers(self) -> None:
        client = fake()
        client.objects["QmLast"] = {"samples": [client.objects["QmDatasetCID"]["samples"][-1]]}
        client.objects["QmFirst"] = {"samples": client.objects["QmDatasetCID"]["samples"][:-1]}
        client.objects["root"] = {"shards": [{"cid": "QmFirst", "count": N - 1}, {"cid": "QmLast", "count": 1}]}
        assert sorted(labels(loader_of(client, "root", prefetch=2))) == list(range(N))
        assert f"QmSample{N - 1}CID" not in client.asked

    @pytest.mark.parametrize("prefetch", [0, 2])
    def test_no_sample_is_asked_for_twice_to_find_the_schema(self, prefetch: int) -> None:
        client = fake()
        loader = loader_of(client, "QmDatasetCID", prefetch=prefetch, num_workers=2)
        assert sorted(labels(loader)) == list(range(N))
        assert sorted(client.asked) == sorted(["QmDatasetCID", *client.objects["QmDatasetCID"]["samples"]])

    def test_shards_by_name(self) -> None:
        client = fake()
        client.objects["root"] = {"shards": [{"cid": "QmEmbedded", "count": N}, {"cid": "QmDatasetCID", "count": N}]}
        assert labels(loader_of(client, "root", shuffle=False)) == [*range(N), *range(N)]


def _made(path: Path) -> str:
    path.mkdir()
    return str(path)
