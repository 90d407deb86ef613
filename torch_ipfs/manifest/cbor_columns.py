"""Lists of a DAG-CBOR node whose items are alike, read side by side: no Python object is made for any of them."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from torch_ipfs.codec import dag_cbor
from torch_ipfs.errors import CodecError

Int64s = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]

PADDING = b"\0" * 64
"""Put behind a block, so that what is looked at beyond its end, less than this, is there."""
LEAST = {1: 24, 2: 2**8, 4: 2**16, 8: 2**32}
"""The least number that takes so many bytes after its first."""
_STAND_IN = secrets.token_hex(16)
"""What stands in a list's place while the rest of the node is decoded: no node can hold it by chance or intent."""


def with_list(
    block: bytes, key: str, read: Callable[[bytes, int, int], tuple[Any, int] | None]
) -> dict[str, Any] | None:
    """The fields of a node with what ``read`` makes of the list under ``key``; ``None`` where it has to be decoded as any other
    block.

    The block is canonical then: the list's items are, byte by byte, as ``read`` has shown, and so is what is left with a text
    in the list's place.

    :param read: block, number of items, and where the first begins -> what they hold, and where they end; ``None`` where they
        are not alike.
    """
    encoded_key = dag_cbor.encode(key)
    key_at = block.find(encoded_key)
    start = key_at + len(encoded_key)
    head = _array_head(block, start) if key_at >= 0 else None
    found = None if head is None else read(block, *head)
    if found is None:
        return None
    items, end = found
    try:
        fields = dag_cbor.decode(block[:start] + dag_cbor.encode(_STAND_IN) + block[end:])
    except CodecError:
        return None
    return fields | {key: items} if isinstance(fields, dict) and fields.get(key) == _STAND_IN else None


def _array_head(block: bytes, at: int) -> tuple[int, int] | None:
    """How many items the list at ``at`` has, and where the first begins; ``None`` also for a list of fewer than 24."""
    width = {0x98: 1, 0x99: 2, 0x9A: 4}.get(block[at] if at < len(block) else 0)
    if width is None:
        return None
    length = int.from_bytes(block[at + 1 : at + 1 + width], "big")
    return (length, at + 1 + width) if length >= (24, 2**8, 0, 2**16)[width - 1] else None


def rows_at(data: bytes, at: Int64s, width: int) -> Bytes:
    """``width`` bytes from each of ``at`` on. Shape (n, width)."""
    items = np.ndarray((len(data) - width + 1,), f"V{width}", data, strides=(1,))  # that overlap
    return items[at].view(np.uint8).reshape(-1, width)


def unsigned_at(data: bytes, at: Int64s) -> tuple[Int64s, Int64s] | None:
    """The unsigned integers at ``at``, each below 2**63 and written as short as can be, and where they end. Shapes (n,)."""
    heads = np.frombuffer(data, dtype=np.uint8)[at]
    values, ends = heads.astype(np.int64), at + 1
    if heads.max() > 0x1B:
        return None
    for power, found in enumerate(np.bincount(heads, minlength=28)[24:].tolist()):
        if found:
            width, chosen = 1 << power, np.flatnonzero(heads == 24 + power)
            read = rows_at(data, ends[chosen], width).view(f">u{width}").ravel()
            if int(read.min()) < LEAST[width] or int(read.max()) >= 2**63:
                return None
            values[chosen] = read
            ends[chosen] += width
    return values, ends
