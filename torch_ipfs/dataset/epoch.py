"""One reader's share of one epoch: positions to samples to rows, and what is done about those that cannot be had."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain, groupby, islice
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from torch_ipfs.blockstore.collecting import elsewhere, is_collecting
from torch_ipfs.dataset.batch_stream import BatchStream
from torch_ipfs.dataset.linked import Sharing
from torch_ipfs.dataset.reader import Reader, Rows
from torch_ipfs.errors import TorchIPFSError
from torch_ipfs.plan.partition import Partition
from torch_ipfs.plan.shuffle import Order
from torch_ipfs.plan.topology import Topology

Int64s = npt.NDArray[np.int64]
OnError = Literal["raise", "skip", "substitute"]
ON_ERROR: tuple[OnError, ...] = get_args(OnError)

_RUN_POSITIONS = 16_384

log = logging.getLogger(__name__)


Unreadable = tuple[int, TorchIPFSError]
"""A sample's index, and why it could not be had."""


@dataclass(slots=True)
class Skipped:
    """Samples that could not be had: how many, and the first of them."""

    count: int = 0
    first: str = ""

    def add(self, unreadable: Unreadable) -> None:
        self.first = self.first or f"sample {unreadable[0]}: {unreadable[1]}"
        self.count += 1

    def merge(self, other: Skipped) -> None:
        self.first = self.first or other.first
        self.count += other.count


@dataclass(slots=True)
class Step:
    """What was read at one step, or, where samples are given out one by one, at several.

    :param rows: the samples that could be had.
    :param places: which positions of the step they are at, shape (len(rows),); ``None`` where all are there.
    :param length: positions of the step.
    :param errors: what became of the other positions, and of those that have a substitute.
    :param raises: whether these are to be raised.
    """

    rows: Rows
    length: int
    places: Int64s | None = None
    errors: dict[int, Unreadable] = field(default_factory=dict)
    raises: bool = False

    def check(self, start: int, end: int) -> None:
        """Raise what a position from ``start`` to ``end`` ended in, where that is to be raised: those before it come first."""
        for place in sorted(self.errors) if self.raises else ():
            if start <= place < end:
                sample, error = self.errors[place]
                error.add_note(f"while reading sample {sample}")
                raise error

    def skipped(self, start: int, end: int) -> Skipped:
        """What could not be had at positions ``start`` to ``end``."""
        skipped = Skipped()
        for place in sorted(self.errors):
            if start <= place < end:
                skipped.add(self.errors[place])
        return skipped


