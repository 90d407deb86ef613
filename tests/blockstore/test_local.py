"""The store in a folder: crash-safe, shared by processes, mending what is damaged."""

from __future__ import annotations

import errno
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from tests.blockstore.conftest import path_of
from torch_ipfs.blockstore.block_files import BATCH_BLOCKS, MAPPED_BYTES
from torch_ipfs.blockstore.local import LocalBlockstore
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import (
    BlockNotFound,
    HashMismatch,
    TorchIPFSError,
    TransportError,
)
from torch_ipfs.testing import BlockstoreConformance

DEADLINE_S = 30.0


class TestLocalBlockstore(BlockstoreConformance):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[LocalBlockstore]:
        store = LocalBlockstore(tmp_path / "store", fsync=False)
        store.put_many(self.blocks())
        yield store
        store.close()

    def forge(self, store: LocalBlockstore, cid: CID, data: bytes) -> None:
        replace(store, cid, data)


class TestLocalBlockstoreThatHashesAhead(TestLocalBlockstore):
    @pytest.fixture
    def store(self, tmp_path: Path) -> LocalBlockstore:
        store = LocalBlockstore(tmp_path / "store", hash_threads=2, window_bytes=2**21, fsync=False)
        store.put_many(self.blocks())
        return store

    window_bytes = 2**21


def block(number: int, size_bytes: int = 100) -> tuple[CID, bytes]:
    data = number.to_bytes(size_bytes, "little")
    return CID.of(data), data


def replace(store: LocalBlockstore, cid: CID, data: bytes) -> None:
    path = path_of(store, cid)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".new").write_bytes(data)
    path.with_suffix(".new").replace(path)


def files_of(store: LocalBlockstore) -> list[str]:
    return sorted(path.name for path in Path(store.source).rglob("*") if path.is_file() and path.name != "gc.lock")


@pytest.fixture
def store(tmp_path: Path) -> LocalBlockstore:
    return LocalBlockstore(tmp_path / "store")


# Where it is, and when it is made


def test_the_default_folder_is_the_environments(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_IPFS_HOME", str(tmp_path / "home"))
    assert LocalBlockstore().source == str(tmp_path / "home")


def test_nothing_is_made_before_the_first_put(store: LocalBlockstore) -> None:
    assert list(store.cids()) == []
    assert not store.has(block(0)[0])
    with pytest.raises(BlockNotFound):
        store.get(block(0)[0])
    assert store.pins() == {}
    assert not Path(store.source).exists()


def test_two_stores_of_one_folder_are_one_store(store: LocalBlockstore) -> None:
    cid, data = block(1)
    store.put(cid, data)
    assert LocalBlockstore(store.source).get(cid) == data


def test_large_blocks_are_views_of_the_file_and_small_ones_are_not(store: LocalBlockstore) -> None:
    small, large = block(1, MAPPED_BYTES - 1), block(2, MAPPED_BYTES)
    store.put_many([small, large])
    assert isinstance(store.get(small[0]), bytes)
    assert isinstance(store.get(large[0]), memoryview)


def test_more_blocks_than_files_may_be_open_are_read(store: LocalBlockstore) -> None:
    blocks = [block(number, MAPPED_BYTES) for number in range(100)]
    store.put_many(blocks)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (80, hard))
    try:
        held = [store.get(cid) for cid, _ in blocks]
        assert held == [data for _, data in blocks]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# Damage


@pytest.mark.parametrize("damaged", [b"", b"shorter", bytes(100), bytes(MAPPED_BYTES)])
def test_a_damaged_file_is_named_and_mended(store: LocalBlockstore, damaged: bytes) -> None:
    cid, data = block(1)
    store.put(cid, data)
    assert store.get(cid) == data
    path_of(store, cid).write_bytes(damaged)
    with pytest.raises(HashMismatch) as caught:
        store.get(cid)
    assert caught.value.cid == str(cid)
    assert caught.value.source == str(path_of(store, cid))
    store.put(cid, data)
    assert store.get(cid) == data


