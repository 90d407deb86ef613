"""Roles: what each may, keeps and refuses."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.loader.datasets import labels, samples
from torch_ipfs import CID, LocalBlockstore, MemoryBlockstore, OptionError, write_dataset
from torch_ipfs.blockstore.cached import CachedBlockstore
from torch_ipfs.blockstore.kubo import KuboBlockstore
from torch_ipfs.kit import TrainingTask, ipfs_kit
from torch_ipfs.loader import IPFSDataLoader

NOWHERE = "bafyreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"
HYPERPARAMETERS = {"learning_rate": 0.1, "batch_size": 4, "epochs": 2}


def store(path: Path) -> str:
    path.mkdir(exist_ok=True)
    return str(path)


def task(cid: str, **changes: Any) -> str:
    return json.dumps({"operation": "training", "dataset_cid": cid, "hyperparameters": HYPERPARAMETERS, **changes})


def pins(kit: ipfs_kit) -> set[str]:
    return set(kit.ipfs.pin_ls()["pins"])


class TestKit:
    def test_a_worker_by_default(self) -> None:
        assert ipfs_kit().role == "worker"

    @pytest.mark.parametrize("role", ["boss", "", None, 1])
    def test_other_roles_are_refused(self, role: Any) -> None:
        with pytest.raises(OptionError, match="role"):
            ipfs_kit(role=role)

    def test_the_source_is_found_in_the_environment(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TORCH_IPFS_SOURCE", store(tmp_path / "named"))
        cid = ipfs_kit().ipfs.dag_put({"a": 1})["cid"]
        assert ipfs_kit(source=str(tmp_path / "named")).ipfs.dag_get(cid)["success"]

    def test_loaders(self) -> None:
        assert isinstance(ipfs_kit(metadata={"enable_ai_ml": True}).get_data_loader(), IPFSDataLoader)
        assert isinstance(ipfs_kit().get_data_loader(8, False, 0, seed=1), IPFSDataLoader)
        assert ipfs_kit(metadata={"enable_ai_ml": False}).get_data_loader() is None

    def test_a_network_is_read_through_the_cache(self) -> None:
        for role in ("worker", "leecher", "master"):
            for source in ("kubo://127.0.0.1:5001", KuboBlockstore("kubo://127.0.0.1:5001")):
                assert isinstance(ipfs_kit(role=role, source=source).blockstore, CachedBlockstore)

    @pytest.mark.parametrize("scheme", ["kubo", "http"])
    def test_a_node_that_is_down_is_told_of_within_seconds(self, scheme: str) -> None:
        with socket.socket() as bound:  # which nobody listens at
            bound.bind(("127.0.0.1", 0))
            kit = ipfs_kit(source=f"{scheme}://127.0.0.1:{bound.getsockname()[1]}")
            started = time.monotonic()
            results = [kit.ipfs.dag_get(NOWHERE), kit.accept_task(task(NOWHERE))]
            if scheme == "kubo":
                results += [kit.ipfs.dag_put({"a": 1}), kit.ipfs.pin_ls(), kit.ipfs.pubsub_publish("topic", "message")]
            assert time.monotonic() - started < 15, "training's patience is 20 s and more for each"
        for result in results:
            assert (result["success"], result["error_type"]) == (False, "TransportError")
            assert "nobody listens there: is the node (ipfs daemon)" in result["error"]

    def test_it_closes_and_opens_anew(self, tmp_path: Path) -> None:
        with ipfs_kit(source=store(tmp_path / "s")) as kit:
            cid = kit.ipfs.dag_put({"a": 1})["cid"]
        kit.close()
        assert kit.ipfs.dag_get(cid)["success"]


class TestMaster:
    def test_it_pins_what_it_publishes(self, tmp_path: Path) -> None:
        home = store(tmp_path / "s")
        master = ipfs_kit("master", source=home)
        results = [master.ipfs.dag_put({"a": 1}), master.ipfs.add(b"file"), master.ipfs.block_put(b"block")]
        assert all(result["success"] and result["pinned"] for result in results)
        assert pins(master) == {result["cid"] for result in results}

    def test_and_keeps_it(self, tmp_path: Path) -> None:
        home = store(tmp_path / "s")
        master, worker = ipfs_kit("master", source=home), ipfs_kit("worker", source=home)
        inner = worker.ipfs.dag_put({"inner": 1})["cid"]
        kept = master.ipfs.dag_put({"link": {"/": inner}})["cid"]
        lost = worker.ipfs.dag_put({"b": 1})["cid"]
        assert pins(worker) == {kept}
        LocalBlockstore(home).gc(grace_s=0)
        assert worker.ipfs.dag_get(f"{kept}/link/inner")["object"] == 1
        assert worker.ipfs.dag_get(lost)["error_type"] == "BlockNotFound"

    def test_where_there_are_no_pins_it_says_so(self) -> None:
        result = ipfs_kit("master", source=MemoryBlockstore()).ipfs.dag_put({"a": 1})
        assert (result["success"], result["pinned"]) == (True, False)


class TestLeecher:
    def test_it_reads_and_nothing_else(self, tmp_path: Path) -> None:
        home = store(tmp_path / "s")
        worker = ipfs_kit("worker", source=home)
        cid = worker.ipfs.dag_put({"data": samples(9)})["cid"]
        leecher = ipfs_kit("leecher", source=home)
        before = sorted(map(str, Path(home).rglob("*")))
        ipfs = leecher.ipfs
        refusals = [
            ipfs.dag_put({"a": 2}),
            ipfs.add(b"x"),
            ipfs.block_put(b"x"),
            ipfs.pin_add(cid),
            ipfs.pin_rm(cid),
            ipfs.pubsub_publish("t", "m"),
        ]
        for result in refusals:
            assert (result["success"], result["error_type"]) == (False, "OptionError")
            assert "leecher" in result["error"]
            assert result["operation"] in result["error"]
        loader = leecher.get_data_loader(batch_size=4, prefetch=0)
        assert loader is not None
        assert loader.load_dataset(cid)["total_samples"] == 9
        assert sorted(labels(loader)) == list(range(9))
        with leecher.training(task(cid)) as accepted:
            assert accepted.dataset_cid == cid
        assert sorted(map(str, Path(home).rglob("*"))) == before


class TestTasks:
    @pytest.fixture
    def kit(self, tmp_path: Path) -> ipfs_kit:
        return ipfs_kit("worker", source=store(tmp_path / "s"))

    @pytest.fixture
    def cid(self, kit: ipfs_kit) -> str:
        return str(kit.ipfs.dag_put({"data": samples(9)})["cid"])

    def test_a_task_is_accepted(self, kit: ipfs_kit, cid: str) -> None:
        for message in (task(cid), task(cid).encode(), {"data": task(cid), "from": "peer", "topic": "t"}):
            result = kit.accept_task(message)
            assert result["success"], result
            assert (result["dataset_cid"], result["total_samples"]) == (cid, 9)
            assert result["hyperparameters"] == HYPERPARAMETERS
            assert result["task"] == TrainingTask(cid, HYPERPARAMETERS)
        assert json.loads(result["task"].to_message()) == json.loads(task(cid))

    def test_a_task_of_what_write_dataset_and_numpy_give(self, kit: ipfs_kit, cid: str) -> None:
        root: Any = CID.parse(cid)
        given = TrainingTask(root, HYPERPARAMETERS | {"learning_rate": np.float32(0.5), "epochs": np.int64(2)})
        accepted = kit.accept_task(given.to_message())
        assert accepted["hyperparameters"] == {"learning_rate": 0.5, "batch_size": 4, "epochs": 2}
        assert accepted["dataset_cid"] == cid

    @pytest.mark.parametrize(
        ("cid", "changes", "says"),
        [
            ("QmYourDatasetCID", {}, "dataset_cid"),
            (NOWHERE, {"epochs": 0}, "epochs"),
            (NOWHERE, {"learning_rate": float("nan")}, "no JSON"),
            (NOWHERE, {"optimizer": object()}, "object"),
        ],
    )
    def test_a_task_that_workers_would_refuse_is_not_sent(self, cid: str, changes: dict[str, Any], says: str) -> None:
        with pytest.raises(OptionError, match=says):
            TrainingTask(cid, HYPERPARAMETERS | changes).to_message()

    @pytest.mark.parametrize(
        ("changes", "says"),
        [
            ({"operation": "format disk"}, "operation"),
            ({"operation": None}, "operation"),
            ({"dataset_cid": None}, "dataset_cid"),
            ({"dataset_cid": "QmYourDatasetCID"}, "dataset_cid"),
            ({"hyperparameters": None}, "hyperparameters"),
            ({"hyperparameters": []}, "hyperparameters"),
            *(
                ({"hyperparameters": {**HYPERPARAMETERS, name: value}}, name)
                for name, value in (
                    ("batch_size", 0),
                    ("batch_size", "32"),
                    ("batch_size", True),
                    ("epochs", None),
                    ("epochs", 1.5),
                    ("learning_rate", 0),
                    ("learning_rate", "x"),
                    ("learning_rate", -1.0),
                )
            ),
        ],
    )
    def test_what_is_no_such_task_is_refused(self, kit: ipfs_kit, cid: str, changes: dict[str, Any], says: str) -> None:
        result = kit.accept_task(task(cid, **changes))
        assert (result["success"], result["error_type"]) == (False, "OptionError")
        assert says in result["error"]
        with pytest.raises(OptionError, match=says), kit.training(task(cid, **changes)):
            pytest.fail("it was executed")

    @pytest.mark.parametrize(
        "message", ["", "{", "[]", "5", b"\xff\xfe", None, 7, {}, {"data": 5}, "[" * 100_000, '{"a": NaN}']
    )
    def test_what_is_no_json_is_refused(self, kit: ipfs_kit, message: Any) -> None:
        result = kit.accept_task(message)
        assert (result["success"], result["error_type"]) == (False, "OptionError")

    def test_a_dataset_that_nobody_has_is_refused(self, kit: ipfs_kit) -> None:
        assert kit.accept_task(task(NOWHERE))["error_type"] == "BlockNotFound"

    def test_what_is_no_dataset_is_refused(self, kit: ipfs_kit) -> None:
        cid = kit.ipfs.dag_put({"model": 1})["cid"]
        assert kit.accept_task(task(cid))["error_type"] == "ManifestError"

    def test_a_worker_pins_while_it_trains(self, kit: ipfs_kit, cid: str) -> None:
        with kit.training(task(cid)) as accepted:
            assert cid in pins(kit)
            assert accepted.hyperparameters["epochs"] == 2
        assert pins(kit) == set()

    def test_also_where_training_fails(self, kit: ipfs_kit, cid: str) -> None:
        with pytest.raises(ZeroDivisionError), kit.training(task(cid)):
            raise ZeroDivisionError
        assert pins(kit) == set()

    def test_what_was_pinned_before_stays_so(self, kit: ipfs_kit, cid: str) -> None:
        kit.ipfs.pin_add(cid)
        with kit.training(task(cid)):
            pass
        assert pins(kit) == {cid}

    def test_each_training_keeps_the_dataset_to_its_own_end(self, tmp_path: Path) -> None:
        home = store(tmp_path / "s")
        kits = [ipfs_kit("worker", source=home) for _ in range(2)]
        sample = kits[0].ipfs.dag_put(samples(1)[0])["cid"]
        root = kits[0].ipfs.dag_put({"samples": [{"/": sample}]})["cid"]
        for first in range(2):
            trainings = [kit.training(task(root)) for kit in kits]
            for training in trainings:
                training.__enter__()
            trainings[first].__exit__(None, None, None)
            LocalBlockstore(home).gc(grace_s=0)
            assert kits[0].ipfs.dag_get(f"{root}/samples/0")["success"]
            trainings[1 - first].__exit__(None, None, None)
            assert pins(kits[0]) == set()

    def test_what_packed_samples_link_to_is_kept_too(self, kit: ipfs_kit, tmp_path: Path) -> None:
        files = [CID.parse(kit.ipfs.add(bytes([i]) * 3_000_000)["cid"]) for i in range(3)]
        root = write_dataset([{"pair": [file], "labels": i} for i, file in enumerate(files)], tmp_path / "s")
        LocalBlockstore(tmp_path / "s").unpin(root)
        with kit.training(task(str(root))):
            LocalBlockstore(tmp_path / "s").gc(grace_s=0)
            assert all(kit.ipfs.cat(str(file))["success"] for file in files)
        LocalBlockstore(tmp_path / "s").gc(grace_s=0)
        assert not any(kit.ipfs.cat(str(file))["success"] for file in files)

    @pytest.mark.parametrize("form", ["samples", "linked shards", "shards in JSON"])
    def test_what_is_named_by_text_is_kept_too(self, kit: ipfs_kit, tmp_path: Path, form: str) -> None:
        """At any depth, as in datasets that are merged, or written by hand."""
        names = [kit.ipfs.dag_put(sample)["cid"] for sample in samples(6)]
        halves = [kit.ipfs.dag_put({"samples": part})["cid"] for part in (names[:3], names[3:])]
        root = {
            "samples": lambda: kit.ipfs.dag_put({"samples": names}),
            "linked shards": lambda: kit.ipfs.dag_put({"shards": [{"cid": {"/": h}, "count": 3} for h in halves]}),
            "shards in JSON": lambda: kit.ipfs.add(
                json.dumps({"shards": [{"cid": h, "count": 3} for h in halves]}).encode()
            ),
        }[form]()["cid"]
        with kit.training(task(root)), IPFSDataLoader(kit, prefetch=0, on_error="raise") as loader:
            LocalBlockstore(tmp_path / "s").gc(grace_s=0)
            assert loader.load_dataset(root)["success"]
            assert sorted(labels(loader)) == list(range(6))
        LocalBlockstore(tmp_path / "s").gc(grace_s=0)
        assert not any(kit.ipfs.block_get(name)["success"] for name in names)
