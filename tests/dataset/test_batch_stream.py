"""Batches of samples in order: how much is read together."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import torch_ipfs
from torch_ipfs.blockstore.base import Block
from torch_ipfs.blockstore.car_file import CarBlockstore
from torch_ipfs.codec.cid import CID
from torch_ipfs.dataset.batch_stream import BatchStream
from torch_ipfs.dataset.reader import Reader
from torch_ipfs.errors import TorchIPFSError

ROWS, SHARD_ROWS = 400, 100
DEADLINE_S = 10.0


def reader_of(path: Path) -> Reader:
    columns = {"x": np.arange(ROWS, dtype=np.int64)}
    root = torch_ipfs.write_dataset(columns, path, shard_bytes=8 * SHARD_ROWS + 512)
    return torch_ipfs.IPFSIterableDataset(root, path)._opening.reader


def read(reader: Reader, lengths: list[int], *, joins_open: bool) -> list[list[int]]:
    """The values of each batch that a stream gives."""
    stream = BatchStream(reader, iter([(np.arange(sum(lengths)), lengths)]), joins_open=joins_open)
    return [reader.batch(rows)["x"].tolist() for rows in stream]


def test_batches_of_open_shards_are_given_as_one_where_that_is_asked_for(tmp_path: Path) -> None:
    reader = reader_of(tmp_path / "data.car")
    assert reader.manifest.num_shards > 2
    lengths, values = [50, 100, 150], list(range(300))
    planned = [values[:50], values[50:150], values[150:]]
    # The first time nothing is open, and a batch waits for its own shards alone.
    assert read(reader, lengths, joins_open=True) == planned
    assert read(reader, lengths, joins_open=True) == [values]
    assert read(reader, lengths, joins_open=False) == planned
    # One shard of them has not been read.
    assert read(reader, [*lengths, 100], joins_open=True) == [*planned, list(range(300, 400))]
    assert read(reader, [*lengths, 100], joins_open=True) == [list(range(400))]


def test_passes_in_several_threads_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With next to no room for open shards, so that each lets go of what others have opened."""
    monkeypatch.setattr("torch_ipfs.dataset.shards.SHARD_BUDGET_BYTES", 1)
    root = torch_ipfs.write_dataset({"x": np.arange(5000)}, tmp_path / "data.car", shard_bytes=1024)
    dataset = torch_ipfs.IPFSIterableDataset(root, tmp_path / "data.car", batch_size=16)

    def read_all(_: int) -> list[int]:
        return [x for batch in dataset for x in batch["x"].tolist()]

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(4) as threads:
            assert all(read == list(range(5000)) for read in threads.map(read_all, range(48)))
    finally:
        sys.setswitchinterval(before)


class StagedBlockstore(CarBlockstore):
    """Does something before it is read from."""

    before: Callable[[], object]

    def get_many(self, cids: Iterable[CID], *, return_exceptions: bool = False) -> Iterator[Block | TorchIPFSError]:
        self.before()
        return super().get_many(cids, return_exceptions=return_exceptions)


def staged_dataset(folder: Path) -> tuple[torch_ipfs.IPFSIterableDataset, StagedBlockstore]:
    root = torch_ipfs.write_dataset({"x": np.arange(100)}, folder / "data.car")
    store = StagedBlockstore(folder / "data.car")
    return torch_ipfs.IPFSIterableDataset(root, store, batch_size=10), store


def test_a_pass_that_is_garbage_does_not_hold_up_another(tmp_path: Path) -> None:
    """It may be found in a thread that the other one waits for."""
    dataset, store = staged_dataset(tmp_path)

    def collect() -> None:
        thread = threading.Thread(target=gc.collect, daemon=True)
        thread.start()
        thread.join(DEADLINE_S)
        assert not thread.is_alive()

    store.before = collect
    left: list[object] = [iter(dataset)]
    left.append(left)
    del left
    assert sum(len(batch["x"]) for batch in dataset) == 100


def test_to_leave_a_pass_waits_for_no_other(tmp_path: Path) -> None:
    dataset, store = staged_dataset(tmp_path)
    asked, left = threading.Event(), threading.Event()

    def wait() -> None:
        asked.set()
        assert left.wait(DEADLINE_S)

    store.before = wait
    batches = iter(dataset)
    with ThreadPoolExecutor(1) as thread:
        other = thread.submit(list, dataset)
        assert asked.wait(DEADLINE_S)
        del batches
        left.set()
        assert len(other.result()) == 10
