"""One pass over one reader's share of an epoch: steps in, samples or batches out, counted as they are given out."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils.data._utils.pin_memory import pin_memory

from torch_ipfs.dataset.collate import collate_samples, rows_of
from torch_ipfs.dataset.epoch import EpochShare, Skipped, Step
from torch_ipfs.dataset.reader import Rows
from torch_ipfs.dataset.row import is_as_read, with_schema
from torch_ipfs.errors import ManifestError
from torch_ipfs.plan.partition import Partition

_NONE_SKIPPED = Skipped()


@dataclass(frozen=True, slots=True)
class Given:
    """What the pass gives out.

    :param batch_size: ``None`` for samples.
    :param collate_fn: list of samples -> batch, in place of the quick way.
    """

    batch_size: int | None
    transform: Callable[[Any], Any] | None
    batch_transform: Callable[[Any], Any] | None
    collate_fn: Callable[[Any], Any] | None

    @property
    def by_sample(self) -> bool:
        """Whether batches are made of samples, one by one, and not of columns."""
        return self.transform is not None or self.collate_fn is not None


@dataclass(slots=True)
class Progress:
    """How far a pass has come.

    :param rounds: outputs given out.
    :param num_workers: how many readers, this one among them, give the rank's outputs in turn.
    :param ended: whether all have been given out.
    """

    epoch: int
    partition: Partition
    num_workers: int
    rounds: int = 0
    ended: bool = False

    @property
    def position(self) -> int:
        """Where the epoch goes on. In one worker of several: where this one does, all else being as now."""
        if self.ended:
            # Of a last step that is dropped, or that this rank has no part in, nothing is to come either.
            return self.partition.num_samples
        return self.partition.position_after(self.rounds * self.num_workers)


@dataclass(slots=True)
class Output:
    """What one step gives out: a sample or a batch, or nothing where all of it was skipped."""

    value: Any
    has_value: bool
    skipped: Skipped

    def pin_memory(self, device: str | None = None) -> Output:
        """As torch's DataLoader asks for it: the value in pinned memory."""
        return Output(pin_memory(self.value, device), self.has_value, self.skipped)  # type: ignore[no-untyped-call]


class Pass:
    """The iterator of a pass. An error ends it: asked again, it raises the same one.

    :param outputs: give each step's :class:`Output`, for a loader that counts, and not just the value.
    """

    def __init__(self, share: EpochShare, given: Given, progress: Progress, *, outputs: bool) -> None:
        self._share, self._given, self._progress, self._gives_outputs = share, given, progress, outputs
        self._batches: list[Any] = []
        self._more_batches: Iterator[list[Any]] = iter(())
        self._outputs: Iterator[Output] = iter(())
        self._skipped = Skipped()
        self._any = False
        self._error: BaseException | None = None

    def __iter__(self) -> Pass:
        return self

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        """Of an epoch that is left, what is in flight is broken off now, and not when the garbage collector comes by. When the
        interpreter ends, no thread gets to run any more, and modules are no longer whole.
        """
        share = getattr(self, "_share", None)
        if share is not None and not is_finalizing():
            share.leave()

    def __next__(self) -> Any:
        while True:
            if self._batches:  # that were gathered together: where they are small every line here counts
                batch = self._batches.pop()
                if self._given.batch_transform is not None:
                    batch = self._transformed(batch, self._given.batch_transform)
                self._progress.rounds += 1
                return Output(batch, True, _NONE_SKIPPED) if self._gives_outputs else batch
            output = self._next_output()
            if output is None:
                continue
            self._progress.rounds += 1
            if self._gives_outputs:
                return output
            self._skipped.merge(output.skipped)
            if output.has_value:
                self._any = True
                return output.value

    def _next_output(self) -> Output | None:
        """The next of those that are made one by one; ``None`` where more had to be read first.

        :raises StopIteration: the pass is over.
        """
        if self._error is not None:
            raise self._error
        try:
            output = next(self._outputs, None)
            if output is None:
                self._gather()
        except StopIteration:
            self._end()
            raise
        except BaseException as error:
            self._fail(error)
            raise
        return output

    def _transformed(self, batch: Any, transform: Callable[[Any], Any]) -> Any:
        try:
            return transformed(batch, transform, "batch_transform")
        except BaseException as error:
            self._fail(error)
            raise

    def _fail(self, error: BaseException) -> None:
        """The pass ends here, and its state stands here: going on would leave out, in silence, what has failed."""
        self._error = error
        self._batches.clear()
        self._more_batches = iter(())
        self._share.close()

    def _gather(self) -> None:
        """Have the next batches, if need be of what has yet to be read."""
        batches = next(self._more_batches, None)
        if batches is None:
            self._read()
        else:
            batches.reverse()
            self._batches = batches

    def _read(self) -> None:
        """Read the next step, or as many as are read together."""
        step, given = next(self._share), self._given
        if given.batch_size is None:
            self._outputs = _samples(self._share, given, step)
        elif step.errors or given.by_sample:
            self._outputs = _batches_one_by_one(self._share, given, step, given.batch_size)
        else:
            self._more_batches = self._share.reader.batches(step.rows, given.batch_size)
            self._any = True

    def _end(self) -> None:
        self._progress.ended = True
        self._share.close()
        skipped, self._skipped = self._skipped, Skipped()
        nothing_left = not self._any and self._progress.num_workers == 1 and self._progress.partition.start == 0
        try:
            report_skipped(skipped, nothing_left=nothing_left)
        except ManifestError as error:
            self._error = error
            raise


