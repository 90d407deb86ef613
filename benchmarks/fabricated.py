"""A manifest far larger than any disk here: its nodes are made when they are asked for, and every CID is a real one.

    root -> 1,465 nodes -> 2,048 shards each, of 300 to 400 rows

The shards themselves are never there; their CIDs are random.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from torch_ipfs.blockstore.base import Block, verify
from torch_ipfs.codec import dag_cbor
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import BlockNotFound, TorchIPFSError, TransportError

FANOUT = 2048
_SHARD_PREFIX = bytes((1, 0x55, 0x12, 32))
_NODE_PREFIX = bytes((1, 0x71, 0x12, 32))
_SHARD_BYTES = 20_000
_JITTER_ROWS = 32

Bytes = npt.NDArray[np.uint8]
Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Fabricated:
    """How large the manifest is."""

    num_samples: int = 10**9
    num_shards: int = 3 * 10**6

    @property
    def num_nodes(self) -> int:
        return -(-self.num_shards // FANOUT)

    def counts(self, node: int) -> Int64s:
        """Rows of the node's shards: near the mean, not all alike, and ``num_samples`` altogether."""
        shard = np.arange(node * FANOUT, min((node + 1) * FANOUT, self.num_shards), dtype=np.int64)
        counts = (shard + 1) * self.num_samples // self.num_shards - shard * self.num_samples // self.num_shards
        jitter = shard // 2 * 2_654_435_761 % _JITTER_ROWS
        paired = shard ^ 1 < self.num_shards
        return counts + np.where(paired, np.where(shard % 2 == 0, jitter, -jitter), 0)

    def node(self, node: int) -> bytes:
        """The block of one node of shards."""
        counts = self.counts(node)
        digests = np.random.Philox(key=node).random_raw(4 * len(counts)).view(np.uint8).reshape(-1, 32)
        return _shards_node({}, "arrow", digests, counts)

    def root(self, node_digests: Bytes) -> bytes:
        """The block of the root."""
        counts = np.array([self.counts(node).sum() for node in range(self.num_nodes)], dtype=np.int64)
        return _shards_node({"name": "fabricated"}, "manifest", node_digests, counts)

    def write(self, path: Path) -> CID:
        """Keep the nodes' digests in ``path``, so that a process that is measured need not hash them all first."""
        digests = [hashlib.sha256(self.node(node)).digest() for node in range(self.num_nodes)]
        array = np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, 32)
        np.save(path, array)
        return CID.of(self.root(array), "dag-cbor")


def _shards_node(fields: dict[str, Any], form: str, digests: Bytes, counts: Int64s) -> bytes:
    """A node with an entry for each of ``digests``, made without a Python object for any: entries differ in two places."""
    prefix, shards = (_NODE_PREFIX, FANOUT) if form == "manifest" else (_SHARD_PREFIX, 1)
    count_bytes = 2 if counts.max() < 2**16 else 4
    if counts.min() < 2 ** (4 * count_bytes):
        raise ValueError("the counts of a node differ in how many bytes CBOR takes for them")
    marker, largest = bytes(range(32)), 2 ** (8 * count_bytes) - 1
    entry = dag_cbor.encode(
        {"cid": CID.from_bytes(prefix + marker), "count": largest, "bytes": shards * _SHARD_BYTES, "format": form}
    )
    digest_at, count_at = entry.index(marker), entry.index(largest.to_bytes(count_bytes, "big"), entry.index(b"ecount"))
    entries = np.tile(np.frombuffer(entry, dtype=np.uint8), (len(counts), 1))
    entries[:, digest_at : digest_at + 32] = digests
    entries[:, count_at : count_at + count_bytes] = (
        counts.astype(f">u{count_bytes}").view(np.uint8).reshape(-1, count_bytes)
    )
    head = dag_cbor.encode(fields | {"shards": [0] * len(counts)})[: -len(counts)]
    return head + entries.tobytes()


class FabricatedBlockstore:
    """A Blockstore of the root and the nodes, each made, and verified, when it is read.

    :param digests: what :meth:`Fabricated.write` kept.
    """

    source = "fabricated"

    def __init__(self, size: Fabricated, digests: Bytes) -> None:
        self._size = size
        self._nodes = {_NODE_PREFIX[2:] + digest.tobytes(): node for node, digest in enumerate(digests)}
        self._root = size.root(digests)
        self.root = CID.of(self._root, "dag-cbor")
        self.nodes_read = self.bytes_read = 0
        self.making_s = 0.0
        """Seconds that it took to make what was read: a store that holds it would not need them."""

    def get(self, cid: CID) -> Block:
        if cid == self.root:
            self.bytes_read += len(self._root)
            return self._root
        node = self._nodes.get(cid.multihash)
        if node is None:
            raise BlockNotFound("only nodes of the manifest are made", cid=cid, source=self.source)
        start_s = time.perf_counter()
        data = self._size.node(node)
        self.making_s += time.perf_counter() - start_s
        verify(cid, data, self.source)
        self.nodes_read += 1
        self.bytes_read += len(data)
        return data

    def get_many(self, cids: Iterable[CID], *, return_exceptions: bool = False) -> Iterator[Block | TorchIPFSError]:
        for cid in cids:
            try:
                yield self.get(cid)
            except TorchIPFSError as error:
                if not return_exceptions:
                    raise
                yield error

    def has(self, cid: CID) -> bool:
        return cid == self.root or cid.multihash in self._nodes

    def put(self, cid: CID, data: Block) -> None:
        raise TransportError(f"{len(data)} bytes cannot be put here: blocks are made", cid=cid, source=self.source)

    def put_many(self, blocks: Iterable[tuple[CID, Block]]) -> None:
        for cid, data in blocks:
            self.put(cid, data)

    def cids(self) -> Iterator[CID]:
        yield self.root
        yield from (CID.from_multihash("dag-cbor", multihash) for multihash in self._nodes)

    def close(self) -> None:
        """Nothing is held."""
