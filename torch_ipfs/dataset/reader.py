"""One process's way into one dataset: where samples lie, which of their shards are open, and batches of those.

It runs in the caller's thread alone; passes in several threads take turns by its lock.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol
from weakref import WeakSet

import numpy as np
import numpy.typing as npt

from torch_ipfs.blockstore.base import Block, Blockstore
from torch_ipfs.blockstore.open import is_uncached
from torch_ipfs.blockstore.process_lock import ProcessLock
from torch_ipfs.codec.cid import CID
from torch_ipfs.dataset.collate import Batch
from torch_ipfs.dataset.known_leaves import KnownLeaves
from torch_ipfs.dataset.leaves import BROKEN, shard_of
from torch_ipfs.dataset.shards import SHARD_BUDGET_BYTES, ShardTable
from torch_ipfs.dataset.shared import SAMPLES, SHARDS
from torch_ipfs.dataset.streams import Streaming
from torch_ipfs.errors import TorchIPFSError
from torch_ipfs.manifest.leaf import Leaf
from torch_ipfs.manifest.rows import shard_from_rows
from torch_ipfs.manifest.schema import Schema
from torch_ipfs.manifest.tree import Manifest

Int64s = npt.NDArray[np.int64]

log = logging.getLogger(__name__)

_TYPICAL_SHARD_BYTES = 2**20
_GATHERED_BYTES = 2**20
"""Rows of small batches that are copied together: what a core's own cache holds."""
_KEPT_LEAVES = 65_536
"""Leaves that are known, before those are forgotten that are neither open nor planned: an epoch may have millions."""


@dataclass(slots=True)
class ByRow:
    """A leaf whose samples are decoded as they are read: links, or embedded samples of which one does not fit."""

    leaf: Leaf


def _bare(leaf: Leaf | ByRow) -> Leaf:
    return leaf.leaf if isinstance(leaf, ByRow) else leaf


def _key(leaf: Leaf) -> int:
    """What tells a leaf from others. A broken node may turn out to be many leaves, the first of which begins where it does."""
    return leaf.first if leaf.error is None else ~leaf.first


@dataclass(slots=True)
class Rows:
    """Samples that were read: where each lies in the table, or why it could not be had.

    :param samples: their indices in the dataset, shape (n,).
    :param slots: slots of the table, shape (n,); of one that could not be had, -1.
    :param rows: rows in their shards, shape (n,).
    :param errors: places in the batch -> errors.
    """

    samples: Int64s
    slots: Int64s
    rows: Int64s
    errors: dict[int, TorchIPFSError] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, part: slice) -> Rows:
        """Some of them, none of which is in error."""
        return Rows(self.samples[part], self.slots[part], self.rows[part])


class PlannedAhead(Protocol):
    """Who has rows to come, whose leaves must be known until then."""

    def planned_slots(self) -> set[int]:
        """The slots that rows to come lie in."""


