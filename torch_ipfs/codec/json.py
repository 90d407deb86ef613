"""Plain JSON, codec 0x0200: what DAG-JSON is without links and bytes. ``{"/": "CID"}`` is a map like any other."""

from __future__ import annotations

from typing import Any

from torch_ipfs.codec import json_parser, json_writer

_PARSER = json_parser.Parser(json_parser.no_duplicates)


def decode(data: bytes | bytearray | memoryview) -> Any:
    """The value of a JSON text.

    :raises CodecError: it is no JSON, not UTF-8, has a key twice, NaN, a number out of the range of 64 bits, or nests deeper
        than :data:`torch_ipfs.codec.nesting.MAX_DEPTH`. The message names the byte.
    """
    return _PARSER.decode(data)


def encode(value: object) -> bytes:
    """``value`` as JSON, keys sorted, without white space.

    :raises CodecError: it holds what JSON does not, bytes and links among it.
    """
    return json_writer.encode(value, lambda _: None, lambda _item, _keys: None)
