"""The benchmarks run, and what they compare is the same work."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import reading
from benchmarks.child import from_json, to_json
from benchmarks.groups import FACADE, LAYOUTS, WRITING, reading_groups
from benchmarks.harness import in_cold_processes, in_this_process
from benchmarks.readers import READERS, Reading
from benchmarks.workloads import TINY_SMALL_ROWS, TINY_WORKLOADS, Data

NAMES = [workload.name for workload in TINY_WORKLOADS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    Data(folder, TINY_WORKLOADS, TINY_SMALL_ROWS).write()
    return folder


def rows_of(folder: Path, task: Reading, epoch: int) -> tuple[list[int], torch.Tensor]:
    """Labels in the order in which they come, and ``x`` of the rows in the order of their labels."""
    data = Data.load(folder)
    batches = list(READERS[task.reader](data, task)(epoch))
    assert all(batch["x"].shape[1:] == data.workloads[task.workload].shape for batch in batches)
    assert {len(batch["label"]) for batch in batches[:-1]} <= {data.workloads[task.workload].batch_size}
    labels = torch.cat([batch["label"] for batch in batches])
    return labels.tolist(), torch.cat([batch["x"] for batch in batches])[labels.argsort()]


@pytest.mark.parametrize("workload", NAMES)
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("reader", READERS)
def test_each_reader_gives_all_rows_once_in_whole_batches(
    folder: Path, reader: str, workload: str, shuffle: bool
) -> None:
    labels, x = rows_of(folder, Reading(reader, workload, shuffle), epoch=0)
    assert sorted(labels) == list(range(len(labels)))
    assert (labels != sorted(labels)) == shuffle
    assert np.array_equal(x.numpy(), Data.load(folder).arrays(workload).open()[0])


@pytest.mark.parametrize("reader", ["memmap", "torch_ipfs"])
def test_workers_share_the_rows_and_shuffle_anew_in_each_epoch(folder: Path, reader: str, no_leaks: None) -> None:
    task = Reading(reader, "tabular", shuffle=True, num_workers=2)
    begin = READERS[reader](Data.load(folder), task)
    epochs = [torch.cat([batch["label"] for batch in begin(epoch)]).tolist() for epoch in range(3)]
    assert all(sorted(labels) == list(range(2000)) for labels in epochs)
    assert len({tuple(labels) for labels in epochs}) == 3


def test_tasks_survive_the_way_to_a_child() -> None:
    for group in [*reading_groups(NAMES), LAYOUTS, FACADE, WRITING]:
        for task in group.tasks.values():
            assert from_json(to_json(task)) == task


def test_a_cold_process_tells_the_same_figures_as_this_one(folder: Path) -> None:
    task = Reading("torch_ipfs", "tabular", later_epochs=1)
    tasks = [replace(task, reader="memmap"), task]
    for cold, here in zip(in_cold_processes(folder, tasks), in_this_process(folder, tasks), strict=True):
        assert cold.keys() == here.keys()
        assert cold["samples"] == here["samples"] == 2000
        assert 0 < cold["first_batch_s"] < cold["first_epoch_s"]


def test_the_tiny_run(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    written, chart = tmp_path / "reading.json", tmp_path / "images" / "reading.png"
    reading.main(["--tiny", "--data", str(folder), "--json", str(written), "--chart", str(chart)])
    printed = capsys.readouterr().out
    assert all(name in printed for name in NAMES)
    assert chart.read_bytes().startswith(b"\x89PNG")
    told: dict[str, Any] = json.loads(written.read_text())
    assert len(told["groups"]) == len(reading_groups(NAMES)) + 3
    for group in told["groups"]:
        for task in group["tasks"].values():
            assert all(
                seconds > 0 for figures in task["rounds"] for name, seconds in figures.items() if name[-2:] == "_s"
            )
    assert told["machine"]["cores"] >= 1
    assert told["machine"]["versions"]["numpy"] == np.__version__
    assert set(told["plan"]) == {
        f"{order} from {start}%" for order in ("in order", "shuffled") for start in (0.0, 33.3, 99.9)
    }
    assert len(told["floors"]) > 50
    assert not list(folder.glob("written*"))
