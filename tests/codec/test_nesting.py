"""Depth of values, found without recursion."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from tests.codec.strategies import nest
from torch_ipfs.codec import nesting
from torch_ipfs.codec.cid import CID
from torch_ipfs.codec.nesting import MAX_DEPTH


@pytest.mark.parametrize("core", [None, 0, "a", b"a", 1.5, [], {}])
@pytest.mark.parametrize("maps", [False, True])
def test_both_ways_agree_on_the_limit(core: Any, *, maps: bool) -> None:
    for depth, deep in ((0, False), (1, False), (MAX_DEPTH, False), (MAX_DEPTH + 1, True), (MAX_DEPTH + 50, True)):
        value = nest(depth, core, maps=maps)
        for wide in (value, [1, value][1:][0]):
            assert nesting.is_deep(wide) is deep
            assert nesting.is_deep_plain(wide) is deep


def test_what_is_no_container_has_no_depth() -> None:
    assert not nesting.is_deep([CID.of(b""), object(), nesting, {"a": nest}])
    assert not nesting.is_deep(nest(MAX_DEPTH, CID.of(b"")))
    assert nesting.is_deep(nest(MAX_DEPTH + 1, CID.of(b"")))
    assert nesting.is_deep((nest(MAX_DEPTH, 0), 1))


def test_the_deepest_branch_counts() -> None:
    assert nesting.is_deep([[1, 2], {"a": [nest(MAX_DEPTH, 0)], "b": 1}, [], 3])


@pytest.mark.parametrize(("limit", "safe"), [(1000, True), (3000, True), (10_000, False), (10**6, False)])
def test_recursion_in_c_is_left_alone_where_python_would_not_stop_it(
    limit: int, safe: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "getrecursionlimit", lambda: limit)
    assert nesting.native_recursion_is_safe() is safe
