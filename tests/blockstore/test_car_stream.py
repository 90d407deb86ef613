from __future__ import annotations

import gzip
import itertools
import random
import time

import pytest

from tests.network.dags import as_car, dag
from tests.network.gateways import DEADLINE_S, block, gateway
from tests.network.nodes import KuboNode
from tests.network.staged import Asked, Connection
from torch_ipfs.blockstore.gateway import GatewayBlockstore
from torch_ipfs.blockstore.kubo import KuboBlockstore
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import (
    BlockNotFound,
    BlockTooLarge,
    HashMismatch,
    TorchIPFSError,
    TransportError,
)

ROOT, BLOCKS = dag()
CAR = as_car(ROOT, BLOCKS)


pytestmark = pytest.mark.usefixtures("in_time")


@pytest.mark.kubo
@pytest.mark.parametrize("leaves", [(20, 1000), (2000, 100), (40, 2**20)])
def test_a_dag_from_a_real_gateway(empty_node: KuboNode, leaves: tuple[int, int]):
    root, blocks = dag(*leaves)
    node = KuboBlockstore(empty_node.rpc)
    node.put_many(blocks)
    store = GatewayBlockstore(empty_node.gateway)
    assert list(store.get_car(root)) == blocks
    assert list(store.get_car(root, "block")) == blocks[:1]
    node.close()
    store.close()


@pytest.mark.kubo
def test_what_a_real_gateway_does_not_have(empty_node: KuboNode):
    """It sends a CAR without blocks, or cuts it, under status 200."""
    node = KuboBlockstore(empty_node.rpc)
    node.put_many(BLOCKS[:-1])
    store = GatewayBlockstore(empty_node.gateway, retries=0)
    got: list[tuple[CID, bytes]] = []
    with pytest.raises((TransportError, BlockNotFound)):
        got += store.get_car(ROOT)
    with pytest.raises((TransportError, BlockNotFound)):
        got += store.get_car(block(12345)[0])
    node.close()
    store.close()


def test_a_car_is_asked_for_as_the_spec_says():
    with gateway(lambda _, c: c.answer(CAR)) as (store, server):
        assert list(store.get_car(ROOT, "all")) == BLOCKS
        assert list(store.get_car(ROOT, "entity")) == BLOCKS
    assert [asked.target for asked in server.asked] == [
        f"/ipfs/{ROOT}?format=car&dag-scope=all",
        f"/ipfs/{ROOT}?format=car&dag-scope=entity",
    ]
    assert server.asked[0].headers["accept"] == "application/vnd.ipld.car; version=1; order=dfs; dups=n"


def test_order_duplicates_extras_and_roots_do_not_matter():
    shuffled = [*BLOCKS, *BLOCKS[:5], block(12345)]
    random.Random(0).shuffle(shuffled)
    with gateway(lambda _, c: c.answer(as_car(block(0)[0], shuffled))) as (store, _):
        assert list(store.get_car(ROOT)) == shuffled


def test_every_cut_is_noticed():
    """At a block's boundary what came is a valid CAR, and all that came is right."""
    boundaries = [len(as_car(ROOT, BLOCKS[:count])) for count in range(len(BLOCKS))]
    cuts = sorted({*range(0, len(CAR), 397), *boundaries})
    left = list(cuts)
    with gateway(lambda _, c: c.answer(CAR[: left.pop(0)])) as (store, _):
        for cut in cuts:
            got: list[tuple[CID, bytes]] = []
            with pytest.raises(TransportError, match="CAR"):
                got.extend(store.get_car(ROOT))
            assert got == BLOCKS[: sum(end <= cut for end in boundaries[1:])]


@pytest.mark.parametrize("end", ["cut", "reset", "silence"])
def test_a_stream_that_breaks_off(end: str):
    def service(_: Asked, connection: Connection) -> None:
        connection.answer(CAR[:5000], length=len(CAR))
        getattr(connection, end)()

    with gateway(service) as (store, server):
        with pytest.raises(TransportError, match="broke off"):
            list(store.get_car(ROOT))
        assert len(server.asked) == 1


def test_a_stream_is_asked_for_again_until_it_starts():
    statuses = iter([503, 429, 200])

    def service(_: Asked, connection: Connection) -> None:
        status = next(statuses)
        connection.answer(CAR if status == 200 else b"", status)

    with gateway(service) as (store, _):
        assert list(store.get_car(ROOT)) == BLOCKS


