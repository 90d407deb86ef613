"""The manifest that is made on demand is one that anybody could have written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.fabricated import FANOUT, Fabricated, FabricatedBlockstore
from torch_ipfs.blockstore.base import Blockstore, verify
from torch_ipfs.codec import dag_cbor
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import BlockNotFound
from torch_ipfs.manifest.tree import Manifest

SIZE = Fabricated(num_samples=1_500_000, num_shards=4_500)


@pytest.fixture
def store(tmp_path: Path) -> FabricatedBlockstore:
    SIZE.write(tmp_path / "digests.npy")
    return FabricatedBlockstore(SIZE, np.load(tmp_path / "digests.npy"))


def test_every_block_is_what_its_cid_says_and_canonical_dag_cbor(store: FabricatedBlockstore) -> None:
    assert isinstance(store, Blockstore)
    cids = list(store.cids())
    assert len(cids) == 1 + SIZE.num_nodes
    for cid in cids:
        block = store.get(cid)
        verify(cid, block, store.source)
        assert dag_cbor.encode(dag_cbor.decode(block)) == block


def test_its_shards_hold_all_samples(store: FabricatedBlockstore) -> None:
    manifest = Manifest(store, store.root)
    assert manifest.num_samples == SIZE.num_samples
    leaves, _, _ = manifest.locate(np.arange(SIZE.num_samples))
    assert len(leaves) == len({leaf.cid for leaf in leaves}) == SIZE.num_shards
    assert sum(leaf.count for leaf in leaves) == SIZE.num_samples
    assert len({leaf.count for leaf in leaves}) > 10


def test_the_whole_size_is_what_the_benchmark_claims() -> None:
    size = Fabricated()
    assert sum(int(size.counts(node).sum()) for node in range(size.num_nodes)) == 10**9
    assert sum(len(size.counts(node)) for node in range(size.num_nodes)) == 3 * 10**6
    assert len(size.counts(0)) == FANOUT


def test_a_shard_is_not_there(store: FabricatedBlockstore) -> None:
    with pytest.raises(BlockNotFound):
        store.get(CID.of(b"a shard"))
