"""Datasets as people make them by hand, objects in DAG-CBOR or JSON put one by one, and loaders of them."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from torch_ipfs import MemoryBlockstore
from torch_ipfs.blockstore.base import Block, one_by_one
from torch_ipfs.codec import dag_cbor
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import TorchIPFSError
from torch_ipfs.loader import IPFSDataLoader

N = 23
"""Samples of most datasets."""


def put(store: MemoryBlockstore, value: Any) -> CID:
    data = dag_cbor.encode(value)
    cid = CID.of(data, codec="dag-cbor")
    store.put(cid, data)
    return cid


def put_json(store: MemoryBlockstore, value: Any) -> CID:
    """As ``ipfs block put`` of a JSON file does: a raw block."""
    data = json.dumps(value).encode()
    cid = CID.of(data)
    store.put(cid, data)
    return cid


def sample(i: int) -> dict[str, Any]:
    return {"features": [i / 2, -i / 4, 1.5], "labels": i}


def samples(n: int) -> list[dict[str, Any]]:
    return [sample(i) for i in range(n)]


def embedded(n: int, **fields: Any) -> tuple[MemoryBlockstore, str]:
    store = MemoryBlockstore()
    return store, str(put(store, {"name": "embedded", **fields, "data": samples(n)}))


def linked(n: int, lost: Iterable[int] = ()) -> tuple[MemoryBlockstore, str]:
    """CID-referenced samples, the CIDs as text; the samples ``lost`` were never put."""
    store, nowhere = MemoryBlockstore(), MemoryBlockstore()
    cids = [str(put(nowhere if i in set(lost) else store, sample(i))) for i in range(n)]
    return store, str(put(store, {"name": "linked", "samples": cids}))


def labels(batches: Iterable[list[dict[str, Any]]]) -> list[int]:
    return [int(item["labels"]) for batch in batches for item in batch]


class SlowStore(MemoryBlockstore):
    """Takes a while for each block, or for those that are ``late``, one at a time."""

    def __init__(
        self, blocks: Iterable[tuple[CID, Block]], seconds: float, late: Collection[CID] | None = None
    ) -> None:
        super().__init__(blocks)
        self.seconds, self.late = seconds, late

    def get(self, cid: CID) -> Block:
        if self.late is None or cid in self.late:
            time.sleep(self.seconds)
        return super().get(cid)

    def get_many(self, cids: Iterable[CID], *, return_exceptions: bool = False) -> Iterator[Block | TorchIPFSError]:
        return one_by_one(self.get, cids, return_exceptions=return_exceptions)


def slowed(store: MemoryBlockstore, seconds: float, late: Collection[CID] | None = None) -> SlowStore:
    return SlowStore([(cid, store.get(cid)) for cid in store.cids()], seconds, late)


def loader_of(store: Any, cid: Any, **options: Any) -> IPFSDataLoader:
    loader = IPFSDataLoader(store, **{"batch_size": 5, "prefetch": 0, **options})
    result = loader.load_dataset(cid)
    assert result["success"], result
    return loader
