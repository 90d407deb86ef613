"""Kill a training process again and again, at random moments, and have it go on from its last checkpoint.

python -m tests.resume.soak [kills] [seed]
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import sys
import tempfile
import time
from multiprocessing.context import ForkServerContext
from pathlib import Path

import psutil
import torch

import torch_ipfs
from tests.resume.training import EPOCHS, N, Run, train, trained_alone

DEADLINE_S = 120.0
MOST_STEPS = 12
"""After at most so many steps an attempt is killed, at a moment within the step."""
STEP_S = 0.004


def soak(folder: Path, kills: int, seed: int) -> int:
    """Train through ``kills`` kills.

    :returns: how often a run was over before it could be killed, and another was begun.
    :raises AssertionError: a run that was killed ends with other weights, or has seen a sample more or less than once an epoch.
    """
    root = str(torch_ipfs.write_dataset(dataset(), folder / "data.car", shard_bytes=1200))
    alone = trained_alone(root, folder / "data.car")
    chance = random.Random(seed)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.resume.training"])
    left, attempt, runs = kills, 0, 0
    while left or not (folder / "done").exists():
        steps = chance.randint(0, MOST_STEPS) if left else None
        killed = attempt_once(context, Run(folder, root, attempt), steps, chance.random() * STEP_S)
        left, attempt = left - killed, attempt + 1
        if (folder / "done").exists():
            checkpoint = torch.load(folder / "checkpoint.pt", weights_only=True)
            assert (checkpoint["seen"] == 1).all(), f"seen {checkpoint['seen'].tolist()} times, not once, seed {seed}"
            assert torch.equal(checkpoint["weight"], alone.weight), f"another order than without kills, seed {seed}"
            runs += 1
            if left:
                for name in ("done", "checkpoint.pt", "steps"):
                    (folder / name).unlink()
    return runs


def attempt_once(context: ForkServerContext, run: Run, steps: int | None, then_s: float) -> bool:
    """Train until the end, or kill the process once it has taken ``steps`` more steps.

    :param then_s: how long after these, so that it strikes anywhere within a step: reading, learning, saving.
    :returns: whether it was killed.
    """
    process = context.Process(target=train, args=(run,))
    before = run.log.stat().st_size if run.log.exists() else 0
    process.start()
    assert process.pid is not None
    itself = psutil.Process(process.pid)
    deadline = time.monotonic() + DEADLINE_S
    while process.is_alive() and time.monotonic() < deadline:
        taken = (run.log.stat().st_size if run.log.exists() else 0) - before
        if steps is not None and taken >= steps:
            time.sleep(then_s)
            workers = itself.children(recursive=True) if itself.is_running() else []
            process.kill()
            process.join(DEADLINE_S)
            _end(workers)
            return process.exitcode != 0
        time.sleep(0.001)
    process.join(max(0.0, deadline - time.monotonic()))
    if process.exitcode is None:
        process.kill()
    assert process.exitcode == 0, f"an attempt ended with {process.exitcode}"
    return False


def _end(workers: list[psutil.Process]) -> None:
    """torch's workers look every five seconds whether who reads from them is there, and never notice it of one that was killed
    while they started."""
    for worker in workers:
        with contextlib.suppress(psutil.NoSuchProcess):
            worker.kill()
    _, left = psutil.wait_procs(workers, timeout=DEADLINE_S)
    assert not left, f"workers that were killed are there still: {left}"


def dataset() -> list[dict[str, object]]:
    return [{"index": torch.tensor(i), "note": "." * (2 * i)} for i in range(N)]


def main(kills: int = 50, seed: int = 0) -> None:
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        runs = soak(Path(temporary), kills, seed)
    print(
        f"killed {kills} times (seed {seed}) in {time.monotonic() - begin:.0f} s, {runs} runs of {EPOCHS} epochs: each "
        f"sample once an epoch, weights equal to the bit to those of a run without kills",
        flush=True,
    )


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(*map(int, sys.argv[1:]))
