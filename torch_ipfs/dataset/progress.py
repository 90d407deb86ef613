"""A bar on standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(
    doing: str, unit: str, total: int | None = None, *, shown: bool | None = None
) -> Iterator[Callable[[int], object]]:
    """What moves the bar on by so many units; without one, something that does nothing.

    :param total: how many there are to be, where that is known.
    :param shown: by default where standard error is a terminal.
    """
    if not (sys.stderr.isatty() if shown is None else shown):
        yield lambda _: None
        return
    from tqdm import tqdm

    with tqdm(total=total, unit=unit, unit_scale=True, desc=doing, file=sys.stderr) as bar:
        yield bar.update
