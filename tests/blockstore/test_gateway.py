from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.network.gateways import CID_0, DATA_0, block, gateway, holding
from tests.network.staged import Asked, Connection, forward, serving
from torch_ipfs.blockstore.base import Blockstore
from torch_ipfs.blockstore.cached import CachedBlockstore
from torch_ipfs.blockstore.gateway import GatewayBlockstore
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import TransportError
from torch_ipfs.testing import BlockstoreConformance


@pytest.mark.kubo
class TestGatewayBlockstore(BlockstoreConformance):
    """Before a real node's gateway, with a proxy between that can forge."""

    writable = False
    listable = False
    window_bytes = 8 * 4 * 2**20  # CIDs are taken ahead; no more than the window is asked for

    def opened(self, url: str) -> Blockstore:
        return GatewayBlockstore(url, in_flight=4, retries=0)

    @pytest.fixture
    def store(self, filled_node: Callable) -> Iterator[Blockstore]:
        node = filled_node(self.blocks())
        self.forged: dict[str, bytes] = {}

        def service(asked: Asked, connection: Connection) -> None:
            if asked.cid in self.forged:
                connection.answer(self.forged[asked.cid])
            else:
                status, headers, body = forward(node.gateway, asked)
                connection.answer(body, status, headers)

        with serving(service) as proxy:
            store = self.opened(proxy.url)
            yield store
            store.close()

    def forge(self, store: Blockstore, cid: CID, data: bytes) -> None:
        self.forged[str(cid)] = data


class TestGatewayBlockstoreBehindACacheThatIsOff(TestGatewayBlockstore):
    def opened(self, url: str) -> Blockstore:
        return CachedBlockstore(super().opened(url), cache_bytes=0)


def test_a_block_is_asked_for_as_the_spec_says():
    with gateway(holding({CID_0: DATA_0})) as (store, server):
        assert store.get(CID_0) == DATA_0
    (asked,) = server.asked
    assert asked.target == f"/ipfs/{CID_0}?format=raw"
    assert asked.headers["accept"] == "application/vnd.ipld.raw"
    assert asked.headers["accept-encoding"] == "identity"


def test_has_asks_for_no_body_and_for_nothing_from_elsewhere():
    def service(asked: Asked, connection: Connection) -> None:
        connection.head(200 if asked.cid == str(CID_0) else 412, {"Content-Length": "1000"})

    with gateway(service) as (store, server):
        assert store.has(CID_0)
        assert not store.has(block(1)[0])
    assert {asked.method for asked in server.asked} == {"HEAD"}
    assert {asked.headers["cache-control"] for asked in server.asked} == {"only-if-cached"}


def test_connections_are_kept():
    blocks = dict(block(i) for i in range(50))
    with gateway(holding(blocks)) as (store, server):
        assert [store.get(cid) for cid in blocks] == list(blocks.values())
        assert server.connections == 1


def test_what_it_counts():
    blocks = dict(block(i) for i in range(10))
    with gateway(holding(blocks)) as (store, _):
        list(store.get_many(blocks))
        assert store.stats() == {"requests": 10, "retries": 0, "blocks": 10, "bytes": 10_000, "hash_mismatches": 0}


def test_it_reads_only():
    store = GatewayBlockstore("http://127.0.0.1:1")
    for write in (lambda: store.put(CID_0, DATA_0), lambda: store.put_many([(CID_0, DATA_0)]), store.cids):
        with pytest.raises(TransportError):
            write()
