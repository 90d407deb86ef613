"""What importing torch_ipfs costs beyond torch, in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from statistics import median

_TIMED = """
import json, sys, time
start = time.perf_counter()
import torch, torch.utils.data
torch_s = time.perf_counter() - start
start = time.perf_counter()
import torch_ipfs
package_s = time.perf_counter() - start
torch_ipfs.IPFSIterableDataset
dataset_s = time.perf_counter() - start
heavy = [name for name in ("aiohttp", "ipfshttpclient", "pandas", "pyarrow", "tensorflow") if name in sys.modules]
print(json.dumps({"torch_s": torch_s, "package_s": package_s, "dataset_s": dataset_s, "heavy": heavy}))
"""


def measure_imports(rounds: int) -> dict[str, object]:
    """Seconds, medians of ``rounds``: of torch, of the package, and of the package with its dataset class; heavy modules."""
    command = [sys.executable, "-c", _TIMED]
    if rounds > 1:
        subprocess.check_output(command)  # leaves bytecode behind, where that is kept
    told = [json.loads(subprocess.check_output(command)) for _ in range(rounds)]
    seconds = {name: median(one[name] for one in told) for name in ("torch_s", "package_s", "dataset_s")}
    return {**seconds, "heavy": told[0]["heavy"]}
