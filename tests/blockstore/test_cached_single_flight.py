"""The cache on disk between threads and processes: each block is fetched once, and nobody waits in vain."""

from __future__ import annotations

import gc
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.blockstore.cache_folders import files_of
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
from torch_ipfs.blockstore.base import Blockstore
from torch_ipfs.blockstore.cached import CachedBlockstore
from torch_ipfs.codec import car, dag_cbor
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import TransportError


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


def test_nobody_looks_after_claims_once_the_store_is_closed(tmp_path: Path) -> None:
    blocks = blocks_of(20)
    inner = StagedStore(blocks)
    inner.unreachable_at = None  # type: ignore[attr-defined]
    store = CachedBlockstore(inner, tmp_path)
    for _ in range(2):
        assert got(store, [cid for cid, _ in blocks]) == [data for _, data in blocks]
        watcher = store._here().blocks.claims._watcher
        store.close()
        assert watcher is None or not watcher.is_alive()
        shutil.rmtree(tmp_path)


@pytest.mark.parametrize("lock", ["_eviction._mutex", "_eviction._usage._mutex", "claims._mutex", "_mutex"])
@pytest.mark.parametrize("linked", [False, True], ids=["get_many", "get_linked"])
def test_an_iterator_that_the_collector_finds_waits_for_nothing(tmp_path: Path, lock: str, *, linked: bool) -> None:
    """It finds it in whatever line of whatever thread, which may hold any lock of the cache."""
    blocks, root, cids = linked_blocks(40)
    store = CachedBlockstore(LinkedStore(blocks), tmp_path)

    def leave() -> None:
        reader: Any = store.get_linked(root, cids) if linked else store.get_many(cids)
        for _ in range(30):
            next(reader)
        cycle = [reader]
        cycle.append(cycle)

    def collect_under_the_lock() -> None:
        held: Any = store._here().disk
        for name in lock.split("."):
            held = getattr(held, name)
        with held:
            gc.collect()

    gc.disable()
    try:
        leave()
        collecting = threading.Thread(target=collect_under_the_lock, daemon=True)
        collecting.start()
        collecting.join(DEADLINE_S)
        assert not collecting.is_alive()
    finally:
        gc.enable()
    wait_until(lambda: not store._here().blocks.claims._held, "the claims")
    wait_until(lambda: "torch_ipfs-fetch" not in [thread.name for thread in threading.enumerate()], "the thread")
    assert got(store, cids) == [data for cid, data in blocks if cid in cids]


class LinkedStore(StagedStore):
    def get_linked(self, _: CID, wanted: Any) -> Any:
        yield from ((cid.multihash, self.blocks[cid.multihash]) for cid in wanted)


def linked_blocks(number: int) -> tuple[list[tuple[CID, bytes]], CID, list[CID]]:
    """Blocks, the node that links to all but itself, and what it links to."""
    blocks = blocks_of(number)
    cids = [cid for cid, _ in blocks]
    node = dag_cbor.encode({"samples": cids})
    root = CID.of(node, "dag-cbor")
    return [(root, node), *blocks], root, cids


def test_a_child_leaves_the_file_of_its_parents_stream_alone(tmp_path: Path) -> None:
    blocks, root, cids = linked_blocks(50)
    store = CachedBlockstore(LinkedStore(blocks), tmp_path)
    stream = store.get_linked(root, cids)
    assert stream is not None
    came = [next(stream) for _ in range(40)]
    with children((_close, (stream,))) as [child]:
        child.join(DEADLINE_S)
        assert child.exitcode == 0
    came += stream
    assert len(came) == 50
    (pack,) = files_of(tmp_path)
    assert len(list(car.scan(memoryview(pack.read_bytes()))[1])) == 50


def _close(stream: Any) -> None:
    stream.close()
