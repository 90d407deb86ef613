"""Several sources of which some are down, slow, or lie: who is not asked any more, and what comes out."""

from __future__ import annotations

import itertools
import logging
import random
import socket
import threading
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.blockstore.staged_stores import DEADLINE_S, DictStore, StagedStore, blocks_of, counted, down, got, wait_until
from torch_ipfs.blockstore.cached import CachedBlockstore
from torch_ipfs.blockstore.gateway import GatewayBlockstore
from torch_ipfs.blockstore.tiered import TieredBlockstore
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import (
    BlockNotFound,
    BlockRefused,
    BlockTooLarge,
    HashMismatch,
    TorchIPFSError,
    TransportError,
)

BLOCKS = blocks_of(100)
CIDS = [cid for cid, _ in BLOCKS]
DATAS = [data for _, data in BLOCKS]


@pytest.mark.parametrize("many", [False, True], ids=["get", "get_many"])
def test_a_source_that_is_down_is_left_alone_and_comes_back(
    two: tuple[StagedStore, StagedStore], caplog: pytest.LogCaptureFixture, *, many: bool
) -> None:
    first, second = two
    first.failure = down("first")
    store = TieredBlockstore(two, demote_s=0.2)

    def read() -> None:
        if many:
            assert got(store, CIDS) == DATAS
        else:
            assert [store.get(cid) for cid in CIDS] == DATAS

    with caplog.at_level(logging.INFO):
        read()
        if not many:
            assert len(first.asked) == 1
        assert counted(store, "demoted") == [True, False]
        assert "first is asked last for 0.2 s: TransportError: connection refused" in caplog.text
        first.failure = None
        second.asked.clear()
        wait_until(lambda: store.get(CIDS[0]) and "first answers again" in caplog.text, "the source is back")
    assert counted(store, "demoted") == [False, False]
    second.asked.clear()
    read()
    assert second.asked == []


def test_a_source_that_fails_its_trials_is_tried_less_and_less(two: tuple[StagedStore, StagedStore]) -> None:
    first, _ = two
    first.failure = down("first")
    store = TieredBlockstore(two, demote_s=0.01, demote_max_s=60)
    started = time.monotonic()
    while time.monotonic() - started < 0.4:
        assert store.get(CIDS[0]) == DATAS[0]
    assert 2 <= len(first.asked) <= 7  # 0, 10, 30, 70, 150, 310 ms


def test_a_trial_is_not_waited_for_and_counts_when_it_is_answered(two: tuple[StagedStore, StagedStore]) -> None:
    first, _ = two
    first.failure = down("first")
    store = TieredBlockstore(two, demote_s=0.01, demote_max_s=0.01, slow_s=DEADLINE_S, trial_s=0.05)
    assert store.get(CIDS[0]) == DATAS[0]
    first.failure = None
    first.gate.clear()
    wait_until(lambda: store.get(CIDS[0]) and len(first.asked) >= 2, "a trial")
    assert counted(store, "demoted") == [True, False]
    assert counted(store, "slow") == [0, 0]
    first.gate.set()
    wait_until(lambda: counted(store, "demoted") == [False, False], "the trial's answer counts")
    store.close()


def test_a_source_that_lies_is_named_and_another_serves(
    two: tuple[StagedStore, StagedStore], caplog: pytest.LogCaptureFixture
) -> None:
    first, _ = two
    first.forged[CIDS[3]] = DATAS[4]
    for store, read in (
        (TieredBlockstore(two), lambda store: store.get(CIDS[3])),
        (TieredBlockstore(two), lambda store: got(store, CIDS)[3]),
    ):
        caplog.clear()
        assert read(store) == DATAS[3]
        assert counted(store, "bad_blocks") == [1, 0]
        bad = [record.getMessage() for record in caplog.records if "bad block" in record.getMessage()]
        assert len(bad) == 1
        assert bad[0].startswith(f"a bad block from first for {CIDS[3]}: HashMismatch")
        assert {record.name for record in caplog.records} == {"torch_ipfs.blockstore.tiered"}


