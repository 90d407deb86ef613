"""Which of a dataset's dtypes torch and numpy have both, and what numpy has in place of the others."""

from __future__ import annotations

import torch

from torch_ipfs.manifest.schema import STORAGE

NATIVE = frozenset(getattr(torch, name) for name in STORAGE if STORAGE[name].name == name and hasattr(torch, name))
"""torch dtypes that numpy has too."""
BY_BITS = frozenset(name for name in STORAGE if name.startswith(("bfloat16", "float8_")))
"""Dtypes that numpy sees as their bits; so it does complex32, as pairs of floats."""
WITHOUT_NUMPY = {name: getattr(torch, name) for name in BY_BITS if hasattr(torch, name)}
"""Those of them that this torch has."""
BITS = {dtype: torch.uint16 if dtype.itemsize == 2 else torch.uint8 for dtype in WITHOUT_NUMPY.values()}
"""The dtypes of the same sizes to look at those bits with."""
