"""The shape of the house: imports go one way, and files and functions stay small enough to read."""

from __future__ import annotations

import ast
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "torch_ipfs"
MODULES = sorted(PACKAGE.rglob("*.py"))
LONGEST_FUNCTION_LINES = 60
LONGEST_FILE_LINES = 450
VAGUE_NAMES = {"utils", "util", "common", "helpers", "helper", "misc"}


def functions(module: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    tree = ast.parse(module.read_text())
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    assert function.end_lineno is not None
    return function.end_lineno - function.lineno + 1


def test_imports_go_one_way() -> None:
    # In a process of its own: within pytest's it may find the captured output closed.
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", "--no-logo"]
    ran = subprocess.run(command, cwd=PACKAGE.parent, capture_output=True, text=True, check=False, timeout=100)
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize("module", MODULES, ids=lambda module: str(module.relative_to(PACKAGE)))
def test_a_file_and_its_functions_can_be_read_at_a_sitting(module: Path) -> None:
    assert module.stem not in VAGUE_NAMES
    assert len(module.read_text().splitlines()) <= LONGEST_FILE_LINES
    assert [f.name for f in functions(module) if code_lines(f) > LONGEST_FUNCTION_LINES] == []


def test_nine_functions_of_ten_fit_half_a_screen() -> None:
    lengths = [code_lines(function) for module in MODULES for function in functions(module)]
    assert statistics.quantiles(lengths, n=10)[-1] <= 25
