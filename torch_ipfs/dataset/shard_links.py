"""What packed samples link to, which no block links to: a shard is bytes to whoever follows links."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from torch_ipfs.blockstore.pins import links
from torch_ipfs.codec.cid import CID
from torch_ipfs.manifest.column import Column, FixedColumn, Shard, StructColumn
from torch_ipfs.manifest.schema import Field, Schema

_TAKEN_ROWS = 1024


def may_link(schema: Schema) -> bool:
    """Whether samples of that schema can hold links."""
    return any(_may_link(field) for _, field in schema.fields)


def links_of_shard(shard: Shard) -> Iterator[CID]:
    """Each link in a shard's samples, column by column."""
    for name, column in shard.columns.items():
        field = shard.schema.get(name)
        if field is not None and _may_link(field):
            yield from _links_of_column(column)


def _may_link(field: Field) -> bool:
    if field.dtype in ("link", "any"):
        return True
    below = [inner for _, inner in field.fields] + ([field.item] if field.item else [])
    return any(map(_may_link, below))


def _links_of_column(column: Column) -> Iterator[CID]:
    if isinstance(column, StructColumn):
        for inner in column.columns.values():
            yield from _links_of_column(inner)
    elif not isinstance(column, FixedColumn):
        for first in range(0, column.num_rows, _TAKEN_ROWS):
            yield from links(column.take(np.arange(first, min(first + _TAKEN_ROWS, column.num_rows))))
