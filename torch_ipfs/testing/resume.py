"""The oracle of resuming: stop at every step, go on from a checkpoint file, and compare with the run that never stopped.

    def test_it_resumes(tmp_path):
        cid = torch_ipfs.write_dataset(samples, tmp_path / "data.car")

        def make_loader():
            dataset = torch_ipfs.IPFSIterableDataset(cid, tmp_path / "data.car", batch_size=8, shuffle=True)
            return torch_ipfs.make_dataloader(dataset, num_workers=2)

        assert_resumes_exactly(make_loader)

Anything will do that is iterable and has ``state_dict`` and ``load_state_dict``: a dataset, a loader, a loader of one's own.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

MakeLoader = Callable[[], Any]
SamplesOf = Callable[[Any], Iterable[Any]]


def assert_resumes_exactly(
    make_loader: MakeLoader,
    *,
    resume_with: MakeLoader | None = None,
    samples_of: SamplesOf | None = None,
    max_state_bytes: int | None = 1024,
    nothing_after_the_end: bool = True,
) -> None:
    """Check that a run that is stopped anywhere goes on as if it had not been.

    One pass is read without a stop, and its state written to a file after each item. From each of these states a loader
    that was made anew is to give what was left, and in its next pass all. Then a run is stopped after every item, each
    time going on from the state of the loader before, and has to give all as well.

    :param make_loader: makes a loader, each time the same; its ``close`` is called, where it has one.
    :param resume_with: makes the loader that goes on, where it is another than the one that was stopped: of other batches,
        workers, ranks, source. Then samples are compared and not batches.
    :param samples_of: the samples that an item holds; by default an item is a map of columns of one length.
    :param max_state_bytes: of the state as JSON; ``None`` for states that are larger, or no JSON.
    :param nothing_after_the_end: whether the state that is taken after the end leaves nothing. ``False`` for a loader that
        begins its next pass with it, as torchdata's own does.
    :raises AssertionError: names the item after which the run was stopped, and where what followed differs.
    """
    with tempfile.TemporaryDirectory() as folder:
        oracle = _Oracle(
            make_loader,
            resume_with or make_loader,
            samples_of or (_rows if resume_with else _item_itself),
            _Checkpoint(Path(folder, "checkpoint.pt"), max_state_bytes),
            nothing_after_the_end,
        )
        oracle.check()


@dataclass(frozen=True, slots=True)
class _Checkpoint:
    """A state's way through a file, as a training script has it."""

    path: Path
    max_state_bytes: int | None

    def save(self, loader: Any) -> bytes:
        state = loader.state_dict()
        if self.max_state_bytes is not None:
            text = json.dumps(state, allow_nan=False)
            _require(len(text) < self.max_state_bytes, f"a state of {len(text)} bytes: {text[:200]}")
            _require(json.loads(text) == state, f"the state changes on its way through JSON: {text[:200]}")
        torch.save({"loader": state}, self.path)
        return self.path.read_bytes()

    def load(self, saved: bytes, loader: Any) -> None:
        self.path.write_bytes(saved)
        loader.load_state_dict(torch.load(self.path, weights_only=True)["loader"])


