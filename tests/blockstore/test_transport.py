from __future__ import annotations

import gzip
import itertools
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path

import pytest

from tests.network.gateways import CID_0, DATA_0, block, first, gateway, holding, options
from tests.network.staged import Asked, Connection, serving
from torch_ipfs.blockstore.gateway import GatewayBlockstore
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import (
    BlockNotFound,
    BlockRefused,
    BlockTooLarge,
    CodecError,
    HashMismatch,
    TorchIPFSError,
    TransportError,
)

pytestmark = pytest.mark.usefixtures("in_time")


# What may come later


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 520, 599])
def test_what_may_come_later_is_asked_for_again(status: int):
    with gateway(first(*[lambda c: c.answer(b"busy", status)] * 2)) as (store, server):
        assert store.get(CID_0) == DATA_0
        assert len(server.asked) == 3
        assert store.stats()["retries"] == 2


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_stays_away_is_a_transport_error(status: int):
    with gateway(lambda _, c: c.answer(b"busy", status), retries=2) as (store, server):
        with pytest.raises(TransportError, match=f"3 times.*HTTP {status}") as caught:
            store.get(CID_0)
        assert len(server.asked) == 3
    assert (caught.value.cid, caught.value.source) == (str(CID_0), server.url)


@pytest.mark.parametrize("status", [204, 206, 304, 400, 401, 403, 405, 406, 412, 501, 505])
def test_what_never_comes_is_asked_for_once(status: int):
    with gateway(lambda _, c: c.answer(b"", status)) as (store, server):
        with pytest.raises(TransportError, match=f"HTTP {status}"):
            store.get(CID_0)
        assert len(server.asked) == 1


@pytest.mark.parametrize(("status", "error"), [(404, BlockNotFound), (410, BlockRefused), (451, BlockRefused)])
def test_missing_and_refused_are_different(status: int, error: type[TorchIPFSError]):
    with gateway(lambda _, c: c.answer(b"", status)) as (store, server):
        with pytest.raises(error) as caught:
            store.get(CID_0)
        assert type(caught.value) is error
        assert not store.has(CID_0)
        assert len(server.asked) == 2
    assert (caught.value.cid, caught.value.source) == (str(CID_0), server.url)


@pytest.mark.parametrize("retry_after", ["1000", formatdate(time.time() + 1000, usegmt=True)], ids=["seconds", "date"])
def test_retry_after_is_heeded_up_to_its_cap(retry_after: str):
    answers = first(lambda c: c.answer(b"", 429, {"Retry-After": retry_after}))
    with gateway(answers, retry_after_max_s=0.3) as (store, _):
        start = time.monotonic()
        assert store.get(CID_0) == DATA_0
        assert time.monotonic() - start >= 0.3


@pytest.mark.parametrize(
    "fault",
    [
        lambda c: c.reset(),
        lambda c: c.cut(),
        lambda c: c.silence(),
        lambda c: (c.answer(DATA_0[:500], length=1000), c.cut()),
        lambda c: (c.answer(DATA_0[:500], length=1000), c.reset()),
        lambda c: (c.answer(DATA_0[:500], length=1000), c.silence()),
        lambda c: (c.head(200, {"Transfer-Encoding": "chunked"}), c.chunk(DATA_0[:500]), c.cut()),
        lambda c: (c.send(b"HTTP/1.1 200 OK\r\nContent-Le"), c.cut()),
    ],
    ids=["reset", "no-answer", "half-open", "cut", "reset-in-body", "stall-in-body", "cut-chunked", "cut-head"],
)
def test_a_connection_that_breaks_off_is_tried_again(fault: Callable[[Connection], object]):
    with gateway(first(fault, fault)) as (store, server):
        assert store.get(CID_0) == DATA_0
        assert len(server.asked) >= 3
    with gateway(lambda _, c: fault(c), retries=1) as (store, _), pytest.raises(TransportError, match="tried 2 times"):
        store.get(CID_0)


