from __future__ import annotations

from tests.network.gateways import CID_0, DATA_0, block, gateway, holding
from tests.network.staged import Asked, Connection

# What is asked


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
