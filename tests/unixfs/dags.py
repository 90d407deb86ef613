"""UnixFS DAGs by hand, right and wrong ones, in a store that notes what is asked of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from torch_ipfs.blockstore.base import Block
from torch_ipfs.blockstore.memory import MemoryBlockstore
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import TorchIPFSError
from torch_ipfs.unixfs.file_writer import put_node
from torch_ipfs.unixfs.node import Dag, Link, Node, Type


class Recorder(MemoryBlockstore):
    """A store in memory; ``asked`` are the CIDs of the blocks that were taken out of it, in that order."""

    def __init__(self) -> None:
        self.asked: list[CID] = []
        super().__init__()

    def get(self, cid: CID) -> Block:
        self.asked.append(cid)
        return super().get(cid)

    def get_many(self, cids: Iterable[CID], *, return_exceptions: bool = False) -> Iterator[Block | TorchIPFSError]:
        for cid in cids:
            yield self.get(cid)

    def raw(self, content: bytes) -> Dag:
        """A leaf that is a raw block."""
        cid = CID.of(content)
        self.put(cid, content)
        return Dag(cid, len(content), len(content))

    def node(self, node: Node) -> Dag:
        """A node as it stands, were it nonsense."""
        return put_node(node, self.put, "sha2-256")

    def file(self, children: Sequence[Dag] = (), data: bytes = b"", type_: Type = Type.FILE) -> Dag:
        """A file of content of its own and, after it, that of its children."""
        blocksizes = [child.blocksize for child in children]
        links = [Link("", child.cid, 0) for child in children]  # a tsize that says nothing
        size = len(data) + sum(blocksizes)
        return self.node(Node(type_, data, links, size, blocksizes))._replace(blocksize=size)

    def trickle(self, leaves: Iterator[Dag], width: int, levels: int) -> Dag:
        """A trickle DAG, as ``ipfs add --trickle`` lays it out: leaves first, then subtrees of growing depth."""
        children = [leaf for _, leaf in zip(range(width), leaves, strict=False)]
        for level in range(levels):
            for _ in range(2):
                child = self.trickle(leaves, width, level)
                if child.blocksize:
                    children.append(child)
        return self.file(children)
