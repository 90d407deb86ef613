"""A process that is killed leaves a checkpoint to go on from. ``make soak`` does this fifty times."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.resume.soak import soak


@pytest.mark.timeout(300)
def test_three_kills_leave_the_weights_of_a_run_without(tmp_path: Path) -> None:
    assert soak(tmp_path, kills=3, seed=1) >= 1
