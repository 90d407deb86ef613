"""Cold processes: one that has imported everything, and reads tasks; each is measured in a fork of it, which then ends.

python -m benchmarks.child FOLDER, with lines on its input: a folder for caches and a task, as JSON.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
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


def main(folder: str) -> None:
    print("ready", flush=True)
    while line := sys.stdin.readline():
        caches, task = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _measure(folder, caches, task)
        if os.waitpid(pid, 0)[1]:
            sys.exit(1)


def _measure(folder: str, caches: str, task: str) -> None:
    """In the fork: nothing that another one has read is at hand, but for the system's page cache."""
    os.environ["TORCH_IPFS_CACHE_DIR"] = caches
    try:
        print(json.dumps(measure(Path(folder), from_json(task))), flush=True)
    except BaseException:  # noqa: BLE001 - said here, since the fork must not go on as its parent
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
