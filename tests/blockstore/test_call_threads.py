"""Threads for calls that may be given up waiting for: what they end with."""

import threading

import pytest

from torch_ipfs.blockstore import call_threads
from torch_ipfs.blockstore.call_threads import CallThreads

DEADLINE_S = 10.0


def test_all_threads_that_have_nothing_to_do_end_when_it_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_threads, "IDLE_S", 1000.0)
    calls, begun = CallThreads("torch_ipfs-test", 8), threading.Barrier(8)
    before = set(threading.enumerate())

    def begin() -> None:
        begun.wait(DEADLINE_S)

    for _ in range(8):
        calls.submit(begin)
    threads = set(threading.enumerate()) - before
    calls.close()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert not any(thread.is_alive() for thread in threads)
    made = threading.Event()
    calls.submit(made.set)  # as after a close that was not the end
    assert made.wait(DEADLINE_S)
    calls.close()
