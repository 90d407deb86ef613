"""Small datasets in both layouts, gateways that serve them, and what a reader of them has to see."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

import torch_ipfs
from tests.network.dags import as_car
from tests.network.staged import Asked, Connection, Service
from torch_ipfs.blockstore.memory import MemoryBlockstore
from torch_ipfs.codec import dag_cbor
from torch_ipfs.codec.cid import CID

NUM_SAMPLES = 120


@dataclass(frozen=True)
class Stored:
    """A dataset and its blocks.

    :param victim: the block that faults are about: a packed shard, or a sample.
    :param victims: the samples in it.
    """

    root: CID
    blocks: dict[CID, bytes]
    victim: CID
    victims: list[int]


def stored(layout: Any, num_samples: int = NUM_SAMPLES) -> Stored:
    """``num_samples`` samples of about 100 bytes; packed in shards of some ten of them, or linked by one node."""
    store = MemoryBlockstore()
    columns = {"x": np.arange(num_samples), "y": np.arange(12 * num_samples).reshape(num_samples, 12)}
    root = torch_ipfs.write_dataset(columns, store, layout=layout, shard_bytes=2048)
    blocks = {cid: bytes(store.get(cid)) for cid in (root, *store.cids())}
    node: dict[str, Any] = dag_cbor.decode(blocks[root])
    if layout == "samples":
        return Stored(root, blocks, node["samples"][50], [50])
    counts = np.cumsum([0, *(shard["count"] for shard in node["shards"])])
    return Stored(root, blocks, node["shards"][2]["cid"], list(range(counts[2], counts[3])))


def serving_cars(data: Stored, car_of: Callable[[CID], bytes] | None = None) -> Service:
    """A gateway that does as it should, with raw blocks and CARs.

    :param car_of: makes the CARs, in place of those that hold what the root links to.
    """
    by_multihash = {cid.multihash: block for cid, block in data.blocks.items()}
    make = car_of or (lambda cid: as_car(cid, in_order(data)))

    def service(asked: Asked, connection: Connection) -> None:
        cid = CID.parse(asked.cid)
        block = by_multihash.get(cid.multihash)
        if block is None:
            connection.answer(b"", 404)
        elif is_car(asked):
            connection.answer(make(cid), headers={"Content-Type": "application/vnd.ipld.car"})
        else:
            connection.answer(block)

    return service


def in_order(data: Stored) -> list[tuple[CID, bytes]]:
    """The root and the blocks that it links to, in its order."""
    by_multihash = {cid.multihash: block for cid, block in data.blocks.items()}
    links: Iterable[CID] = dag_cbor.decode(data.blocks[data.root]).get("samples", ())
    return [(data.root, data.blocks[data.root]), *((cid, by_multihash[cid.multihash]) for cid in links)]


def is_car(asked: Asked) -> bool:
    """Whether a gateway was asked for a CAR."""
    return "format=car" in asked.target


def read(root: CID, source: Any, **options: Any) -> list[int]:
    """One epoch's samples by their numbers, in order; each is looked at whole."""
    seen: list[int] = []
    for batch in torch_ipfs.IPFSIterableDataset(root, source, batch_size=8, **options):
        seen += batch["x"].tolist()
        assert (batch["y"][:, 0] == 12 * batch["x"]).all()
    return seen