def test_a_damaged_file_is_mended_by_put_many(store: LocalBlockstore) -> None:
    cid, data = block(1)
    replace(store, cid, data[:-1])
    store.put_many([(cid, data)])
    assert store.get(cid) == data


def test_a_file_cut_while_a_block_of_it_is_held_is_noticed_by_the_next_get(store: LocalBlockstore) -> None:
    cid, data = block(1, 2**20)
    store.put(cid, data)
    held = store.get(cid)
    os.truncate(path_of(store, cid), 1000)
    with pytest.raises(HashMismatch):
        store.get(cid)
    assert held[:1000] == data[:1000]


def test_an_unchanged_file_is_hashed_once(store: LocalBlockstore) -> None:
    cid, data = block(1)
    store.put(cid, data)
    for _ in range(3):
        store.get(cid)
    assert store.stats() == {"blocks_verified": 1, "bytes_verified": len(data)}


def test_a_file_altered_under_an_old_date_is_noticed(store: LocalBlockstore) -> None:
    cid, data = block(1)
    store.put(cid, data)
    store.get(cid)
    status = path_of(store, cid).stat()
    path_of(store, cid).write_bytes(bytes(len(data)))
    os.utime(path_of(store, cid), ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(HashMismatch):
        store.get(cid)


def test_files_that_are_no_blocks_are_passed_over(store: LocalBlockstore) -> None:
    cid, data = block(1)
    store.put(cid, data)
    for name in ("notes.txt", "!.data", "MZXW6YQ.data", path_of(store, cid).name + ".bak"):
        path_of(store, cid).with_name(name).write_text("x")
    (Path(store.source) / "blocks" / "stray").write_text("x")
    assert [found.multihash for found in store.cids()] == [cid.multihash]


# Where the file system refuses


def test_a_folder_that_is_a_file_is_a_transport_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    store = LocalBlockstore(tmp_path / "file")
    cid, data = block(1)
    for use in (lambda: store.get(cid), lambda: store.put(cid, data), lambda: store.put_many([(cid, data)]), store.gc):
        with pytest.raises(TransportError) as caught:
            use()
        assert str(tmp_path / "file") in str(caught.value.source)


@pytest.mark.parametrize("call", ["write", "fsync"])
@pytest.mark.parametrize("many", [False, True], ids=["put", "put_many"])
def test_a_full_disk_is_a_transport_error_and_leaves_nothing(
    store: LocalBlockstore, monkeypatch: pytest.MonkeyPatch, call: str, *, many: bool
) -> None:
    kept, lost = block(1), block(2)
    store.put(*kept)
    before = files_of(store)

    def refuse(*_: object) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, refuse)
        with pytest.raises(TransportError, match="No space left on device"):
            store.put_many([lost]) if many else store.put(*lost)
    assert files_of(store) == before
    assert store.get(kept[0]) == kept[1]
    store.put(*lost)
    assert store.get(lost[0]) == lost[1]


def test_a_file_system_that_takes_no_more_bytes_leaves_nothing_half_written(tmp_path: Path) -> None:
    """The kernel itself refuses: RLIMIT_FSIZE cuts a write short, as a disk does that fills up."""
    script = """
        import resource, signal, sys
        from torch_ipfs.blockstore.local import LocalBlockstore
        from torch_ipfs.codec.cid import CID
        from torch_ipfs.errors import TransportError
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        store = LocalBlockstore(sys.argv[1])
        store.put(CID.of(b"small"), b"small")
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        data = bytes(100_000)
        for put in (lambda: store.put(CID.of(data), data), lambda: store.put_many([(CID.of(data), data)])):
            try:
                put()
            except TransportError as error:
                print(error)
        print(store.has(CID.of(data)), store.get(CID.of(b"small")))
    """
    done = run_python(script, str(tmp_path / "store"))
    assert done.stdout.count("File too large") == 2
    assert done.stdout.endswith("False b'small'\n")
    assert len(files_of(LocalBlockstore(tmp_path / "store"))) == 1


