"""Copies of samples whose iterator may fill the same memory anew for each sample it gives.

``for ...: buffer[:] = ...; yield {"x": buffer}`` is common, and right where each sample is used before the next is asked for.
Samples that are gathered before they are written would all turn out as the last one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from torch_ipfs.dataset.collate import tuple_like
from torch_ipfs.dataset.write_plain import is_image, pixels

_LASTING = frozenset({type(None), bool, int, float, complex, str, bytes})
_ARRAYS = (np.ndarray, np.void)


def own(value: Any) -> Any:
    """``value``, with nothing in it that may be filled anew. Maps become dicts, buffers bytes, and images their pixels.

    :raises Misfit: an image has none that a dataset can hold.
    """
    kind = type(value)
    if kind in _LASTING:
        return value
    if kind is dict or isinstance(value, Mapping):
        return {key: item if type(item) in _LASTING else own(item) for key, item in value.items()}
    if isinstance(value, _ARRAYS):
        return _own_array(value) if value.dtype.kind == "O" else value.copy()
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, list):
        return value.copy() if set(map(type, value)) <= _LASTING else [own(item) for item in value]
    if isinstance(value, tuple):
        return tuple_like(value, map(own, value))
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    return pixels(value) if is_image(value) else value


def _own_array(array: Any) -> Any:
    copied = array.copy()
    items = copied.reshape(-1)
    for i, item in enumerate(items):
        items[i] = own(item)
    return copied
