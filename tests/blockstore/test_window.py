from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.blockstore.staged_stores import wait_until
from tests.network.gateways import CID_0, DATA_0, DEADLINE_S, block, gateway, holding
from tests.network.staged import Asked, Connection, serving
from torch_ipfs.blockstore import connector
from torch_ipfs.blockstore.base import Blockstore
from torch_ipfs.blockstore.cached import CachedBlockstore
from torch_ipfs.blockstore.gateway import GatewayBlockstore
from torch_ipfs.blockstore.tiered import TieredBlockstore
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import BlockNotFound, TransportError

pytestmark = pytest.mark.usefixtures("in_time")


# The window


def test_answers_keep_the_order_of_the_cids():
    blocks = [block(i) for i in range(64)]
    held = {str(cid): data for cid, data in blocks}
    turn = threading.Barrier(8)

    def service(asked: Asked, connection: Connection) -> None:
        number = int.from_bytes(held[asked.cid][:8], "big")
        if number < 8:  # the first eight answer last to first
            turn.wait(DEADLINE_S)
            time.sleep((8 - number) * 0.005)
        connection.answer(held[asked.cid])

    with gateway(service, in_flight=8) as (store, _):
        assert list(store.get_many(cid for cid, _ in blocks)) == [data for _, data in blocks]


def test_requests_in_flight_are_bounded_and_used():
    blocks = [block(i) for i in range(100)]
    held = {str(cid): data for cid, data in blocks}
    now = most = 0
    lock = threading.Lock()

    def service(asked: Asked, connection: Connection) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.005)
        with lock:
            now -= 1
        connection.answer(held[asked.cid])

    with gateway(service, in_flight=7) as (store, _):
        assert len(list(store.get_many([cid for cid, _ in blocks]))) == 100
    assert most == 7


@pytest.mark.parametrize(("window_bytes", "most"), [(1, 1), (4000, 4), (8500, 8)])
def test_the_window_is_bounded_in_bytes(window_bytes: int, most: int):
    """Nothing is asked for that could not be held beside what waits to be taken."""
    blocks = [block(i) for i in range(100)]
    service = holding(dict(blocks))
    with gateway(service, window_bytes=window_bytes, max_block_bytes=1000, in_flight=16) as (store, server):
        answers = store.get_many([cid for cid, _ in blocks])
        for taken in range(1, 21):
            next(answers)
            assert len(server.asked) - taken <= most
        assert len(list(answers)) == 80


@pytest.mark.parametrize("wrappers", ["", "cached", "tiered", "cached tiered", "tiered cached"])
def test_an_iterator_that_is_left_cancels_what_is_in_flight(wrappers: str, tmp_path: Path):
    asked: list[str] = []
    gone: list[str] = []

    def service(request: Asked, connection: Connection) -> None:
        if request.cid == str(CID_0):
            connection.answer(DATA_0)
        else:
            asked.append(request.cid)
            connection.silence()
            gone.append(request.cid)  # the client has

    cids = [block(i)[0] for i in range(500)]
    with gateway(service, in_flight=4, stall_s=1000.0, timeout_s=1000.0) as (inner, server):
        store: Blockstore = inner
        for wrapper in reversed(wrappers.split()):
            store = CachedBlockstore(store, tmp_path) if wrapper == "cached" else TieredBlockstore([store])
        answers = store.get_many(cids)
        assert next(answers) == DATA_0
        wait_until(lambda: bool(asked), "a request in flight")
        answers.close()  # type: ignore[attr-defined]
        wait_until(lambda: sorted(gone) == sorted(asked), "the end of each")
        assert len(server.asked) <= 6


def test_errors_stand_in_their_places_or_are_raised_there():
    held = dict(block(i) for i in range(10) if i != 5)
    cids = [block(i)[0] for i in range(10)]
    with gateway(holding(held)) as (store, _):
        got = list(store.get_many(cids, return_exceptions=True))
        assert isinstance(got[5], BlockNotFound)
        assert got[:5] + got[6:] == list(held.values())
        answers = store.get_many(cids)
        assert [next(answers) for _ in range(5)] == list(held.values())[:5]
        with pytest.raises(BlockNotFound):
            next(answers)


