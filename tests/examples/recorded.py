"""Runs examples and writes down which samples their training saw, step by step.

    torchrun --nproc-per-node 2 recorded.py PLAN FOLDER

PLAN is JSON: for each example its CID, its source and the step to stop at, or null. An example is run from beginning to end;
where there is a step to stop at, again in a folder of its own until that step, which fails, and once more in that folder, to
go on from its checkpoint. All of it is done by the processes of torchrun together, and by a process alone. What a process
has seen is in FOLDER/RANK.json and FOLDER/alone.json: {example: {run: [[index of a sample, ...] of each step, ...]}}.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).parents[2] / "examples"
TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_", "GROUP_", "ROLE_", "MASTER_", "TORCHELASTIC_")
"""How variables begin that tell a process that it is one of several."""

Seen = list[list[int]]


class Stop(Exception):
    """The run is broken off."""


def load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def seen_by(example: Any, cid: str, source: str, checkpoint: Path, stop_at: int | None = None) -> Seen:
    """What the example's training sees until it ends or, at step ``stop_at``, fails."""
    seen: Seen = []
    loss_of = example.loss_of

    def recording(model: Any, batch: dict[str, Any]) -> Any:
        if len(seen) == stop_at:
            raise Stop
        seen.append(batch["index"].tolist())
        return loss_of(model, batch)

    example.loss_of = recording
    arguments = [cid, source, checkpoint][: len(inspect.signature(example.main).parameters)]
    try:
        example.main(*arguments)
    except Stop:
        pass
    finally:
        example.loss_of = loss_of
    return seen


def record(examples: dict[str, Any], plan: dict[str, Any], folder: Path, who: str) -> None:
    shared = folder / ("alone" if who == "alone" else "together")
    shared.mkdir(exist_ok=True)
    recorded = {}
    for name, (cid, source, stop_at) in plan.items():
        runs = {"whole": seen_by(examples[name], cid, source, shared / f"{name}-whole")}
        if stop_at is not None:
            runs["stopped"] = seen_by(examples[name], cid, source, shared / name, stop_at)
            runs["resumed"] = seen_by(examples[name], cid, source, shared / name)
        recorded[name] = runs
    (folder / f"{who}.json").write_text(json.dumps(recorded))


def main(plan: dict[str, Any], folder: Path) -> None:
    warnings.simplefilter("ignore")
    examples = {name: load(name) for name in plan}
    # Frameworks take long to import: the process that is alone is forked off from one that has them.
    alone = os.fork() if os.environ["RANK"] == "0" else None
    if alone == 0:
        for name in [name for name in os.environ if name.startswith(TORCHRUN)]:
            del os.environ[name]
        try:
            record(examples, plan, folder, "alone")
            os._exit(0)
        except BaseException:  # noqa: BLE001 - whatever it is, this process must not go on as the other does
            traceback.print_exc()
            os._exit(1)
    record(examples, plan, folder, os.environ["RANK"])
    if alone is not None and os.waitpid(alone, 0)[1] != 0:
        raise SystemExit("the process that was alone failed")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), Path(sys.argv[2]))
