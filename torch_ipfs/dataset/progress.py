"""A bar on standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def progress_bar(
    doing: str, unit: str, total: int | None = None, *, shown: bool | None = None
) -> Iterator[Callable[[int], object]]:
    """What moves the bar on by so many units; without one, something that does nothing.

    :param total: how many there are to be, where that is known.
    :param shown: by default where standard error is a terminal.
    """
    if not (_is_terminal(sys.stderr) if shown is None else shown):
        yield lambda _: None
        return
    from tqdm import tqdm

    with tqdm(total=total, unit=unit, unit_scale=True, desc=doing, file=sys.stderr) as bar:
        yield bar.update


def _is_terminal(stream: Any) -> bool:
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError):  # None in a process without one, what stands in for one, or closed
        return False
