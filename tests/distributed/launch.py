"""Starting real ranks: torchrun with gloo on the loopback, at ports that the system chooses."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

DEADLINE_S = 240.0
"""Long, for machines that are busy with other tests: an idle one takes a tenth of it."""
ROOT = Path(__file__).parents[2]


def torchrun(processes: int, script: Path, *arguments: str, deadline_s: float = DEADLINE_S) -> str:
    """Run ``script`` in so many ranks; what they print.

    A rank that hangs is a failure and not a wait: at the deadline the whole group is ended.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1"]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONFAULTHANDLER": "1",
        "GLOO_SOCKET_IFNAME": "lo",
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "ignore",
    }
    running = subprocess.Popen(
        [*command, str(script), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )
    try:
        said, _ = running.communicate(timeout=deadline_s)
    except subprocess.TimeoutExpired:
        _end(running.pid)
        said, _ = running.communicate()
        raise AssertionError(f"{processes} ranks did not end in {deadline_s} s; they said:\n{said[-4000:]}") from None
    assert running.returncode == 0, said[-4000:]
    return said


def _end(pid: int) -> None:
    """End torchrun and all below it, by their ids: ranks are in sessions of their own, so no group has them all.

    Each is told to say where it stands first, as far as it has asked faulthandler to.
    """
    torchrun_itself = psutil.Process(pid)
    ranks = torchrun_itself.children(recursive=True)
    for process in [*ranks, torchrun_itself]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGABRT)
    _, left = psutil.wait_procs(ranks, timeout=5)
    for process in [*left, torchrun_itself]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def results(folder: Path, processes: int) -> list[dict[str, Any]]:
    """What each rank has written down, by case."""
    return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(processes)]
