"""No input makes a decoder take memory or time that its size does not warrant, nor kills the process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.codec.bombs import BOMBS, CLAIMS

MAX_SECONDS = 20.0
"""For one bomb; on a machine of its own the worst takes under 2."""
MAX_CLAIMED_BYTES = 64 * 2**20
"""What all claims together may make a process hold; one of them would be gigabytes if it were believed."""


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
    assert [name for name, *_ in results] == list(BOMBS)
    assert {name: outcome for name, outcome, *_ in results if outcome != "CodecError"} == {}
    assert {name: seconds for name, _, seconds, _ in results if seconds > MAX_SECONDS} == {}
    assert {name: held for name, *_, held in results if name in CLAIMS and held > MAX_CLAIMED_BYTES} == {}
