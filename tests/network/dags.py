"""A small DAG for tests of what walks one."""

from __future__ import annotations

import io
from collections.abc import Sequence

from tests.network.gateways import block
from torch_ipfs.codec import car, dag_cbor
from torch_ipfs.codec.cid import CID


def dag(leaves: int = 20, leaf_bytes: int = 1000) -> tuple[CID, list[tuple[CID, bytes]]]:
    """A DAG-CBOR root, two nodes below it, raw leaves below those: the root's CID, and the blocks depth first."""
    blocks = [block(number, leaf_bytes) for number in range(leaves)]
    halves = [blocks[: leaves // 2], blocks[leaves // 2 :]]
    nodes = [dag_cbor.encode({"links": [cid for cid, _ in half]}) for half in halves]
    cids = [CID.of(node, "dag-cbor") for node in nodes]
    root = dag_cbor.encode({"nodes": cids})
    ordered = [(CID.of(root, "dag-cbor"), root)]
    for cid, node, half in zip(cids, nodes, halves, strict=True):
        ordered += [(cid, node), *half]
    return ordered[0][0], ordered


def as_car(root: CID, blocks: Sequence[tuple[CID, bytes]]) -> bytes:
    """The CARv1 of ``blocks`` in their order."""
    file = io.BytesIO()
    car.write(file, [root], blocks)
    return file.getvalue()
