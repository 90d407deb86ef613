"""A run as tables in Markdown and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.floors import Floor
from benchmarks.groups import BATCH_SAMPLER, FACADE, LAYOUTS, ORDERS, SINGLE_SAMPLES, WRITING, reading_name
from benchmarks.harness import LIMIT, Group, Measured
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
    others = [other for other, loaders in _OTHERS.items() if num_workers in loaders]
    rows = []
    for workload in workloads:
        for order in ORDERS:
            group = measured[reading_name(workload, order, num_workers)]
            limits = f"{_speed(group, LIMIT, 'first_epoch_s')} / {_speed(group, LIMIT, 'later_epoch_s')}"
            ours = [
                _with_ratio(group, h, figure) for h in HASH_FUNCTIONS for figure in ("first_epoch_s", "later_epoch_s")
            ]
            theirs = [_speeds(group, other) for other in others]
            rows.append([workload, order, limits, *ours, *theirs])
    return table(
        ["workload", "order", "limit, first / later", *columns, *(f"memmap by {other}" for other in others)], rows
    )


_OTHERS: dict[str, tuple[int, ...]] = {BATCH_SAMPLER: (0, 2), SINGLE_SAMPLES: (0,)}
"""Other ways of reading the memory map, and the numbers of workers with which each is measured."""


def _speeds(group: Measured, name: str) -> str:
    figures = [figure for figure in ("first_epoch_s", "later_epoch_s") if figure in group.rounds[name][0]]
    return " / ".join(_speed(group, name, figure) for figure in figures)


def random_access_table(measured: Mapping[str, Measured], workloads: Iterable[str]) -> str:
    """As :func:`reading_table`, of IPFSMapDataset through DataLoader(shuffle=True)."""
    rows = []
    for workload in workloads:
        group = measured[reading_name(workload, "shuffled", 0)]
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
        "Samples/s through DataLoader(num_workers=0); in brackets, times numpy.memmap in whole batches in the same loader",
        reading_table(measured, workloads, 0),
        "Iterated in a plain loop, both sides",
        reading_table(measured, workloads, None),
        "Through DataLoader(num_workers=2), both sides",
        reading_table(measured, workloads, 2),
        "IPFSMapDataset through DataLoader(shuffle=True), to the shuffled limit of the first table",
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


def from_json(groups: Iterable[Mapping[str, Any]], known: Iterable[Group]) -> dict[str, Measured]:
    """What :func:`as_json` wrote under ``groups``, of those that are known."""
    by_name = {group.name: group for group in known}
    return {
        told["name"]: Measured(by_name[told["name"]], {name: task["rounds"] for name, task in told["tasks"].items()})
        for told in groups
        if told["name"] in by_name
    }


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