def test_a_gateway_that_is_down_is_a_transport_error():
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    store = GatewayBlockstore(url, **options(retries=2))
    with pytest.raises(TransportError, match="tried 3 times") as caught:
        store.get(CID_0)
    assert caught.value.source == url
    store.close()


def test_a_host_that_does_not_exist_is_not_tried_again():
    store = GatewayBlockstore("http://gateway.invalid", **options(backoff_s=1000.0))
    with pytest.raises(TransportError, match=r"gateway\.invalid"):
        store.get(CID_0)
    store.close()


def test_nobody_waits_for_a_lookup_of_a_name_that_stalls(monkeypatch: pytest.MonkeyPatch):
    over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: over.wait(600))
    store = GatewayBlockstore("http://gateway.invalid", **options(connect_timeout_s=0.1, retries=0))
    with pytest.raises(TransportError, match="timeout"):
        store.get(CID_0)
    store.close()  # which would wait, too
    assert not over.is_set()
    over.set()


def test_a_drip_is_bounded_by_the_time_for_a_block():
    def service(_: Asked, connection: Connection) -> None:
        connection.head(200, {"Content-Length": "1000"})
        connection.drip(DATA_0, 0.05)

    with gateway(service, timeout_s=0.3) as (store, _), pytest.raises(TransportError, match=r"within 0\.3 s"):
        store.get(CID_0)


def test_what_is_not_http_is_a_transport_error():
    def service(_: Asked, connection: Connection) -> None:
        connection.send(b"SSH-2.0-OpenSSH_9.9\r\n")
        connection.cut()

    with gateway(service) as (store, _), pytest.raises(TransportError, match="not HTTP") as caught:
        store.get(CID_0)
    assert "400, " not in str(caught.value)


def test_the_rest_of_an_answer_that_is_longer_than_it_says_is_no_fault_of_the_next():
    blocks = dict(block(number) for number in range(4))
    wrong = list(blocks)[1]
    rest: list[bytes] = []

    def service(asked: Asked, connection: Connection) -> None:
        if asked.cid == str(wrong):
            connection.answer(blocks[wrong][:900])
            rest.append(blocks[wrong][900:])
        elif rest:
            connection.send(rest.pop())
        else:
            holding(blocks)(asked, connection)

    with gateway(service, in_flight=1, retries=0) as (store, _):
        answers = dict(zip(blocks, store.get_many(blocks, return_exceptions=True), strict=True))
    assert isinstance(answers.pop(wrong), HashMismatch)
    assert answers == {cid: data for cid, data in blocks.items() if cid != wrong}


def test_an_answer_with_headers_without_end_is_bounded():
    def service(_: Asked, connection: Connection) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\n")
        for number in itertools.count():
            connection.send(b"X-%d: %b\r\n" % (number, bytes(1000).hex().encode()))

    with gateway(service) as (store, _), pytest.raises(TransportError):
        store.get(CID_0)


def test_ipv6_literal():
    with serving(holding({CID_0: DATA_0}), host="::1") as server:
        store = GatewayBlockstore(server.url)
        assert store.get(CID_0) == DATA_0
        store.close()


# What is not believed


def test_one_flipped_bit_in_one_of_a_thousand_blocks():
    blocks = [block(i, 64) for i in range(1000)]
    held = dict(blocks)
    bad = blocks[617][0]
    held[bad] = bytes([held[bad][0] ^ 4]) + held[bad][1:]
    with gateway(holding(held)) as (store, server):
        got = list(store.get_many([cid for cid, _ in blocks], return_exceptions=True))
        assert store.stats()["hash_mismatches"] == 1
    wrong = got.pop(617)
    assert isinstance(wrong, HashMismatch)
    assert (wrong.cid, wrong.source) == (str(bad), server.url)
    assert got == [data for cid, data in blocks if cid != bad]


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (block(1)[1], {"Content-Type": "application/vnd.ipld.raw", "ETag": f'"{CID_0}.raw"'}),
        (b"<html><h1>502 Bad Gateway</h1></html>", {"Content-Type": "text/html"}),
        (b"", {}),
        (DATA_0 + b"\n", {}),
        (DATA_0[:-1], {}),
    ],
    ids=["another-block", "html", "nothing", "more", "less"],
)
def test_a_200_is_not_believed(body: bytes, headers: dict[str, str]):
    with gateway(lambda _, c: c.answer(body, 200, headers)) as (store, server):
        with pytest.raises(HashMismatch) as caught:
            store.get(CID_0)
        assert len(server.asked) == 1
    assert (caught.value.cid, caught.value.source) == (str(CID_0), server.url)


