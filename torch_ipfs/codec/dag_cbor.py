"""DAG-CBOR: one value, one encoding. https://ipld.io/specs/codecs/dag-cbor/spec/

Values are None, bool, int, float, str, bytes, list, dict with str keys, and CID. ``decode`` accepts what ``encode`` makes and
nothing else, so ``encode(decode(data)) == data``. (-0.0 is encoded as 0.0 and refused on decoding, as the spec has it since
July 2026. Kubo writes and reads it, so both can be told to do the same.)

libipld does the work where it does it right. It has no type of its own for links: it decodes them as bytes and encodes bytes
that look like a CID as links. So a link is told from bytes by encoding again: what libipld made of a block encodes to that
block only if just those bytes that were links look like links.
"""

from __future__ import annotations

import gc
import re
from typing import Any

import libipld

from torch_ipfs.codec import cbor_decoder, cbor_encoder, cbor_tokens, nesting
from torch_ipfs.codec.cid import CID

_LINK_BEGINS = re.compile(rb"\xd8\x2a(?:[\x40-\x57]|\x58.|\x59..|\x5a....|\x5b........)\0[\x01\x12]", re.DOTALL)
"""How a link begins: tag 42 over bytes of which the first is zero and the second the CID's first. Random bytes rarely do."""
_LARGE_BYTES = 2**16


def decode(data: bytes | bytearray | memoryview, *, minus_zero: bool = False) -> Any:
    """The value of a block.

    :param minus_zero: whether it may hold the float -0.0, as blocks of Kubo's do.
    :raises CodecError: it is not canonical DAG-CBOR (the message names what and at which byte), or nests deeper than
        :data:`torch_ipfs.codec.nesting.MAX_DEPTH`.
    """
    data = bytes(data)
    links = cbor_tokens.has_links(data)
    if links is None or not nesting.native_recursion_is_safe():
        return cbor_decoder.decode(data, minus_zero=minus_zero)
    try:
        value = _native(data)
        if len(data) > nesting.MAX_DEPTH and nesting.is_deep_plain(value):
            return cbor_decoder.decode(data, minus_zero=minus_zero)
        if not links:
            return value
        if libipld.encode_dag_cbor(value) == data:
            return _with_links(value)
    except (ValueError, RecursionError):  # a CodecError of _with_links is a ValueError too
        pass
    return cbor_decoder.decode(data, minus_zero=minus_zero)


def _native(data: bytes) -> Any:
    """What libipld makes of a block. Of a large one it makes so many objects at once that Python's collector would go through
    all of the process's again, in vain: 0.1 s each time with torch loaded, for a block that takes 8 ms.
    """
    if len(data) < _LARGE_BYTES or not gc.isenabled():
        return libipld.decode_dag_cbor(data)
    gc.disable()
    try:
        return libipld.decode_dag_cbor(data)
    finally:
        gc.enable()


def encode(value: object, *, minus_zero: bool = False) -> bytes:
    """The one encoding of ``value``; a tuple is encoded as a list, bytearray and memoryview as bytes.

    :param minus_zero: whether to write -0.0 as it is, as Kubo does, and not as 0.0.
    :raises CodecError: it holds what DAG-CBOR does not, or nests deeper than :data:`torch_ipfs.codec.nesting.MAX_DEPTH`.
    """
    if minus_zero or not nesting.native_recursion_is_safe():
        return cbor_encoder.encode(value, minus_zero=minus_zero)
    try:
        data = libipld.encode_dag_cbor(value)
    except (ValueError, RecursionError):  # also for a CID, which it does not know
        return cbor_encoder.encode(value)
    if _LINK_BEGINS.search(data) or (len(data) > nesting.MAX_DEPTH and nesting.is_deep(value)):
        return cbor_encoder.encode(value)
    return data


def _with_links(value: Any) -> Any:
    """``value`` with the bytes that libipld encodes as links made CIDs, in place.

    :raises CodecError: one of them is no CID.
    """
    top = [value]
    containers: list[Any] = [top]
    encode_dag_cbor, from_bytes = libipld.encode_dag_cbor, CID.from_bytes
    while containers:
        container = containers.pop()
        for key, item in container.items() if container.__class__ is dict else enumerate(container):
            kind = item.__class__
            if kind is bytes:
                if encode_dag_cbor(item)[0] == 0xD8:
                    container[key] = from_bytes(item)
            elif kind is list or kind is dict:
                containers.append(item)
    return top[0]
