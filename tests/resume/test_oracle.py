"""The oracle itself: it passes what resumes, and says of each way to get it wrong what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from torch_ipfs.testing import assert_resumes_exactly
from torch_ipfs.testing.resume import _difference


class Counting:
    """Numbers in batches of two, and a state that is right. What is wrong is left to those who inherit."""

    def __init__(self, n: int = 7, size: int = 2) -> None:
        self.n, self.size = n, size
        self.start = self.at = 0

    def __iter__(self) -> Iterator[Any]:
        self.at, self.start = self.start, 0
        while self.at < self.n:
            first, self.at = self.at, min(self.at + self.size, self.n)
            yield {"number": torch.arange(first, self.at), "nested": {"text": [str(i) for i in range(first, self.at)]}}

    def state_dict(self) -> dict[str, Any]:
        return {"at": self.start or self.at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.start = state["at"]


def test_what_resumes_passes() -> None:
    assert_resumes_exactly(Counting)
    assert_resumes_exactly(Counting, resume_with=lambda: Counting(size=3))
    assert_resumes_exactly(lambda: Counting(n=0))
    assert_resumes_exactly(Counting, samples_of=lambda batch: batch["number"].tolist(), max_state_bytes=None)


class Prefetched(Counting):
    """Its state is that of what was read, and not of what was given out."""

    def state_dict(self) -> dict[str, Any]:
        return {"at": min(self.n, self.at + self.size)}


class ForgetsOnResume(Counting):
    """Right once: it counts from where it was resumed."""

    def __iter__(self) -> Iterator[Any]:
        start = self.start
        for item in super().__iter__():
            self.at -= start
            yield item
            self.at += start


class Sticks(Counting):
    """Its state counts for every pass."""

    def __iter__(self) -> Iterator[Any]:
        start = self.start
        yield from super().__iter__()
        self.start = start


class UsesUp(Counting):
    """Its state can be loaded once."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.start += state["at"]


class Shifts(Counting):
    """Resumed, it gives the same numbers in another dtype."""

    def __iter__(self) -> Iterator[Any]:
        kind = torch.int32 if self.start else torch.int64
        for item in super().__iter__():
            yield {**item, "number": item["number"].to(kind)}


class Large(Counting):
    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "order": list(range(1000))}


class NoText(Counting):
    def state_dict(self) -> dict[str, Any]:
        state: dict[Any, Any] = super().state_dict()
        return {**state, 1: 1}


@pytest.mark.parametrize(
    ("loader", "said"),
    [
        (Prefetched, r"resumed after item 0 of 4: of 4 that were left, number 0 differs at 'number'"),
        (ForgetsOnResume, r"a run resumed after every item: of 4 that were left, number 2 differs"),
        (Sticks, r"the pass after the one resumed after item 2 of 4"),
        (UsesUp, r"resumed after item 1 of 4: of 3 that were left, number 0 differs"),
        (Shifts, r"resumed after item 1 of 4: of 3 that were left, number 0 differs at 'number'.*int32"),
        (Large, r"a state of \d+ bytes"),
        (NoText, r"the state changes on its way through JSON"),
    ],
)
def test_what_does_not_is_told(loader: Callable[[], Counting], said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        assert_resumes_exactly(loader)


def test_a_pass_that_begins_anew_after_the_end_is_told_apart() -> None:
    class Anew(Counting):
        def state_dict(self) -> dict[str, Any]:
            return {"at": super().state_dict()["at"] % self.n if self.done else super().state_dict()["at"]}

        done = False

        def __iter__(self) -> Iterator[Any]:
            self.done = False
            yield from super().__iter__()
            self.done = True

    assert_resumes_exactly(Anew, nothing_after_the_end=False)
    with pytest.raises(AssertionError, match="resumed after the end: 4 came where 0 were left"):
        assert_resumes_exactly(Anew)


NAN = float("nan")


@pytest.mark.parametrize(
    ("got", "want", "where"),
    [
        (torch.tensor([1.0, NAN]), torch.tensor([1.0, NAN]), None),
        (torch.tensor(1 + 2j), torch.tensor(1 + 2j), None),
        (torch.zeros(0, 3), torch.zeros(0, 3), None),
        (torch.zeros(0, 3), torch.zeros(0, 2), ""),
        (torch.tensor([0.0]), torch.tensor([-0.0]), ""),
        (torch.tensor(1).to(torch.bfloat16), torch.tensor(1).to(torch.float16), ""),
        (np.arange(3), np.arange(3), None),
        (np.arange(3), np.arange(4), ""),
        ([{"a": NAN}], [{"a": NAN}], None),
        ([1, {"a": ("x", b"y")}], [1, {"a": ("x", b"z")}], r"at 1 at 'a' at 1"),
        ({"a": 1}, {"b": 1}, "fields"),
        ([1], [1, 2], "1 where 2"),
        (1, 1.0, "1 where 1.0"),
    ],
)
def test_values_are_compared_to_the_bit(got: Any, want: Any, where: str | None) -> None:
    difference = _difference(got, want)
    assert (difference is None) == (where is None)
    assert (where or "") in (difference or "")
