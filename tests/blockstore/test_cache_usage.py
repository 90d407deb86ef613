"""The journal of how many bytes a cache holds, written by many processes without a lock."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.blockstore.staged_stores import children, join
from torch_ipfs.blockstore import cache_usage
from torch_ipfs.blockstore.cache_eviction import CacheEviction
from torch_ipfs.blockstore.cache_files import CacheFiles
from torch_ipfs.blockstore.cache_usage import CacheUsage
from torch_ipfs.blockstore.single_flight import claims_at


def usage_of(folder: Path) -> CacheUsage:
    return CacheUsage(CacheFiles(folder), claims_at(folder / "locks"))


def block(folder: Path, number: int, size_bytes: int = 100) -> str:
    """Put a file in place that nobody counted."""
    name = f"{number:040x}"
    CacheFiles(folder).write(name, bytes(size_bytes))
    return name


def test_the_sum_is_that_of_all_who_count(tmp_path: Path) -> None:
    one, other = usage_of(tmp_path), usage_of(tmp_path)
    assert one.add(5) == 5
    assert other.add(7) == 12
    assert one.add(-2) == 10
    assert other.total() == usage_of(tmp_path).total() == 10


def count_up_and_down(folder: Path, times: int) -> None:
    usage = usage_of(folder)
    for _ in range(times):
        usage.add(3)
        usage.add(-2)


def test_processes_and_threads_lose_nothing(tmp_path: Path) -> None:
    usage = usage_of(tmp_path)
    with children(*[(count_up_and_down, (tmp_path, 300))] * 4) as started:
        threads = [threading.Thread(target=lambda: [usage.add(1) for _ in range(300)]) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        join(started)
    assert usage.total() == usage_of(tmp_path).total() == 4 * 300 + 3 * 300


def test_those_who_begin_a_journal_at_once_begin_one(tmp_path: Path) -> None:
    for round_ in range(10):
        folder = tmp_path / str(round_)
        with children(*[(count_up_and_down, (folder, 5))] * 6) as started:
            join(started)
        # The first of them may have counted journals that the others were about to put in place.
        too_much = usage_of(folder).total() - 6 * 5
        assert too_much in range(0, 16 * 6, 16)


def test_a_journal_that_grows_long_is_replaced_by_its_sum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_usage, "LONGEST_JOURNAL_BYTES", 4000)
    usage = usage_of(tmp_path)
    with children(*[(count_up_and_down, (tmp_path, 500))] * 4) as started:
        join(started)
    # Each replacement may count what came at that moment twice: too high rather than too low.
    assert 2000 <= usage.total() <= 2000 + 20 * 4 * 5
    assert (tmp_path / "usage").stat().st_size <= 4200
    assert usage_of(tmp_path).total() == usage.total()


def test_what_is_there_is_counted_where_there_is_no_journal(tmp_path: Path) -> None:
    for number in range(10):
        block(tmp_path, number)
    usage = usage_of(tmp_path)
    assert usage.total() == 1000
    (tmp_path / "usage").unlink()
    assert usage.add(1) == 1001
    shutil.rmtree(tmp_path)
    assert usage.add(50) == 50


@pytest.mark.parametrize("damage", [b"", b"1234567", b"12345678abc", b"12345678" + bytes(8) + b"x"])
def test_a_journal_that_was_cut_is_begun_anew(tmp_path: Path, damage: bytes) -> None:
    block(tmp_path, 1)
    usage = usage_of(tmp_path)
    usage.add(10_000)
    (tmp_path / "usage").write_bytes(damage)
    assert usage.total() == 100
    assert usage.add(5) == 105
    assert usage_of(tmp_path).total() == 105


def test_a_recount_puts_right_what_dead_processes_left(tmp_path: Path) -> None:
    for number in range(10):
        block(tmp_path, number)
    usage = usage_of(tmp_path)
    usage.add(5000)
    other = usage_of(tmp_path)
    other.total()
    usage.recount(CacheFiles(tmp_path).count, 0)
    assert usage.total() == other.total() == 1000
    usage.recount(CacheFiles(tmp_path).count, 300)
    assert usage.total() == 1300


def test_what_comes_while_it_is_counted_counts(tmp_path: Path) -> None:
    block(tmp_path, 1)
    usage, other = usage_of(tmp_path), usage_of(tmp_path)
    usage.add(700)

    def count_slowly() -> int:
        counted = CacheFiles(tmp_path).count()
        other.add(40)
        other.add(-100)
        return counted

    usage.recount(count_slowly, 0)
    assert usage.total() == 140


def test_one_recounts_at_a_time(tmp_path: Path) -> None:
    usage = usage_of(tmp_path)
    usage.add(5000)
    claims = claims_at(tmp_path / "locks")
    assert claims.claim(b"the blocks are counted")
    usage.recount(CacheFiles(tmp_path).count, 0)
    assert usage.total() == 5000
    claims.release(b"the blocks are counted")
    usage.recount(CacheFiles(tmp_path).count, 0)
    assert usage.total() == 0


def test_a_journal_that_cannot_be_made_is_an_oserror(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="Not a directory"):
        usage_of(tmp_path / "file" / "cache").total()


# Making room


@pytest.fixture
def gone() -> list[str]:
    return []


def eviction_of(folder: Path, gone: list[str]) -> CacheEviction:
    return CacheEviction(CacheFiles(folder), usage_of(folder), gone.append)


def test_room_for_small_blocks_is_counted_ahead_and_given_back(tmp_path: Path, gone: list[str]) -> None:
    eviction = eviction_of(tmp_path, gone)
    for _ in range(100):
        assert eviction.reserve(100, 10**9)
        eviction.written(100)
    assert (tmp_path / "usage").stat().st_size == 8 + 8 + 8
    assert eviction.total() == 10_000
    eviction.give_back()
    assert usage_of(tmp_path).total() == 10_000


def test_a_block_that_fills_the_cache_takes_the_room_that_was_counted_ahead(tmp_path: Path, gone: list[str]) -> None:
    eviction = eviction_of(tmp_path, gone)
    assert eviction.reserve(100, 10**5)
    block(tmp_path, 0)
    eviction.written(100)
    assert eviction.reserve(10**5, 10**5)
    assert len(gone) == 1
    assert eviction.total() == 10**5


def test_a_sum_below_nothing_is_counted_again(tmp_path: Path) -> None:
    block(tmp_path, 0)
    usage = usage_of(tmp_path)
    assert usage.total() == 100
    usage.add(-5000)
    assert usage.total() == 100


def test_the_oldest_go_and_what_was_used_since_stays(tmp_path: Path, gone: list[str]) -> None:
    names = [block(tmp_path, number) for number in range(40)]
    files = CacheFiles(tmp_path)
    for age, name in enumerate(names):
        os.utime(files.path(name), ns=(age + 1, 1))
    eviction = eviction_of(tmp_path, gone)
    assert eviction.reserve(100, 4000)
    assert gone == names[:1]
    os.utime(files.path(names[1]), ns=(10**6, 1))
    os.utime(files.path(names[3]), ns=(10**6, 1))
    for _ in range(3):
        assert eviction.reserve(100, 4000)
    assert gone == [names[0], names[2], names[4], names[5]]
    assert usage_of(tmp_path).total() == 4000


def test_another_process_may_have_removed_them(tmp_path: Path, gone: list[str]) -> None:
    for number in range(40):
        block(tmp_path, number)
    one, other = eviction_of(tmp_path, gone), eviction_of(tmp_path, gone)
    for number in range(100, 130):
        eviction = (one, other)[number % 2]
        assert eviction.reserve(100, 4000)
        block(tmp_path, number)
        eviction.written(100)
    assert len(gone) == len(set(gone)) == 30
    assert usage_of(tmp_path).total() == CacheFiles(tmp_path).count() == 4000


def test_there_is_no_room_for_what_others_are_writing(tmp_path: Path, gone: list[str]) -> None:
    one, other = eviction_of(tmp_path, gone), eviction_of(tmp_path, gone)
    assert one.reserve(900, 1000)
    (tmp_path / "tmp" / "half-written").write_bytes(bytes(900))
    assert not other.reserve(200, 1000)
    assert usage_of(tmp_path).total() == 900


def test_walks_have_an_end(tmp_path: Path, gone: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(10):
        block(tmp_path, number)
    monkeypatch.setattr(CacheFiles, "remove", lambda *_: False)  # a folder of somebody else's
    assert not eviction_of(tmp_path, gone).reserve(100, 500)


def write_and_stop(folder: Path, step: int, ready: Any) -> None:
    """Write a block, and stop for good before the given system call."""
    calls = iter(range(100))

    def stalling(real: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            if next(calls) == step:
                ready.set()
                threading.Event().wait()
            return real(*arguments, **options)

        return call

    for name in ("open", "write", "replace", "close", "pread"):
        setattr(os, name, stalling(getattr(os, name)))
    eviction = eviction_of(folder, [])
    eviction.reserve(100, 10**6)
    CacheFiles(folder).write(f"{step:040x}", bytes(100))
    ready.set()
    threading.Event().wait()


@pytest.mark.parametrize("step", range(0, 20, 2))
def test_a_process_that_stops_anywhere_holds_nobody_up_and_leaves_no_sum_too_low(tmp_path: Path, step: int) -> None:
    import multiprocessing

    ready = multiprocessing.get_context("fork").Event()
    with children((write_and_stop, (tmp_path, step, ready))):
        assert ready.wait(30)
        usage = usage_of(tmp_path)
        assert usage.add(1000) >= 1000 + sum(entry.size_bytes for entry in CacheFiles(tmp_path).walk())
        usage.recount(CacheFiles(tmp_path).count, 1000)
        assert usage.total() >= 1000
        assert eviction_of(tmp_path, []).reserve(5000, 10**6)
