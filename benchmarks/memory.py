"""What a process and its DataLoader workers hold in memory that is no mapped file, as Linux tells it."""

from __future__ import annotations

import multiprocessing
import re
from pathlib import Path


def anonymous_bytes(pid: int | str = "self") -> int:
    """Resident pages of ``pid`` that no file stands behind: its own, and those of shared memory. 0 where there is no /proc."""
    return _bytes(Path(f"/proc/{pid}/status"), "RssAnon", "RssShmem")


def proportional_bytes(pid: int | str = "self") -> int:
    """The same, where a page that several processes share (as after a fork) counts for each in part."""
    return _bytes(Path(f"/proc/{pid}/smaps_rollup"), "Pss_Anon", "Pss_Shmem")


def _bytes(path: Path, *names: str) -> int:
    """The sum of what a file of /proc says under ``names``, in kB."""
    told = path.read_text() if path.exists() else ""
    return 1024 * sum(
        int(kilobytes) for name, kilobytes in re.findall(r"^(\w+):\s+(\d+) kB", told, re.MULTILINE) if name in names
    )


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
