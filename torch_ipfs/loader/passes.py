"""A pass over an epoch as lists of samples, and its end: exhausted, dropped, or closed by the loader."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from torch_ipfs.dataset.dataloader import Receiving
from torch_ipfs.errors import OptionError
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


class Pass:
    """The iterator of a pass. Several threads may draw from it: each batch goes to one of them.

    Nothing is read and no worker is started before the first batch is asked for.

    :param start: begins the pass.
    :param name: the dataset's, for the log.
    :param reading: held while a batch is read in this process, since passes share what is open there.
    :param current: told when a batch is asked of this iterator by whoever holds it.
    """

    def __init__(
        self,
        start: Callable[[], Receiving],
        name: str,
        reading: AbstractContextManager[Any],
        current: Current,
    ) -> None:
        self._start, self._name, self._reading = start, name, reading
        self._current = weakref.ref(current)
        self._receiving: Receiving | None = None
        self._lock = threading.Lock()
        self._ended = False
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
            try:
                return self._next()
            except BaseException:
                self._ended = True
                raise
            finally:
                if self._closed:
                    self._close()

    def _next(self) -> list[Any]:
        if self._closed:
            raise OptionError("the loader was closed in the middle of this pass; load_dataset opens it again")
        if self._ended:
            raise StopIteration
        with self._reading:
            if self._receiving is None:
                self._receiving = self._start()
            received = self._receiving.received
            before = received.position
            try:
                batch = next(self._receiving)
            except StopIteration:
                self._say_skipped(self._receiving)
                raise
        return unpack(batch, (received.position - before) // received.partition.world_size)

    def _say_skipped(self, receiving: Receiving) -> None:
        skipped = receiving.received.skipped
        if skipped.count:
            log.warning(
                "epoch %d of %s: %d samples could not be read and were skipped; the first was %s",
                receiving.received.epoch,
                self._name,
                skipped.count,
                skipped.first,
            )

    def close(self) -> None:
        """End it. A thread that is waiting for a batch gets it first. May be called twice."""
        if self._ended:
            return
        self._closed = True
        if self._lock.acquire(blocking=False):
            try:
                self._close()
            finally:
                self._lock.release()

    def _close(self) -> None:
        if self._receiving is not None:
            self._receiving.close()
