"""The store in a dict."""

from __future__ import annotations

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
