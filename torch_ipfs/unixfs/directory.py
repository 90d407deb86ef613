"""Directories: their entries, and one entry by its name.

https://specs.ipfs.tech/unixfs/#dag-pb-directory
"""

from __future__ import annotations

from collections.abc import Iterator

from torch_ipfs.blockstore.base import Blockstore, source_of
from torch_ipfs.codec.cid import DAG_PB, CID
from torch_ipfs.errors import BlockNotFound, CodecError
from torch_ipfs.unixfs import hamt
from torch_ipfs.unixfs import node as unixfs_node
from torch_ipfs.unixfs.names import check_name
from torch_ipfs.unixfs.node import Link, Node, Type


def ls(store: Blockstore, cid: CID) -> Iterator[Link]:
    """The entries of a directory, sharded or not, in the order of its blocks. Memory does not grow with their number.

    :raises CodecError: it is no directory or a damaged one, or a name is not one that an entry may have.
    :raises BlockError: a block of it cannot be had.
    """
    node = _directory(store, cid)
    if node.type is Type.HAMT_SHARD:
        yield from hamt.entries(store, cid, node)
    else:
        yield from _entries(store, cid, node)


def lookup(store: Blockstore, cid: CID, name: str) -> CID:
    """The entry of a directory by its name; of a sharded one, the shards on the way to it alone are read.

    :raises BlockNotFound: there is no such entry.
    :raises CodecError: ``cid`` is no directory, or a damaged one.
    :raises BlockError: a block on the way cannot be had.
    """
    node = _directory(store, cid)
    if node.type is Type.HAMT_SHARD:
        found = hamt.find(store, cid, node, name)
    else:
        found = next((link.cid for link in _entries(store, cid, node) if link.name == name), None)
    if found is None:
        raise BlockNotFound(f"no entry {name!r} in the directory", cid=cid, source=source_of(store))
    return found


def _directory(store: Blockstore, cid: CID) -> Node:
    source = source_of(store)
    if cid.codec != DAG_PB:
        raise CodecError(f"a {cid.codec_name} block, not a directory: it has no entries", cid=cid, source=source)
    node = unixfs_node.decode(cid, store.get(cid), source)
    if node.type is Type.SYMLINK:
        raise CodecError(
            f"a symlink to {node.data[:200]!r}, not a directory; symlinks are not followed", cid=cid, source=source
        )
    if node.type not in (Type.DIRECTORY, Type.HAMT_SHARD):
        raise CodecError(f"a UnixFS {node.type.name}, not a directory: it has no entries", cid=cid, source=source)
    return node


def _entries(store: Blockstore, cid: CID, node: Node) -> list[Link]:
    """The entries of a directory of one block, none of which is given out where one of them is wrong."""
    seen: set[str] = set()
    for link in node.links:
        check_name(link.name, cid, source_of(store))
        if link.name in seen:
            raise CodecError(f"the directory has two entries {link.name!r}", cid=cid, source=source_of(store))
        seen.add(link.name)
    return list(node.links)