def test_what_the_cids_iterator_raises_comes_after_the_answers_before_it():
    def cids() -> Iterator[CID]:
        yield CID_0
        raise KeyError("the plan has failed")

    with gateway(holding({CID_0: DATA_0})) as (store, _):
        answers = store.get_many(cids())
        assert next(answers) == DATA_0
        with pytest.raises(KeyError):
            next(answers)


def test_the_cids_iterator_may_use_the_store_itself():
    def cids() -> Iterator[CID]:
        for i in range(100):
            assert store.get(CID_0) == DATA_0
            yield block(i)[0]

    with gateway(holding(dict(map(block, range(100))))) as (store, _):
        assert len(list(store.get_many(cids()))) == 100


# Processes, threads, ends


def test_closing_the_store_ends_an_iterator_in_another_thread():
    with gateway(lambda _, c: c.silence(), stall_s=1000.0, timeout_s=1000.0) as (store, server):
        ended: list[object] = []

        def read() -> None:
            try:
                next(store.get_many([CID_0]))
            except TransportError as error:
                ended.append(error)

        reader = threading.Thread(target=read)
        reader.start()
        deadline = time.monotonic() + DEADLINE_S
        while not server.asked and time.monotonic() < deadline:
            time.sleep(0.001)
        store.close()
        reader.join(DEADLINE_S)
        assert len(ended) == 1


def test_a_closed_store_opens_anew():
    with gateway(holding({CID_0: DATA_0})) as (store, _):
        for _ in range(3):
            assert store.get(CID_0) == DATA_0
            store.close()
            store.close()


def test_a_store_that_is_forgotten_leaves_nothing_behind(no_leaks: None):
    with serving(holding({CID_0: DATA_0})) as server:
        store = GatewayBlockstore(server.url)
        assert next(store.get_many([CID_0])) == DATA_0
        del store
        deadline = time.monotonic() + DEADLINE_S
        while left := [thread for thread in threading.enumerate() if thread.name.startswith("torch_ipfs")]:
            assert time.monotonic() < deadline, left
            gc.collect()


def test_a_call_that_is_interrupted_while_connections_are_prepared_leaves_nothing_behind(
    no_leaks: None, monkeypatch: pytest.MonkeyPatch
):
    session = connector.session

    def interrupting(*options: Any) -> Any:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
        assert interrupted.wait(DEADLINE_S)
        return session(*options)

    interrupted = threading.Event()

    def interrupt(*_: object) -> None:
        interrupted.set()
        raise KeyboardInterrupt

    monkeypatch.setattr(connector, "session", interrupting)
    before = signal.signal(signal.SIGUSR1, interrupt)
    with gateway(holding({CID_0: DATA_0})) as (store, _):
        with pytest.raises(KeyboardInterrupt):
            store.get(CID_0)
        signal.signal(signal.SIGUSR1, before)
        monkeypatch.undo()
        assert store.get(CID_0) == DATA_0


def test_constructing_and_pickling_start_nothing():
    before = threading.enumerate()
    store = GatewayBlockstore("http://127.0.0.1:1", bearer="token")
    copy = pickle.loads(pickle.dumps(store))
    assert copy.source == store.source
    assert copy.options == store.options
    assert not set(threading.enumerate()) - set(before)


def test_an_iterator_that_a_fork_copies_fails_in_the_child_and_goes_on_in_the_parent():
    blocks = [block(i) for i in range(300)]
    with gateway(holding(dict(blocks))) as (store, _):
        answers = store.get_many([cid for cid, _ in blocks])
        assert next(answers) == blocks[0][1]

        def child() -> None:
            try:
                list(answers)
            except TransportError:
                assert store.get(CID_0) == DATA_0  # the store itself works
                os._exit(42)

        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        process.join(DEADLINE_S)
        assert process.exitcode == 42
        assert list(answers) == [data for _, data in blocks[1:]]
