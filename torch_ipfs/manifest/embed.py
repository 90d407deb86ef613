"""Rows of arrays -> the maps that embedded and linked samples are.

A number is a number, a tensor nested lists of numbers. What DAG-CBOR holds no number for (NaN, infinities, -0.0, which it
makes 0.0, and complex numbers) is raw little-endian bytes of the storage dtype: of the whole tensor it is in, and where the
tensor's shape varies in a map of ``shape`` and ``data``. ``rows`` reads all of these.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import copysign, isfinite
from typing import Any

import numpy as np
import numpy.typing as npt

from torch_ipfs.manifest.arrays import Array, NumberArray, StructArray
from torch_ipfs.manifest.numbers import is_complex, narrow, to_python, widen
from torch_ipfs.manifest.schema import Field, Schema
from torch_ipfs.manifest.values import Typed


def samples_of(columns: Mapping[str, Array], schema: Schema, start: int, stop: int) -> list[dict[str, Any]]:
    """Rows ``start`` to ``stop`` as maps of what DAG-CBOR holds."""
    return _maps(schema.fields, columns, start, stop)


def _maps(
    fields: tuple[tuple[str, Field], ...], columns: Mapping[str, Array], start: int, stop: int
) -> list[dict[str, Any]]:
    if not fields:
        return [{} for _ in range(start, stop)]
    names = [name for name, _ in fields]
    values = [_column(columns[name], field, start, stop) for name, field in fields]
    return [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)]


def _column(array: Array, field: Field, start: int, stop: int) -> list[Any]:
    if isinstance(array, NumberArray) and array.valid is None:
        return _numbers(array.values[start:stop], field)
    if isinstance(array, StructArray) and array.valid is None:
        return _maps(field.fields, array.fields, start, stop)
    return [_value(value, field) for value in array.take(np.arange(start, stop))]


def _numbers(values: npt.NDArray[Any], field: Field) -> list[Any]:
    if is_complex(field.dtype):
        return [row.tobytes() for row in values]
    numbers = to_python(field.dtype, values)
    for row in np.flatnonzero(~_plain(values, field.dtype)).tolist():
        numbers[row] = values[row].tobytes()
    return numbers


def _plain(values: npt.NDArray[Any], dtype: str) -> npt.NDArray[np.bool_]:
    """Which rows hold nothing but numbers that DAG-CBOR has."""
    numbers = widen(dtype, values)
    if numbers.dtype.kind != "f":
        return np.ones(len(values), dtype=np.bool_)
    odd = ~np.isfinite(numbers) | ((numbers == 0) & np.signbit(numbers))
    plain: npt.NDArray[np.bool_] = ~odd.any(axis=tuple(range(1, odd.ndim)))
    return plain


def _value(value: Any, field: Field) -> Any:
    """One value of an object column."""
    if value is None or field.dtype in ("text", "bytes", "link", "null"):
        return value
    if field.dtype == "any":
        return _of_any_kind(value)
    if field.item is not None:
        return [_value(item, field.item) for item in value]
    if field.dtype == "struct":
        return {name: _value(value[name], child) for name, child in field.fields}
    if not isinstance(value, np.ndarray):
        return _scalar(value, field)
    if None not in field.shape:
        return _numbers(value[None], field)[0]
    if not is_complex(field.dtype) and 0 not in value.shape and _plain(value[None], field.dtype)[0]:
        return to_python(field.dtype, value)
    rank = len(field.shape)
    return {"shape": list(value.shape[:rank]), "data": value.tobytes()}


def _of_any_kind(value: Any) -> Any:
    """A value that no dtype was said of, with arrays as lists of numbers."""
    if isinstance(value, Typed):
        return to_python(value.dtype, value.array)
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, list):
        return [_of_any_kind(item) for item in value]
    return {key: _of_any_kind(item) for key, item in value.items()} if isinstance(value, dict) else value


def _scalar(value: Any, field: Field) -> Any:
    """One of Python's numbers, out of a list."""
    if isinstance(value, float) and isfinite(value) and (value != 0 or copysign(1, value) > 0):
        return value
    if isinstance(value, float | complex):
        stored = narrow(field.dtype, np.array([value]))
        return _numbers(stored, field)[0]
    return value
