"""What training from the network survives: each fault ends with every sample once, or with one error that names itself.

Every epoch here has DEADLINE_S, whatever the fault; most take a fraction of a second.
"""

from __future__ import annotations

import gzip
import logging
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

import torch_ipfs
from tests.network.dags import as_car
from tests.network.datasets import NUM_SAMPLES, Stored, in_order, is_car, read, serving_cars, stored
from tests.network.gateways import DEADLINE_S, options
from tests.network.staged import Asked, Connection, Service, serving
from torch_ipfs.blockstore.base import Blockstore
from torch_ipfs.blockstore.gateway import GatewayBlockstore
from torch_ipfs.blockstore.tiered import TieredBlockstore
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import (
    BlockError,
    BlockNotFound,
    BlockRefused,
    BlockTooLarge,
    HashMismatch,
    TorchIPFSError,
    TransportError,
)

EVERY = list(range(NUM_SAMPLES))
LAYOUTS = ("packed", "samples")
Fault = Callable[[Connection, bytes], object]
HTML = b"<!doctype html><title>Sign in</title>"


@pytest.fixture(autouse=True)
def deadline() -> Iterator[None]:
    started_s = time.monotonic()
    yield
    assert time.monotonic() - started_s < DEADLINE_S


@pytest.fixture(scope="module", params=LAYOUTS)
def data(request: pytest.FixtureRequest) -> Stored:
    return stored(request.param)


def flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def endless(connection: Connection, _: bytes) -> None:
    connection.head(200, {"Transfer-Encoding": "chunked"})
    while True:
        connection.chunk(bytes(2**18))


def half_open(connection: Connection, body: bytes) -> None:
    connection.head(200, {"Content-Length": str(len(body))})
    connection.send(body[:10])
    connection.silence()


def drip(connection: Connection, body: bytes) -> None:
    """A byte before each time-out for silence; what bounds it is the time for a block."""
    connection.head(200, {"Content-Length": str(len(body))})
    connection.drip(body, 0.1)


