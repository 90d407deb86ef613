"""Headers of CARs, version 1 and 2. https://ipld.io/specs/transport/car/"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterable
from typing import NoReturn

from torch_ipfs.codec import dag_cbor, varint
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import CodecError

V2_PRAGMA = bytes.fromhex("0aa16776657273696f6e02")
V2_HEADER_BYTES = 40
_V2_LEAST_OFFSET = len(V2_PRAGMA) + V2_HEADER_BYTES
_LINK_TAG = b"\xd8\x2a"
_VERSION = re.compile(rb"\x67version([\x00-\x17])\Z")


def fail(offset: int, what: str) -> NoReturn:
    """:raises CodecError: always."""
    raise CodecError(f"not a CAR: {what}, at byte {offset}")


def encode(roots: Iterable[CID]) -> bytes:
    """The header of a CARv1 with its length before it.

    :raises CodecError: one of ``roots`` is no CID.
    """
    named = list(roots)
    for root in named:
        if not isinstance(root, CID):
            raise CodecError(f"a CAR's roots are CIDs, not {type(root).__name__}: {reprlib.repr(root)}")
    body = dag_cbor.encode({"roots": named, "version": 1})
    return varint.encode(len(body)) + body


def decode(body: bytes, offset: int) -> list[CID]:
    """The roots of a CARv1 header, which began at ``offset``. A header may be large, so nothing but roots is decoded.

    :raises CodecError: it is not the one DAG-CBOR form of a list of roots and version 1.
    """
    roots = []
    position = body.find(_LINK_TAG)
    while position >= 0 and body.startswith(_LINK_TAG, position):
        position += 5 if body[position + 2 : position + 3] == b"\x58" else 4  # tag, length of one or two bytes, a zero
        try:
            cid, position = CID.read(body, position)
        except CodecError as error:
            fail(offset + position, f"a root that is no CID ({error})")
        roots.append(cid)
    if encode(roots)[-len(body) :] != body:
        version = _VERSION.search(body)
        what = f"its version is {version[1][0]}" if version and version[1] != b"\1" else "its header is of another form"
        fail(offset, f'{what}; expected the canonical DAG-CBOR of {{"roots": [links], "version": 1}}')
    return roots


def decode_v2(header: bytes) -> tuple[int, int]:
    """Where the CARv1 inside of a CARv2 begins and ends, by the 40 bytes after the pragma. The place of the index is ignored.

    :raises CodecError: it is cut, or says what cannot be.
    """
    at = len(V2_PRAGMA)
    if len(header) < V2_HEADER_BYTES:
        fail(at, f"a CARv2 header is cut: {len(header)} of {V2_HEADER_BYTES} bytes")
    begin, size = (int.from_bytes(header[start : start + 8], "little") for start in (16, 24))
    if begin < _V2_LEAST_OFFSET or not size:
        fail(
            at,
            f"a CARv2 whose data lies in {size} bytes from byte {begin}; it begins after byte {_V2_LEAST_OFFSET - 1}",
        )
    return begin, begin + size
