"""Inputs that claim or nest beyond measure, tried in a process of its own that may not take much memory.

Run as ``python -m tests.codec.bombs NAME``; prints what came of it, how long it took
and the most memory held by then beyond the start.
"""

from __future__ import annotations

import io
import json as stdlib_json
import resource
import struct
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch_ipfs.codec import car, cbor_decoder, dag_cbor, dag_json, dag_pb, json, varint
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import CodecError

MAX_MEMORY_BYTES = 256 * 2**20
"""On top of what the interpreter and its libraries take."""
BLOCK_BYTES = 2 * 2**20
DEEP = 10**6


def nested_claims(head: bytes, after: bytes, levels: int) -> bytes:
    """Lists or maps in each other, each claiming as many entries as there are bytes for in the block."""
    out = bytearray()
    for _ in range(levels):
        entries = (BLOCK_BYTES - len(out) - 9) // (2 if after else 1)
        out += head + struct.pack(">I", entries) + after
    return bytes(out + bytes(BLOCK_BYTES - len(out)))


def deep_value() -> Any:
    value: Any = 0
    for _ in range(DEEP):
        value = [value]
    return value


def scanned(data: bytes) -> None:
    for _ in car.scan(data)[1]:
        pass


def streamed(data: bytes) -> None:
    for _ in car.iter_blocks(io.BytesIO(data)):
        pass


