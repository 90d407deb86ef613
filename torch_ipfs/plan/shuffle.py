"""Which sample is read at position p: the epoch's order, computed for many positions at once and from any of them.

Two steps, each a bijection of [0, N), each keyed by (seed, epoch) alone:

1. *Lanes and windows* (``LaneOrder``) map a position to a place on the epoch's line. The line is cut into L lanes of equal
   length (to within one unit); positions visit the lanes in turn, u at a time; inside a lane, rows are permuted in windows
   of S places.
2. *The tree* (``TreeOrder``) lays the shards' rows end to end to make that line: at each node of the manifest the children
   are permuted, so a place is found by descending, and only the nodes on the way are read.

Permutations are the ranks of raw 64-bit words of numpy's Philox, a counter-based bit generator whose stream numpy promises
to keep (NEP 19): the key is (seed, epoch), the counter says what is permuted. Nothing depends on Generator methods, which
may change between versions.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from torch_ipfs.errors import OptionError

Int64s = npt.NDArray[np.int64]

MAX_LANES = 512
_KEPT_PERMUTATION_ROWS = 4 * 2**20
_WINDOW, _CHILDREN = 1, 2


def permutation(size: int, seed: int, epoch: int, kind: int, place: tuple[int, int]) -> Int64s:
    """A permutation of [0, size), the same on every machine and numpy.

    The index is packed into the low bits of each random word, so keys are unique and any sort gives the same answer.

    :param kind: what is permuted, so that two uses never share a stream.
    :param place: two numbers below 2**64 that tell the uses of one kind apart.
    """
    if size < 2:
        return np.zeros(size, dtype=np.int64)
    index_bits = (size - 1).bit_length()
    bits = np.random.Philox(key=(seed % 2**64) << 64 | epoch % 2**64, counter=[0, kind, place[0], place[1]])
    words = bits.random_raw(size)
    words >>= np.uint64(index_bits)
    words <<= np.uint64(index_bits)
    words |= np.arange(size, dtype=np.uint64)
    words.sort()
    words &= np.uint64(2**index_bits - 1)
    return words.view(np.int64)


@dataclass(frozen=True, slots=True)
class ShuffleOptions:
    """What the order depends on beside root, seed and epoch. All counts are rows.

    :param lanes: L, places of the line that are read side by side.
    :param unit_rows: u, rows read from one lane before the next has its turn.
    :param window_rows: S, rows of a lane that are permuted together.
    """

    lanes: int
    unit_rows: int
    window_rows: int

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise OptionError(f"shuffle option {name} must be an integer of at least 1, but is {value!r}")

    @classmethod
    def for_dataset(cls, num_samples: int, shard_rows: int, unit_rows: int = 16) -> ShuffleOptions:
        """The defaults, from the root's counts alone.

        :param shard_rows: rows of a typical shard.
        """
        shards = max(1, -(-num_samples // max(1, shard_rows)))
        lanes = 1 << (min(shards, MAX_LANES).bit_length() - 1)
        return cls(lanes=lanes, unit_rows=unit_rows, window_rows=max(1, 2 * shard_rows))


class _Kept:
    """Permutations by what they permute, the least recently used dropped, bounded in rows held."""

    def __init__(self, max_rows: int) -> None:
        self._max_rows = max_rows
        self._rows = 0
        self._items: OrderedDict[Any, tuple[int, Any]] = OrderedDict()

    def get(self, key: Any) -> Any:
        item = self._items.get(key)
        if item is None:
            return None
        self._items.move_to_end(key)
        return item[1]

    def put(self, key: Any, rows: int, value: Any) -> None:
        self._items[key] = (rows, value)
        self._rows += rows
        while self._rows > self._max_rows and len(self._items) > 1:
            self._rows -= self._items.popitem(last=False)[1][0]


class LaneOrder:
    """Position -> place on the line: lanes and windows. O(1) to start anywhere.

    :param num_samples: N.
    """

    def __init__(self, num_samples: int, options: ShuffleOptions, seed: int, epoch: int) -> None:
        self._options = options
        self._seed, self._epoch = seed, epoch
        cycle = options.lanes * options.unit_rows
        # A lane's length follows from dealing units out in turn: all full cycles, then what the last cycle has for it.
        self._full_rows, self._left = num_samples // cycle * options.unit_rows, num_samples % cycle
        self._windows = _Kept(_KEPT_PERMUTATION_ROWS)

    def places(self, positions: Int64s) -> Int64s:
        """Places on the line of ``positions``. Shapes (n,), both in [0, N)."""
        o = self._options
        unit, in_unit = np.divmod(positions, o.unit_rows)
        turn, lane = np.divmod(unit, o.lanes)
        offset = turn * o.unit_rows + in_unit
        window, in_window = np.divmod(offset, o.window_rows)
        windows_a_lane = (self._full_rows + o.unit_rows) // o.window_rows + 1
        keys, member = np.unique(lane * windows_a_lane + window, return_inverse=True)
        permuted = np.empty_like(positions)
        order = np.argsort(member, kind="stable")
        bounds = np.searchsorted(member[order], np.arange(len(keys) + 1))
        for i, key in enumerate(keys.tolist()):
            chosen = order[bounds[i] : bounds[i + 1]]
            permuted[chosen] = self._window(*divmod(key, windows_a_lane))[in_window[chosen]]
        lane_start = lane * self._full_rows + np.minimum(self._left, lane * o.unit_rows)
        return np.asarray(lane_start + window * o.window_rows + permuted, dtype=np.int64)

    def _window(self, lane: int, window: int) -> Int64s:
        kept: Int64s | None = self._windows.get((lane, window))
        if kept is None:
            o = self._options
            lane_rows = self._full_rows + min(max(self._left - lane * o.unit_rows, 0), o.unit_rows)
            rows = min(o.window_rows, lane_rows - window * o.window_rows)
            kept = permutation(rows, self._seed, self._epoch, _WINDOW, (lane, window))
            self._windows.put((lane, window), rows, kept)
        return kept


class CountedNode(Protocol):
    """A node of a tree of samples, as the order sees it."""

    @property
    def first(self) -> int:
        """Index of the node's first sample in the whole dataset."""
        ...

    @property
    def depth(self) -> int:
        """0 at the root."""
        ...

    @property
    def is_leaf(self) -> bool:
        """Whether it holds samples and has no children: they stay in their order."""
        ...

    @property
    def counts(self) -> Int64s:
        """Samples below each child. Shape (children,)."""
        ...

    @property
    def inner(self) -> npt.NDArray[np.bool_]:
        """Which children are nodes themselves. Shape (children,)."""
        ...

    def child(self, i: int) -> CountedNode:
        """Child ``i``, which ``inner`` says is a node. May read it."""
        ...


