"""Which sample is read at position p: the epoch's order, computed for many positions at once and from any of them.

Two steps, each a bijection of [0, N), each keyed by (seed, epoch) alone:

1. *Lanes and windows* (``Lanes``) map a position to a place on the epoch's line. The line is cut into L lanes of equal
   length (to within one unit); positions visit the lanes in turn, u at a time; inside a lane, rows are permuted in windows
   of S places. Where lanes hold more than one window, theirs begin at different positions, so that the shards of a next
   window are never all wanted at once.
2. *The tree* (``TreeOrder``) lays the shards' rows end to end to make that line: at each node of the manifest the children
   are permuted, so a place is found by descending, and only the nodes on the way are read.

``Order`` takes both steps a window at a time: the samples of a window are found together and kept until it has been read.

Permutations are a stable sort of raw words of numpy's Philox, a counter-based bit generator whose stream numpy promises
to keep (NEP 19): the key is (seed, epoch), the counter says what is permuted. Nothing depends on Generator methods, which
may change between versions.
"""

from __future__ import annotations

import operator
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from numpy.random import Philox

from torch_ipfs.errors import OptionError

Int64s = npt.NDArray[np.int64]

MAX_LANES = 512
"""By default."""
MAX_UNIT_ROWS = 8
"""By default: docs/shuffle.md has what others cost and bring."""
MAX_WINDOW_ROWS = 2**14
_MOST_LANES, _MOST_ROWS = 2**20, 2**40
"""What options may ask for: positions times any of it stay far from where 64-bit arithmetic could overflow."""
_LANE_WINDOW_ROWS = 2**21
"""Most rows of the windows of all lanes together, by default: what is permuted before all lanes have been read, and kept."""
_KEPT_CHILDREN = 3 * 2**20
"""Children of nodes that are kept as they are laid, 20 bytes each."""
_WINDOW, _CHILDREN = 1, 2
_TWO_DIGIT_ROWS = 2**15
"""Above this, more than one pair in 2**32 would be expected to be equal."""
_GOLDEN, _GOLDEN_ONE = 40_503, 2**16
"""Multiples of the golden section, taken modulo one, lie far apart however many there are."""


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
    digits = bits.random_raw(size).astype("<u8", copy=False).view("<u2").reshape(size, 4)
    order = digits[:, 0].argsort(kind="stable")
    for digit in (1, 2) if size > _TWO_DIGIT_ROWS else (1,):
        order = order[digits[:, digit][order].argsort(kind="stable")]
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
            try:
                number = 0 if isinstance(value, bool) else operator.index(value)
            except TypeError:
                number = 0
            if not 1 <= number <= most:
                raise OptionError(f"shuffle option {name} must be an integer from 1 to {most}, but is {value!r}")
            object.__setattr__(self, name, number)  # of numpy's, which JSON does not take

    @classmethod
    def for_dataset(cls, num_samples: int, shard_rows: int) -> ShuffleOptions:
        """The defaults, from the root's counts alone.

        :param shard_rows: rows of a typical shard.
        """
        unit_rows = min(MAX_UNIT_ROWS, max(1, shard_rows))
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


