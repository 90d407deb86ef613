"""DAG-PB: the nodes of UnixFS. https://ipld.io/specs/codecs/dag-pb/spec/

A value is ``{"Links": [{"Hash": CID, "Name": str, "Tsize": int}, ...], "Data": bytes}``; Links is always there, Data, Name and
Tsize only where the block has them.
"""

from __future__ import annotations

from typing import Any, NoReturn

from torch_ipfs.codec import varint
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import CodecError

# A field's number and wire type, the one byte that goes before it.
_NODE_DATA, _NODE_LINK = 0x0A, 0x12
_HASH, _NAME, _TSIZE = 0x0A, 0x12, 0x18
_LINK_FIELDS = {_HASH: "Hash", _NAME: "Name", _TSIZE: "Tsize"}


def decode(data: bytes | bytearray | memoryview) -> dict[str, Any]:
    """The value of a block. Links keep their order; Data may come before them, as old blocks have it.

    :raises CodecError: the bytes are no dag-pb node: a field that is unknown, twice, out of order or of the wrong wire type, a
        varint that is not minimal, a link without a CID, a name that is not UTF-8, a cut or trailing bytes.
    """
    data = bytes(data)
    node: dict[str, Any] = {"Links": []}
    links: list[dict[str, Any]] = node["Links"]
    offset = 0
    previous = -1
    while offset < len(data):
        field, start = data[offset], offset
        if field not in (_NODE_DATA, _NODE_LINK):
            _fail(start, f"no field of a node: {field:#04x}, a node has Links (0x12) and Data (0x0a)")
        begin, offset = _span(data, start, len(data))
        if field == _NODE_DATA:
            if "Data" in node:
                _fail(start, "a second Data")
            node["Data"] = data[begin:offset]
        else:
            if links and previous == _NODE_DATA:
                _fail(start, "Links on both sides of Data")
            links.append(_link(data, begin, offset))
        previous = field
    return node


def encode(value: object) -> bytes:
    """The block of a value. Links are sorted by the bytes of their names, equal ones keep their order.

    :raises CodecError: the value is not of the form that this module's head describes.
    """
    node = _fields(value, "a node", {"Links", "Data"})
    links = node.get("Links", [])
    if not isinstance(links, list | tuple):
        raise CodecError(f"dag-pb: Links is a list, not {type(links).__name__}")
    encoded = [_encode_link(link) for link in links]
    encoded.sort(key=lambda link: link[0])
    out = [_field(_NODE_LINK, link) for _, link in encoded]
    if "Data" in node:
        if not isinstance(node["Data"], bytes | bytearray | memoryview):
            raise CodecError(f"dag-pb: Data is bytes, not {type(node['Data']).__name__}")
        out.append(_field(_NODE_DATA, bytes(node["Data"])))
    return b"".join(out)


def _fail(offset: int, what: str) -> NoReturn:
    raise CodecError(f"not dag-pb: {what}, at byte {offset}")


def _span(data: bytes, start: int, end: int) -> tuple[int, int]:
    """Where the bytes of the field at ``start`` begin and end, inside of what ends at ``end``."""
    length, begin = varint.read(data, start + 1)
    if begin + length > end:
        _fail(start, f"a field is cut: {length} bytes from byte {begin}, its message ends at {end}")
    return begin, begin + length


def _link(data: bytes, offset: int, end: int) -> dict[str, Any]:
    """The link message in ``data[offset:end]``."""
    link: dict[str, Any] = {}
    start = offset
    previous = 0
    while offset < end:
        field, at = data[offset], offset
        if field not in _LINK_FIELDS:
            _fail(at, f"no field of a link: {field:#04x}, a link has Hash (0x0a), Name (0x12) and Tsize (0x18)")
        if field <= previous:
            _fail(at, f"{_LINK_FIELDS[field]} after {_LINK_FIELDS[previous]}")
        previous = field
        if field == _TSIZE:
            link["Tsize"], offset = varint.read(data, at + 1)
            if offset > end:
                _fail(at, "Tsize is cut: it runs past its link")
            continue
        begin, offset = _span(data, at, end)
        link[_LINK_FIELDS[field]] = (_cid if field == _HASH else _name)(data, begin, offset)
    if "Hash" not in link:
        _fail(start, "a link without Hash")
    return link


def _cid(data: bytes, begin: int, end: int) -> CID:
    try:
        return CID.from_bytes(data[begin:end])
    except CodecError as error:
        _fail(begin, f"Hash is no CID ({error})")


def _name(data: bytes, begin: int, end: int) -> str:
    try:
        return data[begin:end].decode()
    except UnicodeDecodeError as error:
        _fail(begin + error.start, "Name is not UTF-8")


def _fields(value: object, what: str, allowed: set[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise CodecError(f"dag-pb: {what} is a map, not {type(value).__name__}")
    if unknown := sorted(repr(key) for key in value.keys() - allowed):
        raise CodecError(f"dag-pb: {what} has no {', '.join(unknown)[:80]}, only {', '.join(sorted(allowed))}")
    return value


def _encode_link(value: object) -> tuple[bytes, bytes]:
    """The bytes of a link's name, to sort by, and the link message."""
    link = _fields(value, "a link", {"Hash", "Name", "Tsize"})
    cid, name, tsize = link.get("Hash"), link.get("Name", ""), link.get("Tsize", 0)
    if not isinstance(cid, CID):
        raise CodecError(f"dag-pb: a link's Hash is a CID, not {type(cid).__name__}")
    if not isinstance(name, str) or not isinstance(tsize, int) or isinstance(tsize, bool):
        raise CodecError(
            f"dag-pb: a link's Name is a str and its Tsize an int, not {type(name).__name__} and {type(tsize).__name__}"
        )
    try:
        encoded_name = name.encode()
    except UnicodeEncodeError as error:
        raise CodecError(f"dag-pb: a name that UTF-8 cannot hold: {name[:80]!r} ({error.reason})") from None
    out = _field(_HASH, bytes(cid))
    if "Name" in link:
        out += _field(_NAME, encoded_name)
    if "Tsize" in link:
        out += bytes((_TSIZE,)) + varint.encode(tsize)
    return encoded_name, out


def _field(field: int, data: bytes) -> bytes:
    return bytes((field,)) + varint.encode(len(data)) + data
