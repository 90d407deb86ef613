"""docs/spec.md tells where each sentence of the document is shown: what it names is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TABLE = (ROOT / "docs" / "spec.md").read_text()
NAMED = sorted(set(re.findall(r"`(tests/[\w/.]+(?:::\w+)*)`", TABLE)))


@pytest.mark.parametrize("name", NAMED)
def test_each_test_that_the_table_names_is_there(name: str) -> None:
    path, *inner = name.split("::")
    assert (ROOT / path).exists()
    text = (ROOT / path).read_text() if inner else ""
    for part in inner:
        assert re.search(rf"\b(class|def) {part}\b", text), part


def test_every_row_that_is_shown_names_a_test() -> None:
    shown = TABLE.partition("## Where we differ")[0]
    rows = [row for row in shown.splitlines() if row.startswith("| ") and not row.startswith("| The document")]
    assert len(rows) > 30
    assert [row for row in rows if "`tests/" not in row.rsplit("|", 2)[1]] == []