def test_an_error_of_what_is_put_stays_what_it_is(store: LocalBlockstore) -> None:
    def blocks() -> Iterator[tuple[CID, bytes]]:
        yield block(1)
        raise FileNotFoundError("the reader's own file")

    with pytest.raises(FileNotFoundError, match="the reader's own file"):
        store.put_many(blocks())
    assert store.get(block(1)[0]) == block(1)[1]


# Killed writers and many writers


def run_python(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *arguments],
        cwd=Path(__file__).parents[2],
        check=True,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )


def write_until_killed(folder: str, started: object) -> None:
    store = LocalBlockstore(folder, fsync=False)
    started.set()  # type: ignore[attr-defined]
    for number in range(10**9):
        store.put(*block(number, 200_000))
        store.put_many(block(10**9 + number + more, 5000) for more in range(20))


@pytest.mark.parametrize("blocks_before", [1, 5, 20, 40])
def test_a_killed_writer_leaves_whole_blocks_only(store: LocalBlockstore, blocks_before: int) -> None:
    context = multiprocessing.get_context("fork")
    started = context.Event()
    writer = context.Process(target=write_until_killed, args=(store.source, started))
    writer.start()
    try:
        assert started.wait(DEADLINE_S)
        deadline = time.monotonic() + DEADLINE_S
        while sum(1 for _ in store.cids()) < blocks_before and time.monotonic() < deadline:
            pass
    finally:
        os.kill(writer.pid or 0, signal.SIGKILL)
        writer.join(DEADLINE_S)
    held = list(store.cids())
    assert len(held) >= blocks_before
    assert all(CID.of(store.get(cid)) == cid for cid in held)
    store.gc(grace_s=-DEADLINE_S)
    assert files_of(store) == []


def put_all(folder: str, count: int, begin: object) -> None:
    store = LocalBlockstore(folder, fsync=False)
    begin.wait(DEADLINE_S)  # type: ignore[attr-defined]
    store.put_many([block(number, 50_000) for number in range(count)])
    for number in range(count):
        assert store.get(block(number, 50_000)[0]) == block(number, 50_000)[1]


def test_processes_that_put_the_same_blocks_all_succeed(store: LocalBlockstore) -> None:
    context = multiprocessing.get_context("fork")
    begin = context.Barrier(4)
    writers = [context.Process(target=put_all, args=(store.source, 50, begin)) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(DEADLINE_S)
        writer.kill()
    assert [writer.exitcode for writer in writers] == [0] * 4
    assert len(files_of(store)) == 50


def test_a_reader_sees_whole_blocks_while_they_are_written(store: LocalBlockstore) -> None:
    blocks = [block(number, 500_000) for number in range(40)]
    writer = threading.Thread(target=store.put_many, args=(blocks,))
    writer.start()
    waiting = dict(blocks)
    deadline = time.monotonic() + DEADLINE_S
    while waiting and time.monotonic() < deadline:
        for cid in [cid for cid in waiting if store.has(cid)]:
            assert store.get(cid) == waiting.pop(cid)
    writer.join()
    assert not waiting


def test_put_many_of_more_than_a_batch(store: LocalBlockstore) -> None:
    blocks = [block(number, 20) for number in range(2 * BATCH_BLOCKS + 1)]
    store.put_many(blocks)
    assert sorted(cid.multihash for cid in store.cids()) == sorted(cid.multihash for cid, _ in blocks)


def test_errors_are_of_one_tree(store: LocalBlockstore) -> None:
    cid, data = block(1)
    store.put(cid, data)
    path_of(store, cid).unlink()
    path_of(store, cid).mkdir()
    with pytest.raises(TorchIPFSError):
        store.get(cid)
    with pytest.raises(TorchIPFSError):
        store.put(cid, data)
