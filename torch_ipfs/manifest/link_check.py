"""Whether the links of a packed shard are CIDs: found out when it is opened, as all else is that may be wrong with it."""

from __future__ import annotations

import numpy as np

from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import CodecError, ManifestError
from torch_ipfs.manifest.arrays import Array, BinaryArray, ListArray, NullArray, Rows, StructArray, ValueArray, spans
from torch_ipfs.manifest.schema import Field


def check_links(array: Array, field: Field) -> None:
    """That all links which can be taken from ``array`` are CIDs: what lies under a null may be anything.

    :raises ManifestError: one is none.
    """
    if _holds_links(field):
        _check(array, field, np.arange(len(array)))


def _holds_links(field: Field) -> bool:
    if field.item is not None:
        return _holds_links(field.item)
    return field.dtype == "link" or any(_holds_links(child) for _, child in field.fields)


def _check(array: Array, field: Field, rows: Rows) -> None:
    if isinstance(array, NullArray | ValueArray):
        return
    if array.valid is not None:
        rows = rows[array.valid[rows]]
    if isinstance(array, BinaryArray):
        _check_cids(array, rows)
    elif isinstance(array, StructArray):
        for name, child in field.fields:
            if _holds_links(child):
                _check(array.fields[name], child, rows)
    elif isinstance(array, ListArray) and field.item is not None:
        _check(array.items, field.item, spans(array.offsets, rows)[0])


def _check_cids(array: BinaryArray, rows: Rows) -> None:
    starts, stops = array.offsets[rows].astype(np.int64), array.offsets[rows + 1].astype(np.int64)
    try:
        if len(rows):
            # Nearly always all are of one codec and hash: then they differ in the digest alone, which may be anything.
            first = bytes(array.data[starts[0] : stops[0]])
            head = np.frombuffer(first, dtype=np.uint8)[: len(first) - len(CID.from_bytes(first).digest)]
            alike = np.flatnonzero(stops - starts == len(first))
            found = np.frombuffer(array.data, dtype=np.uint8)[starts[alike, None] + np.arange(len(head))]
            others = np.ones(len(rows), dtype=np.bool_)
            others[alike[(found == head).all(axis=1)]] = False
            for start, stop in zip(starts[others].tolist(), stops[others].tolist(), strict=True):
                CID.from_bytes(bytes(array.data[start:stop]))
    except CodecError as error:
        raise ManifestError(f"a field of links holds what is no CID: {error}") from None
