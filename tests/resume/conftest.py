"""Small datasets in several shards of uneven lengths, written once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import torch_ipfs
from tests.resume.world import Written

Write = Callable[..., Written]


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Write:
    """``written(n, layout=...)``: a CAR of n samples; the same arguments give the same file."""
    folder = tmp_path_factory.mktemp("written")
    made: dict[Any, Written] = {}

    def write(n: int = 23, layout: Any = "packed") -> Written:
        if (n, layout) not in made:
            path: Path = folder / f"{layout}-{n}.car"
            # Notes of growing length: so no shard has as many samples as the one before.
            samples = [{"index": torch.tensor(i), "note": "." * (7 * i)} for i in range(n)]
            made[n, layout] = torch_ipfs.write_dataset(samples, path, layout=layout, shard_bytes=1200), str(path)
        return made[n, layout]

    return write