@dataclass(slots=True)
class _Oracle:
    make_loader: MakeLoader
    resume_with: MakeLoader
    samples_of: SamplesOf
    checkpoint: _Checkpoint
    nothing_after_the_end: bool

    def check(self) -> None:
        whole, stops = self.uninterrupted()
        ended = stops.pop()
        for item, (taken, saved) in enumerate(stops):
            often = item in (0, len(stops) // 2, len(stops) - 1)
            self.resumed(f"after item {item} of {len(stops) - 1}", saved, whole, taken, next_pass=often)
        taken = len(whole) if self.nothing_after_the_end else 0
        self.resumed("after the end", ended[1], whole, taken, next_pass=True)
        self.stopped_after_each(whole, stops[0][1])

    def uninterrupted(self) -> tuple[list[Any], list[tuple[int, bytes]]]:
        """The samples of a pass; and how many had come, with the state, before it, after each item and after the end."""
        samples: list[Any] = []
        with _closing(self.make_loader()) as loader:
            stops = [(0, self.checkpoint.save(loader))]
            for item in loader:
                samples += self.samples_of(item)
                stops.append((len(samples), self.checkpoint.save(loader)))
            stops.append((len(samples), self.checkpoint.save(loader)))
        return samples, stops

    def resumed(self, where: str, saved: bytes, whole: Sequence[Any], taken: int, *, next_pass: bool) -> None:
        with _closing(self.resume_with()) as loader:
            # Twice, since a state that is used up by being loaded would not survive the first attempt to resume.
            self.checkpoint.load(saved, loader)
            self.checkpoint.load(saved, loader)
            _check_equal(f"resumed {where}", self.samples(loader), whole[taken:])
            if next_pass:
                _check_equal(f"the pass after the one resumed {where}", self.samples(loader), whole)

    def samples(self, loader: Any) -> list[Any]:
        return [sample for item in loader for sample in self.samples_of(item)]

    def stopped_after_each(self, whole: Sequence[Any], saved: bytes) -> None:
        samples: list[Any] = []
        at_the_end = object()
        for stop in range(len(whole) + 2):
            make = self.resume_with if stop % 2 else self.make_loader
            with _closing(make()) as loader:
                self.checkpoint.load(saved, loader)
                item = next(iter(loader), at_the_end)
                if item is at_the_end:
                    break
                samples += self.samples_of(item)
                saved = self.checkpoint.save(loader)
        _check_equal("a run resumed after every item", samples, whole)


@contextmanager
def _closing(loader: Any) -> Iterator[Any]:
    try:
        yield loader
    finally:
        close = getattr(loader, "close", None)
        if close is not None:
            close()


def _item_itself(item: Any) -> list[Any]:
    return [item]


def _rows(batch: Any) -> list[Any]:
    if not isinstance(batch, Mapping) or not batch:
        raise TypeError(
            f"samples_of is needed to take items apart that are no maps of columns, as a {type(batch).__name__}"
        )
    columns = {name: _rows(column) if isinstance(column, Mapping) else list(column) for name, column in batch.items()}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _check_equal(what: str, got: Sequence[Any], want: Sequence[Any]) -> None:
    for i, (one, other) in enumerate(zip(got, want, strict=False)):
        difference = _difference(one, other)
        _require(difference is None, f"{what}: of {len(want)} that were left, number {i} differs{difference}")
    _require(len(got) == len(want), f"{what}: {len(got)} came where {len(want)} were left")


def _require(condition: bool, message: str) -> None:
    """An assert that ``python -O`` leaves in."""
    if not condition:
        raise AssertionError(message)


def _difference(got: Any, want: Any) -> str | None:
    """Where the two differ, and how; ``None`` where they do not."""
    are_maps = isinstance(got, Mapping) and isinstance(want, Mapping)  # of workers they come as dicts
    if type(got) is not type(want) and not are_maps:
        return f": {got!r:.200} where {want!r:.200} was expected"
    if are_maps:
        if got.keys() != want.keys():
            return f": fields {list(got)} where {list(want)} were expected"
        return _first_difference((name, got[name], want[name]) for name in got)
    if isinstance(got, list | tuple):
        if len(got) != len(want):
            return f": {len(got)} where {len(want)} were expected"
        return _first_difference((i, one, other) for i, (one, other) in enumerate(zip(got, want, strict=True)))
    if _same(got, want):
        return None
    return f": {got!r:.200} where {want!r:.200} was expected"


def _first_difference(parts: Iterable[tuple[Any, Any, Any]]) -> str | None:
    for key, got, want in parts:
        difference = _difference(got, want)
        if difference is not None:
            return f" at {key!r}{difference}"
    return None


def _same(got: Any, want: Any) -> bool:
    """Equal to the bit; NaN is equal to itself."""
    if isinstance(got, torch.Tensor):
        if got.dtype != want.dtype or got.shape != want.shape:
            return False
        return torch.equal(*(tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (got, want)))
    if isinstance(got, np.ndarray):
        return bool(got.dtype == want.dtype and got.shape == want.shape and got.tobytes() == want.tobytes())
    return bool(got == want) or (got != got and want != want)  # noqa: PLR0124 - NaN alone is not itself