def test_a_body_that_ends_with_the_connection_is_not_believed():
    def service(_: Asked, connection: Connection) -> None:
        connection.head(200)
        connection.send(DATA_0[:-1])
        connection.cut()

    with gateway(service) as (store, _), pytest.raises(HashMismatch):
        store.get(CID_0)


def test_right_bytes_are_taken_whatever_their_headers_say():
    headers = {"Content-Type": "text/html; charset=utf-16", "X-Ipfs-Roots": str(block(1)[0]), "ETag": "nonsense"}
    with gateway(lambda _, c: c.answer(DATA_0, 200, headers)) as (store, _):
        assert store.get(CID_0) == DATA_0


def test_a_body_without_end_is_left():
    sent = 0

    def service(_: Asked, connection: Connection) -> None:
        nonlocal sent
        connection.head(200, {"Transfer-Encoding": "chunked"})
        while True:
            connection.chunk(bytes(2**14))
            sent += 2**14

    with gateway(service, max_block_bytes=2**20) as (store, _), pytest.raises(BlockTooLarge):
        store.get(CID_0)
    assert sent < 2**25  # the limit and what the sockets' buffers hold


def test_a_length_over_the_limit_is_enough_to_leave():
    def service(_: Asked, connection: Connection) -> None:
        connection.head(200, {"Content-Length": str(2**62)})
        connection.silence()

    with gateway(service) as (store, _), pytest.raises(BlockTooLarge):
        store.get(CID_0)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "nonsense"])
def test_nothing_is_unpacked(encoding: str):
    bomb = gzip.compress(bytes(2**20), 9)
    with gateway(lambda _, c: c.answer(bomb, 200, {"Content-Encoding": encoding})) as (store, server):
        with pytest.raises(TransportError, match=encoding):
            store.get(CID_0)
        assert len(server.asked) == 1


def test_a_block_whose_hash_cannot_be_checked_is_not_asked_for():
    with gateway(holding({})) as (store, server):
        for multihash in (b"\xd5\x01\x10" + bytes(16), b"\x12\x13" + bytes(19)):  # md5, and 19 bytes of sha2-256
            with pytest.raises(CodecError):
                store.get(CID.from_multihash("raw", multihash))
        assert server.asked == []


FEW_FILES = """
import os, resource, sys
from tests.network.gateways import block, options
from torch_ipfs.blockstore.gateway import GatewayBlockstore
from torch_ipfs.errors import TransportError

open_files = max(map(int, os.listdir("/dev/fd")))
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
blocks = [block(number) for number in range(100)]
store = GatewayBlockstore(sys.argv[1], **options(timeout_s=20.0))
import asyncio
resource.setrlimit(resource.RLIMIT_NOFILE, (open_files + 1, most))
try:
    store.get(blocks[0][0])
except TransportError as error:
    assert "Too many open files" in str(error), error
resource.setrlimit(resource.RLIMIT_NOFILE, (open_files + 12, most))
assert list(store.get_many(cid for cid, _ in blocks)) == [data for _, data in blocks]
"""


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="no way to tell which files are open")
def test_a_process_that_may_open_few_files_reads_all_the_same():
    """In a new process, which has imported nothing for its first retry yet."""
    with serving(holding(dict(block(number) for number in range(100)))) as server:
        ran = subprocess.run(
            [sys.executable, "-c", FEW_FILES, server.url], capture_output=True, text=True, check=False, timeout=60
        )
    assert ran.returncode == 0, ran.stderr
