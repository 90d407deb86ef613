"""The tree of nodes above a dataset's leaves."""

from __future__ import annotations

from typing import Any

import pytest

from torch_ipfs.blockstore.memory import MemoryBlockstore
from torch_ipfs.codec import dag_cbor
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import OptionError
from torch_ipfs.manifest.build import FANOUT, MAX_BLOCK_BYTES, ManifestBuilder
from torch_ipfs.manifest.tree import Manifest


def built(num_leaves: int, store: MemoryBlockstore) -> CID:
    builder = ManifestBuilder(store.put, "sha2-256")
    for i in range(num_leaves):
        builder.add(CID.of(str(i).encode()), count=i % 3, size_bytes=10, form="arrow")
    return builder.finish({"name": "leaves"})


def levels(store: MemoryBlockstore, cid: CID, depth: int = 0) -> list[tuple[int, int, int]]:
    """Depth, children and bytes of each node."""
    block = store.get(cid)
    node = dag_cbor.decode(block)
    found = [(depth, len(node["shards"]), len(block))]
    for entry in node["shards"]:
        if entry["format"] == "manifest":
            found += levels(store, entry["cid"], depth + 1)
    return found


@pytest.mark.parametrize("num_leaves", [0, 1, FANOUT, FANOUT + 1, 3 * FANOUT + 7])
def test_leaves_are_in_order_at_one_depth_below_small_nodes(num_leaves: int) -> None:
    store = MemoryBlockstore()
    root = built(num_leaves, store)
    nodes = levels(store, root)
    assert all(children <= FANOUT and size_bytes <= MAX_BLOCK_BYTES for _, children, size_bytes in nodes)
    depth = max(depth for depth, _, _ in nodes)
    assert depth == (num_leaves > FANOUT)
    assert sum(children for at, children, _ in nodes if at == depth) == num_leaves
    manifest = Manifest(store, root)
    assert manifest.num_samples == sum(i % 3 for i in range(num_leaves))
    assert manifest.metadata == {"name": "leaves"}


def test_counts_and_bytes_are_sums() -> None:
    store = MemoryBlockstore()
    root: Any = dag_cbor.decode(store.get(built(FANOUT + 1, store)))
    assert [(entry["count"], entry["bytes"]) for entry in root["shards"]] == [
        (sum(i % 3 for i in range(FANOUT)), 10 * FANOUT),
        (FANOUT % 3, 10),
    ]


def test_bytes_that_are_not_known_are_not_told() -> None:
    store = MemoryBlockstore()
    builder = ManifestBuilder(store.put, "sha2-256")
    builder.add(CID.of(b"x"), count=1, size_bytes=None, form="arrow")
    (entry,) = dag_cbor.decode(store.get(builder.finish({})))["shards"]
    assert entry == {"cid": CID.of(b"x"), "count": 1, "format": "arrow"}


def test_a_lone_small_leaf_is_the_root() -> None:
    store = MemoryBlockstore()
    root = ManifestBuilder(store.put, "sha2-256").finish({"name": "n"}, {"data": [1, 2]})
    assert dag_cbor.decode(store.get(root)) == {"name": "n", "data": [1, 2]}


def test_a_lone_leaf_too_large_beside_the_rest_is_a_leaf() -> None:
    store = MemoryBlockstore()
    leaf = {"data": ["x" * (MAX_BLOCK_BYTES - 100)]}
    root = ManifestBuilder(store.put, "sha2-256").finish({"name": "n" * 200}, leaf)
    (entry,) = dag_cbor.decode(store.get(root))["shards"]
    assert (entry["format"], entry["count"]) == ("manifest", 1)
    assert dag_cbor.decode(store.get(entry["cid"])) == leaf


def test_a_root_is_one_block() -> None:
    with pytest.raises(OptionError, match="the root takes"):
        ManifestBuilder(MemoryBlockstore().put, "sha2-256").finish({"description": "x" * MAX_BLOCK_BYTES})
