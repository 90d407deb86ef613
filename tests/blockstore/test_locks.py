"""Locks among threads and among processes."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from torch_ipfs.blockstore.file_lock import file_lock
from torch_ipfs.blockstore.process_lock import ProcessLock
from torch_ipfs.errors import TransportError

DEADLINE_S = 30.0


def test_threads_exclude_each_other() -> None:
    lock, inside, most = ProcessLock(), 0, 0

    def work(_: int) -> None:
        nonlocal inside, most
        for _ in range(200):
            with lock:
                inside += 1
                most = max(most, inside)
                inside -= 1

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert (inside, most) == (0, 1)


def test_a_lock_held_at_a_fork_is_free_in_the_child() -> None:
    lock, held, release = ProcessLock(), threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            release.wait(DEADLINE_S)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(DEADLINE_S)
    try:
        child = os.fork()
        if child == 0:
            signal.alarm(10)
            with lock:
                os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        release.set()
        holder.join()


def test_a_pickled_lock_is_a_fresh_one() -> None:
    lock = ProcessLock()
    with lock, ThreadPoolExecutor(1) as another:
        assert not another.submit(lock.acquire, blocking=False).result()
        assert another.submit(pickle.loads(pickle.dumps(lock)).acquire, blocking=False).result()


@pytest.mark.parametrize(
    ("first", "second", "both"), [(True, True, True), (True, False, False), (False, True, False), (False, False, False)]
)
def test_a_file_lock_is_shared_or_exclusive(tmp_path: Path, *, first: bool, second: bool, both: bool) -> None:
    path = str(tmp_path / "lock")
    with file_lock(path, shared=first, timeout_s=0):
        if both:
            with file_lock(path, shared=second, timeout_s=0):
                pass
        else:
            with pytest.raises(TransportError, match="try again"), file_lock(path, shared=second, timeout_s=0):
                pass
    with file_lock(path, shared=False, timeout_s=0):
        pass


def hold_lock(path: str, held: object) -> None:
    with file_lock(path, shared=False, timeout_s=DEADLINE_S):
        held.set()  # type: ignore[attr-defined]
        time.sleep(DEADLINE_S)


def test_a_killed_holder_lets_go(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    context = multiprocessing.get_context("fork")
    held = context.Event()
    holder = context.Process(target=hold_lock, args=(path, held))
    holder.start()
    try:
        assert held.wait(DEADLINE_S)
        with pytest.raises(TransportError), file_lock(path, shared=True, timeout_s=0):
            pass
    finally:
        holder.kill()
        holder.join()
    with file_lock(path, shared=True, timeout_s=DEADLINE_S):
        pass
