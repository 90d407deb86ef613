"""The examples, run as they are: alone and on two processes, to their end, and stopped and resumed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import torch_ipfs
from tests.examples.recorded import EXAMPLES, Seen, load
from torch_ipfs.blockstore.local import LocalBlockstore

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

N, CLIPS = 103, 9
STOP_AT = 12
"""In the second epoch of two processes, and in the first of one; no checkpoint is of this step."""

GROUPS = (
    ("plain_loop", "nodes_pipeline", "accelerate_loop", "large_files"),
    ("lightning_fit",),
    ("transformers_trainer", "transformers_own_loader"),
)
"""What is run by the same two processes, one after the other."""


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Digits that tell who they are, as ``python examples/demo.py`` packs them otherwise."""
    path = tmp_path_factory.mktemp("digits") / "digits.car"
    random = np.random.default_rng(0)
    columns = {
        "index": np.arange(N),
        "image": random.integers(0, 17, (N, 8, 8), dtype=np.uint8),
        "label": random.integers(0, 10, N),
    }
    return str(torch_ipfs.write_dataset(columns, path, shard_bytes=2048)), str(path)


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A dataset of links to files of ten megabytes."""
    folder = tmp_path_factory.mktemp("clips")
    files = [folder / f"{i}.raw" for i in range(CLIPS)]
    for i, file in enumerate(files):
        file.write_bytes(np.full(5_000_000, 100 * i, dtype=np.int16).tobytes())
    store = LocalBlockstore(folder / "store", fsync=False)
    return str(load("large_files").pack(files, store)), str(folder / "store")


@dataclass(frozen=True)
class Recorded:
    """What the runs of one example saw."""

    together: dict[str, Seen]
    alone: dict[str, Seen]


def run(plan: dict[str, Any], folder: Path) -> dict[str, Recorded]:
    script = Path(__file__).with_name("recorded.py")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--rdzv-backend=c10d"]
    command = [
        *torchrun,
        "--rdzv-endpoint=127.0.0.1:0",
        "--local-addr=127.0.0.1",
        str(script),
        json.dumps(plan),
        str(folder),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(EXAMPLES.parent)}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=500, check=False, cwd=folder
    )
    assert done.returncode == 0, done.stderr[-8000:]
    ranks = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]
    alone = json.loads((folder / "alone.json").read_text())
    return {
        name: Recorded({run: side_by_side([rank[name][run] for rank in ranks]) for run in ranks[0][name]}, alone[name])
        for name in plan
    }


def side_by_side(ranks: list[Seen]) -> Seen:
    """Each step of all ranks together; they have equally many."""
    return [[index for batch in step for index in batch] for step in zip(*ranks, strict=True)]


def of_epochs(seen: Seen, epochs: int = 2) -> list[list[int]]:
    steps = len(seen) // epochs
    return [[index for step in seen[epoch * steps :][:steps] for index in step] for epoch in range(epochs)]


@pytest.mark.parametrize("group", GROUPS, ids=" ".join)
def test_they_see_each_sample_once_and_go_on_where_they_were_stopped(
    group: tuple[str, ...], digits: tuple[str, str], clips: tuple[str, str], tmp_path: Path
) -> None:
    plan = {name: (*clips, None) if name == "large_files" else (*digits, STOP_AT) for name in group}
    for name, recorded in run(plan, tmp_path).items():
        if name == "large_files":
            check_files_are_read_once(recorded)
        else:
            check_each_epoch_has_each_sample_once(recorded)
            check_the_stopped_run_went_on(recorded)
    if "plain_loop" in group:
        check_one_process_takes_up_what_several_have_saved(tmp_path)


def check_one_process_takes_up_what_several_have_saved(folder: Path) -> None:
    alone, together = (torch.load(folder / who / "plain_loop")["model"] for who in ("alone", "together"))
    assert alone.keys() == together.keys()


def check_each_epoch_has_each_sample_once(recorded: Recorded) -> None:
    for epoch in of_epochs(recorded.alone["whole"]):
        assert sorted(epoch) == list(range(N))
    epochs = of_epochs(recorded.together["whole"])
    for epoch in epochs:
        # An odd number is made even by one sample that comes again, so that both processes have equally many.
        assert len(epoch) == N + 1
        assert set(epoch) == set(range(N))
    assert epochs[0] != epochs[1]


def check_the_stopped_run_went_on(recorded: Recorded) -> None:
    for runs in (recorded.alone, recorded.together):
        assert len(runs["stopped"]) == STOP_AT
        saved_at = len(runs["whole"]) - len(runs["resumed"])
        assert 0 < saved_at <= STOP_AT
        assert runs["stopped"][:saved_at] + runs["resumed"] == runs["whole"]


def check_files_are_read_once(recorded: Recorded) -> None:
    (alone,) = of_epochs(recorded.alone["whole"], 1)
    (together,) = of_epochs(recorded.together["whole"], 1)
    assert sorted(alone) == list(range(CLIPS))
    assert set(together) == set(range(CLIPS))
    assert len(together) == CLIPS + 1


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_is_short_enough_to_copy(path: Path) -> None:
    if path.stem not in ("demo", "ddp"):
        assert len(path.read_text().splitlines()) < 60
