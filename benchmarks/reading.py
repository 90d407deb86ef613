"""Reading and writing, measured against numpy.memmap.

    python -m benchmarks.reading [--tiny] [--rounds 3] [--json FILE] [--chart FILE] [--data FOLDER] [--only TEXT ...]

Each figure is of a cold process (one that has imported torch and torch_ipfs, and read nothing) with a warm page cache, from the
construction of a dataset to its last batch; the processes of one group run one after the other, so that what is compared had
the same machine, and every round runs all groups.
Figures are medians over the rounds. With ``--only`` the groups whose names hold one of the texts are measured, and the others
taken from the JSON file of an earlier run on the same machine. It takes about a quarter of an hour; with ``--tiny`` seconds,
and means nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import floors, machine, plan, report
from benchmarks.fabricated import Fabricated
from benchmarks.groups import FACADE, LAYOUTS, WRITING, reading_groups
from benchmarks.harness import Measured, in_cold_processes, in_this_process, run
from benchmarks.imports import measure_imports
from benchmarks.workloads import SMALL_ROWS, TINY_SMALL_ROWS, TINY_WORKLOADS, WORKLOADS, Data

TINY_PLAN = Fabricated(num_samples=2_000_000, num_shards=6_000)
TINY_PLAN_BATCHES = 64


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reading", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--tiny", action="store_true", help="a few rows, one round, all in this process: over in seconds"
    )
    parser.add_argument("--rounds", type=int, default=3, help="how often everything is measured (default: 3)")
    parser.add_argument("--json", type=Path, help="write everything that was measured")
    parser.add_argument("--chart", type=Path, help="draw a chart (PNG; needs matplotlib)")
    parser.add_argument("--data", type=Path, help="keep the data in this folder, and use what is there")
    parser.add_argument(
        "--only", nargs="+", help="measure only groups whose names hold one of these, others are in --json"
    )
    return parser.parse_args(arguments)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _prepare(folder: Path, tiny: bool) -> Data:
    if not (folder / "data.json").exists():
        _say(f"writing the data to {folder}")
        folder.mkdir(parents=True, exist_ok=True)
        Data(folder, TINY_WORKLOADS if tiny else WORKLOADS, TINY_SMALL_ROWS if tiny else SMALL_ROWS).write()
    return Data.load(folder)


def _measure(
    folder: Path, options: argparse.Namespace
) -> tuple[Data, dict[str, Measured], list[floors.Floor], dict[str, Any]]:
    data = _prepare(folder, options.tiny)
    rounds = 1 if options.tiny else options.rounds
    about: dict[str, Any] = {"machine": machine.describe(), "tiny": options.tiny, "rounds": rounds}
    load = machine.load()
    groups = [*reading_groups(data.workloads, later_epochs=1 if options.tiny else 3), LAYOUTS, FACADE, WRITING]
    earlier = options.only and options.json.exists()
    before = json.loads(options.json.read_text()) if earlier else {"groups": []}
    chosen = [group for group in groups if not options.only or any(text in group.name for text in options.only)]
    measured = run(chosen, folder, rounds, in_this_process if options.tiny else in_cold_processes, _say)
    by_name = report.from_json(before["groups"], groups) | {group.group.name: group for group in measured}
    about["imports"] = before["imports"] if earlier else measure_imports(rounds)
    about["plan"] = before["plan"] if earlier else _plan(options.tiny)
    about["load"] = (load, machine.load())
    about["missing"] = [group.name for group in groups if group.name not in by_name]
    if about["missing"]:
        return data, by_name, [], about
    reached = [*floors.floors(by_name), floors.import_floor(about["imports"]), *floors.plan_floors(about["plan"])]
    return data, by_name, reached, about


def _plan(tiny: bool) -> dict[str, Any]:
    size, num_batches = (TINY_PLAN, TINY_PLAN_BATCHES) if tiny else (Fabricated(), plan.NUM_BATCHES)
    return plan.run(size, num_batches, cold=not tiny, say=_say)


@contextlib.contextmanager
def _bytecode_kept_in(folder: Path) -> Iterator[None]:
    """Have child processes compile what they import once a run, whatever the environment says: compiling is not measured."""
    before = {name: os.environ.pop(name, None) for name in ("PYTHONPYCACHEPREFIX", "PYTHONDONTWRITEBYTECODE")}
    os.environ["PYTHONPYCACHEPREFIX"] = str(folder)
    try:
        yield
    finally:
        del os.environ["PYTHONPYCACHEPREFIX"]
        os.environ.update({name: value for name, value in before.items() if value is not None})


def main(arguments: Sequence[str] | None = None) -> None:
    options = _arguments(arguments)
    with tempfile.TemporaryDirectory() as temporary, contextlib.ExitStack() as whole_run:
        if not options.tiny:
            whole_run.enter_context(_bytecode_kept_in(Path(temporary, "bytecode")))
        data, measured, reached, about = _measure(options.data or Path(temporary, "data"), options)
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report.as_json(measured, reached, about), indent=1) + "\n")
    if about["missing"]:
        print("not measured yet:", *about["missing"], sep="\n    ")
        return
    print(report.text(measured, data.workloads, reached, about))
    if options.chart is not None:
        from benchmarks.chart import draw

        described = about["machine"]
        caption = f"{described['processor']}, {described['cores']} cores, torch {described['versions']['torch']}"
        draw(measured, data.workloads, options.chart, caption)


if __name__ == "__main__":
    main()
