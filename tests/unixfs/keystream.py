"""The content of IPIP-499's test vectors: a ChaCha20 keystream under sha2-256 of a seed, with a zero nonce (RFC 8439)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np

_ROUNDS = [(0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15)]
_ROUNDS += [(0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)]


def keystream(seed: str, size_bytes: int, piece_bytes: int = 2**20) -> Iterator[bytes]:
    """The first ``size_bytes`` of it, in pieces of ``piece_bytes``; both are multiples of 64."""
    count = piece_bytes // 64
    for first in range(0, size_bytes // 64, count):
        yield _blocks(seed, np.arange(first, first + count, dtype=np.uint32))


def _blocks(seed: str, counters: np.ndarray) -> bytes:
    start = np.zeros((16, len(counters)), np.uint32)
    start[:4] = np.frombuffer(b"expand 32-byte k", "<u4")[:, None]
    start[4:12] = np.frombuffer(hashlib.sha256(seed.encode()).digest(), "<u4")[:, None]
    start[12] = counters
    state = start.copy()
    for _ in range(10):
        for a, b, c, d in _ROUNDS:
            for i, j, k, bits in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
                state[i] += state[j]
                state[k] ^= state[i]
                state[k] = state[k] << np.uint32(bits) | state[k] >> np.uint32(32 - bits)
    state += start
    return np.ascontiguousarray(state.T, "<u4").tobytes()
