"""Leaves that were asked for before, found again without the manifest: random access asks for the same ones all the time.

The manifest knows the last few thousand itself (:class:`torch_ipfs.manifest.leaf.FoundLeaves`), each as soon as it is found,
and lays all of them out anew for that. Here there may be millions, which are laid out now and then.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from torch_ipfs.manifest.leaf import Leaf, is_run, run_lengths

Int64s = npt.NDArray[np.int64]

_LAID_FOR_A_SEARCH = 256
"""Leaves that are laid out in about the time that a search in vain costs."""


class KnownLeaves:
    """Sample -> slot and row, for the samples of leaves that have been added.

    The leaves are laid out in order once a sixteenth more have been added, or after some searches in vain, so that this costs
    little for millions of them.
    """

    def __init__(self) -> None:
        self._leaves: list[tuple[int, int, int]] = []
        self._gapless = True
        self._in_vain = 0
        self._firsts = self._ends = self._slots = np.zeros(0, dtype=np.int64)
        self._lengths = np.zeros(0, dtype=np.uint64)

    def add(self, leaf: Leaf, slot: int) -> None:
        """Know the samples of ``leaf``, which nobody has added before, to be in ``slot``."""
        self._leaves.append((leaf.first, leaf.first + leaf.count, slot))

    def find(self, samples: Int64s) -> tuple[Int64s, Int64s] | None:
        """Slots and rows of ``samples``, shapes (n,); ``None`` where a leaf is not known."""
        more, laid = len(self._leaves) - len(self._firsts), len(self._firsts)
        if more > laid // 16 or (more and self._in_vain * _LAID_FOR_A_SEARCH > laid):
            self._lay()
        found = self._find(samples)
        self._in_vain += found is None
        return found

    def _lay(self) -> None:
        self._firsts, self._ends, self._slots = np.array(sorted(self._leaves), dtype=np.int64).T.copy()
        self._lengths = (self._ends - self._firsts).view(np.uint64)
        self._gapless = bool((self._firsts[1:] == self._ends[:-1]).all())
        self._in_vain = 0

    def _find(self, samples: Int64s) -> tuple[Int64s, Int64s] | None:
        if len(samples) == 0 or len(self._firsts) == 0:
            return None
        if is_run(samples):
            return self._find_run(samples)
        places = self._firsts.searchsorted(samples, side="right") - 1
        rows = samples - self._firsts[places]
        # Seen as unsigned, a row below 0, as of a sample before all leaves, is beyond every leaf's end.
        if (rows.view(np.uint64) >= self._lengths[places]).any():
            return None
        return self._slots[places], rows

    def _find_run(self, samples: Int64s) -> tuple[Int64s, Int64s] | None:
        """As :meth:`_find`, of samples that follow each other."""
        start, stop = int(samples[0]), int(samples[-1]) + 1
        first, last = (self._firsts.searchsorted((start, stop - 1), side="right") - 1).tolist()
        firsts, ends = self._firsts[first : last + 1], self._ends[first : last + 1]
        if first < 0 or stop > ends[-1] or not (self._gapless or (firsts[1:] == ends[:-1]).all()):
            return None
        lengths = run_lengths(firsts, start, stop)
        return self._slots[first : last + 1].repeat(lengths), samples - firsts.repeat(lengths)
