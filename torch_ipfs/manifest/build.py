"""The nodes of a dataset, built bottom-up while its shards stream by.

Leaves are packed shards or nodes of samples; above them are nodes of at most ``FANOUT`` children with counts, all leaves at
the same depth, and the root on top. Which leaves there are decides the tree: the same leaves give the same root.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from torch_ipfs.codec import dag_cbor
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import OptionError
from torch_ipfs.unixfs.file_writer import Put

FANOUT = 2048
"""Children of an inner node, and links of a node of samples."""
MAX_BLOCK_BYTES = 2**20
"""No block of a dataset that is written is larger."""


class ManifestBuilder:
    """Builds the tree above leaves that are told one by one.

    :param put: takes each block that is made.
    :param hash_function: of the CIDs.
    """

    def __init__(self, put: Put, hash_function: str) -> None:
        self._put = put
        self._hash_function = hash_function
        self._levels: list[list[dict[str, Any]]] = [[]]

    def add(self, cid: CID, *, count: int, size_bytes: int | None, form: Literal["arrow", "manifest"]) -> None:
        """The next leaf.

        :param count: its samples.
        :param size_bytes: what its samples take, all blocks together; ``None`` where that is not known.
        """
        entry: dict[str, Any] = {"cid": cid, "count": count, "format": form}
        if size_bytes is not None:
            entry["bytes"] = size_bytes
        self._add(entry, 0)

    def add_node(self, node: Mapping[str, Any], *, count: int, size_bytes: int = 0) -> None:
        """The next leaf, which is a node of samples that is yet to be made a block of.

        :param size_bytes: of the blocks that it links to.
        """
        block = dag_cbor.encode(node)
        self.add(self._put_block(block), count=count, size_bytes=len(block) + size_bytes, form="manifest")

    def finish(
        self, extras: Mapping[str, Any], last_leaf: Mapping[str, list[Any]] | None = None, size_bytes: int = 0
    ) -> CID:
        """Make the nodes that are still open, and the root.

        :param extras: what the root says beside its samples.
        :param last_leaf: a node of samples, with ``size_bytes`` as for :meth:`add_node`. It becomes the root itself where
            it is small enough and no other leaf was told.
        :raises OptionError: ``extras`` are too large for a block.
        """
        if last_leaf is not None:
            if not self._levels[0]:
                block = dag_cbor.encode({**extras, **last_leaf})
                if len(block) <= MAX_BLOCK_BYTES:
                    return self._put_block(block)
            self.add_node(last_leaf, count=len(next(iter(last_leaf.values()))), size_bytes=size_bytes)
        level = 0
        while level < len(self._levels) - 1:
            self._close(level)
            level += 1
        block = dag_cbor.encode({**extras, "shards": self._levels[level]})
        if len(block) > MAX_BLOCK_BYTES:
            raise OptionError(
                f"the root takes {len(block)} bytes, over {MAX_BLOCK_BYTES}: its schema or metadata is too long"
            )
        return self._put_block(block)

    def _add(self, entry: dict[str, Any], level: int) -> None:
        if level == len(self._levels):
            self._levels.append([])
        if len(self._levels[level]) == FANOUT:
            self._close(level)
        self._levels[level].append(entry)

    def _close(self, level: int) -> None:
        children, self._levels[level] = self._levels[level], []
        cid = self._put_block(dag_cbor.encode({"shards": children}))
        entry = {"cid": cid, "count": sum(child["count"] for child in children), "format": "manifest"}
        if all("bytes" in child for child in children):
            entry["bytes"] = sum(child["bytes"] for child in children)
        self._add(entry, level + 1)

    def _put_block(self, block: bytes) -> CID:
        cid = CID.of(block, "dag-cbor", self._hash_function)
        self._put(cid, block)
        return cid
