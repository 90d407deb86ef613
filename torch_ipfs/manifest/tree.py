"""A dataset's root and the nodes below it, read as they are needed.

A node is a map with exactly one of ``samples`` (links, or CID strings), ``data`` (embedded samples) and ``shards``
(entries of ``{"cid", "count", "bytes", "format"}``, each again a node or a packed shard); the root may be a bare list of
CIDs or of samples. Nodes come as DAG-CBOR, DAG-JSON or JSON, in a block of that codec or in a raw block or UnixFS file.

Nothing a node says is believed before it is checked: a child that holds another count than its parent claims is a
:class:`ManifestError`, and so is a tree that is too deep or claims too many samples.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from torch_ipfs import unixfs
from torch_ipfs.blockstore.base import Blockstore, source_of
from torch_ipfs.codec import decode
from torch_ipfs.codec.cid import DAG_CBOR, DAG_JSON, DAG_PB, JSON, RAW, CID
from torch_ipfs.errors import BlockError, CodecError, ManifestError, TorchIPFSError
from torch_ipfs.manifest import alike_samples, shard_list
from torch_ipfs.manifest.alike_samples import AlikeSamples
from torch_ipfs.manifest.leaf import FoundLeaves, Leaf, distinct, is_run, run_lengths
from torch_ipfs.manifest.naming import as_cid, decode_json, is_json_link, kind, listed, names_block
from torch_ipfs.manifest.schema import Schema
from torch_ipfs.manifest.shard_list import MAX_SAMPLES, ShardList

Int64s = npt.NDArray[np.int64]

MAX_DEPTH = 16
"""Levels of nodes, the root included."""
MAX_NODE_BYTES = 128 * 2**20
"""A node that comes as a UnixFS file, such as a JSON list of a million CIDs. Other nodes are bounded by the block size."""
KEPT_NODE_BYTES = 144 * 2**20
"""Enough for all nodes of 3 million shards. A shuffle comes back to a node again and again for as long as a lane lies in it."""
_KNOWN_LEAVES = 4096
"""Packed shards of which it is known where they lie without a look at the nodes: more than those a shuffle has open."""

_CONTENTS = ("samples", "data", "shards")
_BROKEN = (BlockError, CodecError, ManifestError)
_SIBLINGS_TRIED = 8


class Node:
    """A node with its children, or a leaf of ``data`` or ``samples``: a :class:`torch_ipfs.plan.shuffle.CountedNode`.

    :param shards: of an inner node its children, checked; of a leaf ``None``.
    """

    def __init__(self, manifest: Manifest, depth: int, first: int, leaf: Leaf | None, shards: ShardList | None) -> None:
        self._manifest = manifest
        self.depth, self.first, self.leaf = depth, first, leaf
        # Compact, because hundreds of nodes may be kept: arrays and one string of bytes, no object a child.
        self._shards = ShardList.of([]) if shards is None else shards
        self.inner = self._shards.inner
        self.ends: Int64s = np.cumsum(self._shards.counts, dtype=np.int64) + first
        """Index after each child's last sample. Shape (children,)."""
        self.num_samples = leaf.count if leaf else int(self._shards.counts.sum())

    @property
    def is_leaf(self) -> bool:
        return self.leaf is not None

    @property
    def counts(self) -> Int64s:
        return self._shards.counts.astype(np.int64)

    @property
    def kept_bytes(self) -> int:
        """About what the node costs to keep."""
        return self._shards.kept_bytes + self.ends.nbytes + (100 * self.leaf.count if self.leaf else 0)

    def cid(self, i: int) -> CID:
        return self._shards.cid(i)

    def read_child(self, i: int) -> Node:
        """Child ``i``, which is a node; read where it is not kept."""
        return self._manifest.child(self, i)

    def child(self, i: int) -> Node:
        """Child ``i``, which is a node. One that is missing or broken is a leaf with its error: others may be read."""
        return self._manifest.child_or_broken(self, i)

    def leaf_of(self, i: int) -> Leaf:
        """Child ``i``, which is a packed shard."""
        return Leaf(self.cid(i), *self.span(i), "arrow")

    def child_of(self, sample: int) -> int:
        """Which child holds ``sample``."""
        return int(self.ends.searchsorted(sample, side="right"))

    def span(self, i: int) -> tuple[int, int]:
        """The first sample of child ``i``, and how many there are."""
        count = int(self._shards.counts[i])
        return int(self.ends[i]) - count, count


