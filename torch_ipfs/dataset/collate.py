"""Columns of numpy to what a training loop gets: tensors, lists and maps, a batch or a sample at a time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import default_collate

from torch_ipfs.dataset.dtypes import BY_BITS, WITHOUT_NUMPY
from torch_ipfs.dataset.sending import BY_VALUE_BYTES
from torch_ipfs.errors import SampleError
from torch_ipfs.manifest.schema import STORAGE, Field, Schema

Sample = dict[str, Any]
Batch = dict[str, Any]

_AS_NUMPY = STORAGE.keys() - BY_BITS - {"complex32"}


def to_tensor(array: npt.NDArray[Any], dtype: str) -> torch.Tensor:
    """``array`` of a field's storage dtype as the tensor of its dtype, without a copy.

    :param array: any shape; complex32 has a last dimension of 2 more.
    :param dtype: a key of ``manifest.schema.STORAGE``.
    :raises SampleError: this version of torch does not have it.
    """
    tensor = torch.from_numpy(array)
    if dtype in _AS_NUMPY:
        return tensor
    if dtype == "complex32":
        # Of arrays without elements numpy keeps strides that view_as_complex does not take.
        return torch.view_as_complex(tensor if tensor.numel() else tensor.new_zeros(tensor.shape))
    if dtype not in WITHOUT_NUMPY:
        raise SampleError(
            f"torch {torch.__version__} has no {dtype}, which a field of the dataset is of; a newer one has"
        )
    return tensor.view(WITHOUT_NUMPY[dtype])


def to_tensors(arrays: list[npt.NDArray[Any]], dtype: str) -> list[torch.Tensor]:
    """:func:`to_tensor` of each of ``arrays``."""
    if dtype in _AS_NUMPY:
        return list(map(torch.from_numpy, arrays))
    return [to_tensor(array, dtype) for array in arrays]


def to_torch(value: Any, field: Field) -> Any:
    """A value of an object column as a sample gives it: arrays become tensors, wherever in lists and maps they are."""
    if value is None or field.dtype in ("text", "bytes", "link", "null", "any"):
        return value
    if isinstance(value, np.ndarray):
        return to_tensor(value, field.dtype)
    if field.item is not None:
        return [to_torch(item, field.item) for item in value] if _holds_arrays(field.item) else value
    if field.dtype == "struct":
        fields = dict(field.fields)
        return {name: to_torch(item, fields[name]) for name, item in value.items()}
    return value


def _holds_arrays(field: Field) -> bool:
    """Whether values of ``field`` within a list may be, or hold, arrays; scalars within lists are Python's own."""
    if field.numeric:
        return bool(field.shape)
    return field.dtype in ("list", "struct")


def rows_of(batch: Batch, num_rows: int) -> list[Sample]:
    """The samples of a batch, each of its tensors in memory of its own."""
    return maps_of({name: _column_rows(column, num_rows) for name, column in batch.items()}, num_rows)


def _column_rows(column: Any, num_rows: int) -> list[Any]:
    if isinstance(column, torch.Tensor):
        return _unbound(column)
    if isinstance(column, dict):
        return rows_of(column, num_rows)
    return list(column)


def _unbound(tensor: torch.Tensor) -> list[torch.Tensor]:
    """The parts of the first dimension, each copied into memory of its own by one call."""
    parts: Any = torch.unbind_copy(tensor)  # type: ignore[func-returns-value]  # torch's stub forgets what it returns
    return list(parts)


def maps_of(columns: dict[str, list[Any]], count: int) -> list[dict[str, Any]]:
    """``count`` maps out of as many values of each field."""
    names = list(columns)
    if len(names) == 2:  # a line of its own for the most frequent case: a third quicker
        one, other = names
        return [{one: a, other: b} for a, b in zip(columns[one], columns[other], strict=True)]
    if not names:
        return [{} for _ in range(count)]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def collate_samples(samples: list[Any], schema: Schema, *, transformed: bool = False) -> Any:
    """A batch of samples that came one by one: by their schema, as far as it says what they are.

    :param transformed: a transform has had its hands on them, and may have made the shapes of a field equal.
    :raises SampleError: they are not alike, or tensors of one field differ in shape; names the field.
    """
    if not isinstance(samples[0], Mapping):
        return _collate(samples, "sample", None)
    return _collate_maps(samples, "", dict(_after_transform(schema.fields) if transformed else schema.fields))


def _after_transform(fields: tuple[tuple[str, Field], ...]) -> tuple[tuple[str, Field], ...]:
    """``fields`` as far as they are still known: tensors may have one shape now, and values of any kind be numbers."""
    return tuple((name, _with_any_shape(field)) for name, field in fields if field.dtype != "any")


def _with_any_shape(field: Field) -> Field:
    """A field of tensors of several shapes as one of tensors whose shape is not known here."""
    if field.fields:
        return replace(field, fields=_after_transform(field.fields))
    return replace(field, shape=()) if None in field.shape else field


def _collate_maps(values: list[Any], path: str, fields: dict[str, Field]) -> dict[str, Any]:
    """:raises SampleError: they are not all maps of the same keys; names one."""
    keys = values[0].keys()
    for value in values:
        if not isinstance(value, Mapping):
            raise SampleError(f"{path.rstrip('.') or 'sample'!r} is a map in some samples of a batch, and not in all")
        if value.keys() != keys:
            name = next(name for name in (*keys, *value.keys()) if name not in keys or name not in value)
            raise SampleError(f"field '{path}{name}' is in some samples of a batch, and not in all")
    return {key: _collate([value[key] for value in values], f"{path}{key}", fields.get(key)) for key in keys}


def _stack(values: list[Any]) -> Any:
    """As torch's ``default_collate``, but for small tensors in a worker: those go by value, and not through shared memory."""
    first = values[0]
    is_plain = type(first) is torch.Tensor and first.layout is torch.strided and not first.is_nested
    if is_plain and first.nbytes * len(values) <= BY_VALUE_BYTES:
        return torch.stack(values)
    return default_collate(values)


def tuple_like(given: tuple[Any, ...], parts: Iterable[Any]) -> tuple[Any, ...]:
    """``parts`` as a tuple of the kind of ``given``, whose fields may have names."""
    return given._make(parts) if hasattr(given, "_make") else tuple(parts)


def _collate(values: list[Any], name: str, field: Field | None) -> Any:
    first = values[0]
    if field is not None and field.dtype == "any":
        return values
    if isinstance(first, Mapping) and not (field and field.nullable):
        return _collate_maps(values, f"{name}.", {} if field is None else dict(field.fields))
    if isinstance(first, tuple):
        if not all(isinstance(value, tuple) and len(value) == len(first) for value in values):
            raise SampleError(f"{name!r} is a tuple of {len(first)} in one sample of a batch, and not in all")
        parts = zip(*values, strict=True)
        return tuple_like(first, [_collate(list(part), f"{name}[{i}]", None) for i, part in enumerate(parts)])
    if field is not None and field.numeric and (field.nullable or None in field.shape):
        return values
    if not isinstance(first, torch.Tensor | np.ndarray | np.generic | int | float | complex):
        return values
    try:
        return _stack([torch.as_tensor(value) for value in values] if isinstance(first, np.ndarray) else values)
    except (RuntimeError, TypeError, ValueError) as error:
        raise SampleError(
            f"field {name!r} cannot be made one tensor of a batch: {error}; make its shapes equal in transform, or give "
            "the loader a collate_fn"
        ) from error
