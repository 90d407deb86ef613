"""tf.data: batches of numpy columns and their schema become a ``tf.data.Dataset`` of an exact signature.

TensorFlow is imported when it is used, by :func:`load_tensorflow` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from torch_ipfs.bridges.load_order import settle
from torch_ipfs.errors import OptionError, SampleError
from torch_ipfs.manifest.numbers import widen
from torch_ipfs.manifest.schema import STORAGE, Field, Schema

Batch = Mapping[str, Any]
"""Field -> its values over a batch: ``np.ndarray`` ``(batch_size, *shape)`` of the storage dtype, a list of anything else, or,
of a struct, a map of these. Of a sample, where samples go one by one, the same without the first dimension."""

Form = Literal["map", "tuple", "value"]
"""What elements are: maps of all fields, tuples of them, or the values of the only one."""

_TEXTS = ("text", "bytes", "link")
_ADVICE = "leave it out with columns=, change it in a transform, or give an output_signature="


def load_tensorflow() -> Any:
    """The module.

    :raises ImportError: it is not there; says what to install.
    """
    settle()
    try:
        import tensorflow as tf
    except ImportError as error:
        raise ImportError(
            "to_tensorflow() needs TensorFlow, which cannot be imported; install it with "
            f"`pip install 'torch-ipfs[tensorflow]'` or `pip install tensorflow` ({error})"
        ) from error
    return tf


def tensorflow_dataset(
    batches: Callable[[], Iterator[Batch]],
    schema: Schema | None,
    *,
    num_elements: int,
    batched: bool = True,
    output_signature: Any = None,
) -> Any:
    """A ``tf.data.Dataset`` of which every pass calls ``batches`` anew, in a thread of TensorFlow's.

    Elements are maps; where samples are ``features`` and ``labels`` alone they are pairs, as ``model.fit`` wants them.

    :param batches: the elements of a pass: batches, or samples where not ``batched``.
    :param schema: of the samples; ``None`` where elements are as ``output_signature`` says already.
    :param num_elements: how many elements each pass has; TensorFlow raises where they are more or fewer.
    :param output_signature: in place of what the schema says: a map of fields to specs, a sequence of specs for the fields in
        their order, or one spec for the only field. Values become what it says.
    :raises OptionError: TensorFlow has no type for a field, or the signature is not of these fields, or is missing.
    :raises ImportError: there is no TensorFlow.
    """
    tf = load_tensorflow()
    if schema is None and output_signature is None:
        raise OptionError("of what a batch_transform makes the schema tells nothing: give an output_signature=")
    if schema is None:
        elements, signature = batches, output_signature
    else:
        signature = signature_of(schema, batched=batched) if output_signature is None else output_signature
        signature = tuple(signature) if isinstance(signature, list) else signature  # which tf.data takes for a tensor
        element = _element(signature, schema)

        def elements() -> Iterator[Any]:
            return map(element, batches())

    dataset = tf.data.Dataset.from_generator(elements, output_signature=signature)
    return dataset.apply(tf.data.experimental.assert_cardinality(num_elements)).prefetch(tf.data.AUTOTUNE)


def signature_of(schema: Schema, *, batched: bool = True, form: Form | None = None) -> Any:
    """The specs of :func:`tensorflow_dataset`'s elements. The first dimension of a batch is ``None``.

    :param form: by default tuples where samples are ``features`` and ``labels`` alone, else maps.
    :raises OptionError: TensorFlow has no type for a field; names it.
    """
    if not schema.fields:
        raise OptionError("the dataset has no fields, and TensorFlow no elements without any; is it empty?")
    specs = {name: _spec(name, field, batched=batched) for name, field in schema.fields}
    if form is None:
        form = "tuple" if is_supervised(schema) else "map"
    if form == "map":
        return specs
    parts = tuple(specs[name] for name in _names(schema))
    return parts if form == "tuple" else parts[0]


def is_supervised(schema: Schema) -> bool:
    """Whether samples are ``features`` and ``labels`` and nothing else."""
    return set(schema.names) == {"features", "labels"}


def _names(schema: Schema) -> tuple[str, ...]:
    return ("features", "labels") if is_supervised(schema) else schema.names


# Signatures.


def _spec(name: str, field: Field, *, batched: bool) -> Any:
    tf = load_tensorflow()
    if field.nullable:
        raise OptionError(f"field {name!r} may be missing or None, for which TensorFlow has nothing; {_ADVICE}")
    if field.dtype == "struct":
        return {child: _spec(f"{name}.{child}", inner, batched=batched) for child, inner in field.fields}
    sizes, leaf = _layout(name, field)
    shape = (None, *sizes) if batched else sizes
    dtype = tf.string if leaf.dtype in _TEXTS else _tensorflow_dtype(leaf.dtype)
    ragged_rank = max((axis for axis, size in enumerate(shape) if size is None), default=0)
    if ragged_rank == 0 or (field.numeric and not batched):
        return tf.TensorSpec(shape, dtype)
    return tf.RaggedTensorSpec(shape, dtype, ragged_rank)


def _layout(name: str, field: Field) -> tuple[tuple[int | None, ...], Field]:
    """The shape of a sample's value, ``None`` where it varies, and the field of its elements."""
    if field.item is not None and not field.item.nullable:
        sizes, leaf = _layout(name, field.item)
        return (None, *sizes), leaf
    if field.numeric or field.dtype in _TEXTS:
        return field.shape, field
    raise OptionError(f"field {name!r} holds {field}, for which TensorFlow has no type; {_ADVICE}")


