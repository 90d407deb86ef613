"""Objects and blocks: what ``dag_put`` makes a block of, and what ``dag_get`` finds at a path."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from torch_ipfs import codec, unixfs
from torch_ipfs.blockstore.base import Blockstore
from torch_ipfs.codec.cid import DAG_PB, CID
from torch_ipfs.codec.nesting import MAX_DEPTH
from torch_ipfs.errors import BlockNotFound, CodecError, OptionError

MAX_LINKS = 256
"""Links that one path may go through."""


def to_ipld(value: Any, depth: int = MAX_DEPTH) -> Any:
    """``value`` as IPLD's data model: as Kubo's ``dag put`` reads its JSON, ``{"/": "CID"}`` is a link and
    ``{"/": {"bytes": "base64"}}`` are bytes (DAG-JSON). Arrays and tensors become lists, as ``tolist`` makes them.

    :raises CodecError: it nests too deep, an array cannot become a list, or what is written as a link or bytes is none.
    """
    if depth < 0:
        raise CodecError(f"the object nests deeper than {MAX_DEPTH} lists and maps")
    if isinstance(value, Mapping):
        if len(value) == 1 and "/" in value:
            return _reserved(value["/"], depth - 1)
        return {key: to_ipld(item, depth - 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_ipld(item, depth - 1) for item in value]
    tolist = None if isinstance(value, memoryview) else getattr(value, "tolist", None)
    if not callable(tolist):
        return value
    try:
        values = tolist()
    except Exception as error:
        raise CodecError(f"a {type(value).__name__} that cannot become a list: {error}") from error
    return to_ipld(values, depth - 1)


def _reserved(value: Any, depth: int) -> Any:
    """What ``{"/": value}`` is: a link, bytes, or, as Kubo has it, a map like any other."""
    if isinstance(value, CID | str):
        return value if isinstance(value, CID) else CID.parse(value)
    text = value.get("bytes") if isinstance(value, Mapping) and len(value) == 1 else None
    if not isinstance(text, str):
        return {"/": to_ipld(value, depth)}
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except binascii.Error as error:
        raise CodecError(f'{{"/": {{"bytes": ...}}}} holds no base64: {error}') from None


def value_at(store: Blockstore, path: str | CID) -> Any:
    """The value at ``CID``, ``CID/path``, ``/ipfs/CID/path`` or ``ipfs://CID/path``: entries of maps by key and of lists by
    number, through links, and through UnixFS directories by name. A path that ends at a link gives what is behind it.

    :raises OptionError: it is no path.
    :raises CodecError: its CID is none, or a block is damaged or of an unknown codec.
    :raises BlockError: a block on the way cannot be had, or has no such entry.
    """
    if not isinstance(path, str | CID):
        raise OptionError(f"a CID or a path is text, not a {type(path).__name__}")
    cid, segments = unixfs.parse_path(path)
    for _ in range(MAX_LINKS):
        if not segments:
            return codec.decode(cid, store.get(cid))
        if cid.codec == DAG_PB:
            cid, segments = unixfs.lookup(store, cid, segments[0]), segments[1:]
            continue
        value, segments = _follow(codec.decode(cid, store.get(cid)), segments, cid)
        if not isinstance(value, CID):
            return value
        cid = value
    raise OptionError(f"the path goes through more than {MAX_LINKS} links", cid=cid)


def _follow(value: Any, segments: list[str], cid: CID) -> tuple[Any, list[str]]:
    """The first link on the way through a block's value, or what is at the end of the way, and what is left of it."""
    for used, segment in enumerate(segments):
        if isinstance(value, CID):
            return value, segments[used:]
        items = value
        if isinstance(value, list):
            items = {str(index): item for index, item in enumerate(value)}
        if not isinstance(items, dict) or segment not in items:
            kind = "map" if isinstance(value, dict) else "list" if isinstance(value, list) else "value without entries"
            raise BlockNotFound(f"no entry {segment!r} in a {kind}", cid=cid)
        value = items[segment]
    return value, []
