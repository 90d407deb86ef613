"""A run as tables in Markdown and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.floors import Floor
from benchmarks.groups import BATCH_SAMPLER, FACADE, LAYOUTS, ORDERS, WRITING, reading_name
from benchmarks.harness import LIMIT, Measured
from benchmarks.workloads import HASH_FUNCTIONS, Workload

Row = Sequence[str]


def table(head: Row, rows: Iterable[Row]) -> str:
    """A table in Markdown, its columns as wide as they need to be read as they stand."""
    lines = [list(head), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join("| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines)


def short(number: float) -> str:
    """Three digits and what they count in."""
    for factor, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= factor:
            return f"{number / factor:.3g}{letter}"
    return f"{number:.3g}"


def _speed(group: Measured, name: str, figure: str) -> str:
    return short(group.figure(name, "samples") / group.figure(name, figure))


def _with_ratio(group: Measured, name: str, figure: str) -> str:
    return f"{_speed(group, name, figure)} ({group.ratio(name, figure):.2f}x)"


def reading_table(measured: Mapping[str, Measured], workloads: Iterable[str], num_workers: int | None) -> str:
    """Samples a second, and in brackets how many times the limit's; first epoch, then later ones of the same process."""
    columns = [f"{h}, {epoch}" for h in HASH_FUNCTIONS for epoch in ("first", "later")]
    rows = []
    for workload in workloads:
        for order in ORDERS:
            group = measured.get(reading_name(workload, order, num_workers))
            if group is None:
                continue
            limits = f"{_speed(group, LIMIT, 'first_epoch_s')} / {_speed(group, LIMIT, 'later_epoch_s')}"
            ours = [
                _with_ratio(group, h, figure) for h in HASH_FUNCTIONS for figure in ("first_epoch_s", "later_epoch_s")
            ]
            other = "single samples" if num_workers is None else BATCH_SAMPLER
            rows.append([workload, order, limits, *ours, _with_ratio(group, other, "first_epoch_s")])
    other = "memmap by single samples" if num_workers is None else "memmap by BatchSampler"
    return table(["workload", "order", "memmap first / later", *columns, other], rows)


def random_access_table(measured: Mapping[str, Measured], workloads: Iterable[str]) -> str:
    """As :func:`reading_table`, of IPFSMapDataset through DataLoader(shuffle=True)."""
    rows = []
    for workload in workloads:
        group = measured[reading_name(workload, "shuffled", None)]
        names = [f"map {h}" for h in HASH_FUNCTIONS]
        ours = [_with_ratio(group, name, figure) for name in names for figure in ("first_epoch_s", "later_epoch_s")]
        rows.append([workload, *ours])
    columns = [f"{h}, {epoch}" for h in HASH_FUNCTIONS for epoch in ("first", "later")]
    return table(["random access", *columns], rows)


def others_table(measured: Mapping[str, Measured]) -> str:
    layouts, writing = measured[LAYOUTS.name], measured[WRITING.name]
    rows = [
        [f"read {layouts.group.name}, {name}", f"{_speed(layouts, name, 'first_epoch_s')} samples/s"]
        for name in layouts.rounds
    ]
    facade = measured[FACADE.name]
    for name in facade.rounds:
        first, later = (_speed(facade, name, figure) for figure in ("first_epoch_s", "later_epoch_s"))
        rows.append([f"{FACADE.name}, {name}", f"{first} samples/s, later {later}"])
    for name in writing.rounds:
        amount = writing.figure(name, "bytes") / writing.figure(name, "write_s")
        rows.append([f"write {name}", f"{_speed(writing, name, 'write_s')} samples/s, {amount / 1e6:.0f} MB/s"])
    return table(["other", "speed"], rows)


def _number(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def floors_table(floors: Iterable[Floor]) -> str:
    rows = [
        [
            floor.what,
            f"{_number(floor.value)} {floor.unit}",
            f"at {'most' if floor.at_most else 'least'} {_number(floor.bound)}",
            "" if floor.met else "MISSED",
        ]
        for floor in floors
    ]
    return table(["floor", "measured", "asked", ""], rows)


def text(
    measured: Mapping[str, Measured],
    workloads: Mapping[str, Workload],
    floors: Iterable[Floor],
    about: Mapping[str, Any],
) -> str:
    """The whole report."""
    parts = [
        _machine_line(about),
        "In one process, samples/s (times numpy.memmap in whole batches)",
        reading_table(measured, workloads, None),
        "In one process through DataLoader",
        reading_table(measured, workloads, 0),
        "In two DataLoader workers",
        reading_table(measured, workloads, 2),
        random_access_table(measured, workloads),
        others_table(measured),
        floors_table(floors),
    ]
    return "\n\n".join(parts)


def _machine_line(about: Mapping[str, Any]) -> str:
    machine, (before, after) = about["machine"], about["load"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    hashes = ", ".join(f"{name} {short(speed['one core'])}B/s" for name, speed in machine["hash_bytes_per_s"].items())
    return (
        f"{machine['processor']}, {machine['cores']} cores, {machine['system']}, Python {machine['python']}, {versions}; "
        f"hashing on one core: {hashes}; load {before:.1f} before and {after:.1f} after; {about['rounds']} rounds"
    )


def as_json(
    measured: Mapping[str, Measured],
    floors: Iterable[Floor],
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """Everything that was measured, each round of it."""
    groups = [
        {
            "name": group.group.name,
            "tasks": {
                name: {"task": asdict(task), "rounds": group.rounds[name]} for name, task in group.group.tasks.items()
            },
        }
        for group in measured.values()
    ]
    return {**about, "groups": groups, "floors": [asdict(floor) | {"met": floor.met} for floor in floors]}
