"""Every block of a dataset, in the order of its samples, each read and hashed; what cannot be had is told in its place.

A dataset's blocks are those of its manifest, its shards and samples, and whatever these link to: the files behind a field
of links too, which a recursive pin does not reach where the links lie in packed shards.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch_ipfs import codec
from torch_ipfs.blockstore.base import Block, Blockstore, close_iterator, linked_at_hand
from torch_ipfs.blockstore.pins import links
from torch_ipfs.codec.cid import DAG_CBOR, DAG_JSON, DAG_PB, CID
from torch_ipfs.dataset.leaves import BROKEN, dataset_schema, link_of, sample_value, shard_of, shards_of_rows
from torch_ipfs.dataset.shard_links import links_of_shard, may_link
from torch_ipfs.errors import ManifestError, TorchIPFSError
from torch_ipfs.manifest.leaf import Leaf
from torch_ipfs.manifest.tree import Manifest, Node

MAX_DEPTH = 128
"""Links from a shard or a sample to the deepest block below it."""

_LINKING = (DAG_CBOR, DAG_JSON, DAG_PB)


@dataclass(frozen=True, slots=True)
class Found:
    """One block.

    :param block: its bytes, which hash to ``cid``; ``None`` where they could not be had.
    :param error: why not, or what is wrong with what they say.
    :param links: what its codec links to.
    """

    cid: CID
    block: Block | None
    error: TorchIPFSError | None = None
    links: tuple[CID, ...] = ()


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A block to be read.

    :param leaf: the packed shard that it is, or begins.
    :param sample: the number of the sample that it is.
    :param of_manifest: whether the manifest, and not its links, says what is below it.
    """

    cid: CID
    leaf: Leaf | None = None
    sample: int | None = None
    of_manifest: bool = False


@dataclass(slots=True)
class _Level:
    """Blocks that are asked for together: those that were asked for and have not come, and the answers."""

    asked: deque[_Wanted]
    blocks: Iterator[Block | TorchIPFSError]


