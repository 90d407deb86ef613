"""Where a dataset goes, and that nothing half-written is ever there."""

from __future__ import annotations

import os
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import torch_ipfs
from torch_ipfs.blockstore.car_file import CarBlockstore
from torch_ipfs.blockstore.local import LocalBlockstore
from torch_ipfs.blockstore.memory import MemoryBlockstore
from torch_ipfs.dataset import write_out
from torch_ipfs.dataset.write import write_dataset
from torch_ipfs.errors import OptionError, SampleError, TransportError

SAMPLES = {"x": np.arange(5000)}
OLD = b"what was there before"


def endless() -> Iterator[dict[str, Any]]:
    while True:
        yield {"x": np.zeros(2**18, np.uint8)}


def test_a_car_has_the_root_and_all_blocks(tmp_path: Path) -> None:
    path = tmp_path / "x.car"
    root = write_dataset(SAMPLES, path, shard_bytes=4096)
    store = CarBlockstore(path)
    assert store.roots == [root]
    memory = MemoryBlockstore()
    assert write_dataset(SAMPLES, memory, shard_bytes=4096) == root
    assert {cid.multihash for cid in store.cids()} == {cid.multihash for cid in memory.cids()}
    assert os.listdir(tmp_path) == ["x.car"]  # noqa: PTH208 - names
    assert write_dataset(SAMPLES, tmp_path / "y.car", shard_bytes=4096) == root
    assert (tmp_path / "y.car").read_bytes() == path.read_bytes()


def test_a_car_has_the_mode_that_a_new_file_has(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        write_dataset(SAMPLES, tmp_path / "x.car")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "x.car").stat().st_mode) == 0o640


def test_a_folder_is_a_local_store_with_the_root_pinned(tmp_path: Path) -> None:
    root = write_dataset(SAMPLES, tmp_path / "store", shard_bytes=4096)
    store = LocalBlockstore(tmp_path / "store")
    assert list(store.pins()) == [root]
    store.gc(grace_s=0)
    assert len(torch_ipfs.IPFSMapDataset(root, str(tmp_path / "store"))) == 5000
    assert write_dataset(SAMPLES, tmp_path / "store", shard_bytes=4096) == root


def test_a_link_to_a_car_stays_one(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    target, link = tmp_path / "elsewhere" / "x.car", tmp_path / "link.car"
    target.write_bytes(OLD)
    link.symlink_to(target)
    root = write_dataset(SAMPLES, link)
    assert link.is_symlink()
    assert CarBlockstore(target).roots == [root]


def test_a_multiaddr_is_a_node_and_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def open_blockstore(name: str) -> MemoryBlockstore:
        opened.append(name)
        return MemoryBlockstore()

    monkeypatch.setattr(write_out, "open_blockstore", open_blockstore)
    write_dataset(SAMPLES, "/ip4/127.0.0.1/tcp/5001")
    assert opened == ["/ip4/127.0.0.1/tcp/5001"]


@pytest.mark.parametrize("name", ["", "a\0.car"])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(OptionError, match="name a CAR file"):
        write_dataset(SAMPLES, name)


def test_a_name_that_is_too_long() -> None:
    with pytest.raises(TransportError, match="too long"):
        write_dataset(SAMPLES, f"{'x' * 300}.car")


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda folder: folder / "missing" / "x.car", "is no folder"),
        (lambda folder: folder / "file", "does not end in .car"),
        (lambda _: 7, "a path or a Blockstore"),
        (lambda _: None, "a path or a Blockstore"),
    ],
)
def test_places_that_are_none(tmp_path: Path, make: Any, match: str) -> None:
    (tmp_path / "file").write_bytes(OLD)
    with pytest.raises(OptionError, match=match):
        write_dataset(SAMPLES, make(tmp_path))
    assert (tmp_path / "file").read_bytes() == OLD


class Failed(Exception):
    """Somebody else's error."""


