"""A cold process: it imports everything, has read nothing, and measures one task.

    python -m benchmarks.child FOLDER TASK

TASK is JSON, and so is what it prints.
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


if __name__ == "__main__":
    data, given = sys.argv[1:]
    print(json.dumps(measure(Path(data), from_json(given))))
