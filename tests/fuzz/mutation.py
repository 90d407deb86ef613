"""Seeded mutations of real inputs.

With TORCH_IPFS_FUZZ_SECONDS a fuzz test runs that long, on seeds never used before; without it, it makes the same few
mutations each time.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator, Sequence

ROUNDS = 1500
MAX_INPUT_SECONDS = 10.0
"""No single input may take longer."""

_CBOR = ["00", "01", "1220", "17", "18", "1f", "7f", "80", "81", "9b", "a1", "bb", "d82a", "f7", "f9", "fa", "fb", "ff"]
_LENGTHS = [b"\xff" * 4, b"\xff" * 8, b"\x80" * 9, b"\x9b" + b"\xff" * 8]
_JSON = [b'"', b"\\", b"\\ud800", b"{", b"}", b"[", b"]", b'{"/":', b"1e999", b"-0.0", b"9" * 25, b"NaN"]
_TELLING = [bytes.fromhex(head) for head in _CBOR] + _LENGTHS + _JSON
"""What is apt to turn a format into another one, or into a claim."""


def rounds(name: str) -> Iterator[tuple[str, random.Random]]:
    """A seed and a random generator of it for each mutation to make."""
    seconds = os.environ.get("TORCH_IPFS_FUZZ_SECONDS")
    if seconds is None:
        seeds = iter([f"{name}-{number}" for number in range(ROUNDS)])
    else:
        seeds = _until(time.monotonic() + float(seconds), f"{name}-{time.time_ns()}")
    for seed in seeds:
        yield seed, random.Random(seed)


def _until(deadline: float, prefix: str) -> Iterator[str]:
    number = 0
    while time.monotonic() < deadline:
        yield f"{prefix}-{number}"
        number += 1


def mutated(rng: random.Random, corpus: Sequence[bytes]) -> bytes:
    """One of ``corpus`` with one to four changes."""
    data = bytearray(rng.choice(corpus))
    for _ in range(rng.randint(1, 4)):
        _CHANGES[rng.randrange(len(_CHANGES))](rng, data, corpus)
    return bytes(data)


def _place(rng: random.Random, data: bytearray) -> int:
    return rng.randint(0, len(data))


def _flip(rng: random.Random, data: bytearray, _corpus: Sequence[bytes]) -> None:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _replace(rng: random.Random, data: bytearray, _corpus: Sequence[bytes]) -> None:
    if data:
        data[rng.randrange(len(data))] = rng.randrange(256)


def _tell(rng: random.Random, data: bytearray, _corpus: Sequence[bytes]) -> None:
    place, telling = _place(rng, data), rng.choice(_TELLING)
    data[place : place + rng.choice((0, len(telling)))] = telling


def _cut(rng: random.Random, data: bytearray, _corpus: Sequence[bytes]) -> None:
    del data[_place(rng, data) :]


def _drop(rng: random.Random, data: bytearray, _corpus: Sequence[bytes]) -> None:
    place = _place(rng, data)
    del data[place : place + rng.randint(1, 16)]


def _double(rng: random.Random, data: bytearray, _corpus: Sequence[bytes]) -> None:
    place = _place(rng, data)
    data[place:place] = data[place : place + rng.randint(1, 64)] * rng.randint(1, 3)


def _splice(rng: random.Random, data: bytearray, corpus: Sequence[bytes]) -> None:
    other = rng.choice(corpus)
    start = rng.randint(0, len(other))
    place = _place(rng, data)
    data[place : place + rng.randint(0, 32)] = other[start : start + rng.randint(1, 64)]


_CHANGES = (_flip, _replace, _tell, _cut, _drop, _double, _splice)