@pytest.mark.parametrize("started", [0, 1])
@pytest.mark.parametrize("many", [False, True], ids=["get", "get_many"])
def test_that_no_thread_can_be_started_is_an_error_and_passes(
    many: bool, started: int, two: tuple[StagedStore, StagedStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the first source, or for the one that is asked after it."""
    left, start = [None] * started, threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if not left:
            raise RuntimeError("can't start new thread")
        left.pop()
        start(thread)

    store = TieredBlockstore(two)
    read = (lambda: got(store, CIDS)) if many else (lambda: [store.get(CIDS[0])])
    two[0].failure = down() if started else None
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(TransportError, match="no thread can be started"):
            read()
    assert read()[0] == DATAS[0]
    store.close()


@pytest.mark.parametrize("many", [False, True], ids=["get", "get_many"])
def test_a_slow_source_is_not_waited_for(two: tuple[StagedStore, StagedStore], *, many: bool) -> None:
    first, second = two
    first.gate.clear()
    store = TieredBlockstore(two, slow_s=0.2, demote_s=60)
    started = time.monotonic()
    if many:
        assert got(store, CIDS) == DATAS
    assert [store.get(cid) for cid in CIDS] == DATAS
    assert time.monotonic() - started < 10.0
    assert counted(store, "slow") == [1, 0]
    assert counted(store, "demoted") == [True, False]
    assert len(first.asked) <= 2
    assert len(second.asked) >= 100
    first.gate.set()
    store.close()


@pytest.mark.parametrize("many", [False, True], ids=["get", "get_many"])
def test_a_slow_source_that_alone_has_the_block_gives_it(many: bool, no_leaks: None) -> None:
    slow, empty = StagedStore(BLOCKS, "slow"), StagedStore([], "empty")
    slow.gate.clear()
    store = TieredBlockstore([slow, empty], slow_s=0.05, timeout_s=DEADLINE_S)

    def open_gate() -> None:
        wait_until(lambda: empty.asked, "the other is asked")
        slow.gate.set()

    opened = threading.Thread(target=open_gate)
    opened.start()
    if many:
        assert got(store, CIDS) == DATAS
    else:
        assert store.get(CIDS[0]) == DATAS[0]
    opened.join()
    assert counted(store, "served")[1] == 0
    store.close()


@pytest.mark.parametrize("many", [False, True], ids=["get", "get_many"])
def test_a_source_that_never_answers_ends_in_an_error(many: bool) -> None:
    stuck, empty = StagedStore(BLOCKS, "stuck"), StagedStore([], "empty")
    stuck.gate.clear()
    store = TieredBlockstore([stuck, empty], slow_s=0.05, timeout_s=0.3)
    started = time.monotonic()
    with pytest.raises(TransportError, match=r"stuck: TransportError: no answer within 0\.3 s; empty: BlockNotFound"):
        list(store.get_many(CIDS[:1])) if many else store.get(CIDS[0])
    assert time.monotonic() - started < 10.0
    stuck.gate.set()
    store.close()


@pytest.mark.parametrize("many", [False, True], ids=["get", "get_many"])
def test_a_source_where_nobody_listens_is_not_waited_for(many: bool, two: tuple[StagedStore, StagedStore]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    nobody = GatewayBlockstore(url)
    below = CachedBlockstore(TieredBlockstore([nobody]), cache_bytes=0)
    for first in (nobody, below):
        # It tries for half a minute, and would be waited for as long.
        store = TieredBlockstore([first, two[1]], slow_s=10 * DEADLINE_S)
        begun_s = time.monotonic()
        assert (list(store.get_many(CIDS)) if many else [store.get(cid) for cid in CIDS]) == DATAS
        assert time.monotonic() - begun_s < DEADLINE_S / 2
        assert counted(store, "demoted") == [True, False]
        store.close()


def test_that_nobody_listened_before_says_nothing_of_now(two: tuple[StagedStore, StagedStore]) -> None:
    first, _ = two
    first.unreachable_at = time.monotonic()  # type: ignore[attr-defined]
    first.gate.clear()
    opening = threading.Timer(0.5, first.gate.set)
    opening.start()
    store = TieredBlockstore(two, slow_s=DEADLINE_S, trial_s=0.1)
    assert store.get(CIDS[0]) == DATAS[0]
    assert counted(store, "served") == [1, 0]
    assert counted(store, "demoted") == [False, False]
    opening.join()
    store.close()


def test_a_source_that_dies_half_way_costs_nothing(two: tuple[StagedStore, StagedStore]) -> None:
    first, _ = two
    store = TieredBlockstore(two, window_bytes=10_000)
    reader = store.get_many(CIDS)
    answers = [next(reader) for _ in range(30)]
    first.failure = down("first")
    assert [*answers, *reader] == DATAS
    served = counted(store, "served")
    assert sum(served) == 100
    assert served[0] >= 30
    assert counted(store, "failed")[0] >= 1


def test_a_source_whose_get_many_breaks_off_costs_nothing(two: tuple[StagedStore, StagedStore]) -> None:
    class Cut(StagedStore):
        def get_many(self, cids: Any, *, return_exceptions: bool = False) -> Any:
            yield from itertools.islice(super().get_many(cids, return_exceptions=return_exceptions), 7)
            if self.failure is not None:
                raise self.failure

    for failure in (None, down("cut"), OSError(5, "input/output error")):
        cut = Cut(BLOCKS, "cut")
        store = TieredBlockstore([cut, two[1]], demote_s=60)
        reader = store.get_many(CIDS)
        answers = [next(reader)]
        cut.failure = failure
        assert [*answers, *reader] == DATAS
        assert counted(store, "demoted") == [failure is not None, False]  # to end early is no failure


def test_a_store_that_fails_before_it_asks_for_anything_is_not_tried_for_ever(
    two: tuple[StagedStore, StagedStore],
) -> None:
    class Refusing(StagedStore):
        def get_many(self, cids: Any, *, return_exceptions: bool = False) -> Any:
            raise down("refusing")

    store = TieredBlockstore([Refusing(BLOCKS, "refusing"), two[1]])
    assert got(store, CIDS) == DATAS
    with pytest.raises(TransportError, match="connection refused"):
        list(TieredBlockstore([Refusing(BLOCKS, "refusing")]).get_many(CIDS))


@pytest.mark.parametrize("failure", [ZeroDivisionError("a bug"), SystemExit("a client that ends programs")])
def test_a_bug_in_a_source_is_raised_and_not_waited_for(
    two: tuple[StagedStore, StagedStore], failure: BaseException
) -> None:
    two[0].failure = failure
    store = TieredBlockstore(two)
    with pytest.raises(type(failure)):
        store.get(CIDS[0])
    with pytest.raises(type(failure)):
        list(store.get_many(CIDS, return_exceptions=True))


def test_a_source_that_answers_more_than_it_is_asked_is_passed_over(two: tuple[StagedStore, StagedStore]) -> None:
    class Chatty(StagedStore):
        def get_many(self, cids: Any, *, return_exceptions: bool = False) -> Any:
            yield b"a greeting"
            yield from super().get_many(cids, return_exceptions=return_exceptions)

    assert got(TieredBlockstore([Chatty(BLOCKS, "chatty"), two[1]]), CIDS) == DATAS


# What it comes to when nobody gives the block


def forged(cid: CID) -> HashMismatch:
    return HashMismatch("forged", cid=cid, source="x")


@pytest.mark.parametrize(
    ("failures", "expected"),
    [
        ([BlockNotFound, BlockNotFound], BlockNotFound),
        ([BlockNotFound, TransportError], TransportError),
        ([TransportError, TransportError], TransportError),
        ([TransportError, HashMismatch], TransportError),
        ([HashMismatch, BlockNotFound], HashMismatch),
        ([BlockNotFound, HashMismatch], HashMismatch),
        ([BlockTooLarge, BlockNotFound], BlockTooLarge),
        ([BlockRefused, BlockNotFound], BlockRefused),
        ([BlockRefused, HashMismatch], HashMismatch),
    ],
    ids=lambda value: "+".join(kind.__name__ for kind in value) if isinstance(value, list) else value.__name__,
)
@pytest.mark.parametrize("many", [False, True], ids=["get", "get_many"])
def test_the_error_tells_what_each_source_said(
    failures: list[type[TorchIPFSError]], expected: type[TorchIPFSError], *, many: bool
) -> None:
    sources = [StagedStore([], "https://a.example"), StagedStore([], "b.car")]
    for source, kind in zip(sources, failures, strict=True):
        source.failure = kind("said so", cid=CIDS[0], source=source.source)
    store = TieredBlockstore(sources)
    for _ in range(2):  # demoted or not
        with pytest.raises(expected) as caught:
            list(store.get_many(CIDS[:1])) if many else store.get(CIDS[0])
        assert type(caught.value) is expected
        assert caught.value.cid == str(CIDS[0])
        culprit = sources[failures.index(expected)].source
        assert caught.value.source == culprit
        assert str(caught.value.__cause__).startswith("said so")
        for source, kind in zip(sources, failures, strict=True):
            assert f"{source.source}: {kind.__name__}: said so" in str(caught.value)


def test_errors_come_in_their_places(two: tuple[StagedStore, StagedStore]) -> None:
    absent = CID.of(b"absent")
    wanted = [CIDS[0], absent, CIDS[1], absent]
    answers = list(TieredBlockstore(two).get_many(wanted, return_exceptions=True))
    assert [answers[0], answers[2]] == [DATAS[0], DATAS[1]]
    assert isinstance(answers[1], BlockNotFound)
    assert isinstance(answers[3], BlockNotFound)


@settings(max_examples=30)
@given(st.data())
def test_any_block_that_any_source_has_is_served_in_order(data: st.DataObject) -> None:
    kinds = st.sampled_from(["good", "absent", "down", "forged"])
    plans = [data.draw(st.lists(kinds, min_size=20, max_size=20), label=f"source {n}") for n in range(3)]

    class Planned(DictStore):
        def __init__(self, plan: list[str], name: str) -> None:
            super().__init__([], name)
            self.plan = dict(zip(CIDS[:20], plan, strict=True))

        def get(self, cid: CID) -> bytes:
            match self.plan[cid]:
                case "good":
                    return DATAS[CIDS.index(cid)]
                case "forged":
                    return b"forged"
                case "down":
                    raise down(self.source)
            raise BlockNotFound("not here", cid=cid, source=self.source)

    store = TieredBlockstore([Planned(plan, f"source {n}") for n, plan in enumerate(plans)], demote_s=0.001)
    order = random.Random(0).choices(range(20), k=60)
    for answers in (
        list(store.get_many([CIDS[number] for number in order], return_exceptions=True)),
        [_answer(store, CIDS[number]) for number in order],
    ):
        for number, answer in zip(order, answers, strict=True):
            said = {plan[number] for plan in plans}
            if "good" in said:
                assert answer == DATAS[number]
            elif "down" in said:
                assert isinstance(answer, TransportError)
            else:
                assert isinstance(answer, HashMismatch if "forged" in said else BlockNotFound)
    store.close()


def _answer(store: TieredBlockstore, cid: CID) -> object:
    try:
        return store.get(cid)
    except TorchIPFSError as error:
        return error
