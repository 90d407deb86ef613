"""TensorFlow and torch in one process, whichever is imported first: no abort, both work."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

WORK = """
import numpy as np, torch_ipfs
from torch_ipfs.loader import IPFSDataLoader
columns = {"features": np.random.rand(32, 4).astype("float32"), "labels": np.arange(32) % 2}
cid = torch_ipfs.write_dataset(columns, sys.argv[1] + "/a.car")
loader = IPFSDataLoader(sys.argv[1] + "/a.car", prefetch=0)
assert loader.load_dataset(cid)["success"]
batches = getattr(loader, sys.argv[2])()
import torch, tensorflow
model = torch.nn.Linear(4, 2)
optimizer = torch.optim.Adam(model.parameters())
x, y = next(iter(loader.to_pytorch()))
torch.nn.functional.cross_entropy(model(x), y).backward()
optimizer.step()
x, y = next(iter(loader.to_tensorflow()))
assert tensorflow.reduce_sum(x) > 0
print("both work")
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is None, reason="TensorFlow is not installed")
@pytest.mark.parametrize(
    ("first", "method"), [("tensorflow", "to_pytorch"), ("tensorflow", "to_tensorflow"), ("torch", "to_tensorflow")]
)
def test_neither_order_aborts(first: str, method: str, tmp_path: Path) -> None:
    script = f"import sys, {first}\n" + WORK
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, str(tmp_path), method],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert (ran.returncode, ran.stdout) == (0, "both work\n"), ran.stderr[-2000:]


@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is None, reason="TensorFlow is not installed")
def test_a_triton_that_cannot_be_imported_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "triton.py").write_text("import a_module_that_is_not_there\n")
    subprocess.run(
        [sys.executable, "-c", "from torch_ipfs.bridges.load_order import settle; settle()"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        check=True,
        timeout=100,
    )


WITHOUT = """
import sys
sys.modules["tensorflow"] = None
import torch_ipfs
cid = torch_ipfs.write_dataset([{"x": 1}], sys.argv[1] + "/a.car")
dataset = torch_ipfs.IPFSIterableDataset(cid, sys.argv[1] + "/a.car", batch_size=1)
try:
    dataset.to_tensorflow()
except ImportError as error:
    print(error)
"""


def test_without_tensorflow_the_error_says_what_to_install(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    assert "pip install" in ran.stdout
    assert "tensorflow" in ran.stdout
