"""What third parties test their own parts with: classes to subclass in a pytest suite, and checks to call from any."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch_ipfs.testing.blockstore import BlockstoreConformance
    from torch_ipfs.testing.resume import assert_resumes_exactly

_MODULES = {
    "BlockstoreConformance": "torch_ipfs.testing.blockstore",
    "assert_resumes_exactly": "torch_ipfs.testing.resume",
}

__all__ = ["BlockstoreConformance", "assert_resumes_exactly"]


def _imported(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if _MODULES[name] not in sys.modules and importlib.util.find_spec("pytest") is not None:
        import pytest

        pytest.register_assert_rewrite(_MODULES[name])  # a failing assert says what it compared
    return getattr(importlib.import_module(_MODULES[name]), name)


if not TYPE_CHECKING:
    __getattr__ = _imported
