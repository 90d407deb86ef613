"""Files written as a stream: raw leaves in a balanced tree, in the profile unixfs-v1-2025.

https://specs.ipfs.tech/ipips/ipip-0499/
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import OptionError
from torch_ipfs.unixfs import node as unixfs_node
from torch_ipfs.unixfs.node import Dag, Link, Node, Type

CHUNK_BYTES = 2**20
"""Content of a leaf in the profile."""

WIDTH = 1024
"""Links of an inner node in the profile."""

Data = bytes | bytearray | memoryview

Put = Callable[[CID, bytes], object]
"""Where a block goes, the ``put`` of a store for one."""


def write(data: Data | Iterable[Data], put: Put, *, hash_function: str = "sha2-256") -> CID:
    """Write a file and name it. Blocks are put from the leaves up, each as soon as it is full.

    :param data: the content, or an iterable of pieces of it, of any lengths. Memory is bounded by a leaf, a piece and
        an inner node for each level of the tree.
    :param hash_function: ``sha2-256`` (the profile's) or any other that a CID may have.
    :raises OptionError: a piece is not bytes.
    :raises CodecError: an unknown hash function.
    """
    return write_file(data, put, hash_function=hash_function).cid


def write_file(
    data: Data | Iterable[Data],
    put: Put,
    *,
    hash_function: str = "sha2-256",
    chunk_bytes: int = CHUNK_BYTES,
    width: int = WIDTH,
) -> Dag:
    """As :func:`write`, told its sizes too, which an entry of a directory has, and with a tree of other measures.

    :raises OptionError: a piece is not bytes, ``chunk_bytes`` is under 1 or ``width`` under 2.
    """
    if chunk_bytes < 1 or width < 2:
        raise OptionError(f"a file has leaves of 1 byte or more, not {chunk_bytes}, and 2 links or more, not {width}")
    tree = _Tree(put, hash_function, width)
    for chunk in _chunks(data, chunk_bytes):
        tree.add_leaf(chunk)
    if not tree.levels:
        tree.add_leaf(b"")
    return tree.finish()


@dataclass(slots=True)
class _Tree:
    """A balanced tree that grows from its leaves: for each level the nodes that have no parent yet."""

    put: Put
    hash_function: str
    width: int
    levels: list[list[Dag]] = field(default_factory=list)

    def add_leaf(self, chunk: bytes) -> None:
        cid = CID.of(chunk, "raw", self.hash_function)
        self.put(cid, chunk)
        self._add(Dag(cid, len(chunk), len(chunk)), 0)

    def finish(self) -> Dag:
        """The root. All leaves are at the same depth, so that a node may have one child alone."""
        level = 0
        while len(self.levels) > level + 1 or len(self.levels[level]) > 1:
            if self.levels[level]:
                self._close(level)
            level += 1
        return self.levels[level][0]

    def _add(self, dag: Dag, level: int) -> None:
        if level == len(self.levels):
            self.levels.append([])
        self.levels[level].append(dag)
        if len(self.levels[level]) == self.width:
            self._close(level)

    def _close(self, level: int) -> None:
        children, self.levels[level] = self.levels[level], []
        self._add(self._inner(children), level + 1)

    def _inner(self, children: list[Dag]) -> Dag:
        blocksizes = [child.blocksize for child in children]
        links = [Link("", child.cid, child.tsize) for child in children]
        return put_node(
            Node(Type.FILE, links=links, filesize=sum(blocksizes), blocksizes=blocksizes), self.put, self.hash_function
        )


def put_node(node: Node, put: Put, hash_function: str) -> Dag:
    """Put the block of a node."""
    block = unixfs_node.encode(node)
    cid = CID.of(block, "dag-pb", hash_function)
    put(cid, block)
    return Dag(cid, node.filesize, len(block) + sum(link.tsize for link in node.links))


def _chunks(data: Data | Iterable[Data], chunk_bytes: int) -> Iterator[bytes]:
    """The content in pieces of ``chunk_bytes``, the last of what is left. They are copies: a caller may reuse its own."""
    pending = bytearray()
    for piece in [data] if isinstance(data, Data) else data:
        view = _bytes_of(piece)
        start = 0
        while start < len(view):
            taken = view[start : start + chunk_bytes - len(pending)]
            start += len(taken)
            if len(taken) == chunk_bytes:
                yield bytes(taken)
                continue
            pending += taken
            if len(pending) == chunk_bytes:
                yield bytes(pending)
                pending.clear()
    if pending:
        yield bytes(pending)


def _bytes_of(piece: Data) -> memoryview:
    try:
        view = memoryview(piece)
        return view.cast("B") if view.nbytes else memoryview(b"")
    except TypeError as error:
        raise OptionError(f"a file's content is contiguous bytes, not {type(piece).__name__}: {error}") from None
