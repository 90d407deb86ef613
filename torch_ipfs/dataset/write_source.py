"""What every adapter of ``write_dataset``'s input is: something that gives arrays in pieces, by a schema it helped to find."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from torch_ipfs.errors import SampleError
from torch_ipfs.manifest.arrays import Array
from torch_ipfs.manifest.schema import Schema
from torch_ipfs.manifest.values import Misfit

CHUNK_BYTES = 8 * 2**20
"""About what a piece of rows takes in memory."""
CHUNK_ROWS = 32_768

Chunk = tuple[dict[str, Array], int]
"""The array of each field, and how many rows they have."""


class Source(Protocol):
    """Rows of a dataset that is to be written, to be gone through once."""

    num_rows: int | None
    """How many there are, where that is known before."""

    def schema(self, given: Schema | None) -> Schema:
        """The schema to write by: ``given``, or the one that the rows show.

        :raises SampleError: for rows that have none.
        """
        ...

    def chunks(self, rows_per_shard: int | None) -> Iterator[Chunk]:
        """The rows, in pieces; after :meth:`schema`.

        :param rows_per_shard: pieces of a multiple of it spare the copying of what is left over.
        :raises SampleError: for a row that does not fit the schema, naming its position and the field.
        """
        ...


def misfit_error(misfit: Misfit, first_position: int, inferred_from: int | None) -> SampleError:
    """The error of a row that does not fit.

    :param inferred_from: how many rows the schema was taken from; ``None`` where it was given.
    """
    advice = ""
    if inferred_from is not None and first_position + misfit.row >= inferred_from:
        advice = f" (the schema was taken from the first {inferred_from} samples; give schema= where later ones differ)"
    return misfit.error(first_position, advice=advice)


def length(samples: Any) -> int | None:
    """How many samples there are, where they say so."""
    try:
        return len(samples)
    except (TypeError, NotImplementedError):
        return None
