"""The example of data-parallel training shows what it says: one loss curve, however many ranks share the batch."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.distributed.launch import DEADLINE_S, ROOT


@pytest.mark.timeout(2 * DEADLINE_S)
def test_two_ranks_have_the_loss_curve_of_one_process() -> None:
    script: Path = ROOT / "examples" / "ddp.py"
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    rows = re.findall(r"^ +(\d+) +(\d\.\d+) +(\d\.\d+)$", done.stdout, re.MULTILINE)
    assert len(rows) == 12
    for _, one, two in rows:
        assert float(one) == pytest.approx(float(two), abs=1e-4)
    assert float(rows[-1][1]) < float(rows[0][1]) / 4