def _tensorflow_dtype(dtype: str) -> Any:
    """TensorFlow's dtype of that name, else the next that holds its values: tf.data does not carry float8."""
    tf = load_tensorflow()
    return tf.bfloat16 if dtype == "bfloat16" else tf.as_dtype(widen(dtype, np.empty(0, STORAGE[dtype])).dtype)


# Elements.


def _element(signature: Any, schema: Schema) -> Callable[[Batch], Any]:
    """From a batch to what ``signature`` says, in its structure."""
    fields, names = dict(schema.fields), _names(schema)
    if isinstance(signature, Mapping):
        if not signature:
            raise OptionError(f"output_signature names no field; the dataset has {', '.join(map(repr, names))}")
        if unknown := [name for name in signature if name not in fields]:
            raise OptionError(f"output_signature has {unknown[0]!r}; the dataset has {', '.join(map(repr, names))}")
        return lambda batch: {name: _value(name, batch[name], fields[name], spec) for name, spec in signature.items()}
    specs = signature if isinstance(signature, tuple) else (signature,)
    if len(specs) != len(names):
        raise OptionError(
            f"output_signature has {len(specs)} parts, the dataset {len(names)} fields: {', '.join(map(repr, names))}; "
            "a map of names to specs can choose among them"
        )
    parts = tuple((name, fields[name], spec) for name, spec in zip(names, specs, strict=True))
    if specs is not signature:
        return lambda batch: _value(names[0], batch[names[0]], fields[names[0]], signature)
    return lambda batch: tuple(_value(name, batch[name], field, spec) for name, field, spec in parts)


def _value(name: str, value: Any, field: Field, spec: Any) -> Any:
    """:raises SampleError: it is not what ``spec`` says; names the field."""
    if isinstance(spec, Mapping):
        inner = dict(field.fields)
        return {child: _value(f"{name}.{child}", value[child], inner[child], spec[child]) for child in spec}
    try:
        ragged_rank = getattr(spec, "ragged_rank", 0)
        return _ragged(value, field, spec, ragged_rank) if ragged_rank else _dense(value, field, spec)
    except (TypeError, ValueError, OverflowError) as error:
        raise SampleError(f"field {name!r} does not fit {spec}: {error}") from error


def _ragged(value: Any, field: Field, spec: Any, ragged_rank: int) -> Any:
    tf = load_tensorflow()
    splits = []
    for axis in range(ragged_rank):
        if axis:
            value = list(chain.from_iterable(value))
        splits.append(np.cumsum([0, *map(len, value)], dtype=np.int64))
    # An empty list does not say what shape its items would have.
    parts = [_array(part, field, spec.dtype) for part in value if len(part)]
    inner = tuple(spec.shape)[ragged_rank + 1 :]
    flat = np.concatenate(parts) if parts else _array([], field, spec.dtype).reshape(0, *inner)
    return tf.RaggedTensor.from_nested_row_splits(flat, splits, validate=False)


def _dense(value: Any, field: Field, spec: Any) -> npt.NDArray[Any]:
    array = _array(value, field, spec.dtype)
    if isinstance(value, list) and not value and spec.shape.rank:  # an empty list does not say what its items would be
        array = array.reshape(0, *(size or 0 for size in tuple(spec.shape)[1:]))
    if not spec.shape.is_compatible_with(array.shape):
        raise ValueError(f"its shape is {array.shape}")
    return array


def _array(value: Any, field: Field, dtype: Any) -> npt.NDArray[Any]:
    """``value`` as an array that TensorFlow takes for one of ``dtype``: lists of equal lengths become further dimensions."""
    while field.item is not None:
        field = field.item
    if dtype.name == "string" and not isinstance(value, np.ndarray | np.generic):
        return np.array(_encoded(value), dtype=object)
    if isinstance(value, np.ndarray | np.generic):  # the second is one element of a column
        return _numbers(value, field.dtype, dtype)
    if isinstance(value, list) and any(isinstance(item, np.ndarray) for item in value):
        return np.stack([_array(item, field, dtype) for item in value])
    if value is None or (isinstance(value, list) and None in value):
        raise ValueError("a value is None")
    return np.asarray(value, dtype=dtype.as_numpy_dtype)


def _numbers(value: npt.NDArray[Any] | np.generic, storage: str, dtype: Any) -> npt.NDArray[Any]:
    """:param value: of the storage dtype of ``storage``, a key of ``schema.STORAGE``."""
    array = np.asarray(value)
    if storage == "bfloat16" == dtype.name:
        bits: npt.NDArray[Any] = array.view(dtype.as_numpy_dtype)
        return bits
    if dtype.name == "string":
        raise TypeError(f"its values are {storage}")
    wide = widen(storage, array)
    numbers: npt.NDArray[Any] = wide.astype(dtype.as_numpy_dtype, casting="same_kind", copy=False)
    if numbers.dtype.kind in "iu" and numbers is not wide and not np.array_equal(numbers, wide):
        raise OverflowError(f"{dtype.name} does not hold all of its values")
    return numbers


def _encoded(value: Any) -> Any:
    if isinstance(value, list):
        return [_encoded(item) for item in value]
    if value is None:
        raise ValueError("a value is None")
    return value if isinstance(value, bytes) else str(value).encode()
