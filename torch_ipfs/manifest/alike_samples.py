"""Embedded samples of a DAG-CBOR node that are alike, read column by column: no Python object is made for any of them.

They are alike where each is a map of the same keys, in which every value is a float, a list of floats of one length, or an
unsigned integer. Where they are not, or anything else is not as it is most of the time, :func:`read` gives up, and the strict
decoder has its say.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from torch_ipfs.codec import dag_cbor
from torch_ipfs.errors import CodecError
from torch_ipfs.manifest.cbor_columns import PADDING, Int64s, rows_at, unsigned_at, with_list

_FLOAT = 0xFB
_FLOAT_BYTES = 9
_NO_TEXT = b"\xff" * 16


@dataclass(frozen=True, slots=True)
class AlikeSamples(Sequence[Any]):
    """The samples: maps, made where they are asked for one by one.

    :param columns: by field float64 of shape (n,) or (n, length), or int64 of shape (n,).
    :param encoded: the samples in DAG-CBOR, end to end.
    :param ends: where each ends in ``encoded``, shape (n,).
    """

    columns: dict[str, npt.NDArray[Any]]
    encoded: bytes
    ends: Int64s

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            return self._decoded(start, max(start, stop))[::step] if step > 0 else list(self)[index]
        i = range(len(self))[index]
        return self._decoded(i, i + 1)[0]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._decoded(0, len(self)))

    def _decoded(self, start: int, stop: int) -> list[Any]:
        if start == stop:
            return []
        encoded = self.encoded[int(self.ends[start - 1]) if start else 0 : int(self.ends[stop - 1])]
        samples: list[Any] = dag_cbor.decode(dag_cbor.encode([None] * (stop - start))[: start - stop] + encoded)
        return samples


def read(block: bytes) -> dict[str, Any] | None:
    """A node's fields with its ``data`` as :class:`AlikeSamples`; ``None`` where it has to be decoded as any other block."""
    return with_list(block, "data", _samples)


@dataclass(frozen=True, slots=True)
class _Field:
    """
    :param before: what is written before its numbers: the key, and the head of a list.
    :param shape: of floats, ``()`` or ``(length,)``; ``None`` for an unsigned integer.
    """

    name: str
    before: bytes
    shape: tuple[int, ...] | None

    @classmethod
    def of(cls, name: str, value: Any) -> _Field | None:
        """The field that a sample's value shows; ``None`` for one that is not read here."""
        before = dag_cbor.encode(name)
        if type(value) is int and value >= 0:
            return cls(name, before, None)
        if type(value) is float:
            return cls(name, before, ())
        if type(value) is list and set(map(type, value)) == {float}:
            return cls(name, before + dag_cbor.encode(value)[: -_FLOAT_BYTES * len(value)], (len(value),))
        return None

    @property
    def longest(self) -> int:
        """The most bytes that it takes."""
        return len(self.before) + _FLOAT_BYTES * math.prod(self.shape or ())


def _samples(block: bytes, number: int, start: int) -> tuple[AlikeSamples, int] | None:
    """``number`` samples from ``start`` on, and where they end."""
    # Where a sample begins is guessed from what all begin with, and then shown: each has to end where the next begins.
    prefix = block[start : start + 1] + _short_text(block, start + 1)
    parts = block[start:].split(prefix, number)
    if len(parts) != number + 1 or parts[0]:
        return None
    fields = _fields(prefix + parts[1])
    if fields is None:
        return None
    starts = np.cumsum([start, *(len(prefix) + len(part) for part in parts[1:-1])], dtype=np.int64)
    data, at = block + PADDING + bytes(1 + sum(field.longest for field in fields)), starts + 1
    columns = {}
    for field in fields:
        if not (rows_at(data, at, len(field.before)) == np.frombuffer(field.before, dtype=np.uint8)).all():
            return None
        numbers = _numbers(data, at + len(field.before), field.shape)
        if numbers is None:
            return None
        columns[field.name], at = numbers
    if not np.array_equal(at[:-1], starts[1:]) or int(at[-1]) > len(block):
        return None
    end = int(at[-1])
    return AlikeSamples(columns, block[start:end], at - start), end


def _short_text(block: bytes, at: int) -> bytes:
    """The text of up to 23 bytes that is encoded at ``at``, as it is encoded; one that no block holds where there is none."""
    length = block[at] - 0x60 if at < len(block) else 0
    return block[at : at + 1 + length] if 1 <= length < 24 else _NO_TEXT


def _fields(encoded: bytes) -> list[_Field] | None:
    """What the first sample shows that all must have. It is decoded strictly: keys are canonical in all that have the same."""
    try:
        sample = dag_cbor.decode(encoded)
    except CodecError:
        return None
    fields = [_Field.of(name, value) for name, value in sample.items()] if isinstance(sample, dict) else []
    known = [field for field in fields if field is not None]
    return known if known and len(known) == len(fields) else None


def _numbers(data: bytes, at: Int64s, shape: tuple[int, ...] | None) -> tuple[npt.NDArray[Any], Int64s] | None:
    """The numbers at ``at``, shape (n, *shape), and where they end."""
    if shape is None:
        return unsigned_at(data, at)
    width = _FLOAT_BYTES * math.prod(shape)
    encoded = rows_at(data, at, width).reshape(len(at), *shape, _FLOAT_BYTES)
    floats: npt.NDArray[np.float64] = np.ascontiguousarray(encoded[..., 1:]).view(">f8")[..., 0].astype(np.float64)
    # DAG-CBOR has neither infinities nor NaN, and no -0.0.
    strange = ~np.isfinite(floats) | ((floats == 0) & np.signbit(floats))
    return None if (encoded[..., 0] != _FLOAT).any() or strange.any() else (floats, at + width)
