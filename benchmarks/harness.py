"""Groups of measurements, one after the other in each round, so that what is compared is measured side by side."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from benchmarks.child import to_json
from benchmarks.measure import Figures, Task, measure

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True, slots=True)
class Group:
    """What is measured next to each other.

    :param tasks: a name -> what to measure. Where one is named ``LIMIT`` the others are told as ratios to it.
    """

    name: str
    tasks: Mapping[str, Task]


LIMIT = "limit"
"""numpy.memmap read in whole batches by :class:`benchmarks.limit.MemmapBatches`, loaded as what it is compared with is."""


@dataclass(slots=True)
class Measured:
    """The rounds of one group: a name -> its figures, a round each."""

    group: Group
    rounds: dict[str, list[Figures]] = field(default_factory=dict)

    def add(self, name: str, figures: Figures) -> None:
        self.rounds.setdefault(name, []).append(figures)

    def figure(self, name: str, figure: str) -> float:
        """The median over the rounds."""
        return median(figures[figure] for figures in self.rounds[name])

    def ratio(self, name: str, figure: str, to: str = LIMIT) -> float:
        """How many times as quick as ``to`` the task ``name`` was: the median of the ratios of each round.

        :param figure: one in seconds, of the same samples on both sides.
        """
        pairs = zip(self.rounds[to], self.rounds[name], strict=True)
        return median(limit[figure] / measured[figure] for limit, measured in pairs)


Runner = Callable[[Path, Sequence[Task]], list[Figures]]


def in_cold_processes(folder: Path, tasks: Sequence[Task]) -> list[Figures]:
    """Each task in a process of its own, one after the other.

    Forks of one process would be quicker to start, and slower to read: of what they inherit each page that is written to, be it
    by the garbage collector, is copied first.
    """
    return [_measured(folder, task) for task in tasks]


def in_this_process(folder: Path, tasks: Sequence[Task]) -> list[Figures]:
    """Nothing is cold then: a run that is over in seconds, to see that everything works."""
    return [measure(folder, task) for task in tasks]


def _measured(folder: Path, task: Task) -> Figures:
    """With caches of its own, so that it finds nothing that another one kept about a CAR."""
    command = [sys.executable, "-m", "benchmarks.child", str(folder), to_json(task)]
    with tempfile.TemporaryDirectory() as caches:
        environment = {**os.environ, "TORCH_IPFS_CACHE_DIR": caches}
        figures: Figures = json.loads(subprocess.check_output(command, cwd=ROOT, env=environment))
        return figures


def run(
    groups: Sequence[Group], folder: Path, rounds: int, runner: Runner, say: Callable[[str], None]
) -> list[Measured]:
    """Every group once a round, ``rounds`` times.

    :param say: told what goes on.
    """
    measured = [Measured(group) for group in groups]
    for number in range(rounds):
        for place, results in enumerate(measured):
            tasks = results.group.tasks
            say(f"round {number + 1} of {rounds}, {place + 1} of {len(measured)}: {results.group.name}")
            for name, figures in zip(tasks, runner(folder, list(tasks.values())), strict=True):
                results.add(name, figures)
    return measured