class TreeOrder:
    """Place on the line -> sample index, by permuting the children of each node on the way."""

    def __init__(self, root: CountedNode, seed: int, epoch: int) -> None:
        self._root = root
        self._seed, self._epoch = seed, epoch
        self._laid = _Kept(_KEPT_PERMUTATION_ROWS)

    def samples(self, places: Int64s) -> Int64s:
        """Sample indices of ``places``. Shapes (n,), both in [0, N)."""
        return self._below(self._root, places)

    def _below(self, node: CountedNode, places: Int64s) -> Int64s:
        """Sample indices of ``places`` counted from the node's own first place."""
        if node.is_leaf:
            return places + node.first
        order, ends, shift = self._lay(node)
        slot = np.searchsorted(ends, places, side="right")
        samples = places + shift[slot]
        if node.inner.any():
            child = order[slot]
            for i in np.unique(child[node.inner[child]]).tolist():
                chosen = np.flatnonzero(child == i)
                below = node.child(i)
                samples[chosen] = self._below(below, samples[chosen] - below.first)
        return samples

    def _lay(self, node: CountedNode) -> tuple[Int64s, Int64s, Int64s]:
        """Children in their order, where each ends on the node's line, and what turns its places into sample indices."""
        key = (node.depth, node.first)
        laid: tuple[Int64s, Int64s, Int64s] | None = self._laid.get(key)
        if laid is None:
            counts = node.counts
            order = permutation(len(counts), self._seed, self._epoch, _CHILDREN, key)
            ends = np.cumsum(counts[order])
            firsts = np.cumsum(counts) - counts + node.first
            laid = order, ends, firsts[order] - (ends - counts[order])
            self._laid.put(key, 3 * len(counts), laid)
        return laid


class Order:
    """Position -> sample index for one epoch: the identity, or the shuffle."""

    def __init__(
        self, root: CountedNode, num_samples: int, options: ShuffleOptions | None, seed: int = 0, epoch: int = 0
    ) -> None:
        self._steps: tuple[LaneOrder, TreeOrder] | None = None
        if options is not None and num_samples > 0:
            self._steps = LaneOrder(num_samples, options, seed, epoch), TreeOrder(root, seed, epoch)

    def samples(self, positions: Int64s) -> Int64s:
        """Sample indices at ``positions``. Shapes (n,)."""
        if self._steps is None:
            return positions
        lanes, tree = self._steps
        return tree.samples(lanes.places(positions))
