"""Leaves that were asked for before are found again, however few were asked for last."""

from __future__ import annotations

import numpy as np

from torch_ipfs.codec.cid import CID
from torch_ipfs.dataset.known_leaves import KnownLeaves
from torch_ipfs.manifest.leaf import Leaf

ROWS = 10
CID_OF_ALL = CID.of(b"", "raw")


def leaf(number: int) -> Leaf:
    return Leaf(CID_OF_ALL, number * ROWS, ROWS, "arrow")


def test_the_last_few_leaves_are_found_in_the_end() -> None:
    known = KnownLeaves()
    for number in range(139):
        known.add(leaf(number), slot=2 * number)
    assert known.find(np.array([0])) is not None
    for number in range(139, 147):  # fewer than are laid out for by themselves
        known.add(leaf(number), slot=2 * number)
    of_a_new_one = np.array([1, 146 * ROWS + 3])
    in_vain = next(searches for searches in range(100) if known.find(of_a_new_one) is not None)
    assert in_vain < 10
    found = known.find(of_a_new_one)
    assert found is not None
    slots, rows = found
    assert slots.tolist() == [0, 2 * 146]
    assert rows.tolist() == [1, 3]


def test_a_gap_between_leaves_is_not_taken_for_one_of_them() -> None:
    known = KnownLeaves()
    known.add(leaf(0), slot=0)
    known.add(leaf(2), slot=1)
    assert known.find(np.array([ROWS + 1])) is None
    assert known.find(np.array([2 * ROWS, 0])) is not None


def test_samples_that_follow_each_other_are_found_as_others_are() -> None:
    known = KnownLeaves()
    there = [0, 1, 2, 4, 5]
    for number in there:
        known.add(leaf(number), slot=10 + number)
    for start in range(0, 6 * ROWS, 3):
        for stop in range(start + 2, 6 * ROWS + 3, 7):
            samples = np.arange(start, stop)
            found = known.find(samples)
            if any(sample // ROWS not in there for sample in samples.tolist()):
                assert found is None
                continue
            assert found is not None
            slots, rows = found
            assert slots.tolist() == [10 + sample // ROWS for sample in samples.tolist()]
            assert rows.tolist() == [sample % ROWS for sample in samples.tolist()]
