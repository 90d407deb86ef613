from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.blockstore.staged_stores import StagedStore, blocks_of
from tests.network.gateways import DEADLINE_S
from torch_ipfs.blockstore.block_files import BlockFiles
from torch_ipfs.blockstore.local import LocalBlockstore
from torch_ipfs.codec.cid import CID


def path_of(store: LocalBlockstore, cid: CID) -> Path:
    """Where a local store has a block."""
    return Path(BlockFiles(store.source, fsync=False).path_of(cid.multihash))


@pytest.fixture
def two() -> tuple[StagedStore, StagedStore]:
    """Sources that have the same hundred blocks."""
    return StagedStore(blocks_of(100), "first"), StagedStore(blocks_of(100), "second")


@pytest.fixture
def in_time() -> Iterator[None]:
    """Whatever was staged, the test comes to its end."""
    start = time.monotonic()
    yield
    assert time.monotonic() - start < DEADLINE_S