class Walk:
    """A walk through one dataset.

    :param store: where its blocks are read.
    :param check_samples: whether samples that the schema does not allow are wrong; in packed shards they always are.
    :raises TorchIPFSError: the root says no schema, and the first shard cannot be read to find it.
    """

    def __init__(self, store: Blockstore, manifest: Manifest, *, check_samples: bool = False) -> None:
        self._store, self._manifest, self._check_samples = store, manifest, check_samples
        self._schema = dataset_schema(manifest, store)
        self._names = frozenset(self._schema.names)
        self._has_links = may_link(self._schema)
        self._followed: set[CID] = set()
        self._walked: dict[tuple[CID, int], int] = {}
        """Nodes of the manifest, each at its depth, with their samples. A few that name each other over and over make a tree
        without an end."""
        self._not_of_blocks: list[TorchIPFSError] = []

    def blocks(self) -> Iterator[Found]:
        """Each block. One that is linked to from several places comes once where it has links itself, else each time.

        :raises TransportError: the store is out of reach.
        :raises ManifestError: blocks link to each other over more than ``MAX_DEPTH`` links.
        """
        levels = [self._level(self._of_dataset())]
        try:
            while levels:
                level = levels[-1]
                block = next(level.blocks, None)
                if block is None:
                    levels.pop()
                    continue
                found, below = self._looked_at(level.asked.popleft(), block)
                yield found
                if below:
                    if len(levels) > MAX_DEPTH:
                        raise ManifestError(
                            f"blocks link to each other over more than {MAX_DEPTH} links", cid=found.cid
                        )
                    linked_at_hand(self._store, found.cid)  # so that a cache finds what this links to
                    levels.append(self._level(map(_Wanted, below)))
        finally:
            for level in levels:
                close_iterator(level.blocks)
        yield from (Found(self._manifest.root, None, error) for error in self._not_of_blocks)

    def _level(self, wanted: Iterator[_Wanted]) -> _Level:
        asked: deque[_Wanted] = deque()

        def ask() -> Iterator[CID]:
            for item in wanted:
                if item.cid not in self._followed:
                    asked.append(item)
                    yield item.cid

        return _Level(asked, self._store.get_many(ask(), return_exceptions=True))

    def _of_dataset(self) -> Iterator[_Wanted]:
        """The blocks of the manifest, and those of the shards and samples that it names."""
        yield _Wanted(self._manifest.root, of_manifest=True)
        yield from map(_Wanted, links(self._manifest.metadata))
        yield from self._below(self._manifest.root_node)

    def _below(self, node: Node) -> Iterator[_Wanted]:
        if node.leaf is not None:
            linked_at_hand(self._store, node.leaf.cid)  # as for every node
            yield from self._named_by(node.leaf)
        for i, count in enumerate(node.counts.tolist()):
            if not node.inner[i]:
                leaf = node.leaf_of(i)
                yield _Wanted(leaf.cid, leaf)
                continue
            key = node.cid(i), node.depth + 1
            if self._walked.get(key) == count:
                continue
            try:
                child = node.read_child(i)
            except BROKEN as error:
                self._not_of_blocks.append(error)
                continue
            self._walked[key] = count
            yield _Wanted(node.cid(i), of_manifest=True)
            yield from self._below(child)

    def _named_by(self, leaf: Leaf) -> Iterator[_Wanted]:
        """What a leaf of linked or embedded samples links to."""
        values = leaf.values or ()
        if leaf.format != "samples":
            if self._check_samples:
                self._not_of_blocks += self._misfits(values, leaf.first, leaf.cid)
            yield from map(_Wanted, links(list(values)))
            return
        for i, value in enumerate(values):
            link = link_of(value, leaf.first + i, leaf.cid)
            if isinstance(link, CID):
                yield _Wanted(link, sample=leaf.first + i)
            else:
                self._not_of_blocks.append(link)

    def _misfits(self, values: Sequence[Any], first: int, cid: CID) -> list[TorchIPFSError]:
        """What is wrong with samples, of which ``first`` is the number of the first."""
        samples = range(first, first + len(values))
        shards = shards_of_rows(values, samples, self._schema, self._schema.names, cid)
        return [shard for _, shard in shards if isinstance(shard, TorchIPFSError)]

    def _looked_at(self, wanted: _Wanted, block: Block | TorchIPFSError) -> tuple[Found, list[CID]]:
        """The answer for a block, and what it links to."""
        if isinstance(block, TorchIPFSError):
            return Found(wanted.cid, None, _as_broken(block)), []
        try:
            linked, below = self._links(wanted, block)
        except BROKEN as error:
            return Found(wanted.cid, block, error), []
        if below:
            self._followed.add(wanted.cid)
        return Found(wanted.cid, block, links=linked), below

    def _links(self, wanted: _Wanted, block: Block) -> tuple[tuple[CID, ...], list[CID]]:
        """What a block links to, and what of that, and of a shard's links, is to be looked at for it."""
        cid = wanted.cid
        linked = tuple(links(codec.decode(cid, block))) if cid.codec in _LINKING else ()
        below = [] if wanted.of_manifest and cid.codec != DAG_PB else list(linked)
        # What a sample in a file says is not looked at: it may be large, and its blocks come one by one.
        if self._check_samples and wanted.sample is not None and cid.codec != DAG_PB:
            value = sample_value(cid, block, self._store)
            for misfit in self._misfits([value], wanted.sample, cid):
                raise misfit
        if wanted.leaf is not None:
            shard, _ = shard_of(wanted.leaf, block, self._store, self._schema, self._names)
            if self._has_links:
                below += links_of_shard(shard)
        return linked, below


class Pinning:
    """What is to be pinned so that a store keeps all of a dataset.

    A recursive pin of the root follows links alone: not CIDs that are written as text, nor those in packed shards.

    :ivar root: pinned recursively it keeps the rest.
    :ivar unlinked: blocks that this does not reach, each with what that links to.
    """

    def __init__(self, root: CID) -> None:
        self.root = root
        self.unlinked: list[CID] = []
        self._kept = {root.multihash}

    def add(self, found: Found) -> None:
        """Take note of a block, after those that link to it."""
        if found.cid.multihash not in self._kept:
            self.unlinked.append(found.cid)
            self._kept.add(found.cid.multihash)
        self._kept.update(link.multihash for link in found.links)


def _as_broken(error: TorchIPFSError) -> TorchIPFSError:
    """``error``, where it is about one block.

    :raises TransportError: it is about the source.
    """
    if not isinstance(error, BROKEN):
        raise error
    return error
