"""Result dictionaries: how the spec's operations say whether they succeeded."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

from torch_ipfs.errors import TorchIPFSError

Result = dict[str, Any]
"""``success``, ``operation`` and ``timestamp`` (seconds since 1970), and what the operation found; where it did not succeed,
``error`` and ``error_type``, the message and the name of the error's class."""

P = ParamSpec("P")
S = TypeVar("S")


def succeeded(operation: str, **found: Any) -> Result:
    """The result of an operation that did what it was to do."""
    return {"success": True, "operation": operation, "timestamp": time.time(), **found}


def failed(operation: str, error: Exception, **found: Any) -> Result:
    """The result of an operation that ended in ``error``."""
    return {
        "success": False,
        "operation": operation,
        "timestamp": time.time(),
        **found,
        "error": str(error),
        "error_type": type(error).__name__,
    }


def answers(method: Callable[Concatenate[S, P], Result]) -> Callable[Concatenate[S, P], Result]:
    """Have a method that returns what it found, or raises a TorchIPFSError, answer with a result dictionary."""

    @functools.wraps(method)
    def answering(self: S, /, *args: P.args, **kwargs: P.kwargs) -> Result:
        operation = method.__name__
        try:
            return succeeded(operation, **method(self, *args, **kwargs))
        except TorchIPFSError as error:
            return failed(operation, error)

    return answering
