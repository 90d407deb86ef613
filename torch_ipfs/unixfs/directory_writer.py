"""Directories written: one block where that is small, a HAMT where it is not, in the profile unixfs-v1-2025.

https://specs.ipfs.tech/ipips/ipip-0499/
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from torch_ipfs.errors import OptionError
from torch_ipfs.unixfs import murmur3
from torch_ipfs.unixfs import node as unixfs_node
from torch_ipfs.unixfs.file_writer import Put, put_node
from torch_ipfs.unixfs.hamt import Fanout
from torch_ipfs.unixfs.names import check_name
from torch_ipfs.unixfs.node import Dag, Link, Node, Type

MAX_BASIC_BYTES = 256 * 2**10
"""Largest block of a directory that is not sharded."""

FANOUT = Fanout(256)
"""Buckets of a shard in the profile."""


def write_directory(entries: Iterable[Link], put: Put, *, hash_function: str = "sha2-256") -> Dag:
    """Write a directory and name it. The order of ``entries`` does not matter: a directory has one form.

    :param entries: name, CID and ``tsize`` (of what :func:`write_file` and this function return) of each entry.
    :raises OptionError: two entries have the same name.
    :raises CodecError: a name that an entry may not have, or an unknown hash function.
    """
    links = sorted(entries, key=lambda link: link.name.encode("utf-8", "surrogatepass"))
    for before, link in zip([None, *links], links, strict=False):
        check_name(link.name)
        if before and before.name == link.name:
            raise OptionError(f"the directory would have two entries {link.name!r}")
    basic = Node(Type.DIRECTORY, links=links)
    if len(unixfs_node.encode(basic)) <= MAX_BASIC_BYTES:
        return put_node(basic, put, hash_function)
    return _put_shard([(murmur3.hash64(link.name.encode()), link) for link in links], 0, put, hash_function)


def _put_shard(links: list[tuple[int, Link]], depth: int, put: Put, hash_function: str) -> Dag:
    """Put the shard of these links (each with its name's hash) and the shards below it.

    :param depth: shards above it.
    """
    if depth == FANOUT.max_depth:
        raise OptionError(f"the names {links[0][1].name!r} and {links[1][1].name!r} have the same hash, murmur3-x64-64")
    buckets: defaultdict[int, list[tuple[int, Link]]] = defaultdict(list)
    for digest, link in links:
        buckets[FANOUT.bucket(digest, depth)].append((digest, link))
    below = []
    for bucket, inside in sorted(buckets.items()):
        name, cid, tsize = inside[0][1]
        if len(inside) > 1:
            name, (cid, _, tsize) = "", _put_shard(inside, depth + 1, put, hash_function)
        below.append(Link(FANOUT.prefix(bucket) + name, cid, tsize))
    return put_node(_shard(below, list(buckets)), put, hash_function)


def _shard(links: list[Link], buckets: list[int]) -> Node:
    bitfield = sum(1 << bucket for bucket in buckets)
    data = bitfield.to_bytes((bitfield.bit_length() + 7) // 8, "big")
    return Node(Type.HAMT_SHARD, data, links, hash_type=murmur3.CODE, fanout=FANOUT.buckets)
