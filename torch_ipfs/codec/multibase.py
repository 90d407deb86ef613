"""Multibase: bytes as text, the base named by the first character.

https://github.com/multiformats/multibase; the bases that IPFS uses for CIDs. libipld does the work (0.2 us for a CID, the
standard library's base32 takes 6); what is strict about reading is here.
"""

from __future__ import annotations

import libipld

from torch_ipfs.errors import CodecError

PREFIXES = {
    "base58btc": "z",
    "base32": "b",
    "base32upper": "B",
    "base32pad": "c",
    "base32padupper": "C",
    "base36": "k",
    "base36upper": "K",
    "base16": "f",
    "base16upper": "F",
    "base64": "m",
    "base64pad": "M",
    "base64url": "u",
    "base64urlpad": "U",
}
"""Prefix letters by the names of the bases."""

MAX_TEXT_CHARS = 4096
"""Longest text that is decoded: base36 and base58 take quadratic time. A CID takes some 60 characters, at most 330."""

_READABLE = frozenset(PREFIXES.values())


def encode(base: str, data: bytes) -> str:
    """``data`` in the base of that name or prefix letter, with the prefix.

    :raises CodecError: no such base here.
    """
    prefix = PREFIXES.get(base, base)
    if prefix not in _READABLE:
        raise CodecError(f"unknown multibase {base!r}; known are {', '.join(PREFIXES)}")
    return libipld.encode_multibase(prefix, data)


def decode(text: str) -> bytes:
    """The bytes of a multibase text: no foreign characters, the base's own case and padding, no bits left over.

    :raises CodecError: an unknown prefix, or text that its base does not allow.
    """
    if text[:1] not in _READABLE:
        raise CodecError(f"no known multibase prefix ({', '.join(sorted(_READABLE))}): {_shown(text)}")
    if len(text) > MAX_TEXT_CHARS:
        raise CodecError(f"multibase text of {len(text)} characters; at most {MAX_TEXT_CHARS} are read")
    data = _decoded(text)
    if data is None:
        raise CodecError(f"not the multibase text that its prefix promises: {_shown(text)}")
    return data


def decode_base58btc(text: str) -> bytes:
    """The bytes of base58btc without a prefix, as CIDv0 are written.

    :raises CodecError: text that base58btc does not allow.
    """
    data = _decoded("z" + text)
    if data is None:
        raise CodecError(f"not base58btc: {_shown(text)}")
    return data


def decode_base64(text: str) -> bytes:
    """The bytes of base64 without a prefix and padding, as DAG-JSON writes bytes. Of any length.

    :raises CodecError: text that base64 does not allow.
    """
    data = _decoded("m" + text)
    if data is None:
        raise CodecError(f"not base64 without padding: {_shown(text)}")
    return data


def _decoded(text: str) -> bytes | None:
    """The bytes of a multibase text, ``None`` where it is none."""
    try:
        prefix, data = libipld.decode_multibase(text)
    except ValueError:
        return None
    return data if libipld.encode_multibase(prefix, data) == text else None  # libipld reads other forms than it writes


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")
