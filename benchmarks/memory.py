"""What a process and its DataLoader workers hold in memory that is no mapped file, as Linux tells it."""

from __future__ import annotations

import multiprocessing
import re
from pathlib import Path

_KB = 1024


def anonymous_bytes(pid: int | str = "self") -> int:
    """Resident pages of ``pid`` that no file stands behind: its own, and those of shared memory. 0 where there is no /proc."""
    status = Path(f"/proc/{pid}/status")
    return sum(_kilobytes(status, name) for name in ("RssAnon", "RssShmem")) * _KB


def proportional_bytes(pid: int | str = "self") -> int:
    """The same, where a page that several processes share (as after a fork) counts for each in part."""
    rollup = Path(f"/proc/{pid}/smaps_rollup")
    return sum(_kilobytes(rollup, name) for name in ("Pss_Anon", "Pss_Shmem")) * _KB


def _kilobytes(path: Path, name: str) -> int:
    if not path.exists():
        return 0
    found = re.search(rf"^{name}:\s+(\d+) kB", path.read_text(), re.MULTILINE)
    return int(found[1]) if found else 0


class Peak:
    """The most that any of this process's workers, or without workers this process, was seen to hold.

    :param baseline_bytes: what the process held before it read anything: Python, torch and what else was imported.
    """

    def __init__(self, baseline_bytes: int) -> None:
        self._baseline_bytes = baseline_bytes
        self.grown_bytes = 0
        self.proportional_bytes = 0

    def look(self) -> None:
        pids: list[int | str] = [child.pid for child in multiprocessing.active_children() if child.pid]
        for pid in pids or ["self"]:
            self.grown_bytes = max(self.grown_bytes, anonymous_bytes(pid) - self._baseline_bytes)
            self.proportional_bytes = max(self.proportional_bytes, proportional_bytes(pid))