def transformed(value: Any, transform: Callable[[Any], Any], name: str) -> Any:
    """What a function of the user's makes of a sample or a batch.

    :raises RuntimeError: it raised StopIteration, which would end the epoch in silence.
    """
    try:
        return transform(value)
    except StopIteration as error:
        raise RuntimeError(f"{name} raised StopIteration") from error


def report_skipped(skipped: Skipped, *, nothing_left: bool) -> None:
    """Say once at the end of an epoch what was skipped or replaced in it.

    :raises ManifestError: that was all there was.
    """
    if skipped.count == 0:
        return
    if nothing_left:
        raise ManifestError(f"no sample of the epoch could be read; the first was {skipped.first}")
    message = f"{skipped.count} samples could not be read and were skipped or replaced; the first was {skipped.first}"
    warnings.warn(message, stacklevel=4)


def _batches_one_by_one(share: EpochShare, given: Given, step: Step, batch_size: int) -> Iterator[Output]:
    places = np.arange(step.length) if step.places is None else step.places
    for start in range(0, step.length, batch_size):
        first, end = np.searchsorted(places, (start, start + batch_size)).tolist()
        step.check(start, start + batch_size)
        value = _batch(share, given, step.rows[first:end]) if end > first else None
        yield Output(value, end > first, step.skipped(start, start + batch_size))


def _batch(share: EpochShare, given: Given, rows: Rows) -> Any:
    batch: Any = share.reader.batch(rows)
    if given.by_sample:
        samples: list[Any] = rows_of(batch, len(rows))
        if given.transform is not None:
            samples = list(map(given.transform, with_schema(samples, share.reader.table.schema)))
        if given.collate_fn is not None:
            batch = given.collate_fn(samples)
        else:
            transformed = given.transform is not None and not all(map(is_as_read, samples))
            batch = collate_samples(samples, share.reader.schema, transformed=transformed)
    return batch if given.batch_transform is None else given.batch_transform(batch)


def _samples(share: EpochShare, given: Given, step: Step) -> Iterator[Output]:
    found, schema = rows_of(share.reader.batch(step.rows), len(step.rows)), share.reader.table.schema
    samples = iter(with_schema(found, schema))
    there = None if step.places is None else set(step.places.tolist())
    for place in range(step.length):
        skipped = step.skipped(place, place + 1) if step.errors else _NONE_SKIPPED
        if there is not None and place not in there:
            step.check(place, place + 1)
            yield Output(None, False, skipped)
            continue
        sample = next(samples)
        yield Output(sample if given.transform is None else given.transform(sample), True, skipped)
