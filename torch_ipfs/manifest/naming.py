"""How a dataset and what it holds are named, by links and by text, and how plain JSON is told from DAG-JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch_ipfs import unixfs
from torch_ipfs.blockstore.base import Block, Blockstore
from torch_ipfs.codec import dag_json
from torch_ipfs.codec import json as plain_json
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import CodecError, OptionError

MAX_JSON_CONTAINERS = 2**22
"""Maps and lists of a node that is a file of JSON: each takes up to a hundred times the memory that its text does, and a file
of 128 MiB may be one small block over and over."""
MAX_JSON_VALUES = 2**25


def resolve_root(store: Blockstore, root: CID | str) -> CID:
    """The CID that ``root`` names: a CID, ``/ipfs/CID/path`` or ``ipfs://CID/path``.

    :raises CodecError: it names none.
    :raises BlockNotFound: a part of its path is not there.
    """
    if isinstance(root, CID):
        return root
    if not isinstance(root, str):
        raise OptionError(f"root is a CID, its text, /ipfs/CID/path or ipfs://CID/path, not {type(root).__name__}")
    return unixfs.resolve(store, root)


def as_cid(value: Any) -> CID:
    """The CID that a manifest names as a link, as text, or as DAG-JSON's map for a link in plain JSON.

    :raises CodecError: it names none.
    """
    if isinstance(value, CID):
        return value
    if is_json_link(value):
        value = value["/"]
    if not isinstance(value, str):
        raise CodecError(f"expected a CID, found {kind(value)}")
    return CID.parse(value)


def decode_json(data: Block) -> Any:
    """DAG-JSON where it is that, else plain JSON: a file does not say which.

    :raises CodecError: it is neither, or over this module's bounds.
    """
    data = bytes(data)
    check_json(data)
    try:
        return dag_json.decode(data)
    except CodecError:
        return plain_json.decode(data)


def check_json(data: bytes) -> None:
    """:raises CodecError: there is more in a text than is decoded."""
    containers = data.count(b"{") + data.count(b"[")
    if containers > MAX_JSON_CONTAINERS or data.count(b",") > MAX_JSON_VALUES:
        raise CodecError(
            f"over {MAX_JSON_CONTAINERS:,} maps and lists or {MAX_JSON_VALUES:,} values in a JSON text; put samples into "
            "several nodes, or pack them"
        )


def names_block(value: Any) -> bool:
    """Whether :func:`as_cid` finds one."""
    try:
        as_cid(value)
    except CodecError:
        return False
    return True


def is_json_link(value: Any) -> bool:
    """Whether it is DAG-JSON's map for a link."""
    return isinstance(value, dict) and list(value) == ["/"] and isinstance(value["/"], str)


def kind(value: Any) -> str:
    """What to call a value in an error."""
    names = {dict: "a map", list: "a list", str: "text", type(None): "null", CID: "a link"}
    return names.get(type(value), type(value).__name__)


def listed(value: Mapping[str, Any]) -> str:
    """Some of a map's names, for an error."""
    names = sorted(map(repr, value))
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") if names else "an empty map"
