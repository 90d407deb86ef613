"""One UnixFS node: a dag-pb block whose Data field is a UnixFS message.

https://specs.ipfs.tech/unixfs/
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch_ipfs.blockstore.base import Block
from torch_ipfs.codec import dag_pb, varint
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import CodecError


class Type(enum.IntEnum):
    """What a node is (DataType)."""

    RAW = 0
    DIRECTORY = 1
    FILE = 2
    METADATA = 3
    SYMLINK = 4
    HAMT_SHARD = 5


class Link(NamedTuple):
    """A dag-pb link. ``tsize``, the bytes of all blocks below, is the writer's word; 0 where it said nothing."""

    name: str
    cid: CID
    tsize: int


class Dag(NamedTuple):
    """What was written: its root, the bytes of content below it (``blocksize``), the bytes of its blocks (``tsize``)."""

    cid: CID
    blocksize: int
    tsize: int


@dataclass(frozen=True, slots=True)
class Node:
    """A node as it was read: that its numbers agree with each other is for those to check who know what it is for."""

    type: Type
    data: bytes = b""
    links: Sequence[Link] = ()
    filesize: int = 0
    blocksizes: Sequence[int] = ()
    hash_type: int = 0
    fanout: int = 0


# Fields of the UnixFS message.
_TYPE, _DATA, _FILESIZE, _BLOCKSIZES, _HASH_TYPE, _FANOUT = range(1, 7)

# Wire types of protobuf, with the bytes that those of a fixed length take.
_VARINT, _BYTES = 0, 2
_FIXED = {1: 8, 5: 4}


def decode(cid: CID, block: Block, source: str | None = None) -> Node:
    """The node of a dag-pb block.

    :param source: where the block came from, for errors.
    :raises CodecError: it is no dag-pb, or has no UnixFS message in it.
    """
    try:
        return _decode(block)
    except CodecError as error:
        raise CodecError(f"not a UnixFS node: {error}", cid=cid, source=source) from error


def _decode(block: Block) -> Node:
    value = dag_pb.decode(block)
    if "Data" not in value:
        raise CodecError("the dag-pb node has no Data")
    numbers, data, blocksizes = _message(value["Data"])
    return Node(
        type=_type(numbers),
        data=data,
        links=[Link(link.get("Name", ""), link["Hash"], link.get("Tsize", 0)) for link in value["Links"]],
        filesize=numbers.get(_FILESIZE, 0),
        blocksizes=blocksizes,
        hash_type=numbers.get(_HASH_TYPE, 0),
        fanout=numbers.get(_FANOUT, 0),
    )


def _message(message: bytes) -> tuple[dict[int, int], bytes, list[int]]:
    """The integers of a UnixFS message by field, its Data and its blocksizes.

    Of a field that may stand once and stands more often the last counts, as protobuf has it.
    """
    numbers: dict[int, int] = {}
    blocksizes: list[int] = []
    data = b""
    for field, value in _fields(message):
        if field == _BLOCKSIZES:
            blocksizes.extend([value] if isinstance(value, int) else _packed(value))
        elif isinstance(value, int):
            numbers[field] = value
        elif field == _DATA:
            data = value
    return numbers, data, blocksizes


def _type(numbers: dict[int, int]) -> Type:
    try:
        return Type(numbers[_TYPE])
    except KeyError:
        raise CodecError("the UnixFS message has no Type") from None
    except ValueError:
        raise CodecError(f"the UnixFS message has Type {numbers[_TYPE]}; 0 to 5 are known") from None


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Field numbers and values of a protobuf message; what has a fixed length, which UnixFS uses nowhere, is passed over.

    :raises CodecError: the message is cut or has a wire type that protobuf does not.
    """
    position = 0
    while position < len(message):
        start = position
        key, position = varint.read(message, position)
        field, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, position = varint.read(message, position)
            yield field, value
        elif wire == _BYTES:
            size, position = varint.read(message, position)
            position += size
            if position > len(message):
                raise CodecError(
                    f"UnixFS field at byte {start} claims {size} bytes, of which {len(message) - position + size} are there"
                )
            yield field, message[position - size : position]
        elif wire in _FIXED:
            position += _FIXED[wire]
        else:
            raise CodecError(f"UnixFS field at byte {start} has wire type {wire}; 0, 1, 2 and 5 are known")


def _packed(data: bytes) -> Iterator[int]:
    position = 0
    while position < len(data):
        value, position = varint.read(data, position)
        yield value


def encode(node: Node) -> bytes:
    """The dag-pb block of a node, as Kubo makes it: a Name on every link, and filesize for files alone."""
    message = bytearray(_field(_TYPE, node.type))
    if node.data:
        message += bytes([_DATA << 3 | _BYTES]) + varint.encode(len(node.data)) + node.data
    if node.type in (Type.FILE, Type.RAW):
        message += _field(_FILESIZE, node.filesize)
    for blocksize in node.blocksizes:
        message += _field(_BLOCKSIZES, blocksize)
    if node.type is Type.HAMT_SHARD:
        message += _field(_HASH_TYPE, node.hash_type) + _field(_FANOUT, node.fanout)
    links = [{"Hash": link.cid, "Name": link.name, "Tsize": link.tsize} for link in node.links]
    return dag_pb.encode({"Data": bytes(message), "Links": links})


def _field(field: int, value: int) -> bytes:
    return bytes([field << 3 | _VARINT]) + varint.encode(value)
