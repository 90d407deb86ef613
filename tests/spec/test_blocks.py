"""Each code block of the document runs as it stands, but for the import line, placeholders and imports that it forgot."""

from __future__ import annotations

import inspect
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.loader.datasets import labels
from tests.network.nodes import KuboNode
from tests.spec.document import block_with, blocks, run
from torch_ipfs.kit import ipfs_kit
from torch_ipfs.loader import IPFSDataLoader

INPUT_DIM, OUTPUT_DIM, SAMPLES = 10, 2, 70


@pytest.fixture
def kit() -> ipfs_kit:
    return ipfs_kit()


@pytest.fixture
def cid(kit: ipfs_kit) -> str:
    rng = np.random.default_rng(0)
    rows = [{"features": rng.random(INPUT_DIM).tolist(), "labels": i % OUTPUT_DIM} for i in range(SAMPLES)]
    return str(kit.ipfs.dag_put({"name": "example", "data": rows})["cid"])


def test_every_python_block_is_run_here() -> None:
    ours = (
        "Initialize IPFS Kit with",
        "loader.to_pytorch()\n\n# Use in",
        "loader.to_tensorflow()\n\n# Use in",
        "def create_reference_dataset",
        "def process_large_dataset",
        "def master_distribute_dataset",
        "class IPFSDataLoader",
        "def get_data_loader",
    )
    assert len({block_with(text) for text in ours}) == len(ours) == len(blocks("python"))


def test_basic_usage(cid: str, capsys: pytest.CaptureFixture[str], no_leaks: None) -> None:
    code = block_with("Initialize IPFS Kit with")
    ran = run(code.replace("QmYourDatasetCID", cid))
    assert capsys.readouterr().out == f"Loaded dataset with {SAMPLES} samples\n"
    assert ran["features"].shape == (INPUT_DIM,)  # type: ignore[attr-defined]


def test_basic_usage_with_the_placeholder_says_that_it_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    code = block_with("Initialize IPFS Kit with").partition("# Iterate through batches")[0]
    run(code)
    assert "Failed to load dataset" in capsys.readouterr().out


def test_pytorch(kit: ipfs_kit, cid: str) -> None:
    code = block_with("loader.to_pytorch()\n\n# Use in").replace("QmYourDatasetCID", cid)
    ran = run(code, kit=kit, input_dim=INPUT_DIM, output_dim=OUTPUT_DIM, num_epochs=3)
    assert ran["loss"].item() > 0  # type: ignore[attr-defined]
    assert len(ran["pytorch_loader"]) == 3  # type: ignore[arg-type]
    ran["loader"].close()  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning:keras")
@pytest.mark.timeout(300)
def test_tensorflow(kit: ipfs_kit, cid: str) -> None:
    code = block_with("loader.to_tensorflow()\n\n# Use in").replace("QmYourDatasetCID", cid)
    ran = run(code, kit=kit, input_dim=INPUT_DIM, output_dim=OUTPUT_DIM, num_epochs=2)
    assert len(ran["model"].history.history["loss"]) == 2  # type: ignore[attr-defined]


def test_creating_and_uploading(kit: ipfs_kit, capsys: pytest.CaptureFixture[str]) -> None:
    ran = run(block_with("def create_reference_dataset"), time=time)
    cid = ran["create_reference_dataset"](30)  # type: ignore[operator]
    assert f"Created dataset with CID: {cid}" in capsys.readouterr().out
    loader = kit.get_data_loader(batch_size=8, prefetch=0)
    assert loader is not None
    assert loader.load_dataset(cid)["total_samples"] == 30
    assert len(labels(loader)) == 30


def test_large_datasets_in_chunks(kit: ipfs_kit, capsys: pytest.CaptureFixture[str]) -> None:
    created = run(block_with("def create_reference_dataset"), time=time)["create_reference_dataset"](25)  # type: ignore[operator]
    ran = run(block_with("def process_large_dataset"), ipfs_kit=ipfs_kit)
    ran["process_large_dataset"](created, chunk_size=10)  # type: ignore[operator]
    printed = capsys.readouterr().out
    assert "Failed" not in printed
    assert "Processing samples 20 to 24" in printed
    ran["process_large_dataset"]("QmYourDatasetCID")  # type: ignore[operator]
    assert "Failed to get dataset" in capsys.readouterr().out


@pytest.mark.kubo
def test_distributed(own_kubo_node: KuboNode, monkeypatch: pytest.MonkeyPatch) -> None:
    own_kubo_node.configure("Pubsub.Enabled", True)
    own_kubo_node.start()
    monkeypatch.setenv("TORCH_IPFS_SOURCE", own_kubo_node.rpc)
    ran = run(block_with("def master_distribute_dataset"), json=json, ipfs_kit=ipfs_kit)
    with ipfs_kit() as kit, kit.ipfs.pubsub_subscribe("training_tasks", timeout_s=30) as tasks:
        cid = kit.ipfs.dag_put({"data": [{"features": [float(i)], "labels": i} for i in range(9)]})["cid"]
        assert ran["master_distribute_dataset"](cid) == "Task published to workers"  # type: ignore[operator]
        message = next(tasks)
        assert kit.ipfs.pin_ls()["pins"][cid] == "recursive"
    ran["worker_train"](message)  # type: ignore[operator]


def test_the_api_reference_is_ours() -> None:
    theirs: Any = run(block_with("class IPFSDataLoader"))["IPFSDataLoader"]
    for name, method in inspect.getmembers(theirs, inspect.isfunction):
        ours = list(inspect.signature(getattr(IPFSDataLoader, name)).parameters.values())
        expected = list(inspect.signature(method).parameters.values())
        assert [(p.name, p.default) for p in ours[: len(expected)]] == [(p.name, p.default) for p in expected], name
        assert all(p.kind in (p.KEYWORD_ONLY, p.VAR_KEYWORD) for p in ours[len(expected) :]), name


def test_the_kits_interface_is_ours() -> None:
    theirs: Any = run(block_with("def get_data_loader"))["get_data_loader"]
    ours = list(inspect.signature(ipfs_kit.get_data_loader).parameters.values())
    expected = list(inspect.signature(theirs).parameters.values())
    assert [(p.name, p.default) for p in ours[: len(expected)]] == [(p.name, p.default) for p in expected]


def test_both_formats_of_a_dataset(kit: ipfs_kit, tmp_path: Path) -> None:
    """The JSON blocks, with real CIDs for the placeholders, and nothing for the dots."""
    referenced, sample, embedded = (json.loads(code.replace("0.3, ...", "0.3")) for code in blocks("json"))
    assert referenced["samples"].pop() == embedded["data"].pop() == "..."
    referenced["samples"] = [
        kit.ipfs.dag_put({**sample, "labels": i})["cid"] for i in range(len(referenced["samples"]))
    ]
    for dataset, count in ((referenced, 3), (embedded, 3)):
        for put in (kit.ipfs.dag_put(dataset), kit.ipfs.add(json.dumps(dataset).encode())):
            loader = kit.get_data_loader(batch_size=2, shuffle=False, prefetch=0)
            assert loader is not None
            result = loader.load_dataset(put["cid"])
            assert result["total_samples"] == count
            assert result["metadata"]["name"] == dataset["name"]
            assert [len(batch) for batch in loader] == [2, 1]
