"""Which epoch a pass is of, where every pass is of the next one until somebody says otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch_ipfs.blockstore.process_lock import ProcessLock
from torch_ipfs.dataset.dataloader import Received
from torch_ipfs.dataset.iterable import IPFSIterableDataset, checked_epoch
from torch_ipfs.errors import OptionError

State = Mapping[str, Any]


class Epochs:
    """The epochs of one loader, whatever its passes are read as."""

    def __init__(self) -> None:
        self._lock = ProcessLock()
        self._next = 0
        self._fixed = False
        self._resumed: State | None = None
        self._closed = False

    def begin(self) -> tuple[int, State | None]:
        """The epoch of a pass that begins now, and the state to go on from, which counts for this pass alone.

        :raises OptionError: the loader was closed.
        """
        self.check_open()
        with self._lock:
            epoch, resumed = self._next, self._resumed
            self._resumed = None
            if not self._fixed:
                self._next += 1
            return epoch, resumed

    def check_open(self) -> None:
        """:raises OptionError: the loader was closed."""
        if self._closed:
            raise closed()

    def close(self) -> None:
        """Let no pass begin any more, nor those go on that ask."""
        self._closed = True

    def again(self, *, same: bool) -> Epochs:
        """Those of a dataset that is loaded now: counted on from here where it is the same one, else from its beginning. An
        epoch that was set stays.
        """
        other = Epochs()
        other._next, other._fixed = (self._next if same or self._fixed else 0), self._fixed
        return other

    def fix(self, epoch: int) -> None:
        """Have passes be of ``epoch`` from now on. A state of that very epoch still counts.

        :raises OptionError: it is no epoch.
        """
        epoch = checked_epoch(epoch)
        with self._lock:
            if epoch != self._next:
                self._resumed = None
            self._next, self._fixed = epoch, True

    def resume(self, epoch: int, state: State) -> None:
        """Have the next pass go on from ``state``, which is of ``epoch``."""
        with self._lock:
            self._next, self._resumed = epoch, state

    def state(self, dataset: IPFSIterableDataset, received: Received | None) -> dict[str, Any]:
        """Where a run stands: what was loaded and not yet read, or after what the latest pass has given out.

        :param received: what counts the latest pass. One that was received to its end is done with: the run stands at the
            start of the next epoch, if there is to be one.
        """
        if self._resumed is not None:
            return dict(self._resumed)
        if received is None or (self._fixed and received.epoch != self._next):
            return dataset.state_at(self._next, 0)
        if received.ended and not self._fixed:
            return dataset.state_at(received.epoch + 1, 0)
        return dataset.state_at(received.epoch, received.position)


def closed() -> OptionError:
    """What is raised to whoever asks a loader for more that was closed."""
    return OptionError("the loader was closed; load_dataset opens it again")
