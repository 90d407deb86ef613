"""A node that lets nobody in, dies, hangs, or answers what no node does."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.network.dags import as_car
from tests.network.gateways import block, options
from tests.network.nodes import KuboNode
from tests.network.staged import Asked, Connection, serving
from torch_ipfs.blockstore.fetch_options import FetchOptionsDict
from torch_ipfs.blockstore.gateway import GatewayBlockstore
from torch_ipfs.blockstore.kubo import KuboBlockstore
from torch_ipfs.errors import BlockNotFound, CodecError, TransportError
from torch_ipfs.kit import ipfs_kit

pytestmark = pytest.mark.kubo


# Authorization


@pytest.fixture
def guarded_node(own_kubo_node: KuboNode) -> KuboNode:
    paths = {"AllowedPaths": ["/api/v0"]}
    own_kubo_node.configure(
        "API.Authorizations",
        {
            "bearer": {"AuthSecret": "bearer:t0ps3cr3t", **paths},
            "basic": {"AuthSecret": "basic:user:passw0rd", **paths},
        },
    )
    own_kubo_node.start()
    return own_kubo_node


WRONG = "wr0ngt0ken"


def test_bearer_and_basic_authorization(guarded_node: KuboNode):
    cid, data = block(1)
    for store in (
        KuboBlockstore(guarded_node.rpc, bearer="t0ps3cr3t"),
        KuboBlockstore(guarded_node.rpc, basic=("user", "passw0rd")),
        KuboBlockstore(guarded_node.rpc.replace("kubo://", "kubo://user:passw0rd@")),
    ):
        store.put(cid, data)
        assert store.get(cid) == data
        store.pin(cid)
        assert store.pins()[cid] == "recursive"
        assert store.version()
        store.unpin(cid)
        store.close()


def test_who_is_not_let_in_is_told_so_without_secrets(guarded_node: KuboNode):
    for store in (
        KuboBlockstore(guarded_node.rpc, **options()),
        KuboBlockstore(guarded_node.rpc, bearer=WRONG, **options()),
        KuboBlockstore(guarded_node.rpc, basic=("user", WRONG), **options()),
    ):
        for call in (lambda s: s.get(block(1)[0]), lambda s: s.pins(), lambda s: s.id(), lambda s: list(s.cids())):
            with pytest.raises(TransportError, match="HTTP 403 Forbidden; does it want a token") as caught:
                call(store)
            told = f"{caught.getrepr(chain=True)} {store!r}"
            assert WRONG not in told
            assert "dXNlcjp3" not in told  # base64 of "user:w"
        store.close()


# Faults


@pytest.mark.parametrize("by", ["rpc", "gateway"])
def test_a_daemon_that_is_killed_and_started_again_loses_nothing(own_kubo_node: KuboNode, by: str):
    own_kubo_node.start()
    blocks = [block(i, 10_000) for i in range(600)]
    patient: FetchOptionsDict = {"backoff_s": 0.05, "retries": 100, "in_flight": 8}
    node = KuboBlockstore(own_kubo_node.rpc, **patient)
    node.put_many(blocks)
    store = node if by == "rpc" else GatewayBlockstore(own_kubo_node.gateway, **patient)
    answers = store.get_many([cid for cid, _ in blocks])
    got = [next(answers) for _ in range(100)]
    own_kubo_node.stop()
    restart = threading.Timer(0.2, own_kubo_node.start)
    restart.start()
    got += answers
    restart.join()
    assert got == [data for _, data in blocks]
    assert store.stats()["retries"] > 0
    node.close()
    store.close()


def test_a_daemon_that_hangs_is_a_transport_error_in_time(own_kubo_node: KuboNode, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("torch_ipfs.blockstore.kubo._PATIENCE_S", 0.2)
    own_kubo_node.start()
    store = KuboBlockstore(own_kubo_node.rpc, timeout_s=0.2)
    store.put(*block(1))
    with own_kubo_node.suspended():
        start = time.monotonic()
        for call in (lambda: store.get(block(1)[0]), store.pins, store.id, lambda: store.put(*block(2))):
            with pytest.raises(TransportError):
                call()
        assert time.monotonic() - start < 10
    assert store.get(block(1)[0]) == block(1)[1]
    store.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"nonsense",
        b"[]",
        b"{}",
        b'{"Version": ',
        b'{"Keys": 5}',
        b'{"Keys": {"x": {"Type": "recursive"}}}',
        b"\xff\n\n",
        b"[" * 4000,
    ],
)
def test_answers_of_another_form_are_transport_errors(answer: bytes):
    with serving(lambda _, c: c.answer(answer, 200, {"Content-Type": "application/json"})) as server:
        store = KuboBlockstore(server.url, **options(retries=0))
        cid, data = block(1)
        for call in (
            store.id,
            store.version,
            lambda: store.put(cid, data),
            lambda: store.pin(cid),
            lambda: store.unpin(cid),
            lambda: store.import_car(io.BytesIO(as_car(cid, [(cid, data)]))),
            *([] if answer == b"{}" else [store.pins]),
            *([] if answer == b"" else [lambda: list(store.cids())]),
        ):
            with pytest.raises(TransportError):
                call()
        store.close()


def test_a_line_without_end_is_not_read_to_its_end():
    def service(asked: Asked, connection: Connection) -> None:
        connection.head(200, {"Content-Type": "application/json"})
        for _ in range(10**6):
            connection.send(bytes(2**20))

    with serving(service) as server:
        store = KuboBlockstore(server.url, **options(timeout_s=1000.0))
        with pytest.raises(TransportError, match="Kubo's RPC"):
            list(store.cids())
        store.close()


def test_a_long_list_of_pins_is_parsed_once(monkeypatch: pytest.MonkeyPatch):
    from ipfshttpclient.encoding import Json

    parsed: list[int] = []
    parse = Json.parse_partial

    def counted(self: Json, data: bytes) -> Iterator[Any]:
        parsed.append(len(data))
        return parse(self, data)

    monkeypatch.setattr(Json, "parse_partial", counted)
    answer = json.dumps({"Keys": {str(block(i)[0]): {"Type": "recursive"} for i in range(5000)}}).encode()
    with serving(lambda _, c: c.answer(answer)) as server:
        store = KuboBlockstore(f"{server.url}/of//many", **options())
        assert len(store.pins()) == 5000
        assert parsed == [len(answer)] * 2  # of recursive and of direct pins
        assert all(asked.target.startswith("/of//many/api/v0/pin/ls?") for asked in server.asked)
        store.close()


def test_what_is_asked_of_a_node_waits_while_it_wants_to_be_left_alone():
    def service(asked: Asked, connection: Connection) -> None:
        if "block/get" in asked.target:
            connection.answer(b"", 429, {"Retry-After": "1"})
        else:
            connection.answer(b'{"ID": "x"}')

    with serving(service) as server:
        store = KuboBlockstore(server.url, **options(retries=0))
        with pytest.raises(TransportError, match="429"):
            store.get(block(1)[0])
        assert store.id() == "x"
        store.close()


def test_a_connection_that_was_kept_and_closed_is_no_error():
    def service(_: Asked, connection: Connection) -> None:
        if len(server.asked) == 2:
            connection.cut()
        else:
            connection.answer(b'{"ID": "x"}')

    with serving(service) as server:
        store = KuboBlockstore(server.url, **options(retries=0))
        assert [store.id(), store.id()] == ["x", "x"]
        assert (len(server.asked), server.connections) == (3, 2)
        store.close()


def test_an_error_may_be_cut_short():
    def cut(_: Asked, connection: Connection) -> None:
        connection.head(404, {"Content-Length": "100"})
        connection.send(b"not found")
        connection.cut()

    with serving(cut) as server:
        store = GatewayBlockstore(server.url, **options())
        with pytest.raises(BlockNotFound):
            store.get(block(1)[0])
        assert len(server.asked) == 1
        store.close()


def test_an_error_may_come_in_pieces():
    told = b'{"Message": "block was not found locally (offline): ipld: could not find x", "Code": 0, "Type": "error"}'

    def in_pieces(_: Asked, connection: Connection) -> None:
        connection.head(500, {"Content-Length": str(len(told)), "Content-Type": "application/json"})
        for at in range(0, len(told), 40):
            connection.send(told[at : at + 40])
            time.sleep(0.02)

    with serving(in_pieces) as server:
        store = KuboBlockstore(server.url, **options())
        with pytest.raises(BlockNotFound):
            store.get(block(1)[0])
        assert len(server.asked) == 1
        assert not store.has(block(1)[0])
        store.close()


@pytest.mark.parametrize(("name", "error"), [("nothing.car", TransportError), (".", TransportError), ("x", CodecError)])
def test_a_file_that_is_no_car_is_named(tmp_path: Path, name: str, error: type[Exception]):
    (tmp_path / "x").write_bytes(b"no CAR")
    store = KuboBlockstore("http://127.0.0.1:1")
    with pytest.raises(error) as caught:
        store.import_car(tmp_path / name)
    assert caught.value.source == str(tmp_path / name)  # type: ignore[attr-defined]


@pytest.mark.parametrize("start", [b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: "])
def test_a_node_that_drips_is_given_up_in_time_whatever_it_is_asked(start: bytes, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("torch_ipfs.blockstore.kubo._PATIENCE_S", 0.2)

    def service(_: Asked, connection: Connection) -> None:
        connection.send(start)
        connection.drip(b" " * 2000, 0.02)

    with serving(service) as server:
        store = KuboBlockstore(server.url, **options(timeout_s=0.2))
        for call in (
            store.id,
            store.version,
            store.pins,
            lambda: store.pin(block(1)[0]),
            lambda: store.unpin(block(1)[0]),
        ):
            with pytest.raises(TransportError, match="too slow"):
                call()
        store.close()


def test_an_error_too_deep_to_be_parsed_is_a_transport_error():
    with serving(lambda _, c: c.answer(b"[" * 4000, 500)) as server:
        store = KuboBlockstore(server.url, **options(retries=0))
        with pytest.raises(TransportError, match="HTTP 500"):
            store.get(block(1)[0])
        store.close()


@pytest.mark.parametrize("answer", [b"", b"<html>", b'{"Strings"', b"[1]", b"{}", b"\x1f\x8b", b"[" * 4000])
def test_what_no_node_answers_says_nothing_of_blocks_and_peers(answer: bytes):
    with serving(lambda _, c: c.answer(answer)) as server:
        store = KuboBlockstore(server.url, **options())
        with pytest.raises(TransportError, match="Kubo's RPC"):
            store.has(block(1)[0])
        told = ipfs_kit(source=store).ipfs.pubsub_peers("topic")
        assert (told["success"], told["error_type"]) == (False, "TransportError")
        store.close()


def test_a_post_follows_no_redirect():
    with (
        serving(lambda _, c: c.answer(b'{"ID": "x", "Version": "1"}')) as elsewhere,
        serving(lambda _, c: c.answer(b"", 307, {"Location": elsewhere.url})) as server,
    ):
        store = KuboBlockstore(server.url, bearer="t0ps3cr3t", **options())
        errors = []  # which hold what was left open
        for call in (lambda: store.get(block(1)[0]), store.id, store.pins, lambda: store.put(*block(1))):
            with pytest.raises(TransportError, match="redirect") as caught:
                call()
            errors.append(caught)
        assert elsewhere.asked == []
        store.close()
        assert not [c for c in psutil.Process().net_connections() if c.raddr and c.raddr.port == server.port]
