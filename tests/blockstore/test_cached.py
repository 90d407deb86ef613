"""The cache on disk: what is kept, and how much of it."""

from __future__ import annotations

import hashlib
import mmap
import os
import pickle
import random
import shutil
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
    wait_until,
)
from torch_ipfs.blockstore.base import MAX_BLOCK_BYTES
from torch_ipfs.blockstore.cached import CachedBlockstore
from torch_ipfs.blockstore.local import LocalBlockstore
from torch_ipfs.blockstore.tiered import TieredBlockstore
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import BlockNotFound, OptionError
from torch_ipfs.testing import BlockstoreConformance

MIB = 2**20
BIG = 300_000


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


def test_a_cache_of_no_bytes_gives_nothing_of_what_is_there(tmp_path: Path) -> None:
    [(cid, data)] = blocks_of(1)
    assert CachedBlockstore(StagedStore([(cid, data)]), tmp_path).get(cid) == data
    inner = StagedStore([(cid, data)])
    store = CachedBlockstore(inner, tmp_path, 0)
    assert (store.get(cid), got(store, [cid])) == (data, [data])
    assert inner.asked == [cid, cid]
    assert store.at_hand(cid) is None


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


def test_a_cache_before_one_in_the_same_folder_is_one_cache(tmp_path: Path) -> None:
    blocks = blocks_of(3)
    inner = DictStore(blocks)
    first = CachedBlockstore(inner, tmp_path / "a")
    assert CachedBlockstore(first, tmp_path / "a", 10_000).store is inner  # each would wait for the other's claims
    assert CachedBlockstore(first, tmp_path / "b").store is first
    sources = TieredBlockstore([first, inner])
    below = CachedBlockstore(sources, tmp_path / "a").store
    assert isinstance(below, TieredBlockstore)
    assert below.stores == (inner, inner)
    assert CachedBlockstore(sources, tmp_path / "b").store is sources


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


def test_the_least_recently_used_go_first_also_of_a_cache_that_was_half_empty(tmp_path: Path) -> None:
    blocks = blocks_of(5)
    (a, b, c, d, e) = (cid for cid, _ in blocks)
    for cid in (a, b, a, b, a, c, d, e):
        CachedBlockstore(DictStore(blocks), tmp_path, 4000).get(cid)
        os.utime(tmp_path / "blocks" / "CACHEDIR.TAG")  # a cache that is as young as that tells all moments apart
    assert [file_of(tmp_path, cid).exists() for cid in (a, b, c, d, e)] == [True, False, True, True, True]


def test_blocks_where_another_version_had_them_are_made_room_with(tmp_path: Path) -> None:
    blocks = blocks_of(20)
    for cid, data in blocks[:10]:
        name = cid.multihash.hex()
        old = tmp_path / "blocks" / "blocks" / name[-2:] / name
        old.parent.mkdir(parents=True, exist_ok=True)
        old.write_bytes(data)
    store = CachedBlockstore(DictStore(blocks), tmp_path, cache_bytes=10_000)
    assert got(store, [cid for cid, _ in blocks[10:]]) == [data for _, data in blocks[10:]]
    assert all(file_of(tmp_path, cid).exists() for cid, _ in blocks[10:])
    assert bytes_of(tmp_path) == 10_000


def test_what_a_clock_that_was_put_back_has_left_goes_first(tmp_path: Path) -> None:
    early, late = blocks_of(7)[:4], blocks_of(7)[4:]
    store = CachedBlockstore(DictStore([*early, *late]), tmp_path, 4000)
    got(store, [cid for cid, _ in early])
    (tmp_path / "blocks" / "tmp" / "abandoned").write_bytes(b"half")
    year_s = 365 * 86400
    for path in (*files_of(tmp_path), tmp_path / "blocks" / "tmp" / "abandoned"):
        os.utime(path, (time.time() + year_s, time.time() + year_s))
    store = CachedBlockstore(DictStore([*early, *late]), tmp_path, 4000)
    store.get(early[0][0])
    for cid, _ in late:
        store.get(cid)
    assert files_of(tmp_path) == sorted(file_of(tmp_path, cid) for cid, _ in (early[0], *late))
    assert not list((tmp_path / "blocks" / "tmp").iterdir())


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
