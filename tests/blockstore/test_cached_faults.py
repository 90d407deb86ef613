"""The cache on disk when blocks go bad, disks fill up, and processes die."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.blockstore.cache_folders import bytes_of, file_of, files_of, warnings_of
from tests.blockstore.staged_stores import (
    DEADLINE_S,
    DictStore,
    StagedStore,
    blocks_of,
    children,
    down,
    got,
    join,
)
from torch_ipfs.blockstore import cached_reads, disk_cache, fetch_once
from torch_ipfs.blockstore.base import MAX_BLOCK_BYTES
from torch_ipfs.blockstore.cached import CachedBlockstore
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import HashMismatch, TransportError

MIB = 2**20
BIG = 300_000


# Folders that people share


def test_who_is_in_the_group_may_write_what_the_mask_lets_the_group_write(tmp_path: Path) -> None:
    [(cid, _)] = blocks = blocks_of(1)
    mask = os.umask(0o002)
    try:
        cached = CachedBlockstore(DictStore(blocks), tmp_path)
        cached.get(cid)
    finally:
        os.umask(mask)
    written = [file_of(tmp_path, cid), *(tmp_path / "blocks" / name for name in ("usage", "locks"))]
    assert [file.stat().st_mode & 0o777 for file in written] == [0o664] * 3


# Bad blocks


def flip(path: Path) -> None:
    with path.open("r+b") as file:
        first = file.read(1)
        file.seek(0)
        file.write(bytes([first[0] ^ 1]))


def cut(path: Path) -> None:
    os.truncate(path, 10)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def swell(path: Path) -> None:
    with path.open("ab") as file:
        file.truncate(10 * MAX_BLOCK_BYTES)


@pytest.mark.parametrize("damage", [flip, cut, empty, swell])
@pytest.mark.parametrize("size_bytes", [1000, BIG])
@pytest.mark.parametrize("fresh", [True, False], ids=["first read", "read before"])
@pytest.mark.parametrize("threads", [0, 2])
def test_a_bad_block_is_noticed_and_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Any, size_bytes: int, threads: int, *, fresh: bool
) -> None:
    monkeypatch.setattr(cached_reads, "spare_threads", lambda: threads)
    blocks = blocks_of(5, size_bytes)
    cids, datas = [cid for cid, _ in blocks], [data for _, data in blocks]
    inner = StagedStore(blocks)
    store = CachedBlockstore(inner, tmp_path)
    got(store, cids)
    if fresh:
        store.close()
        store = CachedBlockstore(inner, tmp_path)
    inner.asked.clear()
    damage(file_of(tmp_path, cids[1]))
    damage(file_of(tmp_path, cids[3]))
    assert store.get(cids[1]) == datas[1]
    assert got(store, cids) == datas
    assert inner.asked == [cids[1], cids[3]]
    assert store.stats()["bad_blocks"] == 2
    assert [file_of(tmp_path, cid).read_bytes() for cid in cids] == datas
    assert got(store, cids) == datas
    assert len(inner.asked) == 2


def test_who_waits_for_a_hash_takes_others_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cached_reads, "spare_threads", lambda: 1)
    blocks = blocks_of(6, BIG)
    cids, datas = [cid for cid, _ in blocks], [data for _, data in blocks]
    got(CachedBlockstore(DictStore(blocks), tmp_path), cids)
    reader = threading.current_thread()
    hashed_by: list[threading.Thread] = []
    reader_helped = threading.Event()
    read = fetch_once.FetchOnce.read

    def staged(blocks: fetch_once.FetchOnce, multihash: bytes) -> Any:
        thread = threading.current_thread()
        hashed_by.append(thread)
        if thread is reader:
            reader_helped.set()
        else:
            reader_helped.wait(DEADLINE_S)
        return read(blocks, multihash)

    monkeypatch.setattr(fetch_once.FetchOnce, "read", staged)
    assert got(CachedBlockstore(DictStore([]), tmp_path), cids) == datas
    assert len(hashed_by) == len(cids)
    assert reader_helped.is_set()
    assert len(set(hashed_by)) == 2


def test_a_bad_block_is_logged_with_its_place(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    [(cid, data)] = blocks_of(1)
    store = CachedBlockstore(DictStore([(cid, data)]), tmp_path)
    store.get(cid)
    flip(file_of(tmp_path, cid))
    assert store.get(cid) == data
    assert [record.name for record in caplog.records] == ["torch_ipfs.blockstore.cached"]
    assert str(file_of(tmp_path, cid)) in caplog.text


def test_forged_bytes_of_the_store_are_not_kept(tmp_path: Path) -> None:
    blocks = blocks_of(3)
    cids = [cid for cid, _ in blocks]
    inner = StagedStore(blocks)
    inner.forged[cids[1]] = b"something else"
    store = CachedBlockstore(inner, tmp_path)
    with pytest.raises(HashMismatch) as caught:
        store.get(cids[1])
    assert (caught.value.cid, caught.value.source) == (str(cids[1]), "staged")
    answers = list(store.get_many(cids, return_exceptions=True))
    assert isinstance(answers[1], HashMismatch)
    assert [answers[0], answers[2]] == [blocks[0][1], blocks[2][1]]
    assert file_of(tmp_path, cids[0]).exists()
    assert not file_of(tmp_path, cids[1]).exists()


# What a disk and a crash can do


def test_a_full_disk_is_no_cache_and_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    blocks = blocks_of(30, BIG)
    cids, datas = [cid for cid, _ in blocks], [data for _, data in blocks]
    inner = StagedStore(blocks)
    store = CachedBlockstore(inner, tmp_path)
    assert got(store, cids[:10]) == datas[:10]

    write = os.write

    def full(fd: int, data: bytes) -> int:
        if len(data) < 100:
            return write(fd, data)
        write(fd, data[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        assert got(store, cids) == datas
        assert [store.get(cid) for cid in cids] == datas
    assert len(warnings_of(caplog)) == 1
    assert "ENOSPC" in caplog.text
    assert len(files_of(tmp_path)) == 10
    assert list((tmp_path / "blocks" / "tmp").iterdir()) == []
    assert store.stats()["bytes"] == bytes_of(tmp_path)
    monkeypatch.setattr(store._here().disk, "_no_writes_until", 0.0)  # a minute later
    assert got(store, cids) == datas
    assert len(files_of(tmp_path)) == 30
    assert len(warnings_of(caplog)) == 1


def test_a_disk_that_is_full_from_the_start_is_no_cache_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    blocks = blocks_of(5, BIG)
    cids, datas = [cid for cid, _ in blocks], [data for _, data in blocks]
    store = CachedBlockstore(DictStore(blocks), tmp_path)
    full = shutil.disk_usage(tmp_path)._replace(free=0)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: full)
        assert got(store, cids) == datas
        assert [store.get(cid) for cid in cids] == datas
        assert store.stats()["limit_bytes"] == 0
    assert len(warnings_of(caplog)) == 1
    assert "ENOSPC" in caplog.text
    monkeypatch.setattr(store._here().disk, "_no_writes_until", 0.0)  # a minute later
    assert got(store, cids) == datas
    assert len(files_of(tmp_path)) == 5


def read_with_files_limited(blocks: list[tuple[CID, bytes]], cache: Path, most_bytes: int) -> None:
    store = CachedBlockstore(DictStore(blocks), cache)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    assert got(store, [cid for cid, _ in blocks]) == [data for _, data in blocks]
    assert [store.get(cid) for cid, _ in blocks] == [data for _, data in blocks]


@pytest.mark.parametrize("most_bytes", [0, 5, 16, 700])
def test_files_that_may_not_grow(tmp_path: Path, most_bytes: int) -> None:
    blocks = blocks_of(30)
    with children((read_with_files_limited, (blocks, tmp_path, most_bytes))) as started:
        join(started)
    assert files_of(tmp_path) == []
    store = CachedBlockstore(DictStore(blocks), tmp_path)  # what was left of that does no harm
    assert got(store, [cid for cid, _ in blocks]) == [data for _, data in blocks]
    assert bytes_of(tmp_path) == 30_000
    store.close()
    assert store.stats()["bytes"] == 30_000


def test_a_folder_that_cannot_be_made_is_no_cache_and_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_text("in the way")
    blocks = blocks_of(300, 100_000)
    store = CachedBlockstore(DictStore(blocks), tmp_path / "cache", window_bytes=MIB)
    for _ in range(2):
        assert got(store, [cid for cid, _ in blocks]) == [data for _, data in blocks]
        assert store.get(blocks[0][0]) == blocks[0][1]
    assert len(warnings_of(caplog)) == 1
    assert store.stats()["bytes"] == 0


def test_the_folder_may_be_deleted_while_it_is_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = tmp_path / "cache"
    blocks = blocks_of(60, 200_000)
    cids, datas = [cid for cid, _ in blocks], [data for _, data in blocks]
    store = CachedBlockstore(DictStore(blocks), cache, 30 * 200_000)
    held = []
    for number, block in enumerate(store.get_many(cids + cids)):
        held.append(block)
        if number % 25 == 24:
            shutil.rmtree(cache, ignore_errors=True)
    assert held == datas + datas
    shutil.rmtree(cache, ignore_errors=True)
    assert not store.has(CID.of(b"absent"))
    assert [store.get(cid) for cid in cids] == datas
    assert got(store, cids[-20:]) == datas[-20:]
    assert bytes_of(cache) == store.stats()["bytes"] <= 30 * 200_000
    assert len(files_of(cache)) == 30
    assert warnings_of(caplog) == []


def write_and_stall(cid: CID, data: bytes, cache: Path, ready: Any) -> None:
    """Write a block up to the moment before it gets its name."""

    def stall(*_: object) -> None:
        ready.set()
        time.sleep(600)

    os.replace = stall  # type: ignore[assignment]
    CachedBlockstore(DictStore([(cid, data)]), cache).get(cid)


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGSTOP])
def test_a_writer_that_dies_leaves_nothing_that_is_taken_for_a_block(tmp_path: Path, sign: signal.Signals) -> None:
    import multiprocessing

    (cid, data), (other, other_data) = blocks_of(2, BIG)
    CachedBlockstore(DictStore([(other, other_data)]), tmp_path).get(other)
    ready = multiprocessing.get_context("fork").Event()
    half_written = tmp_path / "blocks" / "tmp"
    with children((write_and_stall, (cid, data, tmp_path, ready))) as [writer]:
        assert ready.wait(DEADLINE_S)
        assert writer.pid is not None
        os.kill(writer.pid, sign)
        if sign == signal.SIGKILL:
            writer.join()
        [left] = half_written.iterdir()
        os.utime(left, (0, 0))
        store = CachedBlockstore(DictStore([(cid, data)]), tmp_path, wait_s=0.1)
        assert store.get(other) == other_data
        assert store.get(cid) == data
        # A dead process's file is cleaned up; one of a process that may go on is not touched.
        assert len(list(half_written.iterdir())) == (0 if sign == signal.SIGKILL else 1)
    assert file_of(tmp_path, cid).read_bytes() == data
    store.close()


def test_an_error_of_the_store_reaches_the_reader_whatever_it_is(tmp_path: Path) -> None:
    inner = StagedStore([])
    store = CachedBlockstore(inner, tmp_path)
    cid = blocks_of(1)[0][0]
    for failure, expected in [
        (down(), TransportError),
        (OSError(errno.EIO, "input/output error"), TransportError),
        (ZeroDivisionError("a bug"), ZeroDivisionError),
        (SystemExit("a client that ends programs"), SystemExit),
    ]:
        inner.failure = failure
        with pytest.raises(expected):
            store.get(cid)
        with pytest.raises(expected):
            list(store.get_many([cid]))


@pytest.mark.parametrize("step", ["write", "has", "claim"])
def test_a_bug_on_the_way_is_raised_and_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    blocks = blocks_of(5)
    store = CachedBlockstore(DictStore(blocks), tmp_path)
    disk = store._here().disk
    with monkeypatch.context() as patch:
        patch.setattr(disk.claims if step == "claim" else disk, step, fail)
        with pytest.raises(ZeroDivisionError):
            list(store.get_many([cid for cid, _ in blocks]))
    assert got(store, [cid for cid, _ in blocks]) == [data for _, data in blocks]


def test_what_the_cids_raise_comes_in_its_place(tmp_path: Path) -> None:
    blocks = blocks_of(3)

    def wanted() -> Iterator[CID]:
        yield from (cid for cid, _ in blocks)
        raise LookupError("no more CIDs")

    reader = CachedBlockstore(DictStore(blocks), tmp_path).get_many(wanted())
    assert [next(reader) for _ in blocks] == [data for _, data in blocks]
    with pytest.raises(LookupError, match="no more CIDs"):
        next(reader)


def test_an_inherited_reader_says_so_in_the_child(tmp_path: Path) -> None:
    blocks = blocks_of(5)
    reader = CachedBlockstore(DictStore(blocks), tmp_path).get_many([cid for cid, _ in blocks])
    assert next(reader) == blocks[0][1]
    with children((_go_on_reading, (reader,))) as started:
        join(started)
    assert list(reader) == [data for _, data in blocks[1:]]


def _go_on_reading(reader: Iterator[object]) -> None:
    with pytest.raises(TransportError, match="forked"):
        next(reader)


def test_errors_are_logged_nowhere_else() -> None:
    assert disk_cache.logger.name == "torch_ipfs.blockstore.cached"
