"""Claims on blocks: one holder over all processes and threads, and nobody who dies or stops holds for long."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.blockstore.staged_stores import DEADLINE_S, blocks_of, children, join
from torch_ipfs.blockstore import single_flight
from torch_ipfs.blockstore.single_flight import claims_at

A, B, C = (cid.multihash for cid, _ in blocks_of(3))


def hold(path: Path, multihashes: list[bytes], ready: Any, until: Any) -> None:
    claims = claims_at(path)
    assert all(claims.claim(multihash) for multihash in multihashes)
    ready.set()
    until.wait(600)


@pytest.fixture
def ready() -> Any:
    return multiprocessing.get_context("fork").Event()


@pytest.fixture
def until() -> Any:
    return multiprocessing.get_context("fork").Event()


def never() -> bool:
    return False


def test_one_claims_a_block_at_a_time(tmp_path: Path) -> None:
    claims = claims_at(tmp_path / "locks")
    (tmp_path / "link").symlink_to(tmp_path)
    assert claims is claims_at(tmp_path / "locks") is claims_at(tmp_path / "link" / "locks")
    assert claims.claim(A)
    assert not claims.claim(A)
    assert claims.claim(B)
    claims.release(A)
    assert claims.claim(A)
    claims.release(C)  # which nobody claimed


@pytest.mark.parametrize("how", ["release", "exit", "kill"])
def test_a_claim_holds_over_processes_until_it_is_let_go_of(tmp_path: Path, ready: Any, until: Any, how: str) -> None:
    path = tmp_path / "locks"
    claims = claims_at(path)
    with children((hold, (path, [A, B], ready, until))) as [holder]:
        assert ready.wait(DEADLINE_S)
        assert not claims.claim(A)
        assert claims.claim(C)
        started = time.monotonic()
        if how == "kill":
            holder.kill()
        else:
            until.set()
        assert claims.claim_within(A, DEADLINE_S, never)
        assert claims.claim_within(B, DEADLINE_S, never)
        assert time.monotonic() - started < 20.0
    for multihash in (A, B, C):
        claims.release(multihash)


def test_a_claim_that_is_held_when_a_process_forks_is_the_parents(tmp_path: Path, ready: Any, until: Any) -> None:
    path = tmp_path / "locks"
    claims = claims_at(path)
    assert claims.claim(A)
    with children((hold, (path, [B], ready, until))) as started:
        assert ready.wait(DEADLINE_S)
        assert not claims.claim(B)
        claims.release(A)
        assert claims.claim(A)
        until.set()
        join(started)
        assert claims.claim(B)
    claims.release(A)
    claims.release(B)


def test_who_waits_is_told_when_the_block_has_arrived(tmp_path: Path, ready: Any, until: Any) -> None:
    path = tmp_path / "locks"
    looks = iter([False, False, True])
    with children((hold, (path, [A], ready, until))):
        assert ready.wait(DEADLINE_S)
        assert not claims_at(path).claim_within(A, DEADLINE_S, lambda: next(looks))


def test_a_stopped_process_is_waited_for_once(tmp_path: Path, ready: Any, until: Any) -> None:
    path = tmp_path / "locks"
    claims = claims_at(path)
    with children((hold, (path, [A, B], ready, until))) as [holder]:
        assert ready.wait(DEADLINE_S)
        assert holder.pid is not None
        os.kill(holder.pid, signal.SIGSTOP)
        waits = []
        for multihash in (A, B, A):
            started = time.monotonic()
            assert not claims.claim_within(multihash, 1.0, never)
            waits.append(time.monotonic() - started)
        assert waits[0] >= 1.0
        assert max(waits[1:]) < 0.9
        os.kill(holder.pid, signal.SIGCONT)
        holder.kill()
        assert claims.claim_within(C, 0.4, never)
    claims.release(C)


def test_a_slow_process_beside_a_stopped_one_is_waited_for(tmp_path: Path, ready: Any, until: Any) -> None:
    path = tmp_path / "locks"
    claims = claims_at(path)
    other_ready = multiprocessing.get_context("fork").Event()
    never_set = multiprocessing.get_context("fork").Event()
    with children((hold, (path, [A], ready, never_set)), (hold, (path, [B], other_ready, until))) as [stopped, _]:
        assert ready.wait(DEADLINE_S)
        assert other_ready.wait(DEADLINE_S)
        assert stopped.pid is not None
        os.kill(stopped.pid, signal.SIGSTOP)
        assert not claims.claim_within(A, 0.1, never)
        threading.Timer(0.2, until.set).start()
        assert claims.claim_within(B, DEADLINE_S, never)
    claims.release(B)


def test_holders_that_the_system_does_not_name_are_one(
    tmp_path: Path, ready: Any, until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(single_flight, "_FLOCK", {})
    claims = claims_at(tmp_path / "locks")
    with children((hold, (tmp_path / "locks", [A, B], ready, until))):
        assert ready.wait(DEADLINE_S)
        assert not claims.claim_within(A, 0.2, never)
        started = time.monotonic()
        assert not claims.claim_within(B, DEADLINE_S, never)
        assert time.monotonic() - started < 10.0


def test_the_lock_file_may_be_deleted_while_it_is_held(tmp_path: Path, ready: Any, until: Any) -> None:
    path = tmp_path / "cache" / "locks"
    claims = claims_at(path)
    assert claims.claim(A)
    shutil.rmtree(path.parent)
    assert not claims.claim(A)
    with children((hold, (path, [B], ready, until))):
        assert ready.wait(DEADLINE_S)
        assert not claims.claim(B)  # in the file that is there now
        claims.release(A)
        assert claims.claim(A)
    claims.release(A)


def test_the_file_is_open_only_while_a_claim_is_held(tmp_path: Path, no_leaks: None) -> None:
    claims = claims_at(tmp_path / "locks")
    for _ in range(3):
        assert claims.claim(A)
        assert claims.claim(B)
        claims.release(A)
        claims.release(B)


def test_where_nothing_can_be_locked_all_is_granted(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    claims = claims_at(tmp_path / "file" / "locks")
    assert claims.claim(A)
    assert claims.claim_within(B, DEADLINE_S, never)
    claims.release(A)
    claims.release(B)


def test_threads_wait_for_each_other(tmp_path: Path) -> None:
    claims = claims_at(tmp_path / "locks")
    held: list[int] = []
    most: list[int] = []

    def work(number: int) -> None:
        for _ in range(20):
            assert claims.claim_within(A, DEADLINE_S, never)
            held.append(number)
            most.append(len(held))
            held.remove(number)
            claims.release(A)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert most == [1] * 80
