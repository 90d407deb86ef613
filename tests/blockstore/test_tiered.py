"""Several sources as one store: who is asked for what."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.blockstore.staged_stores import DictStore, StagedStore, blocks_of, counted, down, got, wait_until
from torch_ipfs.blockstore.base import MAX_BLOCK_BYTES
from torch_ipfs.blockstore.cached import CachedBlockstore
from torch_ipfs.blockstore.local import LocalBlockstore
from torch_ipfs.blockstore.memory import MemoryBlockstore
from torch_ipfs.blockstore.tiered import TieredBlockstore
from torch_ipfs.codec.cid import CID
from torch_ipfs.dataset.write import write_dataset
from torch_ipfs.errors import (
    HashMismatch,
    OptionError,
    TransportError,
)
from torch_ipfs.testing import BlockstoreConformance

MIB = 2**20
BLOCKS = blocks_of(100)
CIDS = [cid for cid, _ in BLOCKS]
DATAS = [data for _, data in BLOCKS]


class TestTieredBlockstore(BlockstoreConformance):
    window_bytes = 64 * MIB

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[TieredBlockstore]:
        first, second = (LocalBlockstore(tmp_path / name, fsync=False) for name in ("first", "second"))
        first.put_many(self.blocks()[::2])
        second.put_many(self.blocks()[1::2])
        store = TieredBlockstore([first, second])
        yield store
        store.close()


class TestTieredBlockstoreOfStoresThatVerifyNothing(BlockstoreConformance):
    shared = False
    window_bytes = 16 * MIB

    @pytest.fixture
    def store(self) -> Iterator[TieredBlockstore]:
        sources = [DictStore(self.blocks()[::2], "first"), DictStore(self.blocks()[1::2], "second")]
        store = TieredBlockstore(sources, window_bytes=self.window_bytes)
        yield store
        store.close()

    def forge(self, store: TieredBlockstore, cid: CID, data: bytes) -> None:
        for source in store.stores:
            assert isinstance(source, DictStore)
            source.blocks.pop(cid.multihash, None)
        store.stores[0].blocks[cid.multihash] = data  # type: ignore[attr-defined]


class ReadOnly(DictStore):
    def put(self, cid: CID, data: Any) -> None:
        raise TransportError("read-only", cid=cid, source=self.source)


class TestTieredBlockstoreWithAReadOnlySource(BlockstoreConformance):
    shared = False
    window_bytes = 16 * MIB

    @pytest.fixture
    def store(self) -> Iterator[TieredBlockstore]:
        sources = [ReadOnly([], "read-only"), DictStore(self.blocks(), "writable")]
        store = TieredBlockstore(sources, window_bytes=self.window_bytes)
        yield store
        store.close()

    def forge(self, store: TieredBlockstore, cid: CID, data: bytes) -> None:
        store.stores[1].blocks[cid.multihash] = data  # type: ignore[attr-defined]


class TestTieredBlockstoreOfCaches(TestTieredBlockstore):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[TieredBlockstore]:
        first, second = (LocalBlockstore(tmp_path / name, fsync=False) for name in ("first", "second"))
        first.put_many(self.blocks()[::2])
        second.put_many(self.blocks()[1::2])
        store = TieredBlockstore([CachedBlockstore(each, tmp_path / "cache") for each in (first, second)])
        yield store
        store.close()


class TestCachedTiers(BlockstoreConformance):
    window_bytes = 64 * MIB
    shared = False

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[CachedBlockstore]:
        tiers = TieredBlockstore([DictStore([], "first"), DictStore(self.blocks(), "second")])
        store = CachedBlockstore(tiers, tmp_path / "cache")
        yield store
        store.close()


def test_the_first_source_serves_what_it_has(two: tuple[StagedStore, StagedStore]) -> None:
    first, second = two
    for cid in CIDS[1::2]:
        del first.blocks[cid.multihash]
    store = TieredBlockstore(two)
    assert [store.get(cid) for cid in CIDS[:10]] == DATAS[:10]
    assert got(store, CIDS) == DATAS
    assert set(second.asked) == set(CIDS[1::2])
    assert counted(store, "served") == [55, 55]
    assert counted(store, "bytes") == [55_000, 55_000]
    assert counted(store, "not_found") == [55, 0]
    assert counted(store, "source") == ["first", "second"]
    assert store.source == "first, second"


def test_the_log_says_who_served_what(two: tuple[StagedStore, StagedStore], caplog: pytest.LogCaptureFixture) -> None:
    del two[0].blocks[CIDS[1].multihash]
    with caplog.at_level(logging.DEBUG, "torch_ipfs.blockstore.tiered"):
        got(TieredBlockstore(two), CIDS[:2])
    assert [record.getMessage() for record in caplog.records] == [
        f"block {CIDS[0]} from first",
        f"block {CIDS[1]} from second",
    ]


def test_has_asks_all(two: tuple[StagedStore, StagedStore], monkeypatch: pytest.MonkeyPatch) -> None:
    first = two[0]
    del first.blocks[CIDS[0].multihash]
    store = TieredBlockstore(two)
    assert store.has(CIDS[0])
    assert not store.has(CID.of(b"absent"))

    def refuse(cid: CID) -> bool:
        raise down("first")

    monkeypatch.setattr(first, "has", refuse)
    assert store.has(CIDS[0])
    with pytest.raises(TransportError, match="first: TransportError: connection refused"):
        store.has(CID.of(b"absent"))


def test_has_asks_local_stores_first_and_demoted_ones_last() -> None:
    asked: list[str] = []

    class Asked(StagedStore):
        def has(self, cid: CID) -> bool:
            asked.append(self.source)
            return super().has(cid)

    demoted, up, local = Asked([], "demoted"), Asked(BLOCKS, "up"), MemoryBlockstore(BLOCKS[:1])
    demoted.failure = down("demoted")
    store = TieredBlockstore([demoted, up, local], demote_s=60)
    assert store.get(CIDS[1]) == DATAS[1]
    assert store.has(CIDS[0])
    assert asked == []
    assert not store.has(CID.of(b"absent"))
    assert asked == ["up", "demoted"]
    store.close()


def test_what_is_put_goes_to_the_first_that_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    read_only, first, second = (DictStore([], name) for name in ("read-only", "first", "second"))

    def refuse(*_: object) -> None:
        raise TransportError("read-only", source="read-only")

    monkeypatch.setattr(read_only, "put", refuse)
    store = TieredBlockstore([read_only, first, second])
    store.put(*BLOCKS[0])
    store.put_many(iter(BLOCKS))
    assert len(first.blocks) == 100
    assert second.blocks == {}
    with pytest.raises(TransportError, match=r"read-only: .*read-only"):
        TieredBlockstore([read_only]).put(*BLOCKS[0])
    with pytest.raises(HashMismatch):
        store.put(CIDS[0], b"other bytes")


def test_a_reader_that_is_left_leaves_nothing_running(two: tuple[StagedStore, StagedStore], no_leaks: None) -> None:
    first, second = two
    first.failure = down("first")
    store = TieredBlockstore(two, window_bytes=10_000)
    reader = store.get_many(CIDS)
    assert next(reader) == DATAS[0]
    reader.close()  # type: ignore[attr-defined]
    wait_until(lambda: first.closed_rounds == first.rounds and second.closed_rounds == second.rounds, "all are closed")
    assert len(second.asked) < 100
    store.get(CIDS[0])
    store.close()


def test_no_more_is_held_than_the_window_however_slow_the_reader(two: tuple[StagedStore, StagedStore]) -> None:
    large = blocks_of(40, MAX_BLOCK_BYTES // 4)
    first = StagedStore(large, "first")
    store = TieredBlockstore([first, two[1]], window_bytes=4 * MIB)
    reader = store.get_many([cid for cid, _ in large])
    for number in range(40):
        assert next(reader) == large[number][1]
        assert len(first.asked) - number <= 10
    store.close()


def test_local_stores_are_asked_without_a_thread(two: tuple[StagedStore, StagedStore]) -> None:
    store = TieredBlockstore([MemoryBlockstore(BLOCKS[:50]), two[0]])
    threads = threading.active_count()
    assert [store.get(cid) for cid in CIDS[:50]] == DATAS[:50]
    assert threading.active_count() == threads
    assert two[0].asked == []
    assert store.get(CIDS[60]) == DATAS[60]
    store.close()


def test_what_a_cache_has_at_hand_is_not_asked_of_its_source(
    two: tuple[StagedStore, StagedStore], tmp_path: Path
) -> None:
    first, second = two
    store = TieredBlockstore([CachedBlockstore(first, tmp_path), CachedBlockstore(second, tmp_path)])
    assert got(store, CIDS) == DATAS
    first.failure = second.failure = down()
    assert got(store, CIDS) == DATAS
    assert [store.get(cid) for cid in CIDS] == DATAS
    assert (len(first.asked), len(second.asked)) == (100, 0)


@pytest.mark.parametrize(
    "options",
    [
        {"slow_s": 0},
        {"slow_s": math.nan},
        {"trial_s": -1},
        {"timeout_s": 0},
        {"demote_s": -1},
        {"demote_s": math.inf},
        {"demote_max_s": math.nan},
        {"window_bytes": 0},
    ],
)
def test_options_that_cannot_work_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        TieredBlockstore([MemoryBlockstore()], **options)


def test_no_stores_are_refused() -> None:
    with pytest.raises(OptionError, match="one store at least"):
        TieredBlockstore([])


def test_names_of_stores_are_none() -> None:
    names: Any = ["a.car", "https://gateway.invalid"]
    with pytest.raises(OptionError, match=r"not a str.*open_blockstore"):
        TieredBlockstore(names)
    with pytest.raises(OptionError, match=r"not a str.*open_blockstore"):
        CachedBlockstore(names[1])


def test_what_blocks_are_read_from_is_enough_to_read_and_not_to_write(tmp_path: Path) -> None:
    source = DictStore(BLOCKS)
    reading: Any = SimpleNamespace(get=source.get, get_many=source.get_many, put=source.put)
    for store in (TieredBlockstore([reading]), CachedBlockstore(reading, tmp_path)):
        assert store.get(CIDS[0]) == DATAS[0]
    with pytest.raises(OptionError, match="a path or a Blockstore"):
        write_dataset([{"x": 1}], reading)


def test_patience_may_have_no_end(two: tuple[StagedStore, StagedStore]) -> None:
    two[0].failure = down()
    assert TieredBlockstore(two, slow_s=math.inf).get(CIDS[0]) == DATAS[0]