class Manifest:
    """A dataset as its root describes it. Opening it reads the root alone.

    :param root: CID of the root.
    :raises ManifestError: the root is no dataset.
    :raises BlockError: the root could not be had.
    """

    def __init__(self, store: Blockstore, root: CID) -> None:
        self.root = root
        self._store = store
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[int, int], Node] = OrderedDict()
        self._kept_bytes = 0
        self._known = FoundLeaves.none()
        self._broken: dict[tuple[int, int], TorchIPFSError] = {}
        self._fields, self._root_node = self._read(root, 0, 0)
        self.num_samples = self._root_node.num_samples
        self.schema = self._schema_of(self._fields, root)

    def _schema_of(self, fields: Mapping[str, Any], cid: CID) -> Schema | None:
        """The schema that a node says, if it does."""
        schema = fields.get("schema")
        try:
            return None if schema is None else Schema.from_ipld(schema)
        except ManifestError as error:
            raise self._error(error.reason, cid) from None

    def schema_below_root(self, sample: int) -> Schema | None:
        """The schema of the first node that has one on the way from the root to ``sample``: of datasets that a root was put
        over by hand.

        :raises ManifestError, BlockError: a node on the way is broken or missing.
        """
        node, schema = self._root_node, None
        while node.leaf is None and schema is None:
            i = node.child_of(sample)
            if not node.inner[i]:
                return None
            cid = node.cid(i)
            fields, node = self._read_child(node, i)
            schema = self._schema_of(fields, cid)
        return schema

    @property
    def root_node(self) -> Node:
        return self._root_node

    @property
    def metadata(self) -> dict[str, Any]:
        """What the root says beside its samples: name, description, version, created_at and whatever else it has."""
        return dict(self._fields)

    @property
    def shard_rows(self) -> int:
        """Rows of a typical shard: the mean below the first node that has leaves, so that little is read for it."""
        samples, leaves = self._first_shards()
        return max(1, -(-samples // leaves))

    @property
    def shard_rows_about(self) -> int:
        """As :attr:`shard_rows`, where that may be of a later node: one that is first and missing does not matter."""
        samples, leaves = self._first_shards(exact=False)
        return max(1, -(-samples // leaves))

    @property
    def num_shards(self) -> int:
        """Shards, and nodes of samples, that are not empty: exactly where all hang on the root, else by their mean size."""
        samples, leaves = self._first_shards(exact=False)
        return round(leaves * self.num_samples / max(1, samples))

    def _first_shards(self, *, exact: bool = True) -> tuple[int, int]:
        """Samples below the first node that has leaves, and how many leaves hold them.

        :param exact: that node and no other: orders rest on it, which are the same whatever is missing.
        """
        node = self._root_node
        while True:
            filled = np.flatnonzero(node.counts)
            if len(filled) == 0:
                return node.num_samples, 1
            child = self._first_inner(node, filled, exact=exact) if node.inner[filled[0]] else None
            if child is None or child.is_leaf:
                return node.num_samples, len(filled)
            node = child

    def _first_inner(self, node: Node, filled: Int64s, *, exact: bool) -> Node | None:
        """The first child, or, where that is missing or broken, a later one that tells as much: a leaf, or, unless ``exact``,
        any that there is.
        """
        for i in filled[:_SIBLINGS_TRIED].tolist():
            child = node.child(i)
            if child.leaf is None and (i == filled[0] or not exact):
                return child
            if child.leaf is not None and child.leaf.error is None:
                return child
        return node.read_child(int(filled[0])) if exact else None

    def child_or_broken(self, parent: Node, i: int) -> Node:
        """As :meth:`child`. One that is missing or broken is a leaf, and stays so until :meth:`forget_broken`."""
        first, count = parent.span(i)
        key = (parent.depth + 1, first)
        error = self._broken.get(key)
        if error is None:
            try:
                return self.child(parent, i)
            except _BROKEN as found:
                error = self._broken[key] = found.with_traceback(None)
        return Node(self, key[0], first, Leaf(parent.cid(i), first, count, "broken", error=error), None)

    def forget_broken(self) -> None:
        """Look again, from now on, for nodes that were missing or broken."""
        self._broken.clear()

    def child(self, parent: Node, i: int) -> Node:
        """Child ``i`` of ``parent``, which is a node; read where it is not kept."""
        key = (parent.depth + 1, parent.span(i)[0])
        with self._lock:
            if node := self._kept.get(key):
                self._kept.move_to_end(key)
                return node
        return self._read_child(parent, i)[1]

    def _read_child(self, parent: Node, i: int) -> tuple[Mapping[str, Any], Node]:
        """As :meth:`child`, of one that is not kept yet, with what it says beside its samples."""
        cid, (first, count) = parent.cid(i), parent.span(i)
        key = (parent.depth + 1, first)
        fields, node = self._read(cid, *key)
        if node.num_samples != count:
            raise self._error(f"the node holds {node.num_samples} samples where its parent claims {count}", cid)
        with self._lock:
            if key not in self._kept:
                self._kept[key] = node
                self._kept_bytes += node.kept_bytes
            while self._kept_bytes > KEPT_NODE_BYTES and len(self._kept) > 1:
                self._kept_bytes -= self._kept.popitem(last=False)[1].kept_bytes
        return fields, node

    def locate(self, samples: Int64s) -> tuple[list[Leaf], Int64s, Int64s]:
        """Where samples are: leaves, for each sample which of them, and its row there.

        :param samples: sample indices in [0, N), shape (n,).
        :returns: leaves; indices into them, shape (n,); rows, shape (n,).
        :raises ManifestError, BlockError: a node on the way is broken or missing.
        """
        found = self.locate_or_broken(samples)
        for leaf in found[0]:
            if leaf.error is not None:
                self.forget_broken()
                raise leaf.error
        return found

    def locate_or_broken(self, samples: Int64s) -> tuple[list[Leaf], Int64s, Int64s]:
        """As :meth:`locate`, with a leaf of format ``broken`` for each node that could not be had."""
        if is_run(samples):
            return self._locate_run(samples)
        known = self._known
        at = known.locate(samples)
        missing = samples[samples >= known.ends[at]]
        broken: list[Leaf] = []
        if len(missing):
            found = self._find(missing)
            broken = [leaf for leaf in found if leaf.error is not None]
            whole = [leaf for leaf in found if leaf.error is None]
            known = known.and_these(whole)
            # Each is one leaf further for each of these before it: they are few, and searched in half the time of all.
            at += np.array([leaf.first for leaf in whole], dtype=np.int64).searchsorted(samples, side="right")
            is_kept = len(known.firsts) <= _KNOWN_LEAVES
            self._known = known if is_kept else known.only(distinct(at, len(known.firsts))[0])
        return self._locate_beside(broken, known, samples) if broken else self._locate_known(known, at, samples)

    def _locate_known(self, known: FoundLeaves, at: Int64s, samples: Int64s) -> tuple[list[Leaf], Int64s, Int64s]:
        """As :meth:`locate`, of samples in leaves that are known.

        :param at: which of these, shape (n,).
        """
        members, member = distinct(at, len(known.firsts))
        firsts = known.firsts[members].tolist()
        leaves = [leaf for leaf in map(known.leaves.get, firsts) if leaf]
        if len(leaves) < len(firsts):
            leaves = [known.leaves.get(first) or self.leaf_at(first) for first in firsts]
        return leaves, member, samples - known.firsts[at]

    def _locate_beside(
        self, broken: list[Leaf], known: FoundLeaves, samples: Int64s
    ) -> tuple[list[Leaf], Int64s, Int64s]:
        """As :meth:`locate`, of samples that are in ``broken``, leaves in their order, or else in leaves that are known."""
        firsts = np.array([leaf.first for leaf in broken], dtype=np.int64)
        ends = firsts + np.array([leaf.count for leaf in broken], dtype=np.int64)
        member = firsts.searchsorted(samples, side="right") - 1
        rows = samples - firsts[member]
        whole = (member < 0) | (samples >= ends[member])
        leaves, member[whole], rows[whole] = self._locate_known(known, known.locate(samples[whole]), samples[whole])
        member[~whole] += len(leaves)
        return leaves + broken, member, rows

    def _locate_run(self, samples: Int64s) -> tuple[list[Leaf], Int64s, Int64s]:
        """As :meth:`locate`, of samples that follow each other: a tenth of the work where leaves hold many."""
        leaves, start, stop = [], int(samples[0]), int(samples[-1]) + 1
        after = start
        while after < stop:
            leaf = self.leaf_at(after)
            leaves.append(leaf)
            after = leaf.first + leaf.count
        firsts = np.array([leaf.first for leaf in leaves], dtype=np.int64)
        lengths = run_lengths(firsts, start, stop)
        return leaves, np.arange(len(leaves)).repeat(lengths), samples - firsts.repeat(lengths)

    def _find(self, samples: Int64s) -> list[Leaf]:
        """The leaves that hold ``samples``, in their order."""
        leaves = []
        # In order they come most often, and to look costs a fifteenth of sorting.
        if (samples[1:] < samples[:-1]).any():
            samples = np.sort(samples)
        while len(samples):
            leaf = self.leaf_at(int(samples[0]))
            leaves.append(leaf)
            samples = samples[samples.searchsorted(leaf.first + leaf.count) :]
        return leaves

    def leaf_at(self, sample: int) -> Leaf:
        """The leaf that holds ``sample``; of format ``broken`` where a node on the way could not be had."""
        node = self._root_node
        while node.leaf is None:
            i = node.child_of(sample)
            if not node.inner[i]:
                return node.leaf_of(i)
            node = node.child(i)
        return node.leaf

    def _read(self, cid: CID, depth: int, first: int) -> tuple[Mapping[str, Any], Node]:
        if depth >= MAX_DEPTH:
            raise self._error(f"the manifest's nodes lie in each other more than {MAX_DEPTH} deep", cid)
        value = self._decode(cid)
        if isinstance(value, list):
            value = {"samples" if value and all(map(names_block, value)) else "data": value}
        if not isinstance(value, dict):
            raise self._error(f"expected a dataset as a map or a list, found {kind(value)}", cid)
        present = [key for key in _CONTENTS if key in value]
        if len(present) != 1:
            found = " and ".join(present) or f"none, but {listed(value)}"
            raise self._error(f"expected exactly one of samples, data and shards, found {found}", cid)
        content = value.pop(present[0])
        if isinstance(content, ShardList):
            return value, Node(self, depth, first, None, content)
        if isinstance(content, AlikeSamples):
            return value, Node(self, depth, first, Leaf(cid, first, len(content), "data", content), None)
        if not isinstance(content, list):
            raise self._error(f"expected {present[0]} as a list, found {kind(content)}", cid)
        if present[0] == "shards":
            return value, Node(self, depth, first, None, ShardList.of(self._checked_entries(content, cid)))
        if present[0] == "samples":
            content = self._checked_links(content, cid)
        leaf = Leaf(cid, first, len(content), "samples" if present[0] == "samples" else "data", content)
        return value, Node(self, depth, first, leaf, None)

    def _decode(self, cid: CID) -> Any:
        if cid.codec not in (RAW, DAG_PB, DAG_CBOR, DAG_JSON, JSON):
            raise self._error(f"codec {cid.codec_name} holds no dataset: expected dag-cbor, dag-json or json", cid)
        try:
            if cid.codec in (RAW, DAG_PB):
                return decode_json(unixfs.read(self._store, cid, max_bytes=MAX_NODE_BYTES))
            block = self._store.get(cid)
            if cid.codec == DAG_CBOR:
                data = bytes(block)
                if (node := shard_list.read(data) or alike_samples.read(data)) is not None:
                    return node
            return decode(cid, block)
        except CodecError as error:
            raise self._error(f"the dataset's node cannot be read: {error.reason}", cid) from error

    def _checked_entries(self, entries: list[Any], cid: CID) -> list[dict[str, Any]]:
        checked, total = [], 0
        for i, entry in enumerate(entries):
            if not isinstance(entry, dict):
                raise self._error(f"shards[{i}] is {kind(entry)}, expected a map with cid, count and format", cid)
            count, form = entry.get("count"), entry.get("format", "manifest")
            if type(count) is not int or count < 0:
                raise self._error(
                    f"shards[{i}] has the count {count!r:.40}, expected a whole number of at least 0", cid
                )
            if form not in ("manifest", "arrow"):
                raise self._error(f"shards[{i}] has the format {form!r:.40}, expected 'manifest' or 'arrow'", cid)
            size = entry.get("bytes")
            if size is not None and (type(size) is not int or size < 0):
                raise self._error(f"shards[{i}] has {size!r:.40} bytes, expected a whole number of at least 0", cid)
            total += count
            if total > MAX_SAMPLES:
                raise self._error(f"the shards claim more than {MAX_SAMPLES} samples, at shards[{i}]", cid)
            try:
                checked.append({"cid": as_cid(entry.get("cid")), "count": count, "format": form})
            except CodecError as error:
                raise self._error(f"shards[{i}] has no CID: {error.reason}", cid) from None
        return checked

    def _checked_links(self, links: list[Any], cid: CID) -> list[Any]:
        """``links`` as CIDs and texts. A text that is no CID is found out where its sample is read: one bad sample, not all."""
        if set(map(type, links)) <= {CID, str}:
            return links
        links = [link["/"] if is_json_link(link) else link for link in links]
        for i, link in enumerate(links):
            if not isinstance(link, CID | str):
                raise self._error(f"samples[{i}] is {kind(link)}, expected a CID; embedded samples go under data", cid)
        return links

    def _error(self, message: str, cid: CID) -> ManifestError:
        return ManifestError(message, cid=cid, source=source_of(self._store))