def ends_early(connection: Connection, body: bytes) -> None:
    connection.answer(body[: len(body) // 2], length=len(body))
    connection.cut()


def endless_blocks(connection: Connection, start: bytes) -> None:
    """A CAR that goes on and on with good blocks that nobody asked for."""
    other = (CID.of(bytes(2**18)), bytes(2**18))
    section = as_car(other[0], [other])[len(as_car(other[0], [])) :]
    connection.head(200, {"Transfer-Encoding": "chunked"})
    connection.chunk(start)
    while True:
        connection.chunk(section)


def zipped(connection: Connection, _: bytes) -> None:
    connection.answer(gzip.compress(bytes(2**24)), headers={"Content-Encoding": "gzip"})


def status(code: int, **headers: str) -> Fault:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda connection, _: connection.answer(b"no", code, named)


FAULTS: dict[str, tuple[Fault, type[TorchIPFSError]]] = {
    "body cut short": (lambda c, body: c.answer(body[: len(body) // 2]), HashMismatch),
    "connection ends early": (ends_early, TransportError),
    "one bit flipped": (lambda c, body: c.answer(flipped(body)), HashMismatch),
    "another block": (lambda c, _: c.answer(b"the right block for another CID"), HashMismatch),
    "endless body": (endless, BlockTooLarge),
    "gzip bomb": (zipped, TransportError),
    "drip": (drip, TransportError),
    "half-open": (half_open, TransportError),
    "reset": (lambda c, _: c.reset(), TransportError),
    "404": (status(404), BlockNotFound),
    "410": (status(410), BlockRefused),
    "451": (status(451), BlockRefused),
    "429": (status(429, Retry_After="0"), TransportError),
    "429 for long": (status(429, Retry_After="3600"), TransportError),
    "500": (status(500), TransportError),
    "502": (status(502), TransportError),
    "503": (status(503, Retry_After="Fri, 31 Dec 1999 23:59:59 GMT"), TransportError),
    "504": (status(504), TransportError),
    "redirect loop": (status(302, Location="/ipfs/round/and/round"), TransportError),
    "HTML with 200": (lambda c, _: c.answer(HTML, headers={"Content-Type": "text/html"}), HashMismatch),
}
FORGED = ("body cut short", "one bit flipped", "another block", "HTML with 200")
PASSING = ("connection ends early", "half-open", "reset", "429", "500", "502", "503", "504")


def failing(data: Stored, fault: Fault, *, times: int = 10**9) -> Service:
    """A gateway that fails so for the victim; it has no CARs, so that each block is asked for by itself."""
    good = serving_cars(data)
    left = [times]

    def service(asked: Asked, connection: Connection) -> None:
        is_victim = "round" in asked.target or CID.parse(asked.cid).multihash == data.victim.multihash
        if is_car(asked):
            connection.answer(b"", 406)
        elif is_victim and left[0] > 0:
            left[0] -= 1
            fault(connection, data.blocks[data.victim])
        else:
            good(asked, connection)

    return service


@contextmanager
def gateways(*services: Service, **more: Any) -> Iterator[Blockstore]:
    """A store before these gateways, in their order."""
    with ExitStack() as stack:
        stores = []
        for place, service in enumerate(services):
            server = stack.enter_context(serving(service))
            patience = {"timeout_s": 5.0 if place else 2.0, "retries": 2}  # the first of several is the bad one
            stores.append(GatewayBlockstore(server.url, **options(**{**patience, **more})))
        store = stores[0] if len(stores) == 1 else TieredBlockstore(stores, slow_s=3.0)
        stack.callback(store.close)
        yield store


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_that_stays_ends_in_one_error_that_names_it(data: Stored, name: str) -> None:
    fault, kind = FAULTS[name]
    with gateways(failing(data, fault)) as store, pytest.raises(kind) as raised:
        read(data.root, store)
    assert str(data.victim) in str(raised.value)
    assert "http://127.0.0.1" in str(raised.value)


@pytest.mark.parametrize("name", FAULTS)
def test_a_second_source_makes_up_for_it(data: Stored, name: str, caplog: pytest.LogCaptureFixture) -> None:
    fault, _ = FAULTS[name]
    with gateways(failing(data, fault), serving_cars(data)) as store:
        bad, good = (source["source"] for source in store.stats()["sources"])  # type: ignore[attr-defined]
        assert read(data.root, store) == EVERY
        told = store.stats()["sources"]  # type: ignore[attr-defined]
    assert [source["source"] for source in told] == [bad, good]
    assert told[1]["served"] >= 1
    if name in FORGED:
        assert told[0]["bad_blocks"] >= 1
        warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert any(bad in message and str(data.victim) in message for message in warned)


@pytest.mark.parametrize("name", PASSING)
def test_a_fault_that_passes_costs_nothing(data: Stored, name: str) -> None:
    fault, _ = FAULTS[name]
    with gateways(failing(data, fault, times=2), timeout_s=5.0) as store:
        assert read(data.root, store) == EVERY


@pytest.mark.parametrize("name", ["404", "451", "one bit flipped", "endless body"])
@pytest.mark.parametrize("on_error", ["skip", "substitute"])
def test_one_sample_that_cannot_be_had_is_skipped_or_replaced(data: Stored, name: str, on_error: str) -> None:
    fault, kind = FAULTS[name]
    assert issubclass(kind, BlockError)
    left = [x for x in EVERY if x not in data.victims]
    # None of these faults is told by its time, and a busy machine may take a while to have read too much.
    with gateways(failing(data, fault), timeout_s=30.0) as store, pytest.warns(UserWarning, match="could not be read"):
        seen = read(data.root, store, on_error=on_error)
    if on_error == "skip":
        assert seen == left
    else:
        assert len(seen) == NUM_SAMPLES
        assert set(seen) == set(left)


def test_a_network_that_is_down_is_not_skipped(data: Stored) -> None:
    with gateways(failing(data, status(503))) as store, pytest.raises(TransportError):
        read(data.root, store, on_error="skip")


def test_a_wrong_content_type_is_not_looked_at(data: Stored) -> None:
    blocks = {str(CID.from_multihash(cid.codec, cid.multihash)): block for cid, block in data.blocks.items()}

    def service(asked: Asked, connection: Connection) -> None:
        if is_car(asked):
            connection.answer(as_car(data.root, in_order(data)), headers={"Content-Type": "text/html"})
        else:
            connection.answer(blocks[asked.cid], headers={"Content-Type": "application/json"})

    with gateways(service) as store:
        assert read(data.root, store) == EVERY


CAR_FAULTS: dict[str, Callable[[Stored, Connection, bytes], object]] = {
    "cut between blocks": lambda data, c, _: c.answer(as_car(data.root, in_order(data)[:60])),
    "cut inside a block": lambda _, c, car: c.answer(car[: len(car) // 2]),
    "connection ends early": lambda _, c, car: ends_early(c, car),
    "one bit flipped": lambda data, c, car: c.answer(
        car.replace(data.blocks[data.victim], flipped(data.blocks[data.victim]))
    ),
    "a block under another CID": lambda data, c, _: c.answer(
        as_car(data.root, [(cid, b"other" if cid == data.victim else block) for cid, block in in_order(data)])
    ),
    "gzip bomb": lambda _, c, __: zipped(c, b""),
    "endless": lambda _, c, __: endless(c, b""),
    "endless blocks": lambda data, c, _: endless_blocks(c, as_car(data.root, in_order(data)[:20])),
    "half-open": lambda _, c, car: half_open(c, car),
    "reset": lambda _, c, __: c.reset(),
    "HTML": lambda _, c, __: c.answer(HTML, headers={"Content-Type": "text/html"}),
    "empty": lambda _, c, __: c.answer(b""),
    "the node alone": lambda data, c, _: c.answer(as_car(data.root, in_order(data)[:1])),
    "404": lambda _, c, __: c.answer(b"", 404),
    "503": lambda _, c, __: c.answer(b"", 503, {"Retry-After": "1"}),
    "redirect loop": lambda data, c, _: c.answer(b"", 302, {"Location": f"/ipfs/{data.root}?format=car"}),
}


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("name", CAR_FAULTS)
def test_what_a_car_does_not_bring_is_asked_for_singly(name: str, shuffle: bool) -> None:
    data = stored("samples")
    good, car = serving_cars(data), as_car(data.root, in_order(data))

    def service(asked: Asked, connection: Connection) -> None:
        if is_car(asked):
            CAR_FAULTS[name](data, connection, car)
        else:
            good(asked, connection)

    with gateways(service, timeout_s=5.0) as store:
        seen = read(data.root, store, shuffle=shuffle, seed=3)
    assert sorted(seen) == EVERY
    assert (seen == EVERY) is not shuffle


def test_a_forged_block_in_a_car_is_told_with_its_source(caplog: pytest.LogCaptureFixture) -> None:
    data = stored("samples")
    forged = [(cid, b"forged" if cid == data.victim else block) for cid, block in in_order(data)]
    with gateways(serving_cars(data, lambda cid: as_car(cid, forged)), serving_cars(data)) as store:
        assert read(data.root, store) == EVERY
        liar = store.stats()["sources"][0]  # type: ignore[attr-defined]
    assert liar["bad_blocks"] == 1
    assert any(
        str(data.victim) in record.getMessage() and liar["source"] in record.getMessage() for record in caplog.records
    )


def unreachable(kind: str) -> str:
    if kind == "a name that does not exist":
        return "http://no-such-host.invalid"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("kind", ["refused", "a name that does not exist"])
def test_a_gateway_that_is_down_from_the_start(data: Stored, kind: str) -> None:
    down = unreachable(kind)
    with pytest.raises(TransportError, match=down):
        read(data.root, GatewayBlockstore(down, **options(retries=1)))
    with serving(serving_cars(data)) as server:
        store = TieredBlockstore([GatewayBlockstore(url, **options(retries=1)) for url in (down, server.url)])
        assert read(data.root, store) == EVERY
        assert store.stats()["sources"][0]["failed"] == 1
        store.close()
        assert read(data.root, [down, server.url]) == EVERY  # as a person types it, with default options and a cache


def test_an_ipv6_literal(data: Stored) -> None:
    with serving(serving_cars(data), host="::1") as server:
        assert "[::1]" in server.url
        assert read(data.root, server.url) == EVERY


def test_one_flipped_bit_in_one_of_a_thousand_samples() -> None:
    data = stored("samples", 1000)
    counted: Counter[str] = Counter()
    good = serving_cars(data)

    def service(asked: Asked, connection: Connection) -> None:
        counted[asked.cid] += 1
        if is_car(asked):
            connection.answer(b"", 406)
        elif asked.cid == str(data.victim) and counted[asked.cid] == 1:
            connection.answer(flipped(data.blocks[data.victim]))
        else:
            good(asked, connection)

    with gateways(service, serving_cars(data)) as store:
        assert read(data.root, store) == list(range(1000))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_workers_go_on_over_a_second_source(data: Stored, num_workers: int) -> None:
    with gateways(failing(data, FAULTS["one bit flipped"][0]), serving_cars(data)) as store:
        ds = torch_ipfs.IPFSIterableDataset(data.root, store, batch_size=8)
        loader = torch_ipfs.make_dataloader(ds, num_workers=num_workers)
        assert [x for batch in loader for x in batch["x"].tolist()] == EVERY
        del loader


def test_a_gateway_that_dies_in_the_middle_and_is_back(data: Stored) -> None:
    """Down for the time of some requests: they are tried again until it answers."""
    good = serving_cars(data)
    down = threading.Event()
    seen = [0]

    def service(asked: Asked, connection: Connection) -> None:
        seen[0] += 1
        if is_car(asked):
            connection.answer(b"", 406)
        elif 4 <= seen[0] < 30:
            down.set()
            connection.reset()
        else:
            good(asked, connection)

    with gateways(service, timeout_s=10.0, retries=30, backoff_max_s=0.05) as store:
        assert read(data.root, store) == EVERY
    assert down.is_set()


@pytest.mark.parametrize("name", ["404", "500", "reset", "redirect loop", "one bit flipped", "HTML with 200"])
def test_no_token_is_told(data: Stored, name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    token = "s3cr3t-t0ken-of-the-gateway"
    with serving(failing(data, FAULTS[name][0])) as server:
        store = GatewayBlockstore(f"{server.url}?key={token}", bearer=token, **options(retries=1, timeout_s=1.0))
        ds = torch_ipfs.IPFSIterableDataset(data.root, store, batch_size=8)
        with pytest.raises(TorchIPFSError) as raised:
            list(ds)
        store.close()
    assert any(token in asked.headers.get("authorization", "") for asked in server.asked)
    told = [repr(ds), repr(store), repr(raised.value), str(raised.value), caplog.text, repr(raised.value.__cause__)]
    assert not any(token in text for text in told)


def test_no_token_follows_a_redirect_to_another_host(data: Stored) -> None:
    with serving(serving_cars(data)) as other:

        def away(asked: Asked, connection: Connection) -> None:
            connection.answer(b"", 307, {"Location": f"{other.url}{asked.target}"})

        with serving(away) as server:
            store = GatewayBlockstore(server.url, bearer="s3cr3t", **options())
            assert read(data.root, store) == EVERY
            store.close()
    assert all(asked.headers["authorization"] == "Bearer s3cr3t" for asked in server.asked)
    assert not any("authorization" in asked.headers for asked in other.asked)
