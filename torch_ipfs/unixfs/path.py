"""Paths: from ``/ipfs/CID/a/b`` to the CID they name, through UnixFS directories and through IPLD maps, lists and links.

https://specs.ipfs.tech/http-gateways/path-gateway/ and https://specs.ipfs.tech/unixfs/#unixfs-paths
"""

from __future__ import annotations

import urllib.parse

from torch_ipfs import codec
from torch_ipfs.blockstore.base import Blockstore, source_of
from torch_ipfs.codec.cid import DAG_CBOR, DAG_JSON, DAG_PB, CID
from torch_ipfs.errors import BlockNotFound, CodecError, OptionError
from torch_ipfs.unixfs import directory

MAX_BARE_LINKS = 32
"""Blocks in a row that are nothing but a link, and so use up no segment of a path."""

_MUTABLE = ("ipns://", "/ipns/")


def resolve(store: Blockstore, path: str | CID) -> CID:
    """What a path names. Only blocks before the last are read: that there is a block of the CID is not looked at.

    :param path: a CID, ``CID/path``, ``/ipfs/CID/path`` or ``ipfs://CID/path``. The last is a URI, percent-encoded;
        in the others a ``%`` is a ``%``.
    :raises OptionError: it is no such path, or it ends inside a block.
    :raises CodecError: the CID is none, or a block on the way is damaged or a symlink, which is not followed.
    :raises BlockNotFound: there is nothing of that name.
    :raises BlockError: a block on the way cannot be had.
    """
    cid, segments = parse_path(path)
    for _ in range(len(segments) + MAX_BARE_LINKS):
        if not segments:
            return cid
        cid, segments = _step(store, cid, segments)
    raise OptionError(f"the path goes through more than {MAX_BARE_LINKS} blocks that are bare links", cid=cid)


def parse_path(path: str | CID) -> tuple[CID, list[str]]:
    """The CID of a path and the segments after it, ``.`` and ``..`` worked out.

    :raises OptionError: no path of immutable content, or ``..`` leads out of it.
    :raises CodecError: the CID is none.
    """
    if isinstance(path, CID):
        return path, []
    if path.startswith(_MUTABLE):
        raise OptionError(f"{path[:200]!r} may name something else tomorrow; resolve it and give the CID")
    root, *rest = _content_path(path).split("/")
    segments: list[str] = []
    for segment in rest:
        if segment == ".." and not segments:
            raise OptionError(f"{path[:200]!r} leads out of its CID")
        if segment == "..":
            segments.pop()
        elif segment not in ("", "."):
            segments.append(segment)
    try:
        return CID.parse(root), segments
    except CodecError as error:
        named = "" if root == path else f" (in {path[:200]!r})"
        raise CodecError(f"{error.reason}{named}") from None


def _content_path(path: str) -> str:
    """``CID/path``, whatever form it came in."""
    if not path.startswith("ipfs://"):
        return path.removeprefix("/ipfs/")
    if "?" in path or "#" in path:
        raise OptionError(f"{path[:200]!r} has a query or a fragment; in a path '?' is written %3F and '#' %23")
    try:
        return urllib.parse.unquote(path.removeprefix("ipfs://"), errors="strict")
    except UnicodeDecodeError:
        raise OptionError(f"{path[:200]!r} is not UTF-8 once its percent-encoding is undone") from None


def _step(store: Blockstore, cid: CID, segments: list[str]) -> tuple[CID, list[str]]:
    """The next CID on the way, and what is left of the way."""
    if cid.codec == DAG_PB:
        return directory.lookup(store, cid, segments[0]), segments[1:]
    if cid.codec in (DAG_CBOR, DAG_JSON):
        return _through_value(store, cid, segments)
    raise BlockNotFound(
        f"no entry {segments[0]!r} in a {cid.codec_name} block: it has no links", cid=cid, source=source_of(store)
    )


def _through_value(store: Blockstore, cid: CID, segments: list[str]) -> tuple[CID, list[str]]:
    """The first link on the way through a block's value."""
    value = codec.decode(cid, store.get(cid))
    for used, segment in enumerate(segments):
        if isinstance(value, CID):
            return value, segments[used:]
        try:
            value = value[segment] if isinstance(value, dict) else _items(value)[segment]
        except KeyError:
            raise BlockNotFound(f"no entry {segment!r} in {_kind(value)}", cid=cid, source=source_of(store)) from None
    if isinstance(value, CID):
        return value, []
    raise OptionError(
        f"the path ends inside a block, at {_kind(value)}: only what is a block of its own has a CID",
        cid=cid,
        source=source_of(store),
    )


def _items(value: object) -> dict[str, object]:
    """A list's items by number, as a path writes them. Of anything else there are none."""
    return {str(index): item for index, item in enumerate(value)} if isinstance(value, list) else {}


def _kind(value: object) -> str:
    return (
        "a map"
        if isinstance(value, dict)
        else "a list"
        if isinstance(value, list)
        else "a value that is neither map nor list"
    )
