"""to_pytorch(): a DataLoader that a model can be trained with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import torch_ipfs
from tests.loader.datasets import N, embedded, labels, loader_of, put, samples
from torch_ipfs import MemoryBlockstore, OptionError

ROOT = Path(__file__).parents[2]


def written(tmp_path: Path, columns: Any, **options: Any) -> tuple[str, Any]:
    path = tmp_path / "columns.car"
    return str(path), torch_ipfs.write_dataset(columns, path, **options)


def test_pairs_of_features_and_labels() -> None:
    loader = loader_of(*embedded(N), shuffle=False)
    batches = loader.to_pytorch()
    assert isinstance(batches, DataLoader)
    assert len(batches) == 5
    got = list(batches)
    assert [type(batch) for batch in got] == [tuple] * 5
    features, labels_ = got[0]
    assert (features.dtype, features.shape) == (torch.float32, (5, 3))
    assert (labels_.dtype, labels_.tolist()) == (torch.int64, [0, 1, 2, 3, 4])
    assert torch.equal(features, torch.tensor([sample["features"] for sample in samples(5)]))


def test_a_model_learns(tmp_path: Path) -> None:
    torch.manual_seed(0)
    features = torch.rand(200, 4)
    cid = torch_ipfs.write_dataset({"features": features, "labels": (features[:, 0] > 0.5).long()}, tmp_path / "a.car")
    model = torch.nn.Linear(4, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    batches = loader_of(str(tmp_path / "a.car"), cid, batch_size=20).to_pytorch()
    for _ in range(10):
        for x, y in batches:
            loss = torch.nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    right = sum(int((model(x).argmax(1) == y).sum()) for x, y in batches)
    assert right > 180


@pytest.mark.parametrize(
    ("features", "labels_", "dtypes"),
    [
        (np.zeros((6, 3)), np.zeros(6, np.uint8), (torch.float32, torch.int64)),
        (np.zeros((6, 3), np.int32), np.zeros(6, np.int32), (torch.float32, torch.int64)),
        (np.zeros((6, 3), np.float16), np.zeros(6, bool), (torch.float32, torch.int64)),
        (np.zeros((6, 3), np.uint8), np.zeros((6, 2)), (torch.float32, torch.float32)),
        (np.zeros((6, 3, 8, 8), np.uint8), np.zeros(6, np.int64), (torch.uint8, torch.int64)),
        (np.zeros((6, 3), np.complex64), np.zeros(6, np.float32), (torch.complex64, torch.float32)),
    ],
)
def test_numbers_are_those_that_training_takes(
    tmp_path: Path, features: Any, labels_: Any, dtypes: tuple[torch.dtype, torch.dtype]
) -> None:
    source, cid = written(tmp_path, {"features": features, "labels": labels_})
    x, y = next(iter(loader_of(source, cid).to_pytorch()))
    assert (x.dtype, y.dtype) == dtypes
    assert x.shape[1:] == features.shape[1:]


def test_whole_numbers_in_json_are_features_too() -> None:
    store = MemoryBlockstore()
    cid = put(store, {"data": [{"features": [1, 2, i], "labels": i} for i in range(6)]})
    x, _ = next(iter(loader_of(store, cid, shuffle=False).to_pytorch()))
    assert x.dtype == torch.float32


def test_other_fields_come_as_maps_and_as_they_are(tmp_path: Path) -> None:
    columns = {
        "features": np.zeros((6, 3)),
        "labels": np.zeros(6, np.uint8),
        "image": np.zeros((6, 3, 4, 4), np.uint8),
        "jpeg": [b"\xff\xd8\0"] * 6,
        "text": ["é"] * 6,
    }
    batch = next(iter(loader_of(*written(tmp_path, columns)).to_pytorch()))
    assert set(batch) == set(columns)
    assert batch["features"].dtype == torch.float64
    assert batch["image"].dtype == torch.uint8
    assert batch["jpeg"] == [b"\xff\xd8\0"] * 5
    assert batch["text"] == ["é"] * 5


def test_the_order_is_that_of_plain_iteration() -> None:
    store, cid = embedded(N)
    plain = loader_of(store, cid)
    orders = [labels(plain) for _ in range(3)]
    for prefetch in (0, 2):
        batches = loader_of(store, cid, prefetch=prefetch).to_pytorch()
        assert [[int(i) for _, y in batches for i in y] for _ in range(3)] == orders
        batches.set_epoch(1)
        assert [[int(i) for _, y in batches for i in y] for _ in range(2)] == [orders[1]] * 2


def test_passes_of_all_kinds_are_counted_together() -> None:
    store, cid = embedded(N)
    plain = loader_of(store, cid)
    orders = [labels(plain) for _ in range(3)]
    mixed = loader_of(store, cid)
    batches = mixed.to_pytorch()
    assert labels(mixed) == orders[0]
    assert [int(i) for _, y in batches for i in y] == orders[1]
    assert labels(mixed) == orders[2]
    mixed.set_epoch(0)
    assert [int(i) for _, y in batches for i in y] == orders[0]


def test_two_passes_of_one_loader_at_once(no_leaks: None) -> None:
    with loader_of(*embedded(N), prefetch=2) as loader:
        batches = loader.to_pytorch()
        for _ in range(2):
            one, other = iter(batches), iter(batches)
            mixed = [(a[1].tolist(), b[1].tolist()) for a, b in zip(one, other, strict=True)]
            for side in zip(*mixed, strict=True):
                assert sorted(i for part in side for i in part) == list(range(N))


def test_state_of_its_own() -> None:
    store, cid = embedded(N)
    whole = loader_of(store, cid)
    orders = [labels(whole) for _ in range(2)]
    first = loader_of(store, cid, prefetch=2)
    running = iter(first.to_pytorch())
    seen = next(running)[1].tolist() + next(running)[1].tolist()
    again = loader_of(store, cid).to_pytorch()
    again.load_state_dict(first.state_dict())
    assert seen + [int(i) for _, y in again for i in y] == orders[0]
    assert [int(i) for _, y in again for i in y] == orders[1]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_pass_that_is_told_its_epoch_late_is_of_that_epoch(num_workers: int, no_leaks: None) -> None:
    """As Lightning does when it goes on from a checkpoint."""
    with loader_of(*embedded(N)) as loader:
        loader.set_epoch(2)
        order = labels(loader)
    with loader_of(*embedded(N)) as loader:
        batches = loader.to_pytorch(num_workers=num_workers)
        running = iter(batches)
        batches.sampler.set_epoch(2)
        assert [int(i) for _, y in running for i in y] == order
        assert (loader.state_dict()["epoch"], loader.state_dict()["position"]) == (2, N)


def test_options_of_dataloader(no_leaks: None) -> None:
    with loader_of(*embedded(N)) as loader:
        batches = loader.to_pytorch(num_workers=2, prefetch_factor=4)
        assert (batches.num_workers, batches.prefetch_factor) == (2, 4)
        assert loader.to_pytorch(num_workers=0).num_workers == 0
        assert sorted(int(i) for _, y in batches for i in y) == list(range(N))


def test_batches_of_another_size_or_form_are_of_the_same_order() -> None:
    store, cid = embedded(N)
    loader = loader_of(store, cid)
    loader.set_epoch(1)
    order = labels(loader)
    other = loader.to_pytorch(batch_size=4)
    assert len(other) == -(-N // 4)
    assert [int(i) for _, y in other for i in y] == order
    lists = loader.to_pytorch(collate_fn=list)
    assert [int(sample["labels"]) for batch in lists for sample in batch] == order


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"shuffle": True}, {"drop_last": True}])
def test_options_that_cannot_work_are_told(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=next(iter(options))):
        loader_of(*embedded(N)).to_pytorch(**options)


def test_a_transform_that_makes_pairs() -> None:
    loader = loader_of(*embedded(N), transform=lambda item: (item["features"] * 2, item["labels"]), shuffle=False)
    x, y = next(iter(loader.to_pytorch()))
    assert torch.equal(x[1], 2 * torch.tensor(samples(2)[1]["features"]))
    assert y.tolist() == [0, 1, 2, 3, 4]


TORCHRUN = """
import json, os, sys
import torch.distributed
torch.distributed.init_process_group("gloo")
from torch_ipfs.loader import IPFSDataLoader
with IPFSDataLoader(sys.argv[1], batch_size=4, num_workers=1) as loader:
    assert loader.load_dataset(sys.argv[2])["success"]
    batches = loader.to_pytorch()
    seen = [[int(i) for _, y in batches for i in y] for _ in range(2)]
rank = torch.distributed.get_rank()
open(f"{sys.argv[3]}/{rank}", "w").write(json.dumps([len(batches), seen]))
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_under_torchrun_ranks_share_each_epoch(tmp_path: Path) -> None:
    cid = torch_ipfs.write_dataset(samples(N), tmp_path / "a.car", layout="embedded")
    script = tmp_path / "train.py"
    script.write_text(TORCHRUN)
    out = tmp_path / "out"
    out.mkdir()
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--rdzv-backend=c10d"]
    options = ["--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1"]
    arguments = [str(script), str(tmp_path / "a.car"), str(cid), str(out)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([*command, *options, *arguments], env=environment) as torchrun:
        try:
            assert torchrun.wait(100) == 0
        finally:
            torchrun.terminate()  # which ends its workers, too
    ranks = [json.loads((out / str(rank)).read_text()) for rank in range(2)]
    assert ranks[0][0] == ranks[1][0] == 3
    for epoch in range(2):
        seen = ranks[0][1][epoch] + ranks[1][1][epoch]
        assert sorted(set(seen)) == list(range(N))
        assert len(seen) == N + 1  # 23 samples to two ranks: one is read twice
