"""Blocks out of a store, as the walks through a DAG want them."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import cast

from torch_ipfs.blockstore.base import Block, Blockstore, close_iterator
from torch_ipfs.codec.cid import CID


def fetch(store: Blockstore, cids: Sequence[CID]) -> Generator[Block, None, None]:
    """The blocks of ``cids`` in their order; several are fetched together. Closing it cancels what is under way."""
    if len(cids) == 1:
        yield store.get(cids[0])
    elif cids:
        fetched = store.get_many(cids)
        try:
            yield from cast("Iterator[Block]", fetched)
        finally:
            close_iterator(fetched)
