"""murmur3-x64-64: the first half of MurmurHash3's 128 bits for 64-bit machines, with seed 0, which HAMTs sort names by.

https://github.com/multiformats/multicodec (0x22) and https://github.com/aappleby/smhasher
"""

from __future__ import annotations

import struct

CODE = 0x22
"""Its multicodec code."""

BITS = 64

_MASK = 2**64 - 1
_C1 = 0x87C37B91114253D5
_C2 = 0x4CF5AD432745937F


def hash64(data: bytes) -> int:
    """The hash as an integer; its most significant bits come first in a path through a HAMT."""
    h1 = h2 = 0
    whole = len(data) & ~15
    for k1, k2 in struct.iter_unpack("<QQ", data[:whole]):
        h1 ^= _mix1(k1)
        h1 = (_rotate(h1, 27) + h2) * 5 + 0x52DCE729 & _MASK
        h2 ^= _mix2(k2)
        h2 = (_rotate(h2, 31) + h1) * 5 + 0x38495AB5 & _MASK
    tail = data[whole:]
    h1 ^= _mix1(int.from_bytes(tail[:8], "little")) ^ len(data)
    h2 ^= _mix2(int.from_bytes(tail[8:], "little")) ^ len(data)
    h1 = h1 + h2 & _MASK
    h2 = h1 + h2 & _MASK
    return _finish(h1) + _finish(h2) & _MASK


def _rotate(value: int, bits: int) -> int:
    return (value << bits | value >> 64 - bits) & _MASK


def _mix1(k1: int) -> int:
    return _rotate(k1 * _C1 & _MASK, 31) * _C2 & _MASK


def _mix2(k2: int) -> int:
    return _rotate(k2 * _C2 & _MASK, 33) * _C1 & _MASK


def _finish(value: int) -> int:
    value = (value ^ value >> 33) * 0xFF51AFD7ED558CCD & _MASK
    value = (value ^ value >> 33) * 0xC4CEB9FE1A85EC53 & _MASK
    return value ^ value >> 33
