"""No input makes a decoder take memory or time that its size does not warrant, nor kills the process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.codec.bombs import BOMBS

MAX_SECONDS = 20.0
"""For one bomb; on a machine of its own the worst takes under 2."""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the memory that a process takes is read from /proc")
def test_bombs_end_in_a_codec_error_within_bounds() -> None:
    child = subprocess.run(
        [sys.executable, "-m", "tests.codec.bombs", *BOMBS],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    results = [json.loads(line) for line in child.stdout.splitlines()]
    assert child.returncode == 0, f"killed after {results[-1:]}: {child.stderr[-2000:]}"
    assert [name for name, _, _ in results] == list(BOMBS)
    assert {name: outcome for name, outcome, _ in results if outcome != "CodecError"} == {}
    assert {name: seconds for name, _, seconds in results if seconds > MAX_SECONDS} == {}
