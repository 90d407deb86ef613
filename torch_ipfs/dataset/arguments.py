"""Checks of what callers give."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from torch_ipfs.errors import OptionError


def checked_columns(columns: Sequence[str] | None) -> tuple[str, ...] | None:
    """``columns`` as a tuple.

    :raises OptionError: one string, or anything but strings: a frequent slip.
    """
    if columns is None:
        return None
    names = None if isinstance(columns, str) or not isinstance(columns, Iterable) else tuple(columns)
    if names is None or not all(isinstance(name, str) for name in names):
        raise OptionError(f"columns must be a list of names, but is {columns!r}")
    return names


def whole_number(given: Any) -> int | None:
    """``given`` as an int, where it is a whole number, of numpy's and torch's types too; a bool is none."""
    try:
        return None if isinstance(given, bool) else operator.index(given)
    except TypeError:
        return None


def checked_count(name: str, given: Any, *, least: int = 0, below: float = math.inf) -> int:
    """:raises OptionError: ``given`` is no whole number of at least ``least``, or not below a bound."""
    number = whole_number(given)
    if number is None or not least <= number < below:
        raise OptionError(f"{name} must be a whole number of at least {least}, but is {given!r}")
    return number


def check_switch(name: str, given: object) -> None:
    """:raises OptionError: ``given`` is neither true nor false; a text such as "no" would count as true."""
    if not isinstance(given, bool | np.bool_):
        raise OptionError(f"{name} must be True or False, but is {given!r}")


def check_function(name: str, given: object, of: str) -> None:
    """:raises OptionError: it is neither a function nor ``None``."""
    if given is not None and not callable(given):
        raise OptionError(f"{name} must be a function of {of}, but is {given!r}")
