"""make_dataloader: a DataLoader whose state is that of what the training loop has received."""

from __future__ import annotations

import copy
import sys
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from torch.utils.data import DataLoader
from torch.utils.data.dataloader import (
    _BaseDataLoaderIter,
    _SingleProcessDataLoaderIter,
)
from torchdata.stateful_dataloader import StatefulDataLoader

from torch_ipfs.dataset.arguments import checked_count
from torch_ipfs.dataset.epoch import Skipped
from torch_ipfs.dataset.iterable import IPFSIterableDataset
from torch_ipfs.dataset.passes import Output, report_skipped
from torch_ipfs.dataset.workers import begin_workers, can_go_on, end_workers
from torch_ipfs.errors import ManifestError, OptionError
from torch_ipfs.plan.partition import Partition


def _as_it_is(output: Output) -> Output:
    return output


class IPFSStatefulDataLoader(StatefulDataLoader):  # type: ignore[misc]  # torchdata has no types
    """What :func:`make_dataloader` gives.

    Workers send, for each step, what it gave and what was left out, so that order, state and counts are exact whatever
    was skipped. The state is one position, not a state for each worker: it loads at any number of workers.
    """

    dataset: IPFSIterableDataset

    # Accelerate leaves what says so as it is, and it is right so: each rank reads its own share. Its save_state and
    # load_state keep the state of loaders that are stateful.
    _is_accelerate_prepared = True
    use_stateful_dataloader = True

    def __init__(self, dataset: IPFSIterableDataset, *, num_workers: int = 0, **options: Any) -> None:
        num_workers = checked_count("num_workers", num_workers)
        if not options.get("in_order", True):
            raise OptionError("in_order=False gives batches as they come: no state could say which have been received")
        for name in ("shuffle", "drop_last"):
            if options.get(name):
                where = f"IPFSIterableDataset(..., {name}={options[name]!r}), or IPFSDataLoader's"
                raise OptionError(f"{name} is the dataset's to know: {where}")
        if options.get("prefetch_factor") is not None:
            checked_count("prefetch_factor", options["prefetch_factor"], least=1)
        options.setdefault("persistent_workers", num_workers > 0)
        with warnings.catch_warnings():
            # torchdata 0.11 makes itself known through torch's set_vital, which newer torch deprecates.
            warnings.filterwarnings("ignore", "'set_vital' is deprecated", UserWarning)
            super().__init__(dataset, batch_size=None, num_workers=num_workers, collate_fn=_as_it_is, **options)
        self.sampler.set_epoch = _SetEpoch(self)
        self.received: Received | None = None
        self._latest: weakref.ref[Receiving] | None = None
        self._has_persistent: weakref.ref[Receiving] | None = None
        self._resumes = 0

    def __iter__(self) -> Receiving:
        return self._remembered(Receiving(*self._begin()))

    def _begin(self) -> tuple[Iterator[Output], Received, bool]:
        """What a pass that begins now gives, how far it has come, and whether it has workers of its own."""
        received = Received(*self.dataset.next_pass())
        outputs = self._outputs()
        self.dataset.follow(received)
        self.received, self._resumes = received, self.dataset.resumes
        return outputs, received, outputs is not self._iterator

    def _remembered(self, receiving: Receiving) -> Receiving:
        self._latest = weakref.ref(receiving)
        if not receiving.own_workers:
            self._has_persistent = self._latest
        return receiving

    def _outputs(self) -> Iterator[Output]:
        if not self.num_workers and not self.pin_memory:
            # torch's iterator in one process costs as much as reading a small batch.
            return iter(self.dataset)
        if self.num_workers:
            _ = self.dataset.schema  # where samples must be read to find it, once here, not once in every worker
        if self._iterator is not None and not can_go_on(self._iterator):
            self.close()
        holder = None if self._has_persistent is None else self._has_persistent()
        if self._iterator is not None and holder is not None and not holder.closed:
            # The persistent workers are in the middle of a pass that somebody still holds, whatever passes began since.
            return cast(Iterator[Output], self._get_iterator())
        self.dataset.tell_workers(alive=self._iterator is not None)
        return cast(Iterator[Output], DataLoader.__iter__(self))

    def _get_iterator(self) -> _BaseDataLoaderIter:
        # torch's own iterators: those of torchdata fetch a state from every worker at every step.
        return begin_workers(self) if self.num_workers else _SingleProcessDataLoaderIter(self)

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def skipped(self) -> int:
        """Samples of the latest pass that could not be had, so far."""
        return 0 if self.received is None else self.received.skipped.count

    def set_epoch(self, epoch: int) -> None:
        """As :meth:`IPFSIterableDataset.set_epoch`."""
        self.dataset.set_epoch(epoch)

    def set_epoch_of_pass(self, epoch: int) -> None:
        """:meth:`set_epoch`, for a pass too that has begun and of which nothing was asked yet."""
        self.set_epoch(epoch)
        latest = None if self._latest is None else self._latest()
        if latest is not None and latest.is_untouched and latest.received.epoch != epoch:
            latest.close()
            latest.begin(*self._begin())
            self._remembered(latest)

    def state_dict(self) -> dict[str, Any]:
        """Where the training loop stands: after what it has received, whatever workers have prefetched. Under 1 KiB."""
        received = self.received
        if received is None or received.epoch != self.dataset.epoch or self._resumes != self.dataset.resumes:
            return self.dataset.state_dict()
        return self.dataset.state_at(received.epoch, received.position)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from ``state_dict`` in the next pass; at any batch size, number of workers or ranks, source and machine.

        :raises ResumeError: as :meth:`IPFSIterableDataset.load_state_dict` does.
        """
        self.dataset.load_state_dict(state_dict)
        self.received = None

    def __getstate__(self) -> dict[str, Any]:
        passes = {"_latest": None, "_has_persistent": None, "_iterator": None, "received": copy.copy(self.received)}
        return {**self.__dict__, **passes, "dataset": copy.copy(self.dataset), "sampler": type(self.sampler)()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.sampler.set_epoch = _SetEpoch(self)

    def close(self) -> None:
        """End persistent workers. A later pass starts them anew."""
        iterator = self._iterator
        self._iterator: _BaseDataLoaderIter | None = None
        end_workers(iterator)


class _SetEpoch:
    """The ``set_epoch`` of a loader's sampler. Lightning calls it at the beginning of each epoch, and, at the first one and
    after a resume, when it has the pass's iterator already.
    """

    def __init__(self, loader: IPFSStatefulDataLoader) -> None:
        self._loader = weakref.ref(loader)

    def __call__(self, epoch: int) -> None:
        loader = self._loader()
        if loader is not None:
            loader.set_epoch_of_pass(epoch)


@dataclass(slots=True)
class Received:
    """How far a pass has come, as the training loop has received it.

    :param ended: whether it has been received to its end.
    :param ahead: whether somebody else takes steps before the training loop, so that only a whole pass is known to be received.
    """

    epoch: int
    partition: Partition
    steps: int = 0
    skipped: Skipped = field(default_factory=Skipped)
    ended: bool = False
    ahead: bool = False

    @property
    def position(self) -> int:
        if self.ended:
            return self.partition.num_samples
        return self.partition.start if self.ahead else self.partition.position_after(self.steps)


class Receiving:
    """One pass as the training loop sees it, counted as it is received. An error ends it: asked again, it raises the same one.

    Nothing of the loader's holds it: dropped, it ends.
    """

    def __init__(self, outputs: Iterator[Output], received: Received, own_workers: bool) -> None:
        self.begin(outputs, received, own_workers)

    def begin(self, outputs: Iterator[Output], received: Received, own_workers: bool) -> None:
        """Be this pass, from its beginning."""
        self._outputs, self.received, self.own_workers = outputs, received, own_workers
        self._any = False
        self._error: BaseException | None = None
        self.closed = False

    def __iter__(self) -> Receiving:
        return self

    @property
    def is_untouched(self) -> bool:
        """Whether nothing has been asked of it."""
        return not self.closed and self.received.steps == 0

    def __next__(self) -> Any:
        received = self.received
        if self._error is not None:
            raise self._error from None
        while True:
            try:
                output = next(self._outputs)
            except StopIteration:
                self._raise_if_aborted()
                self._end()
                raise
            except BaseException as error:
                self._raise_if_aborted()
                # What other workers have read lies behind what has failed: to go on there would leave it out in silence. None
                # is kept for the next pass: one that is stuck would be waited for again, one that got a Ctrl-C is about to end.
                self.abort(error)
                raise
            received.steps += 1
            if output.skipped.count:
                received.skipped.merge(output.skipped)
            if output.has_value:
                self._any = True
                return output.value

    def _raise_if_aborted(self) -> None:
        """Tell what another thread has said meanwhile."""
        if self._error is not None:
            raise self._error from None

    def close(self) -> None:
        """End the pass, and the workers that were started for it alone. May be called twice."""
        outputs, self._outputs = self._outputs, iter(())
        self.closed = True
        if self.own_workers:
            end_workers(outputs)

    def abort(self, error: BaseException) -> None:
        """End the pass with all its workers. Who asks for more is told ``error``."""
        self._error, self.closed = error, True
        outputs, self._outputs = self._outputs, iter(())
        end_workers(outputs)

    def __del__(self) -> None:
        # When the interpreter goes down, modules are half gone, and workers have ended.
        if sys is not None and not sys.is_finalizing():
            self.close()

    def _end(self) -> None:
        received = self.received
        if self.closed:
            return
        self.closed = received.ended = True
        self._outputs = iter(())  # what persistent workers give from here on is of other passes
        try:
            report_skipped(received.skipped, nothing_left=not self._any and received.partition.start == 0)
        except ManifestError as error:
            self._error = error
            raise


def make_dataloader(
    dataset: IPFSIterableDataset,
    *,
    batch_size: int | None = None,
    num_workers: int = 0,
    collate_fn: Callable[[list[Any]], Any] | None = None,
    **options: Any,
) -> IPFSStatefulDataLoader:
    """A loader over ``dataset`` in workers, whose ``state_dict`` is exact at every step.

    :param batch_size: as if the dataset had been made with it.
    :param num_workers: processes that read ahead, ``prefetch_factor`` outputs each; they are persistent by default.
    :param collate_fn: list of samples -> batch, in place of the quick way from columns to batch.
    :param options: as ``torch.utils.data.DataLoader`` takes them.
    :raises OptionError: (a ValueError) where dataset and argument both give a batch_size, or neither does for a collate_fn; of
        options that are the dataset's, shuffle and drop_last.
    """
    if not isinstance(dataset, IPFSIterableDataset):
        raise OptionError(
            f"make_dataloader takes an IPFSIterableDataset, not {type(dataset).__name__}; use DataLoader for that"
        )
    if batch_size is not None:
        dataset = dataset.with_batch_size(batch_size)
    if collate_fn is not None and dataset.batch_size is None:
        raise OptionError("collate_fn needs a batch_size: without one the loader yields samples")
    dataset = dataset.for_receiver(collate_fn, same_run=True)
    return IPFSStatefulDataLoader(dataset, num_workers=num_workers, **options)