def in_a_small_thread(call: Callable[[], object]) -> None:
    """Run ``call`` with a stack of 256 KiB, and raise what it raised."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:  # noqa: BLE001
            raised.append(error)

    before = threading.stack_size(256 * 2**10)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    threading.stack_size(before)
    if raised:
        raise raised[0]


def with_a_high_recursion_limit(call: Callable[[], object]) -> None:
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(10**7)
    try:
        call()
    finally:
        sys.setrecursionlimit(before)


HEADER = b"\x11\xa2\x65roots\x80\x67version\x01"
LISTS, MAPS, OBJECTS = b"\x81" * DEEP + b"\0", b"\xa1\x61a" * DEEP + b"\0", b'{"a":' * DEEP
CLAIMS: dict[str, Callable[[], object]] = {
    "dag-cbor: a list of 2**60": lambda: dag_cbor.decode(b"\x9b\x10" + bytes(7)),
    "dag-cbor: a map of 2**60": lambda: dag_cbor.decode(b"\xbb\x10" + bytes(7) + b"\x61a\0"),
    "dag-cbor: bytes of 2**60": lambda: dag_cbor.decode(b"\x5b\x10" + bytes(7)),
    "dag-cbor: text of 2**63": lambda: dag_cbor.decode(b"\x7b\x80" + bytes(7)),
    "dag-cbor: lists that each claim the rest": lambda: dag_cbor.decode(nested_claims(b"\x9a", b"", 250)),
    "dag-cbor: maps that each claim the rest": lambda: dag_cbor.decode(nested_claims(b"\xba", b"\x61a", 250)),
    "dag-cbor: 900 maps that each claim the rest": lambda: dag_cbor.decode(nested_claims(b"\xba", b"\x61a", 900)),
    "dag-pb: data of 2**62": lambda: dag_pb.decode(b"\x0a" + varint.encode(2**62)),
    "dag-pb: a link of 2**62": lambda: dag_pb.decode(b"\x12" + varint.encode(2**62)),
    "car: a header that claims 32 MiB": lambda: streamed(varint.encode(32 * 2**20) + b"\xa2"),
    "car: a header of 2**60": lambda: streamed(varint.encode(2**60)),
    "car: a section of 2**60": lambda: streamed(HEADER + varint.encode(2**60)),
    "car: a section of 2**60, scanned": lambda: scanned(HEADER + varint.encode(2**60)),
    "car: a cut section that claims 8 MiB": lambda: streamed(HEADER + varint.encode(8 * 2**20)),
    "car: data at 2**63": lambda: streamed(
        b"\x0a\xa1\x67version\x02" + bytes(16) + struct.pack("<QQQ", 2**63, 2**63, 0) + bytes(100)
    ),
    "car: data of 2**63, scanned": lambda: scanned(
        b"\x0a\xa1\x67version\x02" + bytes(16) + struct.pack("<QQQ", 51, 2**63, 0) + HEADER
    ),
    "cid: a digest of 2**60": lambda: CID.from_bytes(b"\x01\x55\x12" + varint.encode(2**60)),
}
"""Little that claims to be much. Tried first, so that the most memory that was taken by then is theirs."""
BOMBS: dict[str, Callable[[], object]] = CLAIMS | {
    "dag-cbor: a million lists": lambda: dag_cbor.decode(LISTS),
    "dag-cbor: a million maps": lambda: dag_cbor.decode(MAPS),
    "dag-cbor: a million tags": lambda: dag_cbor.decode(b"\xd8\x2a" * DEEP),
    "dag-cbor: a million lists by the strict decoder": lambda: cbor_decoder.decode(LISTS),
    "dag-cbor: a million lists, no recursion limit": lambda: with_a_high_recursion_limit(
        lambda: dag_cbor.decode(LISTS)
    ),
    "dag-cbor: a million maps, no recursion limit": lambda: with_a_high_recursion_limit(lambda: dag_cbor.decode(MAPS)),
    "dag-cbor: a value of a million lists": lambda: dag_cbor.encode(deep_value()),
    "dag-cbor: that, no recursion limit": lambda: with_a_high_recursion_limit(lambda: dag_cbor.encode(deep_value())),
    "dag-cbor: two million items and a fault": lambda: dag_cbor.decode(
        b"\x9a" + struct.pack(">I", BLOCK_BYTES) + bytes(BLOCK_BYTES - 1) + b"\xf7"
    ),
    "dag-json: a million arrays": lambda: dag_json.decode(b"[" * DEEP + b"]" * DEEP),
    "dag-json: a million objects": lambda: dag_json.decode(OBJECTS),
    "dag-json: a million links": lambda: dag_json.decode(b'{"/":' * DEEP),
    "dag-json: a million arrays, no recursion limit": lambda: with_a_high_recursion_limit(
        lambda: dag_json.decode(b"[" * DEEP)
    ),
    "dag-json: a value of a million lists": lambda: dag_json.encode(deep_value()),
    "dag-json: that, no recursion limit": lambda: with_a_high_recursion_limit(lambda: dag_json.encode(deep_value())),
    "json: a million arrays": lambda: json.decode(b"[" * DEEP),
    "json: a million objects": lambda: json.decode(OBJECTS),
    "json: an integer of two million digits": lambda: json.decode(b"7" * BLOCK_BYTES),
    "json: a float of two million digits": lambda: json.decode(b"7" * BLOCK_BYTES + b".0"),
    "json: a value of a million lists": lambda: json.encode(deep_value()),
    "car: a header of a million lists": lambda: streamed(varint.encode(DEEP) + b"\x81" * DEEP),
    "car: a header of 32 MiB of numbers": lambda: streamed(
        varint.encode(32 * 2**20) + b"\xa2\x65roots\x9a\x01\xff\xff\xec" + bytes(32 * 2**20 - 12)
    ),
    "cid: a megabyte of base58": lambda: CID.parse("z" + "2" * 10**6),
    "cid: a megabyte of base36": lambda: CID.parse("k" + "2" * 10**6),
    "dag-cbor: a million lists, a small stack": lambda: in_a_small_thread(lambda: dag_cbor.decode(LISTS)),
    "dag-cbor: a value of a million lists, a small stack": lambda: in_a_small_thread(
        lambda: dag_cbor.encode(deep_value())
    ),
    "dag-json: a million arrays, a small stack": lambda: in_a_small_thread(lambda: dag_json.decode(b"[" * DEEP)),
}


def peak_bytes() -> int:
    """The most memory that the process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    status = Path("/proc/self/status").read_text().splitlines()
    taken = int(next(line for line in status if line.startswith("VmSize")).split()[1]) * 1024
    before = peak_bytes()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MAX_MEMORY_BYTES,) * 2)
    for name in sys.argv[1:]:
        started = time.monotonic()
        try:
            BOMBS[name]()
        except CodecError:
            outcome = "CodecError"
        except BaseException as error:  # noqa: BLE001
            outcome = repr(error)[:300]
        else:
            outcome = "nothing"
        print(stdlib_json.dumps([name, outcome, time.monotonic() - started, peak_bytes() - before]), flush=True)


if __name__ == "__main__":
    main()
