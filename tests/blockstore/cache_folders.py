"""What a cache has in its folder, and what it says of it."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from torch_ipfs.codec.cid import CID


def files_of(cache: Path) -> list[Path]:
    return sorted(path for path in (cache / "blocks" / "blocks").rglob("*") if path.is_file())


def file_of(cache: Path, cid: CID) -> Path:
    name = cid.multihash.hex()
    return cache / "blocks" / "blocks" / name[-1] / name


def bytes_of(cache: Path) -> int:
    total = 0
    for path in files_of(cache):
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            continue
    return total


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.levelno >= logging.WARNING]
