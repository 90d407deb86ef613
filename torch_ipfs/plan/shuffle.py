"""Which sample is read at position p: the epoch's order, computed for many positions at once and from any of them.

Two steps, each a bijection of [0, N), each keyed by (seed, epoch) alone:

1. *Lanes and windows* (``LaneOrder``) map a position to a place on the epoch's line. The line is cut into L lanes of equal
   length (to within one unit); positions visit the lanes in turn, u at a time; inside a lane, rows are permuted in windows
   of S places.
2. *The tree* (``TreeOrder``) lays the shards' rows end to end to make that line: at each node of the manifest the children
   are permuted, so a place is found by descending, and only the nodes on the way are read.

Permutations are a stable sort of raw words of numpy's Philox, a counter-based bit generator whose stream numpy promises
to keep (NEP 19): the key is (seed, epoch), the counter says what is permuted. Nothing depends on Generator methods, which
may change between versions.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from numpy.random import Philox

from torch_ipfs.errors import OptionError

Int64s = npt.NDArray[np.int64]

MAX_LANES = 512
"""By default."""
_MOST_LANES, _MOST_ROWS = 2**20, 2**40
"""What options may ask for: positions times any of it stay far from where 64-bit arithmetic could overflow."""
MAX_WINDOW_ROWS = 2**14
_LANE_WINDOW_ROWS = 2**21
"""Most rows of the windows of all lanes together, by default: what is permuted before the first batch, and kept."""
_KEPT_CHILDREN = 4 * 2**20
_MOST_WINDOWS = 1024
_RESERVED_ROWS = 2**26
_WINDOW, _CHILDREN = 1, 2
_DIGIT = np.uint64(0xFFFF)
_TWO_DIGIT_ROWS = 2**15
"""Above this, more than one pair in 2**32 would be expected to be equal."""


def permutation(size: int, seed: int, epoch: int, kind: int, place: tuple[int, int]) -> Int64s:
    """A permutation of [0, size), the same on every machine and numpy.

    It is the order in which a stable sort puts random words, 16 bits at a time from the lowest on, for which numpy has a
    radix sort: 3 ns a row a pass, a tenth of sorting 64-bit words. Equal words stay in their order, so enough bits are
    looked at for them to be rare.

    :param kind: what is permuted, so that two uses never share a stream.
    :param place: two numbers below 2**64 that tell the uses of one kind apart.
    """
    if size < 2:
        return np.zeros(size, dtype=np.int64)
    bits = Philox(key=(seed % 2**64) << 64 | epoch % 2**64, counter=[0, kind, place[0], place[1]])
    words = bits.random_raw(size)
    order = np.argsort((words & _DIGIT).astype(np.uint16), kind="stable")
    for shift in (16, 32) if size > _TWO_DIGIT_ROWS else (16,):
        digits = (words >> np.uint64(shift) & _DIGIT).astype(np.uint16)
        order = order[np.argsort(digits[order], kind="stable")]
    return order.astype(np.int64, copy=False)


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
            most = _MOST_LANES if name == "lanes" else _MOST_ROWS
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
                raise OptionError(f"shuffle option {name} must be an integer from 1 to {most}, but is {value!r}")

    @classmethod
    def for_dataset(cls, num_samples: int, shard_rows: int, unit_rows: int = 16) -> ShuffleOptions:
        """The defaults, from the root's counts alone.

        :param shard_rows: rows of a typical shard.
        """
        shards = max(1, -(-num_samples // max(1, shard_rows)))
        lanes = 1 << (min(shards, MAX_LANES).bit_length() - 1)
        window_rows = min(2 * shard_rows, MAX_WINDOW_ROWS, _LANE_WINDOW_ROWS // lanes)
        return cls(lanes=lanes, unit_rows=unit_rows, window_rows=max(1, window_rows))


class _Kept:
    """Nodes' children as they are laid, by node; the least recently used dropped, bounded in children."""

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
        cycle = options.lanes * options.unit_rows
        # A lane's length follows from dealing units out in turn: all full cycles, then what the last cycle has for it.
        self._full_rows, self._left = num_samples // cycle * options.unit_rows, num_samples % cycle
        self._windows_a_lane = (self._full_rows + options.unit_rows) // options.window_rows + 1
        longest = min(options.window_rows, self._full_rows + min(options.unit_rows, self._left or options.unit_rows))
        lanes = min(options.lanes, -(-num_samples // options.unit_rows))  # the others are empty
        self._kept = _Windows(longest, lanes * self._windows_a_lane, lanes, lambda key: self._window(key, seed, epoch))

    def places(self, positions: Int64s) -> Int64s:
        """Places on the line of ``positions``. Shapes (n,), both in [0, N)."""
        o = self._options
        unit, in_unit = np.divmod(positions, o.unit_rows)
        turn, lane = np.divmod(unit, o.lanes)
        window, in_window = np.divmod(turn * o.unit_rows + in_unit, o.window_rows)
        permuted = self._kept.look_up(lane * self._windows_a_lane + window, in_window)
        places = lane * self._full_rows
        places += np.minimum(self._left, lane * o.unit_rows)
        places += window * o.window_rows
        places += permuted
        return places

    def _window(self, key: int, seed: int, epoch: int) -> Int64s:
        o = self._options
        lane, window = divmod(key, self._windows_a_lane)
        lane_rows = self._full_rows + min(max(self._left - lane * o.unit_rows, 0), o.unit_rows)
        rows = min(o.window_rows, lane_rows - window * o.window_rows)
        return permutation(rows, seed, epoch, _WINDOW, (lane, window))


class _Windows:
    """Permutations of windows by key, side by side in one array, so that many are looked into at once.

    :param rows: of the longest window.
    :param windows: how many there are.
    :param lanes: windows that are in use side by side; half as many more are kept, or what one look-up needs.
    """

    def __init__(self, rows: int, windows: int, lanes: int, make: Callable[[int], Int64s]) -> None:
        self._make = make
        self._comfortable = lanes + lanes // 2
        most = min(windows, max(2 * lanes, min(_MOST_WINDOWS, _RESERVED_ROWS // rows)))
        # Reserved, not used: memory is taken as windows are written.
        self._permutations = np.empty((most, rows), dtype=np.int32 if rows < 2**31 else np.int64)
        self._slots: OrderedDict[int, int] = OrderedDict()

    def look_up(self, keys: Int64s, rows: Int64s) -> Int64s:
        """What each window puts at each row. Shapes (n,)."""
        if len(keys) == 0:
            return keys
        starts = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1])))
        run_keys = keys[starts].tolist()
        needed = dict.fromkeys(run_keys)
        if len(needed) > len(self._permutations):
            half = len(keys) // 2
            return np.concatenate((self.look_up(keys[:half], rows[:half]), self.look_up(keys[half:], rows[half:])))
        self._have(needed)
        slots = np.array([self._slots[key] for key in run_keys], dtype=np.int64)
        return self._permutations[np.repeat(slots, np.diff(starts, append=len(keys))), rows]

    def _have(self, keys: Collection[int]) -> None:
        """Make those of ``keys`` that are not kept, in place of those least recently used that are not among them."""
        missing = []
        for key in keys:
            if key in self._slots:
                self._slots.move_to_end(key)
            else:
                missing.append(key)
        room = max(self._comfortable, len(keys))
        for key in missing:
            full = len(self._slots) >= min(room, len(self._permutations))
            slot = self._slots.popitem(last=False)[1] if full else len(self._slots)
            permuted = self._make(key)
            self._permutations[slot, : len(permuted)] = permuted
            self._slots[key] = slot


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
        self._laid = _Kept(_KEPT_CHILDREN)

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
