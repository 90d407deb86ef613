"""The specification's distributed example as it is meant: a master and two workers, a node each, of a private swarm."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

import torch_ipfs
from tests.network.nodes import KuboNode
from torch_ipfs.kit import TrainingTask, ipfs_kit
from torch_ipfs.kit.pubsub import MAX_MESSAGE_BYTES

ROOT = Path(__file__).parents[2]
WAIT_S = 100.0
EPOCHS = 6

WORKER = """
import json, sys, time, safetensors.torch, torch
from torch_ipfs.kit import ipfs_kit

rank = int(sys.argv[2])
kit = ipfs_kit(role="worker", source=sys.argv[1])
with kit.ipfs.pubsub_subscribe("training_tasks", timeout_s=100) as tasks:
    assert tasks["success"], tasks["error"]
    print("listening", flush=True)
    for message in tasks:
        accepted = kit.accept_task(message)
        if accepted["success"]:
            break
        print("refused", accepted["error_type"], flush=True)
with kit.training(message) as task:
    pinned = task.dataset_cid in kit.ipfs.pin_ls()["pins"]
    options = task.hyperparameters
    loader = kit.get_data_loader(batch_size=options["batch_size"], shuffle=True, rank=rank, world_size=2)
    assert loader.load_dataset(task.dataset_cid)["success"]
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=options["learning_rate"])
    seen, batches = 0, loader.to_pytorch()
    for _ in range(options["epochs"]):
        for features, labels in batches:
            loss = torch.nn.functional.cross_entropy(model(features), labels)
            optimizer.zero_grad(); loss.backward(); optimizer.step()
            seen += len(labels)
    loader.close()
unpinned = task.dataset_cid not in kit.ipfs.pin_ls()["pins"]
cid = kit.ipfs.add(safetensors.torch.save(model.state_dict()))["cid"]
report = {"rank": rank, "model_cid": cid, "samples": seen, "pinned": pinned, "unpinned": unpinned}
deadline = time.monotonic() + 100
while not kit.ipfs.pubsub_peers("trained_models")["peers"]:
    assert time.monotonic() < deadline
    time.sleep(0.05)
assert kit.ipfs.pubsub_publish("trained_models", json.dumps(report))["success"]
print("done", flush=True)
sys.stdin.read()
kit.close()
"""


def worker(node: KuboNode, rank: int, folder: Path) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "TORCH_IPFS_CACHE_DIR": str(folder / f"cache-{rank}"),
    }
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", WORKER, node.rpc, str(rank)],
        env=environment,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def await_subscribers(kit: ipfs_kit, topic: str, count: int) -> None:
    """Until the master's node has heard of the subscriptions: a message goes to those that it knows of."""
    deadline = time.monotonic() + WAIT_S
    while len(kit.ipfs.pubsub_peers(topic)["peers"]) < count:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def dataset(path: Path) -> torch_ipfs.CID:
    features = np.random.default_rng(0).random((240, 4), dtype=np.float32)
    return torch_ipfs.write_dataset({"features": features, "labels": (features[:, 0] > 0.5).astype(np.int64)}, path)


@pytest.mark.kubo
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_master_and_two_workers_train(kubo_swarm: list[KuboNode], tmp_path: Path) -> None:
    car = tmp_path / "train.car"
    cid = dataset(car)
    with ipfs_kit(role="master", source=kubo_swarm[0].rpc) as master:
        torch_ipfs.KuboBlockstore(kubo_swarm[0].rpc).import_car(car)
        assert master.ipfs.pin_add(cid)["success"]
        workers = [worker(node, rank, tmp_path) for rank, node in enumerate(kubo_swarm[1:])]
        try:
            assert [line(process) for process in workers] == ["listening"] * 2
            results = master.ipfs.pubsub_subscribe("trained_models", timeout_s=WAIT_S)
            await_subscribers(master, "training_tasks", len(workers))
            task = TrainingTask(str(cid), {"learning_rate": 0.5, "batch_size": 10, "epochs": EPOCHS})
            for message in ("not json", json.dumps({"operation": "training"}), task.to_message()):
                assert master.ipfs.pubsub_publish("training_tasks", message)["success"]
            assert [[line(process) for _ in range(3)] for process in workers] == [
                ["refused OptionError", "refused OptionError", "done"]
            ] * 2
            reports = sorted((json.loads(next(results)["data"]) for _ in workers), key=lambda report: report["rank"])
            results.stop()
            models = [safetensors.torch.load(master.ipfs.cat(report["model_cid"])["data"]) for report in reports]
        finally:
            for process in workers:
                process.communicate()
    assert [process.returncode for process in workers] == [0, 0]
    assert all(report["pinned"] and report["unpinned"] for report in reports)
    assert [report["samples"] for report in reports] == [120 * EPOCHS] * 2
    averaged = {name: (models[0][name] + models[1][name]) / 2 for name in models[0]}
    assert not torch.equal(models[0]["weight"], models[1]["weight"])
    model = torch.nn.Linear(4, 2)
    model.load_state_dict(averaged)
    rows = next(iter(torch_ipfs.IPFSIterableDataset(cid, str(car), batch_size=240)))
    assert (model(rows["features"]).argmax(1) == rows["labels"]).float().mean() > 0.8


@pytest.mark.kubo
def test_the_largest_message_that_is_taken_reaches_other_nodes(kubo_swarm: list[KuboNode]) -> None:
    sender, receiver = (ipfs_kit(source=node.rpc) for node in kubo_swarm[:2])
    message = "x" * (MAX_MESSAGE_BYTES - len("large"))
    with receiver.ipfs.pubsub_subscribe("large", timeout_s=WAIT_S) as subscription:
        await_subscribers(sender, "large", 1)
        assert sender.ipfs.pubsub_publish("large", message)["success"]
        assert next(subscription)["data"] == message
