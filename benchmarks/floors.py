"""The least that is accepted of each measurement, and where a run stands against it.

Floors of reading are ratios to numpy.memmap read in whole batches, measured in the same round; the others are absolute.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from benchmarks.facade import DATASET, LISTS, LISTS_OF_A_WORKER, TO_PYTORCH
from benchmarks.groups import BATCH_SAMPLER, FACADE, LAYOUTS, WRITING, reading_name
from benchmarks.harness import LIMIT, Measured
from benchmarks.workloads import HASH_FUNCTIONS

MiB = 2**20


@dataclass(frozen=True, slots=True)
class Floor:
    """One demand.

    :param bound: the least, or with ``at_most`` the most, that is accepted.
    """

    what: str
    value: float
    bound: float
    unit: str = "x"
    at_most: bool = False

    @property
    def met(self) -> bool:
        return self.value <= self.bound if self.at_most else self.value >= self.bound


_FIRST = {
    ("tabular", "sha2-256"): (1.3, 1.1),
    ("tabular", "blake3"): (1.3, 1.1),
    ("cifar-like", "sha2-256"): (0.3, 0.24),
    ("cifar-like", "blake3"): (0.6, 0.45),
    ("blob", "sha2-256"): (0.18, 0.16),
    ("blob", "blake3"): (0.5, 0.35),
}
_LATER = {"tabular": (1.3, 1.1), "cifar-like": (1.0, 0.7), "blob": (1.0, 0.6)}
_IN_WORKERS = {("blob", "sha2-256"): 0.6, ("blob", "blake3"): 0.9}
_MAP = 0.5
_ORDERS = ("in order", "shuffled")


def floors(measured: Mapping[str, Measured]) -> list[Floor]:
    """Every floor of the groups that were measured, by name."""
    return [floor for make in _MAKERS for floor in make(measured)]


def _reading(measured: Mapping[str, Measured]) -> Iterator[Floor]:
    for (workload, hash_function), bounds in _FIRST.items():
        for order, first, later in zip(_ORDERS, bounds, _LATER[workload], strict=True):
            for to in (BATCH_SAMPLER, LIMIT):
                yield from _epochs(measured[reading_name(workload, order, 0)], hash_function, first, later, to)
            yield from _epochs(measured[reading_name(workload, order, None)], hash_function, first, later)


def _epochs(group: Measured, hash_function: str, first: float, later: float, to: str = LIMIT) -> Iterator[Floor]:
    name = f"{group.group.name}, {hash_function} to {to}"
    yield Floor(f"{name}, first epoch", group.ratio(hash_function, "first_epoch_s", to), first)
    yield Floor(f"{name}, later epochs", group.ratio(hash_function, "later_epoch_s", to), later)


def _in_workers(measured: Mapping[str, Measured]) -> Iterator[Floor]:
    for workload, hash_function in _FIRST:
        for order in _ORDERS:
            bound = _IN_WORKERS.get((workload, hash_function), 1.0)
            for to in (LIMIT, BATCH_SAMPLER):
                yield from _epochs(measured[reading_name(workload, order, 2)], hash_function, bound, bound, to)


def _facade(measured: Mapping[str, Measured]) -> Iterator[Floor]:
    group = measured[FACADE.name]
    for name, bound in ((LISTS, 300_000), (LISTS_OF_A_WORKER, 30_000)):
        speed = group.figure(name, "samples") / group.figure(name, "later_epoch_s")
        yield Floor(f"{FACADE.name}, {name}", speed, bound, "samples/s")
    yield Floor(f"{FACADE.name}, {TO_PYTORCH}", group.ratio(TO_PYTORCH, "later_epoch_s", DATASET), 0.9)


def _random_access(measured: Mapping[str, Measured]) -> Iterator[Floor]:
    for workload in ("tabular", "cifar-like"):
        group = measured[reading_name(workload, "shuffled", 0)]
        for name in (name for name in group.rounds if name.startswith("map ")):
            for to in (BATCH_SAMPLER, LIMIT):
                what = f"{workload}, random access, {name.removeprefix('map ')} to {to}"
                yield Floor(f"{what}, first epoch", group.ratio(name, "first_epoch_s", to), _MAP)
                yield Floor(f"{what}, later epochs", group.ratio(name, "later_epoch_s", to), _MAP)


def _absolute(measured: Mapping[str, Measured]) -> Iterator[Floor]:
    layouts, writing = measured[LAYOUTS.name], measured[WRITING.name]
    for layout, bound in (("embedded", 300_000), ("samples", 25_000)):
        speed = layouts.figure(layout, "samples") / layouts.figure(layout, "first_epoch_s")
        yield Floor(f"{layouts.group.name}, {layout}", speed, bound, "samples/s")
    for name in writing.rounds:
        write_s = writing.figure(name, "write_s")
        if "rows" in name:
            yield Floor(f"writing {name}", writing.figure(name, "samples") / write_s, 100_000, "samples/s")
        else:
            yield Floor(f"writing {name}", writing.figure(name, "bytes") / write_s / 1e6, 300, "MB/s")


def _first_batches_and_memory(measured: Mapping[str, Measured]) -> Iterator[Floor]:
    """The worst of both orders and hash functions."""
    for workload in dict.fromkeys(workload for workload, _ in _FIRST):
        for num_workers, loading in ((None, "one process"), (2, "each of 2 workers")):
            groups = [measured[reading_name(workload, order, num_workers)] for order in _ORDERS]
            ours = [(group, name) for group in groups for name in HASH_FUNCTIONS]
            if num_workers is None:
                first_batch_s = max(group.figure(name, "first_batch_s") for group, name in ours)
                yield Floor(f"{workload}, first batch", 1e3 * first_batch_s, 50, "ms", at_most=True)
            grown_bytes = max(group.figure(name, "grown_bytes") for group, name in ours)
            yield Floor(f"{workload}, memory of {loading}", grown_bytes / MiB, 256, "MiB", at_most=True)


_MAKERS: tuple[Callable[[Mapping[str, Measured]], Iterator[Floor]], ...] = (
    _reading,
    _in_workers,
    _facade,
    _random_access,
    _absolute,
    _first_batches_and_memory,
)


def plan_floors(planned: Mapping[str, Mapping[str, float]]) -> list[Floor]:
    """Floors of :mod:`benchmarks.plan`."""
    made = []
    for name, figures in planned.items():
        made += [
            Floor(f"plan {name}, first batch", figures["first_batch_s"], 2, "s", at_most=True),
            Floor(f"plan {name}, its memory", figures["first_batch_bytes"] / MiB, 128, "MiB", at_most=True),
            Floor(f"plan {name}, a batch", 1e6 * figures["batch_s"], 100, "us", at_most=True),
        ]
    return made


def import_floor(imports: Mapping[str, float]) -> Floor:
    """What ``import torch_ipfs`` and its dataset class add to ``import torch``."""
    return Floor("import of torch_ipfs and its dataset", imports["dataset_s"], 0.3, "s", at_most=True)
