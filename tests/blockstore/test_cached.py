"""The cache on disk, alone and between processes."""

from __future__ import annotations

import errno
import hashlib
import logging
import mmap
import os
import pickle
import random
import resource
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.blockstore.staged_stores import (
    DEADLINE_S,
    DictStore,
    LoggingStore,
    StagedStore,
    blocks_of,
    children,
    down,
    got,
    join,
    wait_until,
)
from torch_ipfs.blockstore import cached_reads, disk_cache, fetch_once
from torch_ipfs.blockstore.base import MAX_BLOCK_BYTES, Blockstore
from torch_ipfs.blockstore.cached import CachedBlockstore
from torch_ipfs.blockstore.local import LocalBlockstore
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import BlockNotFound, HashMismatch, OptionError, TransportError
from torch_ipfs.testing import BlockstoreConformance

MIB = 2**20
BIG = 300_000


def files_of(cache: Path) -> list[Path]:
    return sorted(path for path in (cache / "blocks" / "blocks").rglob("*") if path.is_file())


def file_of(cache: Path, cid: CID) -> Path:
    name = cid.multihash.hex()
    return cache / "blocks" / "blocks" / name[-1] / name


def bytes_of(cache: Path) -> int:
    total = 0
    for path in files_of(cache):
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            continue
    return total


class TestCachedBlockstore(BlockstoreConformance):
    window_bytes = 64 * MIB

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[CachedBlockstore]:
        inner = LocalBlockstore(tmp_path / "store", fsync=False)
        inner.put_many(self.blocks())
        store = CachedBlockstore(inner, tmp_path / "cache")
        yield store
        store.close()


class TestCachedBlockstoreThatIsWarm(TestCachedBlockstore):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[CachedBlockstore]:
        inner = LocalBlockstore(tmp_path / "store", fsync=False)
        inner.put_many(self.blocks())
        got(CachedBlockstore(inner, tmp_path / "cache"), [cid for cid, _ in self.blocks()])
        store = CachedBlockstore(inner, tmp_path / "cache", window_bytes=16 * MIB)
        yield store
        store.close()


class TestCachedBlockstoreOfAStoreThatVerifiesNothing(TestCachedBlockstore):
    shared = False
    window_bytes = 16 * MIB

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[CachedBlockstore]:
        store = CachedBlockstore(DictStore(self.blocks()), tmp_path / "cache", window_bytes=self.window_bytes)
        yield store
        store.close()

    def forge(self, store: CachedBlockstore, cid: CID, data: bytes) -> None:
        assert isinstance(store.store, DictStore)
        store.store.blocks[cid.multihash] = data


class TestCachedBlockstoreThatCannotWrite(TestCachedBlockstoreOfAStoreThatVerifiesNothing):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[CachedBlockstore]:
        (tmp_path / "cache").write_text("a file where the folder should be")
        store = CachedBlockstore(DictStore(self.blocks()), tmp_path / "cache", window_bytes=self.window_bytes)
        yield store
        store.close()


# What is kept, and how


@pytest.mark.parametrize("size_bytes", [0, 1, 1000, BIG, MAX_BLOCK_BYTES])
def test_a_block_is_fetched_once_and_outlives_its_source(tmp_path: Path, size_bytes: int) -> None:
    [(cid, data)] = blocks_of(1, size_bytes) if size_bytes else [(CID.of(b""), b"")]
    inner = StagedStore([(cid, data)])
    store = CachedBlockstore(inner, tmp_path)
    assert store.get(cid) == data
    inner.failure = down()
    assert store.get(cid) == data
    assert got(CachedBlockstore(inner, tmp_path), [cid]) == [data]
    assert inner.asked == [cid]


def test_a_block_is_kept_whatever_its_cid_says_of_its_codec(tmp_path: Path) -> None:
    [(cid, data)] = blocks_of(1)
    inner = StagedStore([(cid, data)])
    store = CachedBlockstore(inner, tmp_path)
    for other in (cid, CID.from_bytes(cid.multihash), CID.from_multihash("dag-cbor", cid.multihash)):
        assert store.get(other) == data
        assert got(store, [other]) == [data]
    assert len(inner.asked) == 1


