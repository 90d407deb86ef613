"""What is measured against what."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from benchmarks.facade import WAYS, Facade
from benchmarks.harness import LIMIT, Group
from benchmarks.measure import Task, Writing
from benchmarks.readers import Reading
from benchmarks.workloads import HASH_FUNCTIONS

BATCH_SAMPLER = "batch sampler"
"""The memory map again, but asked for batches by DataLoader's own BatchSampler, which makes each list of rows in Python."""
SINGLE_SAMPLES = "single samples"
"""The memory map by one row at a time, which DataLoader collates: what most people write."""
ORDERS = {"in order": False, "shuffled": True}


def reading_groups(workloads: Collection[str], later_epochs: int = 3) -> list[Group]:
    """Each workload, in order and shuffled, iterated, through a DataLoader and through two workers of one: the limit, and each
    hash function.

    :param later_epochs: read after the first one.
    """
    return [
        _against_the_limit(name, order, num_workers, later_epochs)
        for num_workers in (None, 0, 2)
        for name in workloads
        for order in ORDERS
    ]


def _against_the_limit(name: str, order: str, num_workers: int | None, later_epochs: int) -> Group:
    limit = Reading("memmap", name, ORDERS[order], num_workers, later_epochs=later_epochs)
    tasks: dict[str, Task] = {LIMIT: limit}
    for hash_function in HASH_FUNCTIONS:
        tasks[hash_function] = replace(limit, reader="torch_ipfs", hash_function=hash_function)
        if order == "shuffled" and num_workers == 0:
            tasks[f"map {hash_function}"] = replace(
                limit, reader="torch_ipfs map", hash_function=hash_function, later_epochs=1
            )
    if num_workers is not None:
        tasks[BATCH_SAMPLER] = replace(limit, reader="memmap batch sampler")
    if num_workers == 0:
        tasks[SINGLE_SAMPLES] = replace(limit, reader="memmap samples", later_epochs=0)
    return Group(reading_name(name, order, num_workers), tasks)


def reading_name(workload: str, order: str, num_workers: int | None) -> str:
    loading = {None: "iterated", 0: "DataLoader"}.get(num_workers, f"{num_workers} workers")
    return f"{workload}, {order}, {loading}"


LAYOUTS = Group(
    "tabular, other layouts",
    {layout: Reading("torch_ipfs", "tabular", layout=layout) for layout in ("embedded", "samples")},
)

FACADE = Group("IPFSDataLoader, embedded", {way: Facade(way) for way in WAYS})

WRITING = Group(
    "writing",
    {f"cifar-like columns {h}": Writing("cifar-like", False, h) for h in HASH_FUNCTIONS}
    | {f"tabular rows {HASH_FUNCTIONS[0]}": Writing("tabular", True, HASH_FUNCTIONS[0])},
)
