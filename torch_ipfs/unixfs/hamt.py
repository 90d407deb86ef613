"""Directories too large for one block: tries of shards, in which the hash of a name is the way to its entry.

https://specs.ipfs.tech/unixfs/#dag-pb-hamtdirectory
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from torch_ipfs.blockstore.base import Blockstore, source_of
from torch_ipfs.codec.cid import DAG_PB, CID
from torch_ipfs.errors import CodecError
from torch_ipfs.unixfs import murmur3
from torch_ipfs.unixfs import node as unixfs_node
from torch_ipfs.unixfs.fetch import fetch
from torch_ipfs.unixfs.names import check_name
from torch_ipfs.unixfs.node import Link, Node, Type

MAX_FANOUT = 1024
"""Most buckets of a shard. A reader that allots what a shard claims instead dies of it (CVE-2023-23625)."""


@dataclass(frozen=True, slots=True)
class Fanout:
    """How many buckets a shard has, and what follows from it."""

    buckets: int

    def __post_init__(self) -> None:
        """:raises CodecError: no power of two, no multiple of 8 or over 1024."""
        if self.buckets not in (8, 16, 32, 64, 128, 256, 512, MAX_FANOUT):
            raise CodecError(f"the fanout of a HAMT is a power of two from 8 to {MAX_FANOUT}, not {self.buckets}")

    @property
    def bits(self) -> int:
        """Bits of a name's hash that choose a bucket."""
        return self.buckets.bit_length() - 1

    @property
    def max_depth(self) -> int:
        """Shards below each other, after which the hash has no more bits."""
        return murmur3.BITS // self.bits

    @property
    def prefix_length(self) -> int:
        """Hexadecimal digits that a bucket's number takes at the start of a link's name."""
        return len(f"{self.buckets - 1:X}")

    def bucket(self, digest: int, depth: int) -> int:
        """The bucket of a hash in a shard ``depth`` links below the root."""
        return digest >> murmur3.BITS - (depth + 1) * self.bits & self.buckets - 1

    def prefix(self, bucket: int) -> str:
        """How the name of a bucket's link begins."""
        return f"{bucket:0{self.prefix_length}X}"


def entries(store: Blockstore, cid: CID, node: Node) -> Iterator[Link]:
    """The entries below a root shard.

    Each stands where its name's hash says, so that a few shards which name each other many times over give an error
    and not as many entries as there are ways through them.
    """
    yield from _walk(store, cid, _shard(cid, node, source_of(store)), (), node.fanout)


def _walk(store: Blockstore, cid: CID, shard: dict[int, Link], path: tuple[int, ...], buckets: int) -> Iterator[Link]:
    """:param path: the buckets on the way from the root to this shard."""
    fanout = Fanout(buckets)
    source = source_of(store)
    below = [link.cid for link in shard.values() if not link.name]
    with contextlib.closing(fetch(store, below)) as blocks:
        for bucket, link in shard.items():
            here = (*path, bucket)
            if link.name:
                _check_place(link.name, here, fanout, cid, source)
                yield link
            else:
                child = _child(cid, link.cid, len(here), fanout, source)
                node = unixfs_node.decode(child, next(blocks), source)
                yield from _walk(store, child, _shard(child, node, source, fanout), here, buckets)


def find(store: Blockstore, cid: CID, node: Node, name: str) -> CID | None:
    """The entry of a name below a root shard, read along the name's way alone; ``None`` where there is none."""
    source = source_of(store)
    shard = _shard(cid, node, source)
    fanout = Fanout(node.fanout)
    digest = murmur3.hash64(name.encode("utf-8", "surrogatepass"))
    depth = 0
    while link := shard.get(fanout.bucket(digest, depth)):
        if link.name:
            return link.cid if link.name == name else None
        depth += 1
        child = _child(cid, link.cid, depth, fanout, source)
        shard = _shard(child, unixfs_node.decode(child, store.get(child), source), source, fanout)
        cid = child
    return None


def _child(cid: CID, child: CID, depth: int, fanout: Fanout, source: str | None) -> CID:
    if depth >= fanout.max_depth:
        raise CodecError(
            f"the HAMT is deeper than {fanout.max_depth} shards, where a name's hash ends", cid=cid, source=source
        )
    if child.codec != DAG_PB:
        raise CodecError(f"a shard of a HAMT is a dag-pb block, not {child.codec_name}", cid=child, source=source)
    return child


def _shard(cid: CID, node: Node, source: str | None, fanout: Fanout | None = None) -> dict[int, Link]:
    """The links of a shard by bucket, ascending, without the prefix; the link to a shard below has no name then.

    :param fanout: the root's, where this is not the root.
    """
    try:
        return _links(node, Fanout(node.fanout) if fanout is None else _same_fanout(node, fanout))
    except CodecError as error:
        raise CodecError(str(error), cid=cid, source=source) from None


def _same_fanout(node: Node, fanout: Fanout) -> Fanout:
    if node.type is not Type.HAMT_SHARD or node.fanout != fanout.buckets or not node.links:
        raise CodecError(
            f"below a HAMT of fanout {fanout.buckets} there are filled shards of that fanout, "
            f"not a {node.type.name} of fanout {node.fanout} with {len(node.links)} links"
        )
    return fanout


def _links(node: Node, fanout: Fanout) -> dict[int, Link]:
    if node.hash_type != murmur3.CODE:
        raise CodecError(f"the HAMT sorts by hash 0x{node.hash_type:x}; murmur3-x64-64 (0x22) is known")
    bitfield = int.from_bytes(node.data, "big")
    buckets = [bucket for bucket in range(fanout.buckets) if bitfield >> bucket & 1]
    if len(node.data) > fanout.buckets // 8 or len(buckets) != len(node.links):
        raise CodecError(f"the HAMT's bitfield names {len(buckets)} buckets, and there are {len(node.links)} links")
    shard = {}
    for bucket, link in zip(buckets, node.links, strict=True):
        prefix, name = link.name[: fanout.prefix_length], link.name[fanout.prefix_length :]
        if prefix != fanout.prefix(bucket):
            raise CodecError(f"the link of bucket {fanout.prefix(bucket)} is named {link.name[:80]!r}")
        shard[bucket] = Link(name, link.cid, link.tsize)
    return shard


def _check_place(name: str, path: tuple[int, ...], fanout: Fanout, cid: CID, source: str | None) -> None:
    check_name(name, cid, source)
    digest = murmur3.hash64(name.encode())
    if any(fanout.bucket(digest, depth) != bucket for depth, bucket in enumerate(path)):
        raise CodecError(f"the entry {name[:80]!r} is not where its hash says", cid=cid, source=source)
