"""Leaves of a dataset's tree: what they are, and where those lie that were found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import TorchIPFSError

Int64s = npt.NDArray[np.int64]
Format = Literal["arrow", "data", "samples", "broken"]


@dataclass(frozen=True, slots=True)
class Leaf:
    """Samples that are read together: a packed shard, or a node of embedded or linked samples.

    :param first: index in the dataset of its first sample.
    :param values: the samples of ``data``, the links (CID, or text of one) of ``samples``; ``None`` for a packed shard.
    :param error: of a node that could not be had, which is taken for a leaf of format ``broken``.
    """

    cid: CID
    first: int
    count: int
    format: Format
    values: Sequence[Any] | None = None
    error: TorchIPFSError | None = None


@dataclass(frozen=True, slots=True)
class FoundLeaves:
    """Leaves that were found, in the order of their samples. Arrays never change: a reader in another thread may be at them.

    :param leaves: packed shards by their first sample. Others hold samples, and only the nodes that are kept bound those.
    """

    firsts: Int64s
    ends: Int64s
    leaves: dict[int, Leaf]

    @classmethod
    def none(cls) -> FoundLeaves:
        """With one that holds no sample before all, so that every sample comes after some leaf."""
        return cls(np.array([-1]), np.array([-1]), {})

    def locate(self, samples: Int64s) -> Int64s:
        """Which leaf each sample may be in; it is missing where that one ends before. Shapes (n,)."""
        return self.firsts.searchsorted(samples, side="right") - 1

    def and_these(self, found: list[Leaf]) -> FoundLeaves:
        """None of ``found`` is broken: it may be found whole later on, as leaves of other lengths."""
        firsts = np.array([leaf.first for leaf in found], dtype=np.int64)
        ends = firsts + np.array([leaf.count for leaf in found], dtype=np.int64)
        self.leaves.update((leaf.first, leaf) for leaf in found if leaf.values is None)
        firsts, ends = np.concatenate((self.firsts, firsts)), np.concatenate((self.ends, ends))
        order = firsts.argsort(kind="stable")
        return FoundLeaves(firsts[order], ends[order], self.leaves)

    def only(self, members: Int64s) -> FoundLeaves:
        kept, firsts = np.append(0, members), self.firsts[members].tolist()
        return FoundLeaves(
            self.firsts[kept],
            self.ends[kept],
            {first: self.leaves[first] for first in firsts if first in self.leaves},
        )


def is_run(samples: Int64s) -> bool:
    """Whether samples, shape (n,), are several that follow each other, as they are read without a shuffle."""
    count = len(samples)
    return bool(count > 1 and samples[-1] - samples[0] == count - 1 and (samples[1:] > samples[:-1]).all())


def run_lengths(firsts: Int64s, start: int, stop: int) -> Int64s:
    """How many of the samples from ``start`` to before ``stop`` are in each of the leaves that hold them, shape (leaves,).

    :param firsts: the leaves' first samples.
    """
    bounds = np.append(firsts, stop)
    bounds[0] = start
    return np.diff(bounds)


def distinct(values: Int64s, bound: int) -> tuple[Int64s, Int64s]:
    """As ``np.unique`` with its inverse, for values in [0, bound): without a sort, ten times as quick."""
    present = np.zeros(bound, dtype=np.bool_)
    present[values] = True
    return np.flatnonzero(present), (np.cumsum(present) - 1)[values]
