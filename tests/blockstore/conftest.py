from __future__ import annotations

import pytest

from tests.blockstore.staged_stores import StagedStore, blocks_of


@pytest.fixture
def two() -> tuple[StagedStore, StagedStore]:
    """Sources that have the same hundred blocks."""
    return StagedStore(blocks_of(100), "first"), StagedStore(blocks_of(100), "second")
