"""The notebooks run from top to bottom, and are saved with what they show."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
TIMEOUT_S = 250


def run(name: str) -> None:
    notebook = nbformat.read(NOTEBOOKS / name, as_version=4)
    where = {"metadata": {"path": str(NOTEBOOKS)}}
    NotebookClient(notebook, timeout=TIMEOUT_S, kernel_name="python3", resources=where).execute()


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore:.*without encryption")
@pytest.mark.parametrize("name", ["01_train_from_a_cid.ipynb", "02_pytorch_to_tensorflow.ipynb"])
def test_it_runs_without_a_daemon(name: str) -> None:
    run(name)


@pytest.mark.kubo
@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore:.*without encryption")
def test_it_runs_with_three_nodes(kubo_binary: Path) -> None:
    run("03_distributed_roles.ipynb")


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_it_is_saved_with_its_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 3
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    shown = "".join(json.dumps({**output, "data": {**output.get("data", {}), "image/png": ""}}) for output in outputs)
    assert not re.search(r"/(tmp|home|root|Users|var|work)/|Warning|https?://", shown)