def test_a_digest_too_long_for_a_files_name_is_passed_through(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = b"a long digest"
    cid = CID.from_multihash("raw", b"\x19\x80\x01" + hashlib.shake_256(data).digest(128))
    identity = CID.of(bytes(128), "raw", "identity")
    inner = StagedStore([(cid, data)])
    store = CachedBlockstore(inner, tmp_path)
    assert [store.get(cid), *got(store, [cid, identity])] == [data, data, bytes(128)]
    assert store.get(identity) == bytes(128)
    assert store.has(cid)
    assert len(inner.asked) == 2
    assert files_of(tmp_path) == []
    assert warnings_of(caplog) == []


def test_files_of_somebody_else_are_left_alone(tmp_path: Path) -> None:
    blocks = blocks_of(20)
    store = CachedBlockstore(DictStore(blocks), tmp_path, 10_000)
    store.get(blocks[0][0])
    foreign = file_of(tmp_path, blocks[0][0]).with_name("notes.txt")
    foreign.write_text("mine")
    assert got(store, [cid for cid, _ in blocks]) == [data for _, data in blocks]
    assert foreign.read_text() == "mine"


def test_a_cache_of_no_bytes_makes_nobody_wait(tmp_path: Path) -> None:
    [(cid, data)] = blocks_of(1)
    slow, quick = StagedStore([(cid, data)], "slow"), StagedStore([(cid, data)], "quick")
    slow.gate.clear()
    first = threading.Thread(target=CachedBlockstore(slow, tmp_path, 0).get, args=(cid,))
    first.start()
    wait_until(lambda: slow.asked, "the first fetch")
    second = CachedBlockstore(quick, tmp_path, 0, wait_s=DEADLINE_S)
    assert second.get(cid) == data
    assert got(second, [cid]) == [data]
    slow.gate.set()
    first.join(DEADLINE_S)
    assert files_of(tmp_path) == []


def test_large_blocks_are_views_of_a_map(tmp_path: Path) -> None:
    blocks = blocks_of(5, BIG)
    store = CachedBlockstore(DictStore(blocks), tmp_path)
    assert list(store.get_many([cid for cid, _ in blocks])) == [data for _, data in blocks]
    first = list(store.get_many([cid for cid, _ in blocks]))
    again = [store.get(cid) for cid, _ in blocks]
    for block in first + again:
        assert isinstance(block, memoryview)
        assert isinstance(block.obj, mmap.mmap)
    shutil.rmtree(tmp_path)
    assert again == [data for _, data in blocks]
    again[0].release()  # type: ignore[union-attr]
    assert first[0] == blocks[0][1]


def test_the_store_is_asked_for_misses_alone_and_in_one_window(tmp_path: Path) -> None:
    blocks = blocks_of(400)
    cids = [cid for cid, _ in blocks]
    inner = StagedStore(blocks)
    store = CachedBlockstore(inner, tmp_path)
    assert got(store, cids[::3]) == [data for _, data in blocks[::3]]
    inner.asked.clear()
    assert got(store, cids) == [data for _, data in blocks]
    assert inner.asked == [cid for number, cid in enumerate(cids) if number % 3]


def test_what_is_put_goes_below_and_not_into_the_cache(tmp_path: Path) -> None:
    [(cid, data), (other, other_data)] = blocks_of(2)
    inner = DictStore([])
    store = CachedBlockstore(inner, tmp_path)
    store.put(cid, data)
    store.put_many([(other, other_data)])
    assert inner.has(cid)
    assert inner.has(other)
    assert files_of(tmp_path) == []
    store.get(cid)
    inner.blocks.clear()
    assert store.has(cid)
    assert not store.has(other)


def test_statistics(tmp_path: Path) -> None:
    blocks = blocks_of(3)
    store = CachedBlockstore(DictStore(blocks), tmp_path, 10_000)
    assert store.stats()["bytes"] == 0
    got(store, [cid for cid, _ in blocks])
    got(store, [cid for cid, _ in blocks])
    with pytest.raises(BlockNotFound):
        store.get(CID.of(b"absent"))
    assert store.stats() == {
        "hits": 3,
        "hit_bytes": 3000,
        "misses": 4,
        "miss_bytes": 3000,
        "evictions": 0,
        "bad_blocks": 0,
        "bytes": 3000,
        "limit_bytes": 10_000,
    }


def test_nothing_is_touched_before_it_is_used(tmp_path: Path) -> None:
    store = CachedBlockstore(DictStore([]), tmp_path / "a" / "b")
    assert pickle.loads(pickle.dumps(store)).cache_dir == tmp_path / "a" / "b"
    assert store.stats()["bytes"] == 0
    assert not store.has(CID.of(b""))
    assert list(store.get_many([])) == []
    store.close()
    assert list(tmp_path.iterdir()) == []


def test_the_environment_names_folder_and_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_IPFS_CACHE_DIR", str(tmp_path / "here"))
    monkeypatch.setenv("TORCH_IPFS_CACHE_BYTES", "5000")
    store = CachedBlockstore(DictStore([]))
    assert store.cache_dir == tmp_path / "here"
    assert store.stats()["limit_bytes"] == 5000
    assert CachedBlockstore(DictStore([]), cache_bytes=7).stats()["limit_bytes"] == 7
    monkeypatch.delenv("TORCH_IPFS_CACHE_BYTES")
    assert 0 < CachedBlockstore(DictStore([])).stats()["limit_bytes"] <= shutil.disk_usage(tmp_path).total // 10
    monkeypatch.setenv("TORCH_IPFS_CACHE_BYTES", "10GB")
    with pytest.raises(OptionError, match="10GB"):
        CachedBlockstore(DictStore([]))


@pytest.mark.parametrize("option", ["cache_bytes", "wait_s", "window_bytes", "keep_mapped_bytes", "keep_copied_bytes"])
def test_numbers_below_nothing_are_refused(option: str) -> None:
    options: dict[str, Any] = {option: -1}
    with pytest.raises(OptionError, match=option):
        CachedBlockstore(DictStore([]), **options)


# The bound


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    blocks = blocks_of(6)
    (a, b, c, d, e, f) = (cid for cid, _ in blocks)
    store = CachedBlockstore(DictStore(blocks), tmp_path, 3500)
    for cid in (a, b, c):
        store.get(cid)
    store.get(a)
    store.get(d)
    assert [file_of(tmp_path, cid).exists() for cid in (a, b, c, d)] == [True, False, True, True]
    other = CachedBlockstore(DictStore(blocks), tmp_path, 3500)  # another process would be no different
    other.get(c)
    store.get(e)
    store.get(f)
    assert [file_of(tmp_path, cid).exists() for cid in (a, c, d, e, f)] == [False, True, False, True, True]
    assert store.stats()["evictions"] == 3
    assert store.stats()["bytes"] == 3000


@pytest.mark.parametrize("size_bytes", [10, 1000, BIG])
def test_the_bound_holds_over_many_blocks(tmp_path: Path, size_bytes: int) -> None:
    blocks = blocks_of(100, size_bytes)
    limit_bytes = 20 * size_bytes
    store = CachedBlockstore(DictStore(blocks), tmp_path, limit_bytes)
    for start in range(0, 100, 10):
        got(store, [cid for cid, _ in blocks[start : start + 10]])
        assert bytes_of(tmp_path) <= limit_bytes
        assert bytes_of(tmp_path) == store.stats()["bytes"]
    assert len(files_of(tmp_path)) == 20
    assert sorted(files_of(tmp_path)) == sorted(file_of(tmp_path, cid) for cid, _ in blocks[-20:])


def test_a_block_over_the_bound_is_not_kept(tmp_path: Path) -> None:
    [(small, _)], [(large, data)] = blocks_of(1, 100), blocks_of(1, 2000)
    store = CachedBlockstore(DictStore([*blocks_of(1, 100), (large, data)]), tmp_path, 1000)
    store.get(small)
    assert store.get(large) == data
    assert got(store, [large, large]) == [data, data]
    assert files_of(tmp_path) == [file_of(tmp_path, small)]


def read_in_some_order(blocks: list[tuple[CID, bytes]], cache: Path, limit_bytes: int, seed: int) -> None:
    store = CachedBlockstore(DictStore(blocks), cache, limit_bytes, wait_s=1.0)
    order = random.Random(seed).sample(blocks, len(blocks))
    for start in range(0, len(order), 20):
        part = order[start : start + 20]
        assert got(store, [cid for cid, _ in part]) == [data for _, data in part]
    store.close()


@pytest.mark.parametrize("size_bytes", [2000, 200_000])
def test_the_bound_holds_while_eight_processes_write(tmp_path: Path, size_bytes: int) -> None:
    blocks = blocks_of(200, size_bytes)
    limit_bytes = 40 * size_bytes
    calls = [(read_in_some_order, (blocks, tmp_path, limit_bytes, seed)) for seed in range(8)]
    most = 0
    with children(*calls) as started:
        while any(child.is_alive() for child in started):
            most = max(most, bytes_of(tmp_path))
            time.sleep(0.01)
        join(started)
    assert limit_bytes // 2 < most <= limit_bytes + 8 * size_bytes
    assert list((tmp_path / "blocks" / "tmp").iterdir()) == []


# Single flight


def read_all(store: Blockstore, cids: list[CID], datas: list[bytes], start: Any, seed: int) -> None:
    order = list(range(len(cids)))
    if seed:
        random.Random(seed).shuffle(order)
    start.wait(DEADLINE_S)
    assert got(store, [cids[number] for number in order]) == [datas[number] for number in order]
    for number in order[:10]:
        assert store.get(cids[number]) == datas[number]


@pytest.mark.parametrize("size_bytes", [1000, 200_000])
@pytest.mark.parametrize("shuffled", [False, True], ids=["one order", "orders of their own"])
def test_eight_processes_fetch_each_block_once(tmp_path: Path, size_bytes: int, *, shuffled: bool) -> None:
    import multiprocessing

    blocks = blocks_of(120, size_bytes)
    inner = LoggingStore(blocks, tmp_path / "log", pause_s=0.001)
    store = CachedBlockstore(inner, tmp_path / "cache", wait_s=DEADLINE_S)
    start = multiprocessing.get_context("fork").Barrier(8)
    cids, datas = [cid for cid, _ in blocks], [data for _, data in blocks]
    with children(*((read_all, (store, cids, datas, start, shuffled * (1 + n))) for n in range(8))) as started:
        join(started)
    assert inner.fetched() == {str(cid): 1 for cid in cids}


def test_threads_fetch_each_block_once(tmp_path: Path) -> None:
    blocks = blocks_of(60)
    inner = LoggingStore(blocks, tmp_path / "log", pause_s=0.001)
    stores = [CachedBlockstore(inner, tmp_path / "cache", wait_s=DEADLINE_S) for _ in range(2)]
    failures: list[Exception] = []

    def read(number: int) -> None:
        order = random.Random(number).sample(blocks, len(blocks))
        try:
            for cid, data in order[:30]:
                assert stores[number % 2].get(cid) == data
            assert got(stores[number % 2], [cid for cid, _ in order]) == [data for _, data in order]
        except Exception as failure:  # noqa: BLE001 - looked at below
            failures.append(failure)

    threads = [threading.Thread(target=read, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert failures == []
    assert set(inner.fetched().values()) == {1}


def fetch_for_ever(blocks: list[tuple[CID, bytes]], cache: Path, ready: Any, *, many: bool) -> None:
    """Hold the claims of all blocks, and never fetch one."""

    class Endless(DictStore):
        def get(self, cid: CID) -> bytes:
            ready.set()
            time.sleep(600)
            raise AssertionError

        def get_many(self, cids: Any, *, return_exceptions: bool = False) -> Any:
            list(cids)
            yield self.get(blocks[0][0])

    store = CachedBlockstore(Endless([]), cache)
    if many:
        list(store.get_many([cid for cid, _ in blocks]))
    store.get(blocks[0][0])


@pytest.mark.parametrize("many", [False, True], ids=["get", "get_many"])
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGSTOP])
def test_a_dead_or_stopped_holder_is_not_waited_for_long(tmp_path: Path, sign: signal.Signals, *, many: bool) -> None:
    import multiprocessing

    blocks = blocks_of(50)
    ready = multiprocessing.get_context("fork").Event()
    store = CachedBlockstore(DictStore(blocks), tmp_path, wait_s=1.5)
    with children((_fetch_for_ever, (blocks, tmp_path, ready, many))) as [holder]:
        assert ready.wait(DEADLINE_S)
        assert holder.pid is not None
        os.kill(holder.pid, sign)
        if sign == signal.SIGKILL:
            holder.join()
        started = time.monotonic()
        assert [store.get(cid) for cid, _ in blocks[:25]] == [data for _, data in blocks[:25]]
        assert got(store, [cid for cid, _ in blocks]) == [data for _, data in blocks]
        took_s = time.monotonic() - started
    # Once is waited for a stopped process, not once for each block that it holds; not at all for a dead one.
    assert took_s < (1.5 if sign == signal.SIGKILL else 10.0)
    assert len(files_of(tmp_path)) == 50


def _fetch_for_ever(blocks: list[tuple[CID, bytes]], cache: Path, ready: Any, many: bool) -> None:
    fetch_for_ever(blocks, cache, ready, many=many)


def test_who_waits_for_a_fetch_that_fails_fetches_next(tmp_path: Path) -> None:
    [(cid, data)] = blocks_of(1)
    failing, working = StagedStore([], "failing"), StagedStore([(cid, data)], "working")
    failing.gate.clear()
    failing.failure = down("failing")
    answers: list[object] = []

    def fail() -> None:
        try:
            CachedBlockstore(failing, tmp_path).get(cid)
        except TransportError as error:
            answers.append(error)

    first = threading.Thread(target=fail)
    first.start()
    wait_until(lambda: failing.asked, "the first fetch")
    second = threading.Thread(target=lambda: answers.append(CachedBlockstore(working, tmp_path).get(cid)))
    second.start()
    assert working.asked == []
    failing.gate.set()
    first.join(DEADLINE_S)
    second.join(DEADLINE_S)
    assert working.asked == [cid]
    assert data in answers
    assert len(answers) == 2


@pytest.mark.parametrize("many", [False, True], ids=["get", "get_many"])
def test_who_finds_nobody_listening_keeps_nobody_waiting(tmp_path: Path, *, many: bool) -> None:
    [(cid, data)] = blocks_of(1)
    trying, working = StagedStore([], "trying"), StagedStore([(cid, data)], "working")
    trying.failure = down("trying")
    trying.unreachable_at = None  # type: ignore[attr-defined]
    trying.gate.clear()
    first = CachedBlockstore(trying, tmp_path)
    holder = threading.Thread(
        target=lambda: list(first.get_many([cid], return_exceptions=True)) if many else got_or_not(first, cid)
    )
    holder.start()
    wait_until(lambda: trying.asked, "the first fetch")
    answers: list[object] = []
    waiting = threading.Thread(
        target=lambda: answers.append(CachedBlockstore(working, tmp_path, wait_s=DEADLINE_S).get(cid))
    )
    begun_s = time.monotonic()
    waiting.start()
    trying.unreachable_at = time.monotonic()  # type: ignore[attr-defined]
    waiting.join(DEADLINE_S)
    assert answers == [data]
    assert time.monotonic() - begun_s < DEADLINE_S / 2
    trying.gate.set()
    holder.join(DEADLINE_S)
    assert not holder.is_alive()


def got_or_not(store: Blockstore, cid: CID) -> None:
    with suppress(TransportError):
        store.get(cid)


def test_claims_are_let_go_of_however_slow_the_reader_is(tmp_path: Path) -> None:
    blocks = blocks_of(40)
    inner = StagedStore(blocks)
    inner.gate.clear()

    def wanted() -> Iterator[CID]:
        yield from (cid for cid, _ in blocks)
        inner.gate.set()

    reader = CachedBlockstore(inner, tmp_path, wait_s=DEADLINE_S).get_many(wanted())
    assert next(reader) == blocks[0][1]  # and no more of it
    wait_until(lambda: len(files_of(tmp_path)) == 40, "the rest is fetched without the reader")
    second = CachedBlockstore(StagedStore([]), tmp_path)
    assert got(second, [cid for cid, _ in blocks]) == [data for _, data in blocks]
    assert list(reader) == [data for _, data in blocks[1:]]


def test_a_reader_that_is_left_lets_go_of_everything(tmp_path: Path, no_leaks: None) -> None:
    blocks = blocks_of(100)
    inner = StagedStore(blocks)
    store = CachedBlockstore(inner, tmp_path)
    reader = store.get_many([cid for cid, _ in blocks])
    assert next(reader) == blocks[0][1]
    inner.gate.clear()
    other = threading.Timer(0.1, inner.gate.set)
    other.start()
    reader.close()  # type: ignore[attr-defined]
    other.join()
    wait_until(lambda: inner.closed_rounds == inner.rounds, "the store's own iterator is closed")
    asked = len(inner.asked)
    assert asked < 100
    later = CachedBlockstore(DictStore(blocks), tmp_path, wait_s=DEADLINE_S)
    assert got(later, [cid for cid, _ in blocks]) == [data for _, data in blocks]
    assert len(inner.asked) == asked
    store.close()
    later.close()


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


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.levelno >= logging.WARNING]


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
