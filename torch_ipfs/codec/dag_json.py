"""DAG-JSON: JSON with links and bytes. https://ipld.io/specs/codecs/dag-json/spec/

A link is ``{"/": "CID"}``, bytes are ``{"/": {"bytes": "base64"}}``, and maps that begin like one of them and are none are
refused in both directions. Reading allows white space and any order of keys, as the spec asks; writing has one form.
"""

from __future__ import annotations

from typing import Any

from torch_ipfs.codec import json_parser, json_writer, multibase
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import CodecError


def decode(data: bytes | bytearray | memoryview) -> Any:
    """The value of a block.

    :raises CodecError: it is no DAG-JSON: no JSON, not UTF-8, a key twice, NaN, a number out of range, a misuse of the key
        "/", or it nests deeper than :data:`torch_ipfs.codec.nesting.MAX_DEPTH`. The message names the byte.
    """
    return _PARSER.decode(data)


def encode(value: object) -> bytes:
    """The one encoding of ``value``.

    :raises CodecError: it holds what DAG-JSON does not, see :func:`torch_ipfs.codec.json_writer.encode`, or a map that would
        read as a link or as bytes.
    """
    return json_writer.encode(value, _link_or_bytes, _refuse_reserved)


def _value(members: list[tuple[str, Any]]) -> Any:
    """An object's value: a link, bytes, or the map that it is."""
    if not members or members[0][0] != "/":
        return json_parser.no_duplicates(members)
    inner = members[0][1]
    encoded = inner if isinstance(inner, str) else _bytes_text(inner)
    if encoded is None:
        return json_parser.no_duplicates(members)
    if len(members) > 1 or (isinstance(inner, dict) and len(inner) > 1):
        raise CodecError('a map that begins like a link or bytes, {"/": ...}, and has more keys')
    return _bytes(encoded) if isinstance(inner, dict) else _cid(encoded)


def _bytes_text(inner: Any) -> str | None:
    """The text of ``{"bytes": text, ...}``; of anything else ``None``."""
    if isinstance(inner, dict) and next(iter(inner), None) == "bytes" and isinstance(inner["bytes"], str):
        return inner["bytes"]
    return None


def _cid(text: str) -> CID:
    cid = CID.parse(text)
    if str(cid) != text:
        raise CodecError(f"a link is written {str(cid)!r}, not {text!r}")
    return cid


def _bytes(text: str) -> bytes:
    return multibase.decode_base64(text)


def _link_or_bytes(value: object) -> str | None:
    if isinstance(value, CID):
        return f'{{"/":"{value}"}}'
    if isinstance(value, bytes | bytearray | memoryview):
        return f'{{"/":{{"bytes":"{multibase.encode("m", bytes(value))[1:]}"}}}}'
    return None


def _refuse_reserved(item: dict[str, Any], keys: list[str]) -> None:
    if not keys or keys[0] != "/":
        return
    inner = item["/"]
    if isinstance(inner, str) or (
        isinstance(inner, dict) and inner and min(inner) == "bytes" and isinstance(inner["bytes"], str)
    ):
        raise CodecError(
            'DAG-JSON reserves maps whose first key is "/" for links and bytes; this map would read as one'
        )


_PARSER = json_parser.Parser(_value)
