"""The network's benchmark runs, and tells what is demanded of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import network

pytestmark = pytest.mark.kubo


def test_the_tiny_run_measures_everything(kubo_binary: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    network.main(["--tiny", "--json", str(tmp_path / "network.json")])
    measured = json.loads((tmp_path / "network.json").read_text())
    assert len(measured["floors"]) == 14
    assert all(seconds > 0 for group in measured["seconds_a_block"].values() for (seconds,) in group.values())
    assert "1 KiB shuffled, against ipfshttpclient" in capsys.readouterr().out
