"""A cold process: imports, says so, waits for its turn, measures one thing, tells the figures and ends.

python -m benchmarks.child FOLDER '{"kind": "Reading", "reader": "memmap", ...}'
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from benchmarks.facade import Facade
from benchmarks.measure import Task, Writing, measure
from benchmarks.readers import Reading


def to_json(task: Task) -> str:
    return json.dumps({"kind": type(task).__name__} | asdict(task))


def from_json(text: str) -> Task:
    told = json.loads(text)
    return {"Reading": Reading, "Writing": Writing, "Facade": Facade}[told.pop("kind")](**told)  # type: ignore[no-any-return]


def main(folder: str, task: str) -> None:
    print("ready", flush=True)
    if sys.stdin.readline():
        print(json.dumps(measure(Path(folder), from_json(task))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
