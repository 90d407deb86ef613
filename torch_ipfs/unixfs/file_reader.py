"""Files read out of blocks: whole or a range, in any DAG's order, of which only the blocks that a range needs are fetched.

https://specs.ipfs.tech/unixfs/#dag-pb-file
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

from torch_ipfs.blockstore.base import Block, Blockstore, source_of
from torch_ipfs.codec.cid import DAG_PB, RAW, CID
from torch_ipfs.errors import CodecError, OptionError
from torch_ipfs.unixfs import node as unixfs_node
from torch_ipfs.unixfs.fetch import fetch
from torch_ipfs.unixfs.node import Node, Type

MAX_DEPTH = 64
"""Links from a file's root to its deepest leaf. A file of 2**63 bytes in a tree of width 2 takes as many."""

MAX_READ_BYTES = 2**30
"""Largest file that :func:`read` holds in memory, by default."""

_SMALL_PARTS = 2**16
_PART_BYTES = 1024
"""A file that :func:`read` holds has that many blocks and one for so many bytes, at most: one block that is linked to over
and over makes a gigabyte of pieces of one byte, which take hours."""

MAX_FILE_BYTES = 2**63 - 1
"""Largest file there is: offsets are 64-bit integers wherever files are read."""


def read(store: Blockstore, cid: CID, *, max_bytes: int = MAX_READ_BYTES) -> Block:
    """The whole content of a file. A file of one raw block is that block, not copied.

    :param max_bytes: the largest file that is read.
    :raises CodecError: it is no file, a damaged one, larger than ``max_bytes``, or made of far too many blocks for its size.
    :raises BlockError: a block of it cannot be had.
    """
    block = store.get(cid)
    part = _part(store, cid, block)
    if part.size > max_bytes:
        raise CodecError(
            f"the file claims {part.size} bytes, over the limit of {max_bytes}; read it in pieces with iter_read",
            cid=cid,
            source=source_of(store),
        )
    pieces = list(_content(store, part, 0, part.size, depth=0, budget=[_SMALL_PARTS + part.size // _PART_BYTES]))
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def iter_read(store: Blockstore, cid: CID, offset: int = 0, length: int | None = None) -> Generator[Block, None, None]:
    """The content of a file from ``offset`` on, in pieces of a block at most, none of them empty.

    Past the file's end there is nothing, as with a slice. Memory does not grow with the file.

    :param offset: bytes of content to leave out.
    :param length: bytes of content to read; ``None`` for all that follow.
    :raises OptionError: ``offset`` or ``length`` is negative.
    :raises CodecError: it is no file, or a damaged one.
    :raises BlockError: a block of the range cannot be had.
    """
    if offset < 0 or (length is not None and length < 0):
        raise OptionError(f"a range has no negative offset or length: offset={offset}, length={length}")
    return _range(store, cid, offset, length)


def _range(store: Blockstore, cid: CID, offset: int, length: int | None) -> Generator[Block, None, None]:
    part = _part(store, cid, store.get(cid))
    stop = part.size if length is None else min(part.size, offset + length)
    yield from _content(store, part, offset, stop, depth=0, budget=[math.inf])


def file_size(store: Blockstore, cid: CID) -> int:
    """The bytes of content of a file, as its root has them.

    :raises CodecError: it is no file, or a damaged one.
    :raises BlockError: its root cannot be had.
    """
    return _part(store, cid, store.get(cid)).size


@dataclass(frozen=True, slots=True)
class _Part:
    """A file, or a part of one: its own content, then that of its children, one after the other."""

    cid: CID
    data: Block
    children: Sequence[CID]
    blocksizes: Sequence[int]

    @property
    def size(self) -> int:
        return len(self.data) + sum(self.blocksizes)


def _part(store: Blockstore, cid: CID, block: Block, blocksize: int | None = None) -> _Part:
    """What a block holds of a file.

    :param blocksize: the bytes of content that its parent says are below it.
    """
    source = source_of(store)
    if cid.codec == RAW:
        part = _Part(cid, block, (), ())
    elif cid.codec == DAG_PB:
        part = _of_node(cid, unixfs_node.decode(cid, block, source), source)
    else:
        raise CodecError(f"a file is made of raw and dag-pb blocks, not of {cid.codec_name}", cid=cid, source=source)
    if blocksize is not None and part.size != blocksize:
        raise CodecError(
            f"a part of a file has {part.size} bytes where its parent says {blocksize}", cid=cid, source=source
        )
    return part


def _of_node(cid: CID, node: Node, source: str | None) -> _Part:
    if problem := _problem(node):
        raise CodecError(problem, cid=cid, source=source)
    return _Part(cid, node.data, [link.cid for link in node.links], node.blocksizes)


def _problem(node: Node) -> str | None:
    """Why the node is no file, if it is none."""
    if node.type is Type.SYMLINK:
        return f"a symlink to {node.data[:200]!r}, not a file; symlinks are not followed"
    if node.type not in (Type.FILE, Type.RAW):
        return f"a UnixFS {node.type.name}, not a file"
    if len(node.blocksizes) != len(node.links):
        return f"the file has {len(node.links)} links and {len(node.blocksizes)} blocksizes; there must be one for each"
    size = len(node.data) + sum(node.blocksizes)
    if size != node.filesize or size > MAX_FILE_BYTES:
        return f"the file says that it has {node.filesize} bytes; its data and blocksizes make {size}"
    names = [link.name for link in node.links if link.name]
    return f"the parts of a file have no names; one of this is named {names[0][:80]!r}" if names else None


def _content(
    store: Blockstore, part: _Part, start: int, stop: int, *, depth: int, budget: list[float]
) -> Iterator[Block]:
    """The bytes ``[start, stop)`` of a part's content.

    :param budget: how many more blocks may be fetched: a list of one, counted down at every level.
    """
    if depth > MAX_DEPTH:
        raise CodecError(f"the file is nested deeper than {MAX_DEPTH} links", cid=part.cid, source=source_of(store))
    own = part.data[start:stop]
    if len(own):
        yield part.data if len(own) == len(part.data) else own
    ends = list(itertools.accumulate(part.blocksizes, initial=len(part.data)))
    # What has no byte of the range in it is not looked at: so much work, at most, as there are bytes and MAX_DEPTH allows.
    wanted = [i for i in range(len(part.children)) if max(ends[i], start) < min(ends[i + 1], stop)]
    budget[0] -= len(wanted)
    if budget[0] < 0:
        raise CodecError("the file has far too many blocks for its size", cid=part.cid, source=source_of(store))
    with contextlib.closing(fetch(store, [part.children[i] for i in wanted])) as fetched:
        for i, block in zip(wanted, fetched, strict=True):
            child = _part(store, part.children[i], block, part.blocksizes[i])
            first, last = max(start - ends[i], 0), min(stop, ends[i + 1]) - ends[i]
            yield from _content(store, child, first, last, depth=depth + 1, budget=budget)