@pytest.mark.parametrize("error", [Failed("no"), KeyboardInterrupt(), SystemExit(3), OSError("theirs"), MemoryError()])
@pytest.mark.parametrize("there", [False, True])
def test_a_failing_iterator_leaves_everything_as_it_was(tmp_path: Path, error: BaseException, there: bool) -> None:
    path = tmp_path / "x.car"
    if there:
        path.write_bytes(OLD)

    def failing() -> Iterator[dict[str, Any]]:
        for _, sample in zip(range(100), endless(), strict=False):
            yield sample
        raise error

    with pytest.raises(type(error)) as caught:
        write_dataset(failing(), path)
    assert caught.value is error
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == ([("x.car", OLD)] if there else [])


def test_a_sample_that_does_not_fit_leaves_everything_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "x.car").write_bytes(OLD)
    for samples in ([{"x": 1}, {"x": "a"}], {"x": [1, "a"]}):
        with pytest.raises(SampleError):
            write_dataset(samples, tmp_path / "x.car")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("x.car", OLD)]


def test_a_store_is_not_pinned_for_half_a_dataset(tmp_path: Path) -> None:
    def failing() -> Iterator[dict[str, Any]]:
        yield from (sample for _, sample in zip(range(100), endless(), strict=False))
        raise Failed

    store = LocalBlockstore(tmp_path)
    with pytest.raises(Failed):
        write_dataset(failing(), tmp_path)
    assert store.pins() == {}
    store.gc(grace_s=0)
    assert list(store.cids()) == []


CHILD = """
import signal
import sys
import numpy as np
from torch_ipfs.dataset.write import write_dataset

def samples():
    for i in range(10**9):
        if i == 40:
            print("halfway", flush=True)
        yield {"x": np.full(2**18, i % 256, np.uint8)}

signal.signal(signal.SIGINT, signal.default_int_handler)  # which shells have ignored by what runs in the background
write_dataset(samples(), sys.argv[1])
"""


def started(path: Path, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD, str(path)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2], **options
    )


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_writer_leaves_what_was_there(tmp_path: Path, number: signal.Signals) -> None:
    path = tmp_path / "x.car"
    path.write_bytes(OLD)
    with started(path) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "halfway\n"
        child.send_signal(number)
        child.communicate()
    assert child.returncode != 0
    assert path.read_bytes() == OLD
    stale = [file.name for file in tmp_path.iterdir() if file != path]
    assert len(stale) == (number == signal.SIGKILL)
    assert all(name.startswith("x.car.") and name.endswith(".tmp") for name in stale)
    root = write_dataset(SAMPLES, path)
    assert CarBlockstore(path).roots == [root]


def test_a_full_disk_is_one_error_and_leaves_what_was_there(tmp_path: Path) -> None:
    """A limit on the size of files stands for a disk that is full: the system refuses the write alike."""
    path = tmp_path / "x.car"
    path.write_bytes(OLD)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**22, 2**22))

    with started(path, preexec_fn=limit) as child:
        _, errors = child.communicate()
    assert child.returncode == 1
    assert "TransportError: the CAR cannot be written: " in errors
    assert str(path) in errors
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("x.car", OLD)]


def test_a_folder_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    with pytest.raises(TransportError, match=r"cannot be written: .*Permission denied") as caught:
        write_dataset(SAMPLES, tmp_path / "x.car")
    assert caught.value.source == str(tmp_path / "x.car")


class Full(MemoryBlockstore):
    """A store that takes nothing more after a while."""

    def put_many(self, blocks: Any) -> None:
        for n, (cid, data) in enumerate(blocks):
            if n == 3:
                raise TransportError("the store is full", source="full")
            self.put(cid, data)


def test_a_store_s_refusal_is_passed_on() -> None:
    with pytest.raises(TransportError, match="the store is full"):
        write_dataset(SAMPLES, Full(), shard_bytes=4096)


def test_nothing_is_left_open(tmp_path: Path, no_leaks: None) -> None:
    write_dataset(SAMPLES, tmp_path / "x.car")
    write_dataset(SAMPLES, tmp_path / "store")
    with pytest.raises(SampleError):
        write_dataset([{"x": 1}, {"x": "a"}], tmp_path / "y.car")
