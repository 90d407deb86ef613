"""A state says where a run stands; nonsense is refused by the field that is wrong."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from torch_ipfs.errors import ResumeError
from torch_ipfs.plan.cursor import Cursor
from torch_ipfs.plan.shuffle import ShuffleOptions

ROOT = "bafyreihyrpefhacm6kkp4ql6j6udakdit7g3dmkzfriqfykhjw6cad5lrm"
counts = st.integers(0, 2**63 - 1)
sizes = st.integers(1, 2**20)
cursors = st.builds(
    Cursor,
    root=st.just(ROOT),
    seed=st.integers(-(2**63), 2**63 - 1),
    epoch=counts,
    position=counts,
    shuffle=st.none() | st.builds(ShuffleOptions, lanes=sizes, unit_rows=sizes, window_rows=sizes),
)


@given(cursors)
def test_a_state_travels_as_json_and_through_torch_save(cursor: Cursor) -> None:
    state = cursor.to_state()
    text = json.dumps(state)
    assert len(text) < 1024
    assert Cursor.from_state(json.loads(text)) == cursor
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    assert Cursor.from_state(torch.load(file, weights_only=True)) == cursor


GOOD: dict[str, Any] = Cursor(ROOT, 1, 2, 3, ShuffleOptions(4, 5, 6)).to_state()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"version": 2}, "version"),
        ({"version": None}, "version"),
        ({"root": None}, "root"),
        ({"seed": "1"}, "seed"),
        ({"epoch": -1}, "epoch"),
        ({"epoch": True}, "epoch"),
        ({"position": 2**63}, "position"),
        ({"position": 1.0}, "position"),
        ({"shuffle": {}}, "shuffle"),
        ({"shuffle": True}, "shuffle"),
        ({"shuffle": {"lanes": 0, "unit_rows": 1, "window_rows": 1}}, "shuffle.lanes"),
        ({"shuffle": {"lanes": 2**62, "unit_rows": 1, "window_rows": 1}}, "shuffle"),
        ({"shuffle": {"lanes": 1, "unit_rows": 1, "window_rows": 2**62}}, "shuffle"),
    ],
)
def test_a_wrong_field_is_named(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ResumeError, match=f"'{named}'"):
        Cursor.from_state({**GOOD, **change})


@pytest.mark.parametrize("state", [None, [], "state", {}, {"_snapshot": {"_main_snapshot": {}}}])
def test_what_is_no_state_is_refused(state: Any) -> None:
    with pytest.raises(ResumeError):
        Cursor.from_state(state)
