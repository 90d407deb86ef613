"""A table of a thousand rows, and how what is written of one reads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

import torch_ipfs
from torch_ipfs.blockstore.memory import MemoryBlockstore

N = 1000
X = (np.arange(4 * N, dtype=np.float32) / 8).reshape(N, 4)
Y = np.arange(N)


def table() -> Any:
    return pa.table({"x": pa.FixedSizeListArray.from_arrays(X.ravel(), 4), "y": Y, "s": [f"row {i}" for i in Y]})


def read(samples: Any, **options: Any) -> tuple[str, list[Any]]:
    """The schema of what is written of ``samples``, and its samples."""
    store = MemoryBlockstore()
    dataset = torch_ipfs.IPFSMapDataset(torch_ipfs.write_dataset(samples, store, **options), store)
    return str(dataset.manifest.schema), [dataset[i] for i in range(len(dataset))]
