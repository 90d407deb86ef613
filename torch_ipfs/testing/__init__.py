"""What third parties test their own parts with: classes to subclass in a pytest suite, which alone needs pytest."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch_ipfs.testing.blockstore import BlockstoreConformance

_MODULES = {"BlockstoreConformance": "torch_ipfs.testing.blockstore"}

__all__ = ["BlockstoreConformance"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if _MODULES[name] not in sys.modules:
        import pytest

        pytest.register_assert_rewrite(_MODULES[name])  # a failing assert says what it compared
    return getattr(importlib.import_module(_MODULES[name]), name)