class EpochShare:
    """The steps of one reader in order.

    :param group: steps that are read together. It is grown into, so that the first step waits for no other.
    :param joins_open: read all that is planned at a time together where its shards are open.
    """

    def __init__(
        self,
        reader: Reader,
        partition: Partition,
        topology: Topology,
        order: Order,
        *,
        on_error: OnError,
        group: int = 1,
        joins_open: bool = False,
    ) -> None:
        self.reader = reader
        self._topology, self._order = topology, order
        # The epoch as if it had not been resumed, in steps that begin and end where those that are left do.
        start = partition.start % partition.step_positions
        self._whole = replace(partition, start=start)
        had = (partition.start - start) // partition.step_positions
        self._steps = range(topology.worker + had, self._whole.num_steps(topology.rank), topology.num_workers)
        self._unreadable = range(0)
        self._replaced = -1
        self._found: Iterator[tuple[int, int, int]] = iter(())
        # Ranks that skip would end with different numbers of steps, and wait for each other for ever.
        self._on_error = "substitute" if on_error == "skip" and topology.world_size > 1 else on_error
        self._group = group
        # All of them together want each sample of a dataset that no other rank reads.
        sharers = topology.num_workers if topology.world_size == 1 else 1
        sharing = Sharing(sharers, order.num_lanes) if sharers > 1 else None
        self._stream = BatchStream(reader, self._plan(partition, topology), sharing, joins_open=joins_open)
        self._substitutes: list[BatchStream] = []
        self._warned = False
        self._given_out = 0

    def _plan(self, partition: Partition, topology: Topology) -> Iterator[tuple[Int64s, Iterable[int]]]:
        group = 1
        for steps, positions in partition.runs(topology, _RUN_POSITIONS):
            lengths, left, step_rows = [], len(positions), len(positions) // len(steps)
            while left:
                lengths.append(min(group * step_rows, left))
                left -= lengths[-1]
                group = min(2 * group, self._group)
            yield self._order.samples(positions), lengths

    def __iter__(self) -> EpochShare:
        return self

    def __next__(self) -> Step:
        """The next step. Its rows stay open until the next call."""
        with self.reader.lock:
            return self._next()

    def _next(self) -> Step:
        self._close_substitutes()
        rows = next(self._stream)
        self._given_out += len(rows)
        if not rows.errors:
            return Step(rows, len(rows))
        errors = {place: (int(rows.samples[place]), rows.errors[place]) for place in sorted(rows.errors)}
        if self._on_error != "raise" and not self._warned:
            self._warned = True
            log.warning("sample %d cannot be read and is skipped or replaced: %s", *next(iter(errors.values())))
        if self._on_error == "substitute":
            return Step(self._substituted(rows), len(rows), errors=errors)
        good = np.flatnonzero(rows.slots >= 0)
        left = Rows(rows.samples[good], rows.slots[good], rows.rows[good])
        return Step(left, len(rows), good, errors, raises=self._on_error == "raise")

    def close(self) -> None:
        """Cancel what is in flight. May be called twice."""
        with self.reader.lock:
            self._stream.close()
            self._close_substitutes()

    def leave(self) -> None:
        """Close it and wait for nobody: elsewhere, where a pass in another thread has its turn, which may wait for the network,
        or where garbage is being collected, perhaps in a thread that such a pass waits for.
        """
        lock = self.reader.lock
        if is_collecting() or not lock.acquire(blocking=False):
            elsewhere(self.close)
            return
        try:
            self.close()
        finally:
            lock.release()

    def _close_substitutes(self) -> None:
        while self._substitutes:
            self._substitutes.pop().close()

    def _substituted(self, rows: Rows) -> Rows:
        """``rows`` with each sample that cannot be had replaced by the next one of this rank's that can.

        Which one that is follows from the step, not from where the run was resumed or which worker reads it.
        """
        bad = sorted(rows.errors)
        before = (self._given_out - len(rows)) // self._whole.batch_size
        for number, places in groupby(bad, lambda place: place // self._whole.batch_size):
            first, *others = places
            found = self._substitutes_from(self._steps[before + number], first % self._whole.batch_size)
            for place in (first, *others):
                substitute = next(found, None)
                if substitute is None:
                    error = rows.errors[bad[0]]
                    error.add_note("no other sample of this share can be read in its place")
                    raise error
                rows.samples[place], rows.slots[place], rows.rows[place] = substitute
        rows.errors = {}
        return rows

    def _substitutes_from(self, step: int, place: int) -> Iterator[tuple[int, int, int]]:
        """Substitutes for what cannot be read at ``place`` of ``step`` and after it.

        Steps of one sample each that cannot be read, one after another, take one after another: those before this one count,
        also where another worker has read them, or a run that was resumed since.
        """
        if self._whole.batch_size > 1:
            return self._readable_after(step, place + 1)
        first = step
        while first - 1 not in (-1, self._replaced) and not self._is_readable(first - 1):
            first -= 1
        if first - 1 != self._replaced or first == 0:
            self._found = self._readable_after(first, 1)
        self._replaced = step
        return islice(self._found, step - first, None)

    def _is_readable(self, step: int) -> bool:
        stream = BatchStream.of(self.reader, self._order.samples(self._whole.positions(self._topology.rank, step)))
        try:
            return not next(stream).errors
        finally:
            stream.close()

    def _readable_after(self, step: int, within: int) -> Iterator[tuple[int, int, int]]:
        """Samples of this rank that can be read, with slot and row: those from place ``within`` of ``step`` on, round to it,
        for ever.
        """
        while True:
            any_readable = False
            for number, samples in self._share_from(step, within):
                if number in self._unreadable:
                    continue
                stream = BatchStream.of(self.reader, samples)
                rows = next(stream)
                readable = np.flatnonzero(rows.slots >= 0).tolist()
                if not readable:
                    stream.close()
                    if number != step:
                        grows = number == self._unreadable.stop
                        self._unreadable = range(self._unreadable.start if grows else number, number + 1)
                    continue
                any_readable = True
                self._substitutes.append(stream)
                for at in readable:
                    yield int(rows.samples[at]), int(rows.slots[at]), int(rows.rows[at])
            if not any_readable:
                return

    def _share_from(self, step: int, within: int) -> Iterator[tuple[int, Int64s]]:
        """Steps of this rank, with their samples: from place ``within`` of ``step`` to the epoch's end, then from its beginning
        to that step.
        """
        rank = self._topology.rank
        for number in chain(range(step, self._whole.num_steps(rank)), range(step + 1)):
            samples = self._order.samples(self._whole.positions(rank, number))
            part = samples[within:] if number == step and within else samples
            within = 0
            if len(part):
                yield number, part
