"""Samples by index, in the order they are asked for, with the blocks of those to come asked for ahead.

All of it runs in the caller's thread. What is in flight belongs to the store's ``get_many``: it is given a generator of
CIDs that looks ahead in the plan, and pulls from it as far as its window allows. Closing a :class:`BatchStream` closes that
iterator, which cancels what is in flight.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from torch_ipfs.blockstore.base import Block, Blockstore, LinkedBlockstore, close_iterator
from torch_ipfs.codec.cid import CID
from torch_ipfs.dataset.leaves import BROKEN, link_of, sample_value, shards_of_rows
from torch_ipfs.dataset.linked import LinkedReads, Sharing, Wanted, ended_early
from torch_ipfs.dataset.reader import ByRow, Reader, Rows
from torch_ipfs.dataset.shared import BLOCKS
from torch_ipfs.dataset.streams import Streams
from torch_ipfs.errors import TorchIPFSError
from torch_ipfs.manifest.column import Shard
from torch_ipfs.manifest.leaf import Leaf

Int64s = npt.NDArray[np.int64]

_LOOKAHEAD_ROWS = 65_536
"""How far the plan is looked through for blocks to ask for; the store bounds what is in flight."""


@dataclass(slots=True)
class _Planned:
    """A batch on its way.

    :param awaited: slots, and (place, CID) of linked samples, whose blocks were asked for and have not come.
    """

    rows: Rows
    by_row: dict[int, int] = field(default_factory=dict)
    awaited: int = 0
    values: dict[int, Any] = field(default_factory=dict)
    passing: list[int] = field(default_factory=list)


class BatchStream:
    """Batches of samples in order.

    :param plan: sample indices of several batches end to end, with the lengths of the batches.
    :param sharing: with whom this process reads the dataset, where they read all of it.
    :param joins_open: give batches whose shards are all open as one: nothing has to come for them.
    """

    def __init__(
        self,
        reader: Reader,
        plan: Iterator[tuple[Int64s, Iterable[int]]],
        sharing: Sharing | None = None,
        *,
        joins_open: bool = False,
    ) -> None:
        self._reader = reader
        self._sharing = sharing
        self._joins_open = joins_open
        self._located: Rows | None = None
        self._batches: Iterator[Rows] = self._split(plan)
        self._current: _Planned | None = None
        self._looked: deque[_Planned] = deque()
        self._looked_rows = 0
        self._requests: deque[tuple[_Planned, int, CID, Leaf | None]] = deque()
        self._asked: deque[tuple[_Planned, int, CID, Leaf | None]] = deque()
        self._requested: set[int] = set()
        self._arrived: deque[tuple[int, Block]] = deque()
        self._blocks: Iterator[Block | TorchIPFSError] | None = None
        self._passing: list[int] = []
        self._used: list[int] = []
        reader.batch_streams.add(self)

    @classmethod
    def of(cls, reader: Reader, samples: Int64s) -> BatchStream:
        """``samples`` as a stream of one batch."""
        return cls(reader, iter([(samples, [len(samples)])]))

    def __iter__(self) -> BatchStream:
        return self

    def __next__(self) -> Rows:
        """The next batch, read. Its rows stay open until the next call."""
        self._let_go()
        if not self._looked and not self._look():
            raise StopIteration
        planned = self._current = self._looked.popleft()
        self._looked_rows -= len(planned.rows)
        while planned.awaited:
            self._receive()
        self._accept()
        self._passing = planned.passing
        self._open_rest(planned)
        self._used = self._reader.table.use(planned.rows.slots)
        return planned.rows

    def close(self) -> None:
        """Cancel what is in flight and let go of what the last batch held open."""
        blocks, self._blocks = self._blocks, None
        close_iterator(blocks)
        self._batches, self._located = iter(()), None
        self._looked.clear()
        self._arrived.clear()
        self._let_go()

    def planned_slots(self) -> set[int]:
        """The slots that rows to come lie in."""
        rows = [planned.rows for planned in self._looked]
        rows += [] if self._current is None else [self._current.rows]
        rows += [] if self._located is None else [self._located]
        return set(np.concatenate([each.slots for each in rows]).tolist()) if rows else set()

    def _let_go(self) -> None:
        """Of what the last batch held open."""
        self._current = None
        self._reader.table.release(self._used)
        self._used = []
        while self._passing:
            self._reader.table.drop(self._passing.pop())

    def _split(self, plan: Iterator[tuple[Int64s, Iterable[int]]]) -> Iterator[Rows]:
        for samples, lengths in plan:
            located = self._located = self._reader.locate(samples)
            joined = self._joins_open and self._reader.is_open(located)
            start = 0
            for length in [len(samples)] if joined else lengths:
                end = start + length
                # Copies, because rows that are read one by one are pointed elsewhere.
                yield Rows(samples[start:end], located.slots[start:end].copy(), located.rows[start:end].copy())
                start = end
            self._located = None

    def _look(self) -> bool:
        """Take one more batch from the plan and note the blocks that it needs; ``False`` at the plan's end."""
        rows = next(self._batches, None)
        if rows is None:
            return False
        planned = _Planned(rows)
        self._looked.append(planned)
        self._looked_rows += len(rows)
        table, reader = self._reader.table, self._reader
        for slot in table.closed(rows.slots):
            leaf = reader.leaf(slot)
            if isinstance(leaf, ByRow):
                self._look_by_row(planned, slot, leaf.leaf)
            elif leaf.format == "arrow" and slot not in self._requested and reader.error_of(slot) is None:
                self._requested.add(slot)
                self._request(planned, slot, leaf.cid, None)
        return True

    def _look_by_row(self, planned: _Planned, slot: int, leaf: Leaf) -> None:
        rows = planned.rows
        places = np.flatnonzero(rows.slots == slot).tolist()
        planned.by_row.update(dict.fromkeys(places, slot))
        try:
            values = self._reader.values(leaf)
        except BROKEN as error:  # the node was let go of, and cannot be had again
            planned.values.update(dict.fromkeys(places, error))
            return
        for place in places:
            value = values[int(rows.rows[place])]
            if leaf.format == "data":
                planned.values[place] = value
                continue
            link = link_of(value, int(rows.samples[place]), leaf.cid)
            if not isinstance(link, CID):
                planned.values[place] = link
            elif (known := self._reader.known_blocks.pop(link, None)) is None:
                self._request(planned, place, link, leaf)
            else:
                self._reader.counters[BLOCKS] += 1
                planned.values[place] = _value_or_error(link, known, self._reader.store)

    def _request(self, planned: _Planned, key: int, cid: CID, linked_by: Leaf | None) -> None:
        planned.awaited += 1
        self._requests.append((planned, key, cid, linked_by))

    def _ask(self) -> Iterator[CID]:
        """CIDs in the order in which they are needed, for ``get_many`` to pull as far as its window allows."""
        while (wanted := self._next_wanted()) is not None:
            yield wanted[0]

    def _next_wanted(self) -> Wanted | None:
        """The CID that is needed next, and the leaf that links to it; ``None`` where enough is asked for."""
        while not self._requests:
            if self._looked_rows >= _LOOKAHEAD_ROWS or not self._look():
                return None
        request = self._requests.popleft()
        self._asked.append(request)
        return request[2], request[3]

    def _answers(self) -> Iterator[Block | TorchIPFSError]:
        """The blocks of what is asked for from here on, in that order."""
        reader = self._reader
        if self._requests and self._requests[0][3] is not None and isinstance(reader.store, LinkedBlockstore):
            streams = Streams(reader.store, reader.streaming)
            return LinkedReads(
                reader.store, self._next_wanted, reader.values, reader.streaming, streams, sharing=self._sharing
            ).answers()
        return reader.store.get_many(self._ask(), return_exceptions=True)

    def _receive(self) -> None:
        """Take the next block that was asked for."""
        if self._blocks is None:
            self._blocks = self._answers()
        block = next(self._blocks, None)
        if block is None:
            self._blocks = None
            if self._asked:
                raise ended_early(self._reader.store, len(self._asked), self._asked[0][2])
            return
        planned, key, cid, linked_by = self._asked.popleft()
        planned.awaited -= 1
        self._reader.counters[BLOCKS] += not isinstance(block, TorchIPFSError)
        if linked_by is not None:
            planned.values[key] = _value_or_error(cid, block, self._reader.store)
        else:
            if not isinstance(block, TorchIPFSError):
                self._arrived.append((key, block))
                return
            self._requested.discard(key)
            self._reader.accept(key, block)

    def _accept(self) -> None:
        """Open the shards that have come: one after the other, since code that is at hand takes a third of the time."""
        while self._arrived:
            slot, block = self._arrived.popleft()
            self._requested.discard(slot)
            self._reader.accept(slot, block)

    def _open_rest(self, planned: _Planned) -> None:
        """Open what was asked for by another batch and let go of since, and what needs no block of its own."""
        reader, rows = self._reader, planned.rows
        table = reader.table
        closed = table.closed(rows.slots)
        if closed:
            for slot in closed:
                self._open(planned, slot)
            self._place_by_row(planned)
            for place, slot in enumerate(rows.slots.tolist()):
                error = reader.error_of(slot) if slot >= 0 and not table.open[slot] else None
                if error is not None:
                    rows.errors[place] = error
                    rows.slots[place] = -1

    def _open(self, planned: _Planned, slot: int) -> None:
        reader = self._reader
        leaf = reader.leaf(slot)
        if isinstance(leaf, Leaf) and leaf.format == "data":
            reader.open_embedded(slot)
            leaf = reader.leaf(slot)
        if isinstance(leaf, Leaf):
            self._accept()
            while slot in self._requested:
                self._receive()
                self._accept()
            if reader.is_missing(slot):
                block = _one(reader.store, leaf.cid)
                reader.counters[BLOCKS] += not isinstance(block, TorchIPFSError)
                reader.accept(slot, block)
        elif not any(at == slot for at in planned.by_row.values()):
            self._look_by_row(planned, slot, leaf.leaf)
            while planned.awaited:
                self._receive()

    def _place_by_row(self, planned: _Planned) -> None:
        """Make shards of the samples that were read one by one, and point the batch's rows at them."""
        rows, reader = planned.rows, self._reader
        for slot in dict.fromkeys(planned.by_row.values()):
            leaf = reader.leaf(slot)
            assert isinstance(leaf, ByRow)
            places = [place for place, at in planned.by_row.items() if at == slot]
            values = [planned.values[place] for place in places]
            samples = [int(rows.samples[place]) for place in places]
            columns = reader.table.schema.names
            for members, shard in shards_of_rows(values, samples, reader.schema, columns, leaf.leaf.cid):
                where = [places[i] for i in members]
                if isinstance(shard, Shard):
                    passing = reader.table.put_passing(shard)
                    planned.passing.append(passing)
                    rows.slots[where] = passing
                    rows.rows[where] = np.arange(len(where))
                else:
                    rows.errors.update((place, shard) for place in where)
                    rows.slots[where] = -1


def _one(store: Blockstore, cid: CID) -> Block | TorchIPFSError:
    try:
        return store.get(cid)
    except TorchIPFSError as error:
        return error


def _value_or_error(cid: CID, block: Block | TorchIPFSError, store: Blockstore) -> Any:
    try:
        if isinstance(block, TorchIPFSError):
            raise block
        return sample_value(cid, block, store)
    except BROKEN as error:
        return error