class Lanes:
    """Positions -> windows of lanes, and windows -> where they lie on the line. O(1) to start anywhere.

    :param num_samples: N.
    :param scattered: whether lanes that have their turns after each other lie far apart on the line, not side by side.
    """

    def __init__(self, num_samples: int, options: ShuffleOptions, *, scattered: bool = False) -> None:
        self._options = options
        cycle = options.lanes * options.unit_rows
        # A lane's length follows from dealing units out in turn: all full cycles, then what the last cycle has for it.
        full_rows, left = num_samples // cycle * options.unit_rows, num_samples % cycle
        longest = full_rows + min(options.unit_rows, left or options.unit_rows)
        self.num_lanes = min(options.lanes, -(-num_samples // options.unit_rows))
        """Those that are not empty."""
        self.window_rows = min(options.window_rows, longest)
        """Of the longest window."""
        lane = np.arange(self.num_lanes, dtype=np.int64)
        spread = lane * _GOLDEN % _GOLDEN_ONE
        self._phases = spread * self.window_rows // _GOLDEN_ONE * (longest > options.window_rows)
        self._lane_rows = full_rows + np.clip(left - lane * options.unit_rows, 0, options.unit_rows)
        on_line = spread.argsort(kind="stable") if scattered and longest >= 2 * options.window_rows else lane
        self._starts = np.empty_like(lane)
        self._starts[on_line] = np.cumsum(self._lane_rows[on_line]) - self._lane_rows[on_line]

    def windows_of(self, positions: Int64s) -> tuple[Int64s, Int64s, Int64s]:
        """Lane, window of the lane, and row of the window, of each of ``positions``. Shapes (n,)."""
        o = self._options
        unit = positions // o.unit_rows
        turn = unit // o.lanes
        lane = unit - turn * o.lanes
        phase = self._phases[lane]
        offset = positions - (unit - turn) * o.unit_rows  # in the lane
        window = (offset + phase) // o.window_rows
        return lane, window, offset - np.maximum(window * o.window_rows - phase, 0)

    def span(self, lane: int, window: int) -> tuple[int, int]:
        """Where on the line a window begins, and how many places it has."""
        end = (window + 1) * self._options.window_rows - int(self._phases[lane])
        start = max(end - self._options.window_rows, 0)
        return int(self._starts[lane]) + start, min(end, int(self._lane_rows[lane])) - start


class _Windows:
    """The samples of windows, side by side in one array, so that many are looked into at once.

    Two of each lane are kept, since one is left while the next is begun.

    :param make: lane, window -> samples.
    :param dtype: of the samples.
    """

    def __init__(self, lanes: Lanes, dtype: npt.DTypeLike, make: Callable[[int, int], Int64s]) -> None:
        self._make = make
        self._held = np.full(2 * lanes.num_lanes, -1, dtype=np.int64)
        """Which window is in the lanes' two slots."""
        self._rows = np.full(2 * lanes.num_lanes, -1, dtype=np.int64)
        """Where in ``_samples`` it is."""
        self._samples = np.empty((min(64, 2 * lanes.num_lanes), lanes.window_rows), dtype=dtype)
        self._used = 0

    def look_up(self, lane: Int64s, window: Int64s, row: Int64s) -> Int64s:
        """The sample at each row. Shapes (n,)."""
        slots = 2 * lane + (window & 1)
        if (self._held[slots] != window).any():
            wanted = self._held.copy()
            wanted[slots] = window
            if (
                wanted[slots] != window
            ).any():  # more than two windows of a lane: as many at a time as there is room for
                return self._look_up_in_turn(lane, window, row)
            for slot in np.flatnonzero(wanted != self._held).tolist():
                self._put(slot, int(wanted[slot]))
        return self._samples[self._rows[slots], row].astype(np.int64, copy=False)

    def _look_up_in_turn(self, lane: Int64s, window: Int64s, row: Int64s) -> Int64s:
        samples = np.empty_like(row)
        pair = window >> 1
        for at in np.unique(pair).tolist():
            chosen = np.flatnonzero(pair == at)
            samples[chosen] = self.look_up(lane[chosen], window[chosen], row[chosen])
        return samples

    def _put(self, slot: int, window: int) -> None:
        samples = self._make(slot // 2, window)
        if self._rows[slot] < 0:
            if self._used == len(self._samples):
                self._samples = np.concatenate((self._samples, np.empty_like(self._samples)))
            self._rows[slot] = self._used
            self._used += 1
        self._samples[self._rows[slot], : len(samples)] = samples
        self._held[slot] = window


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
    """Places on the line -> sample indices, by permuting the children of each node on the way."""

    def __init__(self, root: CountedNode, seed: int, epoch: int) -> None:
        self._root = root
        self._seed, self._epoch = seed, epoch
        self._laid = _Kept(_KEPT_CHILDREN)

    def samples(self, start: int, rows: int) -> Int64s:
        """Sample indices of the places from ``start`` on. Shape (rows,)."""
        samples = np.empty(rows, dtype=np.int64)
        if rows:
            self._fill(self._root, start, samples)
        return samples

    def _fill(self, node: CountedNode, start: int, samples: Int64s) -> None:
        """Sample indices of the places from ``start`` on, counted from the node's own first place; there is at least one."""
        while not node.is_leaf:
            order, ends, shift = self._lay(node)
            first = int(ends.searchsorted(start, side="right"))
            last = (
                first
                if start + len(samples) <= ends[first]
                else int(ends.searchsorted(start + len(samples) - 1, "right"))
            )
            if first != last or not node.inner[order[first]]:
                break
            node = node.child(int(order[first]))
            start += int(shift[first]) - node.first
        else:
            samples[:] = np.arange(node.first + start, node.first + start + len(samples))
            return
        stops = np.minimum(ends[first : last + 1] - start, len(samples))
        lengths = stops.copy()
        lengths[1:] -= stops[:-1]
        np.add(np.arange(start, start + len(samples)), shift[first : last + 1].repeat(lengths), out=samples)
        children = order[first : last + 1]
        for at in np.flatnonzero(node.inner[children] & (lengths > 0)).tolist():
            below, part = node.child(int(children[at])), samples[stops[at] - lengths[at] : stops[at]]
            self._fill(below, int(part[0]) - below.first, part)

    def _lay(self, node: CountedNode) -> tuple[npt.NDArray[np.int32], Int64s, Int64s]:
        """Children in their order, where each ends on the node's line, and what turns its places into sample indices."""
        key = (node.depth, node.first)
        laid: tuple[npt.NDArray[np.int32], Int64s, Int64s] | None = self._laid.get(key)
        if laid is None:
            counts = node.counts
            order = permutation(len(counts), self._seed, self._epoch, _CHILDREN, key)
            ends = counts[order].cumsum()
            firsts = counts.cumsum()
            firsts += node.first
            # A child's first sample less its first place is its last sample less its last place.
            laid = order.astype(np.int32), ends, firsts[order] - ends
            self._laid.put(key, len(counts), laid)
        return laid


class Order:
    """Position -> sample index for one epoch: the identity, or the shuffle."""

    def __init__(
        self, root: CountedNode, num_samples: int, options: ShuffleOptions | None, seed: int = 0, epoch: int = 0
    ) -> None:
        self._seed, self._epoch = seed, epoch
        self._lanes: Lanes | None = None
        if options is not None and num_samples > 0:
            # A stretch of the line is from few nodes, and a batch has to be from many. Shards that all hang on the root are
            # permuted singly, and there readers whose lanes lie side by side need not share the shards that lanes cut.
            self._lanes = Lanes(num_samples, options, scattered=bool(root.inner.any()))
            self._tree = TreeOrder(root, seed, epoch)
            self._windows = _Windows(self._lanes, np.int32 if num_samples < 2**31 else np.int64, self._window)

    @property
    def num_lanes(self) -> int:
        """Places of the line that are read side by side."""
        return 1 if self._lanes is None else self._lanes.num_lanes

    def samples(self, positions: Int64s) -> Int64s:
        """Sample indices at ``positions``. Shapes (n,)."""
        return positions if self._lanes is None else self._windows.look_up(*self._lanes.windows_of(positions))

    def _window(self, lane: int, window: int) -> Int64s:
        assert self._lanes is not None
        start, rows = self._lanes.span(lane, window)
        order = permutation(rows, self._seed, self._epoch, _WINDOW, (lane, window))
        return self._tree.samples(start, rows)[order]
