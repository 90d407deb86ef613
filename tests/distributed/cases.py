"""What ranks are put through: named by the test, run by every rank of one torchrun, compared by the test."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch_ipfs import ShuffleOptions

SHUFFLE = ShuffleOptions(lanes=3, unit_rows=2, window_rows=9)


@dataclass(frozen=True)
class Case:
    """One way to read one dataset.

    :param n: samples of the dataset.
    :param options: of the dataset.
    :param epochs: passes in turn, of these epochs.
    """

    n: int
    batch_size: int | None = 4
    num_workers: int = 0
    epochs: tuple[int, ...] = (0,)
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def equal(self) -> bool:
        """Whether ranks are promised as many batches each."""
        return bool(self.options.get("pad", True) or self.options.get("drop_last"))


CASES = {
    "nothing": Case(0),
    "fewer samples than ranks": Case(1),
    "fewer than ranks, with workers": Case(3, batch_size=None, num_workers=2),
    "exactly one step": Case(16),
    "a padded tail": Case(37),
    "a padded tail, with workers": Case(37, num_workers=2, epochs=(0, 2, 1), options={"shuffle": SHUFFLE}),
    "a dropped tail": Case(37, num_workers=1, options={"drop_last": True}),
    "a tail left uneven": Case(37, num_workers=2, options={"pad": False, "shuffle": SHUFFLE}),
    "a tail for some ranks": Case(33, options={"pad": False}),
    "samples": Case(37, batch_size=None, epochs=(1, 1), options={"shuffle": SHUFFLE}),
}
RESUMED = Case(37, num_workers=1, epochs=(3,), options={"shuffle": SHUFFLE, "pad": False})
"""Stopped by four ranks after a step, and gone on with by two."""
STOPPED_AFTER = 1
