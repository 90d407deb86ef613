"""Samples one by one -> arrays: iterables, generators and torch Datasets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from torch_ipfs.dataset.write_own import own
from torch_ipfs.dataset.write_plain import plain_values
from torch_ipfs.dataset.write_source import CHUNK_BYTES, CHUNK_ROWS, Chunk, misfit_error
from torch_ipfs.errors import OptionError, SampleError
from torch_ipfs.manifest.infer import infer_columns
from torch_ipfs.manifest.maps import columns_of, keys_of
from torch_ipfs.manifest.rows import Values, arrays_from_columns
from torch_ipfs.manifest.schema import Schema
from torch_ipfs.manifest.values import Misfit

_NUMBERS = frozenset({int, float, bool, type(None)})
_ALIKE_IN_LISTS = frozenset({int, float, bool})
"""Where the first item of a list is one of these, all are numbers or ``None``."""
_SEQUENCES, _TEXTS = (list, tuple), (str, bytes, bytearray)
_OBJECT_BYTES = 32
"""About what a number takes in a list."""

Maps = list[Mapping[str, Any]]
Columns = list[Values]


class RowSource:
    """Samples out of an iterable, in pieces of bounded memory.

    A sample is a map, a named tuple, a tuple, or a value, which becomes ``{"value": sample}``.

    :param num_rows: how many there are, where that is known.
    :param columns: names for the parts of samples that are tuples; ``"0"``, ``"1"`` and so on by default.
    """

    def __init__(self, samples: Iterable[Any], num_rows: int | None, columns: Sequence[str] | None) -> None:
        self.num_rows = num_rows
        maps = _as_maps(samples, None if columns is None else tuple(columns))
        # Samples of a list are all there at once: none of them is filled anew.
        self._pieces = _pieces(maps, copy=not isinstance(samples, list | tuple))
        self._schema = Schema(())
        self._first: tuple[Columns, int] = ([], 0)
        self._inferred_from: int | None = None

    def schema(self, given: Schema | None) -> Schema:
        piece = next(self._pieces, [])
        try:
            names = keys_of(piece) if given is None else given.names
            values = _plain_columns(piece, names)
            if given is None:
                self._inferred_from = len(piece)
                given = infer_columns(names, values, strict=True)
        except Misfit as misfit:
            raise misfit_error(misfit, 0, None) from None
        self._schema = given
        self._first = values, len(piece)
        return given

    def chunks(self, rows_per_shard: int | None) -> Iterator[Chunk]:  # noqa: ARG002 - rows come as they come
        (values, num_rows), self._first = self._first, ([], 0)
        position = 0
        while num_rows:
            try:
                arrays = arrays_from_columns(self._schema.fields, values)
                yield arrays, num_rows
                del arrays, values
                position += num_rows
                piece = next(self._pieces, [])
                num_rows = len(piece)
                values = _plain_columns(piece, self._schema.names)
            except Misfit as misfit:
                raise misfit_error(misfit, position, self._inferred_from) from None


def _plain_columns(maps: Maps, names: Sequence[str]) -> Columns:
    columns = []
    for name, values in zip(names, columns_of(maps, names, frozenset(names)), strict=True):
        try:
            columns.append(plain_values(values))
        except Misfit as misfit:
            raise misfit.under(name) from None
    return columns


def _as_maps(samples: Iterable[Any], names: tuple[str, ...] | None) -> Iterator[Mapping[str, Any]]:
    for position, sample in enumerate(samples):
        is_map = type(sample) is dict or isinstance(sample, Mapping)
        if names is not None and not isinstance(sample, tuple):
            what = "a map, and has names already" if is_map else f"a {type(sample).__name__}"
            raise OptionError(f"columns= names the parts of samples that are tuples; sample {position} is {what}")
        if is_map:
            yield sample
        elif not isinstance(sample, tuple):
            yield {"value": sample}
        elif names is None:
            yield dict(zip(getattr(sample, "_fields", map(str, range(len(sample)))), sample, strict=True))
        elif len(names) == len(sample):
            yield dict(zip(names, sample, strict=True))
        else:
            raise SampleError(
                f"sample {position} is a tuple of {len(sample)}, and columns= names {len(names)}: {', '.join(names)}"
            )


def _pieces(samples: Iterator[Mapping[str, Any]], *, copy: bool) -> Iterator[Maps]:
    """Samples in lists of about ``CHUNK_BYTES``."""
    piece: Maps = []
    size_bytes = 0
    for position, sample in enumerate(samples):
        try:
            piece.append(own(sample) if copy else sample)
            size_bytes += held_bytes(sample)
        except Misfit as misfit:
            raise misfit.error(position) from None
        except RecursionError:
            raise SampleError(f"sample {position} has lists or maps in each other without end") from None
        if size_bytes >= CHUNK_BYTES or len(piece) == CHUNK_ROWS:
            yield piece
            piece, size_bytes = [], 0
    if piece:
        yield piece


def held_bytes(value: Any) -> int:
    """About what a value takes in memory, found out quickly."""
    kind = type(value)
    if kind in _NUMBERS:
        return _OBJECT_BYTES
    if kind is str or kind is bytes:
        return _OBJECT_BYTES + len(value)
    try:
        nbytes = getattr(value, "nbytes", None)
    except RuntimeError:  # a sparse tensor has none, and is refused where its values are looked at
        nbytes = None
    if nbytes.__class__ is int:
        if kind is np.ndarray and value.dtype.kind == "O":
            return held_bytes(value.reshape(-1).tolist())
        return 4 * _OBJECT_BYTES + int(nbytes)
    if kind is list and value and type(value[0]) in _ALIKE_IN_LISTS:
        return _OBJECT_BYTES * (2 + len(value))
    if kind is dict or isinstance(value, Mapping):
        return sum(map(held_bytes, value.values()), 2 * _OBJECT_BYTES)
    if isinstance(value, _SEQUENCES):
        return sum(map(held_bytes, value), 2 * _OBJECT_BYTES)
    if isinstance(value, _TEXTS):
        return _OBJECT_BYTES + len(value)
    size = getattr(value, "size", None)
    if isinstance(size, tuple):  # of an image: width and height
        return 4 * _OBJECT_BYTES + 4 * prod(size)
    return 4 * _OBJECT_BYTES
