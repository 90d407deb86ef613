"""Canonical DAG-CBOR encoding, item by item, without recursion.

:mod:`torch_ipfs.codec.dag_cbor` uses it for what libipld would encode wrongly or not at all: links, and bytes that look like a
CID. It takes some 0.3 us an item. https://ipld.io/specs/codecs/dag-cbor/spec/#strictness
"""

from __future__ import annotations

import math
import reprlib
import struct
from collections.abc import Iterable, Iterator
from itertools import repeat
from typing import Any

from torch_ipfs.codec.cid import CID
from torch_ipfs.codec.nesting import MAX_DEPTH
from torch_ipfs.errors import CodecError

_UNSIGNED, _NEGATIVE, _BYTES, _TEXT, _LIST, _MAP = (major << 5 for major in range(6))
_FLOAT_64 = struct.Struct(">Bd")
_LINK_TAG = b"\xd8\x2a"
_CONSTANTS = {None: b"\xf6", False: b"\xf4", True: b"\xf5"}


def encode(value: object, *, minus_zero: bool = False) -> bytes:
    """The one DAG-CBOR form of ``value``.

    :param minus_zero: whether to write -0.0 as it is, and not as 0.0.
    :raises CodecError: it holds what DAG-CBOR does not: another type, NaN, an infinity, an integer over 64 bits, a key that is
        no str, a lone surrogate, or it nests deeper than :data:`torch_ipfs.codec.nesting.MAX_DEPTH`.
    """
    out: list[bytes] = []
    opened: list[Iterator[tuple[bytes, Any]]] = [iter([(b"", value)])]
    while opened:
        for key, item in opened[-1]:
            if len(opened) - 1 > MAX_DEPTH:
                raise CodecError(f"DAG-CBOR: the value nests deeper than {MAX_DEPTH} lists and maps")
            out.append(key)
            if isinstance(item, (list, tuple)):
                out.append(_head(_LIST, len(item)))
                opened.append(zip(repeat(b""), item, strict=False))
                break
            if isinstance(item, dict):
                out.append(_head(_MAP, len(item)))
                opened.append(iter(_entries(item.items())))
                break
            out.append(_scalar(item, minus_zero=minus_zero))
        else:
            opened.pop()
    return b"".join(out)


def _entries(items: Iterable[tuple[object, object]]) -> list[tuple[bytes, object]]:
    """Encoded keys and values in canonical order. Encoded keys sort as they should: a head grows with the key's length."""
    entries = []
    for key, value in items:
        if not isinstance(key, str):
            raise CodecError(f"DAG-CBOR: map keys are str, not {type(key).__name__}: {reprlib.repr(key)}")
        entries.append((_text(key), value))
    entries.sort(key=lambda entry: entry[0])
    return entries


def _scalar(item: object, *, minus_zero: bool) -> bytes:
    if item is None or item is True or item is False:
        return _CONSTANTS[item]
    if isinstance(item, CID):
        binary = b"\0" + bytes(item)
        return _LINK_TAG + _head(_BYTES, len(binary)) + binary
    if isinstance(item, str):
        return _text(item)
    if isinstance(item, int):
        return _integer(item)
    if isinstance(item, float):
        if not math.isfinite(item):
            raise CodecError(f"DAG-CBOR has no {item}")
        return _FLOAT_64.pack(0xFB, item if minus_zero else item + 0.0)
    if isinstance(item, (bytes, bytearray, memoryview)):
        data = bytes(item)  # first: a memoryview's length is in its own items
        return _head(_BYTES, len(data)) + data
    raise CodecError(
        f"DAG-CBOR has no {type(item).__name__}; it holds None, bool, int, float, str, bytes, list, dict, CID: "
        f"{reprlib.repr(item)}"
    )


def _text(text: str) -> bytes:
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        raise CodecError(f"DAG-CBOR: text that UTF-8 cannot hold: {text[:80]!r} ({error.reason})") from None
    return _head(_TEXT, len(data)) + data


def _integer(value: int) -> bytes:
    if not -(2**64) <= value < 2**64:
        raise CodecError("DAG-CBOR: integers lie between -(2**64) and 2**64 - 1")
    return _head(_UNSIGNED, int(value)) if value >= 0 else _head(_NEGATIVE, -1 - value)


def _head(major: int, argument: int) -> bytes:
    if argument < 24:
        return bytes((major | argument,))
    if argument < 2**8:
        return bytes((major | 24, argument))
    minor, length = (25, 2) if argument < 2**16 else (26, 4) if argument < 2**32 else (27, 8)
    return bytes((major | minor,)) + argument.to_bytes(length, "big")
