"""Hugging Face datasets -> tables, with the files in them that they only name.

A column of images or audio holds the bytes of files, or their paths, as of a folder of images: a path is of no use elsewhere.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch_ipfs.dataset.write_arrow import ArrowStreamSource
from torch_ipfs.dataset.write_rows import RowSource
from torch_ipfs.dataset.write_source import CHUNK_BYTES, Source, length
from torch_ipfs.errors import SampleError

_BATCH_ROWS = 1024
_UNKNOWN_BATCH_ROWS = 16
"""Of a stream, and of files, it is not known how large rows are before they are there: they may be videos."""


def hugging_face_source(samples: Any) -> Source:
    """The source of a ``Dataset`` or ``IterableDataset``."""
    num_rows, told = length(samples), getattr(samples, "format", {})
    # A transform of the user's own decides what a sample is; any other format only dresses what the table holds.
    # A stream whose features nobody has told makes a table of what each few rows hold, and none of what all do.
    if told.get("type") == "custom" or samples.features is None:
        return RowSource(samples, num_rows, None)
    columns = None if told.get("output_all_columns") else told.get("columns")
    has_left_out = columns is not None and len(columns) < len(samples.column_names)
    tables = samples.with_format("arrow", columns=columns) if has_left_out else samples.with_format("arrow")
    empty = tables[:0] if num_rows == 0 else None
    files = _features_of_files(samples.features)
    batches = tables.iter(batch_size=_UNKNOWN_BATCH_ROWS if files else _batch_rows(samples))
    return ArrowStreamSource(_with_files(batches, files) if files else batches, num_rows, empty)


def _batch_rows(samples: Any) -> int:
    """How many rows to take at once."""
    table = getattr(samples, "data", None)
    if table is None:
        return _UNKNOWN_BATCH_ROWS
    return min(_BATCH_ROWS, max(1, CHUNK_BYTES * int(table.num_rows) // max(int(table.nbytes), 1)))


def _features_of_files(features: Any) -> dict[str, Any]:
    """Those that may name files: images, audio, video, and lists and maps of them."""
    names_files: Callable[[Any], bool] = sys.modules["datasets.features.features"].require_storage_embed
    return {name: feature for name, feature in features.items() if names_files(feature)}


def _with_files(tables: Iterable[Any], features: dict[str, Any]) -> Iterator[Any]:
    position = 0
    for table in tables:
        try:
            yield _embedded(table, features, position)
        except SampleError:
            # Which of them is it?
            for row in range(len(table)):
                _embedded(table.slice(row, 1), features, position + row)
            raise
        position += len(table)


def _embedded(table: Any, features: dict[str, Any], position: int) -> Any:
    """``table`` with the bytes of files beside their names, which lose their folders.

    :raises SampleError: one cannot be read; it is of the sample ``position``, or later.
    """
    embed = sys.modules["datasets.table"].embed_array_storage
    for i, name in enumerate(table.column_names):
        if name in features:
            try:
                table = table.set_column(i, name, embed(table.column(i), features[name]))
            except Exception as error:  # of whoever opens what a name leads into, such as an archive or a server
                raise SampleError(f"sample {position}, field {name!r}: its file cannot be read: {error}") from error
    return table
