"""A pass over an epoch as lists of samples, and its end: exhausted, dropped, or closed by the loader."""

from __future__ import annotations

import logging
import threading
import weakref
from contextlib import AbstractContextManager
from typing import Any

from torch_ipfs.dataset.dataloader import IPFSStatefulDataLoader, Received, Receiving
from torch_ipfs.loader.epochs import closed
from torch_ipfs.loader.samples import unpack

log = logging.getLogger(__name__)


class Current:
    """Which pass ``next(loader)`` draws from: the latest, as long as somebody has it.

    A pass that nobody has drawn from yet, or that is drawn from here alone, is kept alive here; one that its iterator's
    holder draws from is that holder's to drop.
    """

    def __init__(self) -> None:
        self._latest: weakref.ref[Pass] | None = None
        self._kept: Pass | None = None

    def set(self, this: Pass | None) -> None:
        """Have ``this`` be the latest; ``None`` for none."""
        self._latest, self._kept = None if this is None else weakref.ref(this), this

    def take(self) -> Pass | None:
        """The latest, to draw from here, if there is one still."""
        self._kept = self._latest() if self._kept is None and self._latest is not None else self._kept
        return self._kept

    def let_go(self, this: Pass) -> None:
        """Somebody else draws from ``this``."""
        if self._kept is this:
            self._kept = None


class Counted:
    """What counts the latest pass, of whichever kind."""

    def __init__(self) -> None:
        self.received: Received | None = None


class Pass:
    """The iterator of a pass. Several threads may draw from it: each batch goes to one of them.

    Nothing is read and no worker is started before the first batch is asked for.

    :param loader: begins the pass when it is iterated.
    :param name: the dataset's, for the log.
    :param reading: held while a batch is read in this process, since passes share what is open there.
    :param current: told when a batch is asked of this iterator by whoever holds it.
    """

    def __init__(
        self,
        loader: IPFSStatefulDataLoader,
        name: str,
        reading: AbstractContextManager[Any],
        current: Current,
        counted: Counted,
    ) -> None:
        self._loader: IPFSStatefulDataLoader | None = loader
        self._name, self._reading, self._counted = name, reading, counted
        self._planned = counted.received = Received(*loader.dataset.next_pass())
        self._current = weakref.ref(current)
        self._receiving: Receiving | None = None
        self._lock = threading.Lock()
        self._closed = False

    def __iter__(self) -> Pass:
        return self

    def __next__(self) -> list[Any]:
        current = self._current()
        if current is not None:
            current.let_go(self)
        return self.draw()

    def draw(self) -> list[Any]:
        """The next batch.

        :raises StopIteration: there is none.
        :raises OptionError: the loader was closed.
        """
        with self._lock:
            if self._closed:
                raise closed()
            try:
                return self._next()
            finally:
                self._end_if_closed()

    def _next(self) -> list[Any]:
        with self._reading:
            receiving = self._receiving or self._begin()
            received = receiving.received
            before = received.position
            was_over = receiving.closed
            try:
                batch = next(receiving)
            except StopIteration:
                if not was_over:
                    self._say_skipped(received)
                raise
        return unpack(batch, (received.position - before) // received.partition.world_size)

    def _begin(self) -> Receiving:
        assert self._loader is not None
        receiving = self._receiving = iter(self._loader)
        self._loader = None
        if self._counted.received is self._planned:
            self._counted.received = receiving.received
        return receiving

    def _say_skipped(self, received: Received) -> None:
        if received.skipped.count:
            log.warning(
                "epoch %d of %s: %d samples could not be read and were skipped; the first was %s",
                received.epoch,
                self._name,
                received.skipped.count,
                received.skipped.first,
            )

    def close(self) -> None:
        """End it. A thread that is waiting for a batch gets it first. May be called twice."""
        if self._receiving is not None and self._receiving.closed:
            return
        self._closed = True
        if self._lock.acquire(blocking=False):
            try:
                self._end_if_closed()
            finally:
                self._lock.release()

    def _end_if_closed(self) -> None:
        if self._closed and self._receiving is not None:
            self._receiving.close()