@pytest.mark.parametrize(("status", "error"), [(404, BlockNotFound), (500, TransportError), (400, TransportError)])
def test_a_dag_that_is_not_given(status: int, error: type[TorchIPFSError]):
    with gateway(lambda _, c: c.answer(b"", status), retries=1) as (store, _), pytest.raises(error):
        list(store.get_car(ROOT))


def test_a_drip_is_bounded_block_by_block():
    def service(_: Asked, connection: Connection) -> None:
        connection.head(200, {"Content-Length": str(len(CAR))})
        connection.drip(CAR, 0.01)

    with gateway(service, timeout_s=0.3) as (store, _), pytest.raises(TransportError, match="too slow"):
        list(store.get_car(ROOT))


def test_a_slow_reader_is_not_a_slow_server():
    with gateway(lambda _, c: c.answer(CAR), timeout_s=0.2) as (store, _):
        got = []
        for found in store.get_car(ROOT):
            time.sleep(0.02)
            got.append(found)
        assert got == BLOCKS


def test_one_flipped_bit():
    bad = bytearray(CAR)
    bad[len(CAR) // 2] ^= 1
    with gateway(lambda _, c: c.answer(bytes(bad))) as (store, server):
        got: list[tuple[CID, bytes]] = []
        with pytest.raises((HashMismatch, TransportError)) as caught:
            got += store.get_car(ROOT)
        assert caught.value.source == server.url


def test_a_forged_block_names_itself():
    forged = [*BLOCKS[:7], (BLOCKS[7][0], b"forged"), *BLOCKS[8:]]
    with gateway(lambda _, c: c.answer(as_car(ROOT, forged))) as (store, server):
        with pytest.raises(HashMismatch) as caught:
            list(store.get_car(ROOT))
        assert (caught.value.cid, caught.value.source) == (str(BLOCKS[7][0]), server.url)


def test_a_gzip_bomb_is_not_unpacked():
    bomb = gzip.compress(CAR + bytes(2**22), 9)
    service = lambda _, c: c.answer(bomb, 200, {"Content-Encoding": "gzip"})  # noqa: E731
    with gateway(service) as (store, _), pytest.raises(TransportError, match="gzip"):
        list(store.get_car(ROOT))


@pytest.mark.parametrize("body", [b"", b"<html>oops</html>", b"\x0a" * 100, bytes(100), b"\xff" * 100, CAR[:20]])
def test_what_is_no_car(body: bytes):
    with gateway(lambda _, c: c.answer(body)) as (store, _), pytest.raises(TransportError, match="CAR"):
        list(store.get_car(ROOT))


def test_a_stream_of_unasked_blocks_is_left(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("torch_ipfs.blockstore.car_stream.MAX_UNASKED_BYTES", 2**20)
    sent = 0

    def service(_: Asked, connection: Connection) -> None:
        nonlocal sent
        connection.head(200)
        connection.send(CAR[: len(as_car(ROOT, []))])
        for number in itertools.count(1000):
            section = as_car(ROOT, [block(number, 10_000)])[len(as_car(ROOT, [])) :]
            connection.send(section)
            sent += len(section)

    with gateway(service) as (store, _), pytest.raises(TransportError, match="unasked"):
        list(store.get_car(ROOT))
    assert sent < 2**25  # the limit and what the sockets' buffers hold


def test_a_block_over_the_limit():
    root, blocks = dag(4, 100_000)
    service = lambda _, c: c.answer(as_car(root, blocks))  # noqa: E731
    with gateway(service, max_block_bytes=50_000) as (store, _), pytest.raises(BlockTooLarge):
        list(store.get_car(root))


def test_a_stream_that_is_left_ends_its_request():
    gone = []

    def service(_: Asked, connection: Connection) -> None:
        connection.answer(CAR[:5000], length=len(CAR))
        connection.silence()
        gone.append(True)

    with gateway(service, stall_s=1000.0, timeout_s=1000.0) as (store, _):
        blocks = store.get_car(ROOT)
        assert next(blocks) == BLOCKS[0]
        blocks.close()
        deadline = time.monotonic() + DEADLINE_S
        while not gone:
            assert time.monotonic() < deadline
            time.sleep(0.001)


def test_an_identity_root_needs_no_server():
    store = GatewayBlockstore("http://127.0.0.1:1")
    assert list(store.get_car(CID.of(b"inline", "raw", "identity"))) == []
