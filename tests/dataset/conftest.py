"""Small datasets of every form, written once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

import torch_ipfs
from torch_ipfs.codec.cid import CID

N = 103


def columns(n: int = N) -> dict[str, Any]:
    """``index`` tells which sample it is; the other fields follow from it."""
    index = torch.arange(n)
    return {
        "index": index,
        "features": torch.arange(4 * n, dtype=torch.float32).reshape(n, 4) / 8,
        "name": [f"sample {i}" for i in range(n)],
    }


def rows(n: int = N) -> list[dict[str, Any]]:
    table = columns(n)
    return [{name: column[i] for name, column in table.items()} for i in range(n)]


def indices(items: Iterable[Any]) -> list[int]:
    """Which samples came, in order, of an iterable of samples or of batches."""
    return [i for item in items for i in item["index"].reshape(-1).tolist()]


Written = tuple[CID, str]


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Written]:
    """Write ``columns(n)`` into a CAR, in several shards; the same arguments give the same file."""
    folder = tmp_path_factory.mktemp("written")
    made: dict[Any, Written] = {}

    def write(n: int = N, layout: Any = "packed", shard_bytes: int = 1500, **options: Any) -> Written:
        key = (n, layout, shard_bytes, *options.items())
        if key not in made:
            path = folder / f"{len(made)}.car"
            made[key] = (
                torch_ipfs.write_dataset(rows(n), path, layout=layout, shard_bytes=shard_bytes, **options),
                str(path),
            )
        return made[key]

    return write


@pytest.fixture(params=["packed", "embedded", "samples"])
def layout(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def car(written: Callable[..., Written]) -> Written:
    return written()


def flip(path: str, at: bytes, to: Path) -> str:
    """A copy of a CAR with one bit changed where ``at`` stands last."""
    data = bytearray(Path(path).read_bytes())
    data[data.rindex(at)] ^= 1
    to.write_bytes(data)
    return str(to)