class Reader:
    """One process's way into one dataset.

    :param schema: what samples are read by.
    :param columns: fields to decode; ``None`` for all.
    """

    def __init__(
        self, store: Blockstore, manifest: Manifest, schema: Schema, columns: tuple[str, ...] | None = None
    ) -> None:
        self.store, self.manifest, self.schema = store, manifest, schema
        self.lock = ProcessLock()
        """Held while shards are opened, read or let go of."""
        self.table = ShardTable(self.schema.select(columns))
        self._names = frozenset(self.schema.names)
        self._leaves: dict[int, Leaf | ByRow] = {}
        self._known = KnownLeaves()
        self._most_leaves = _KEPT_LEAVES
        self.batch_streams: WeakSet[PlannedAhead] = WeakSet()
        self._broken: dict[int, TorchIPFSError] = {}
        self._fetched: set[int] | None = set() if is_uncached(store) else None
        """First samples of the shards that this pass has fetched, where it matters and was not warned of yet."""
        self.known_blocks: dict[CID, Block] = {}
        """Blocks of linked samples that were read before the first pass; each is used once."""
        self.streaming = Streaming()
        self.counters: Int64s = np.zeros(3, dtype=np.int64)

    @property
    def is_linked(self) -> bool:
        """Whether the dataset's first samples are blocks of their own."""
        return self.manifest.num_samples > 0 and self.manifest.leaf_at(0).format == "samples"

    @property
    def row_bytes(self) -> int:
        """About what a sample takes in memory."""
        fields = [field for _, field in self.table.schema.fields]
        if all(field.fixed for field in fields):
            return sum(field.row_bytes for field in fields) or 1
        return max(1, _TYPICAL_SHARD_BYTES // self.manifest.shard_rows_about)

    def locate(self, samples: Int64s) -> Rows:
        """Where ``samples`` lie. Reads nodes of the manifest, no shards."""
        known = self._known.find(samples)
        if known is not None:
            return Rows(samples, *known)
        if len(self._leaves) > self._most_leaves:
            self._forget_leaves()
        leaves, member, rows = self.manifest.locate_or_broken(samples)
        slots = np.array([self._slot(leaf) for leaf in leaves], dtype=np.int64)
        return Rows(samples, slots[member] if len(leaves) else member, rows)

    def _slot(self, leaf: Leaf) -> int:
        slot = self.table.slot(_key(leaf))
        if slot not in self._leaves or leaf.error is not None:  # another error than before
            # Not its samples: what the manifest keeps of them is bounded.
            bare = replace(leaf, values=None)
            self._leaves[slot] = ByRow(bare) if leaf.format == "samples" else bare
            if leaf.error is None:
                self._known.add(leaf, slot)
        return slot

    def _forget_leaves(self) -> None:
        """Of leaves that are not open, and of which no stream has rows to come."""
        kept = self._broken.keys() | self.table.kept()
        kept.update(*(stream.planned_slots() for stream in self.batch_streams))
        for slot in self._leaves.keys() - kept:
            self.table.forget(_key(_bare(self._leaves.pop(slot))))
        self._known = KnownLeaves()
        for slot, leaf in self._leaves.items():
            if _bare(leaf).error is None:
                self._known.add(_bare(leaf), slot)
        self._most_leaves = max(_KEPT_LEAVES, 2 * len(self._leaves))

    def locate_open(self, samples: Int64s) -> Rows | None:
        """Where ``samples`` lie, if their shards are open and stay so until more are read."""
        rows = self.locate(samples)
        return rows if self.is_open(rows) else None

    def is_open(self, rows: Rows) -> bool:
        """Whether the shards of ``rows`` are open and stay so until more are read."""
        return self.table.within_budget and bool(self.table.open[rows.slots].all())

    def values(self, leaf: Leaf) -> Sequence[Any]:
        """The embedded samples, or the links, of a leaf of these."""
        found = self.manifest.leaf_at(leaf.first)
        if found.error is not None:
            raise found.error.with_traceback(None)
        return found.values or ()

    def leaf(self, slot: int) -> Leaf | ByRow:
        return self._leaves[slot]

    def error_of(self, slot: int) -> TorchIPFSError | None:
        return self._broken.get(slot) or _bare(self._leaves[slot]).error

    def is_missing(self, slot: int) -> bool:
        """Whether the shard of ``slot`` is neither open nor known to be broken nor read row by row."""
        return not self.table.open[slot] and self.error_of(slot) is None and isinstance(self._leaves[slot], Leaf)

    def accept(self, slot: int, block: Block | TorchIPFSError) -> None:
        """Open the shard of ``slot`` from its block; note it as broken where it is that.

        :raises TransportError: where that is what came in the block's place.
        """
        leaf = self._leaves[slot]
        if not isinstance(leaf, Leaf) or not self.is_missing(slot):
            return
        try:
            if isinstance(block, TorchIPFSError):
                raise block
            shard, held_bytes = shard_of(leaf, block, self.store, self.table.schema, self._names)
            self.table.put(slot, shard, held_bytes)
            self.counters[SHARDS] += 1
        except BROKEN as error:
            self._broken[slot] = error
        else:
            self._note_fetched(leaf.first)

    def _note_fetched(self, first: int) -> None:
        """Warn, once, where a pass fetches a shard again because memory had no room for it and there is no cache."""
        if self._fetched is None:
            return
        if first not in self._fetched:
            self._fetched.add(first)
            return
        self._fetched = None
        log.warning(
            "shards of %s are fetched more than once an epoch: its shuffle needs more of them at once than the %d MiB that are "
            "kept in memory, and the cache on disk is off (TORCH_IPFS_CACHE_BYTES, cache_bytes)",
            self.manifest.root,
            SHARD_BUDGET_BYTES >> 20,
        )

    def open_embedded(self, slot: int) -> None:
        """Open the leaf of embedded samples in ``slot``; where one does not fit, have them decoded row by row."""
        leaf = self._leaves[slot]
        assert isinstance(leaf, Leaf)
        self.counters[SHARDS] += 1
        try:
            shard = shard_from_rows(
                self.values(leaf), self.schema, first_position=leaf.first, cid=leaf.cid, columns=self.table.schema.names
            )
            self.table.put(slot, shard, 64 * leaf.count * max(1, len(self.table.schema.fields)))
        except BROKEN:
            self._leaves[slot] = ByRow(leaf)

    def batch(self, rows: Rows) -> Batch:
        """The values of ``rows``, all of which could be had, as one batch."""
        self.counters[SAMPLES] += len(rows)
        with self.lock:
            return self.table.batch(rows.slots, rows.rows) if len(rows) else {}

    def batches(self, rows: Rows, batch_rows: int) -> Iterator[list[Batch]]:
        """The values of ``rows``, all of which could be had, as batches of ``batch_rows`` and a shorter last one. Small ones
        come several at a time.
        """
        at_once = max(1, _GATHERED_BYTES // (self.row_bytes * batch_rows))
        batches = self.table.batches(rows.slots, rows.rows, batch_rows, at_once=at_once)
        while True:
            with self.lock:
                made = next(batches, None)
            if made is None:
                return
            self.counters[SAMPLES] += min(len(made) * batch_rows, len(rows))
            yield made

    def forget_broken(self) -> None:
        """Try again, from now on, what could not be had: a new epoch may find it."""
        with self.lock:
            self._broken.clear()
            self.manifest.forget_broken()
            if self._fetched is not None:
                self._fetched.clear()
