"""Which adapter takes what ``write_dataset`` was given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch_ipfs.dataset.write_rows import RowSource
from torch_ipfs.dataset.write_source import Source


def open_source(samples: Any, columns: Sequence[str] | None) -> Source:
    """The source for ``samples``, by what they are.

    :raises OptionError: they are nothing that can be written, or ``columns`` does not go with them.
    """
    return RowSource(samples, len(samples) if hasattr(samples, "__len__") else None, columns)
