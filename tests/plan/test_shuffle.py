"""The order: a bijection, the same everywhere and for good, from any position on, mixed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torch_ipfs.errors import OptionError
from torch_ipfs.plan.shuffle import Lanes, Order, ShuffleOptions, TreeOrder, permutation

Int64s = npt.NDArray[np.int64]


@dataclass
class Tree:
    """A tree of counts in memory: a list is a node, a number a shard, a pair of braces' worth of samples a leaf node."""

    children: list[Tree | int]
    first: int = 0
    depth: int = 0
    samples: int = -1
    read: list[int] = field(default_factory=list)

    @property
    def is_leaf(self) -> bool:
        return self.samples >= 0

    @property
    def total(self) -> int:
        return self.samples if self.is_leaf else int(self.counts.sum())

    @property
    def counts(self) -> Int64s:
        return np.array([c if isinstance(c, int) else c.total for c in self.children], dtype=np.int64)

    @property
    def inner(self) -> npt.NDArray[np.bool_]:
        return np.array([isinstance(c, Tree) for c in self.children], dtype=np.bool_)

    def child(self, i: int) -> Tree:
        child = self.children[i]
        assert isinstance(child, Tree)
        self.read.append(i)
        first = self.first + int(self.counts[:i].sum())
        return Tree(child.children, first, self.depth + 1, child.samples, self.read)


leaf_nodes = st.integers(0, 9).map(lambda n: Tree([], samples=n))
shards = st.integers(0, 20)
trees = st.recursive(
    st.lists(shards | leaf_nodes, max_size=5).map(Tree),
    lambda below: st.lists(shards | leaf_nodes | below, max_size=4).map(Tree),
    max_leaves=6,
)
options = st.builds(
    ShuffleOptions, lanes=st.integers(1, 20), unit_rows=st.integers(1, 20), window_rows=st.integers(1, 50)
)


def all_positions(n: int) -> Int64s:
    return np.arange(n, dtype=np.int64)


@given(st.integers(0, 3000), st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**63 - 1))
def test_a_permutation_is_one(size: int, seed: int, epoch: int) -> None:
    assert sorted(permutation(size, seed, epoch, 1, (0, 0)).tolist()) == list(range(size))


@given(st.integers(1, 500), options, st.booleans())
def test_windows_cover_the_line_once(n: int, o: ShuffleOptions, scattered: bool) -> None:
    lanes = Lanes(n, o, scattered=scattered)
    lane, window, row = lanes.windows_of(all_positions(n))
    keys = list(zip(lane.tolist(), window.tolist(), strict=True))
    spans = {key: lanes.span(*key) for key in keys}
    assert max(rows for _, rows in spans.values()) <= lanes.window_rows <= o.window_rows
    places = [spans[key][0] + r for key, r in zip(keys, row.tolist(), strict=True)]
    assert sorted(places) == list(range(n))


@given(st.integers(0, 500), options)
def test_the_order_is_a_bijection(n: int, o: ShuffleOptions) -> None:
    samples = Order(Tree([n]), n, o, seed=3, epoch=1).samples(all_positions(n))
    assert sorted(samples.tolist()) == list(range(n))


@given(trees, st.data())
def test_the_tree_is_a_bijection_of_which_any_part_may_be_had(tree: Tree, data: st.DataObject) -> None:
    n = tree.total
    whole = TreeOrder(tree, seed=3, epoch=1).samples(0, n)
    assert sorted(whole.tolist()) == list(range(n))
    start = data.draw(st.integers(0, n))
    stop = data.draw(st.integers(start, n))
    assert TreeOrder(tree, seed=3, epoch=1).samples(start, stop - start).tolist() == whole[start:stop].tolist()


@given(trees, options, st.data())
def test_any_positions_in_any_portion_give_what_the_whole_gives(
    tree: Tree, o: ShuffleOptions, data: st.DataObject
) -> None:
    n = tree.total
    if n == 0:
        return
    whole = Order(tree, n, o, seed=1, epoch=2).samples(all_positions(n))
    asked = np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=1)), dtype=np.int64)
    assert Order(tree, n, o, seed=1, epoch=2).samples(asked).tolist() == whole[asked].tolist()


def test_rows_of_one_shard_stay_within_it_where_lanes_do_not_cut() -> None:
    """With one lane and no window the line is shards end to end: each child's samples are consecutive."""
    samples = TreeOrder(Tree([5, 0, 7, 3]), seed=9, epoch=0).samples(0, 15).tolist()
    starts = [samples.index(first) for first in (0, 5, 12)]
    assert all(
        samples[at : at + n] == list(range(first, first + n))
        for at, first, n in zip(starts, (0, 5, 12), (5, 7, 3), strict=True)
    )


