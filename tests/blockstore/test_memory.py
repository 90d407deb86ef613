"""The store in a dict."""

from __future__ import annotations

import itertools
import sys
import threading

import pytest

from torch_ipfs.blockstore.memory import MemoryBlockstore
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import HashMismatch
from torch_ipfs.testing import BlockstoreConformance


class TestMemoryBlockstore(BlockstoreConformance):
    shared = False

    @pytest.fixture
    def store(self) -> MemoryBlockstore:
        return MemoryBlockstore(self.blocks())


def test_takes_a_mapping() -> None:
    assert MemoryBlockstore({CID.of(b"a"): b"a"}).get(CID.of(b"a")) == b"a"


def test_what_it_starts_with_is_verified() -> None:
    with pytest.raises(HashMismatch):
        MemoryBlockstore([(CID.of(b"a"), b"b")])


def test_it_is_listed_while_another_thread_puts() -> None:
    store, over = (
        MemoryBlockstore((CID.of(data), data) for data in map(b"%d".__mod__, range(20_000))),
        threading.Event(),
    )

    def put() -> None:
        for data in map(b"new %d".__mod__, itertools.count()):
            store.put(CID.of(data), data)
            if over.is_set():
                return

    thread, interval_s = threading.Thread(target=put), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        thread.start()
        for _ in range(10):
            assert len(list(store.cids())) >= 20_000
    finally:
        over.set()
        thread.join()
        sys.setswitchinterval(interval_s)