def test_only_nodes_on_the_way_are_read() -> None:
    root = Tree([Tree([10] * 100) for _ in range(50)])
    Order(root, 50_000, ShuffleOptions(1, 16, 20), seed=0, epoch=0).samples(np.arange(16, dtype=np.int64))
    assert len(set(root.read)) <= 2


@pytest.mark.parametrize("change", [{"seed": 1}, {"epoch": 1}, {"o": ShuffleOptions(4, 8, 200)}])
def test_seed_epoch_and_options_change_the_order(change: dict[str, object]) -> None:
    usual = ShuffleOptions(8, 16, 200)

    def order(seed: int = 0, epoch: int = 0, o: ShuffleOptions = usual) -> list[int]:
        return Order(Tree([100] * 10), 1000, o, seed, epoch).samples(all_positions(1000)).tolist()

    assert order() == order()
    moved = sum(a != b for a, b in zip(order(), order(**change), strict=True))  # type: ignore[arg-type]
    assert moved > 950


def test_options_are_whole_numbers_of_any_type() -> None:
    two: Any = np.int32(2)
    options = ShuffleOptions(lanes=two, unit_rows=two, window_rows=two)
    assert json.loads(json.dumps(asdict(options))) == asdict(ShuffleOptions(2, 2, 2))
    for none in (True, 2.0, np.float64(2), np.arange(2), "2", 0):
        with pytest.raises(OptionError, match="unit_rows"):
            ShuffleOptions(2, none, 2)  # type: ignore[arg-type]


def test_windows_of_lanes_begin_at_different_positions() -> None:
    """So that the shards of all lanes' next windows are not wanted at once."""
    _, window, _ = Lanes(64 * 1000, ShuffleOptions(64, 1, 100)).windows_of(all_positions(64 * 1000))
    begun = np.diff(window.reshape(-1, 64), axis=0).sum(axis=1)
    assert begun.sum() == pytest.approx(64 * 9.5, abs=64)
    assert begun.max() <= 4


def test_a_batch_is_from_many_nodes() -> None:
    """Ten nodes, each of a class of its own: no batch may be of one or two."""
    n = 10 * 2048 * 20
    samples = Order(Tree([Tree([20] * 2048) for _ in range(10)]), n, ShuffleOptions.for_dataset(n, 20), 5, 0)
    for position in (0, n // 2, n - 256):
        classes = np.bincount(samples.samples(np.arange(position, position + 256)) // (2048 * 20), minlength=10)
        assert classes.max() <= 0.25 * 256


def test_neighbours_are_torn_apart_and_shards_mixed() -> None:
    o = ShuffleOptions.for_dataset(64 * 100, 100)
    samples = Order(Tree([100] * 64), 6400, o, seed=5, epoch=0).samples(all_positions(6400))
    assert np.mean(np.abs(np.diff(samples)) == 1) < 0.02
    shards_in_a_batch = [len(set((samples[i : i + 256] // 100).tolist())) for i in range(0, 6400, 256)]
    assert min(shards_in_a_batch) >= 16


@pytest.mark.parametrize(
    ("n", "shard_rows", "lanes", "unit", "window"),
    [
        (0, 1, 1, 1, 2),
        (5, 100, 1, 8, 200),
        (1000, 100, 8, 8, 200),
        (100, 1, 64, 1, 2),
        (4000, 5, 512, 5, 10),
        (10**9, 333, 512, 8, 666),
        (10**7, 10**5, 64, 8, 2**14),
        (10**9, 10**5, 512, 8, 2**12),
    ],
)
def test_defaults_follow_from_counts(n: int, shard_rows: int, lanes: int, unit: int, window: int) -> None:
    o = ShuffleOptions.for_dataset(n, shard_rows)
    assert (o.lanes, o.unit_rows, o.window_rows) == (lanes, unit, window)


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "8"])
def test_options_that_cannot_work_are_refused(value: object) -> None:
    with pytest.raises(OptionError, match="lanes"):
        ShuffleOptions(lanes=value, unit_rows=16, window_rows=1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("counts", "o", "digest"),
    [
        ([100] * 10, ShuffleOptions(8, 16, 200), "0970b990d7a49e63"),
        ([1, 0, 999, 17, 300], ShuffleOptions(3, 5, 64), "08f385aaa28371ff"),
        ([50_000], ShuffleOptions(1, 16, 100_000), "b2c8ae32ff44dd47"),
        ([Tree([40, 30]), Tree([100] * 5), 30], ShuffleOptions(8, 4, 16), "08618edcf057b3c8"),
    ],
)
def test_the_order_stays_what_it_is_for_years(counts: list[Tree | int], o: ShuffleOptions, digest: str) -> None:
    """A checkpoint of today resumes under the numpy of then: these digests never change without a new state version."""
    n = Tree(list(counts)).total
    samples = Order(Tree(list(counts)), n, o, seed=42, epoch=7).samples(all_positions(n))
    assert hashlib.sha256(samples.astype("<i8").tobytes()).hexdigest()[:16] == digest
