"""What users have in their samples -> the plain values that ``manifest.rows`` lays out.

Tensors become arrays (or :class:`Typed`, for dtypes that numpy does not have), images their pixels, object and text arrays
lists, tuples lists or, where their items differ in kind or are tensors, maps of ``"0"``, ``"1"`` and so on.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import PurePath
from typing import Any

import numpy as np
import torch

from torch_ipfs.codec.cid import CID
from torch_ipfs.dataset.dtypes import BITS, NATIVE
from torch_ipfs.manifest.arrays import NumberArray
from torch_ipfs.manifest.rows import Values
from torch_ipfs.manifest.schema import STORAGE
from torch_ipfs.manifest.values import Misfit, Typed, dtype_of, kind_of, numpy_dtype_name

_IMAGE_MODES = {"L": "uint8", "RGB": "uint8", "RGBA": "uint8", "I;16": "uint16", "I": "int32", "F": "float32"}
_ATOMS = frozenset({type(None), bool, int, float, complex, str, bytes, CID, Typed})


def plain_values(values: Sequence[Any]) -> Values:
    """The plain values of one field of many samples: ``values`` itself where they are plain already, and tensors or arrays
    of one dtype and shape as one.

    :raises Misfit: for what no dataset can hold, with what to do.
    """
    types = set(map(type, values))
    if types <= _ATOMS or (types == {list} and set(map(type, chain.from_iterable(values))) <= _ATOMS):
        return values
    if types in ({torch.Tensor}, {np.ndarray}):
        stacked = _stacked_tensors(values) if types == {torch.Tensor} else _stacked_arrays(values)
        if stacked is not None:
            return stacked
    plain = []
    for row, value in enumerate(values):
        try:
            plain.append(plain_value(value))
        except Misfit as misfit:
            raise Misfit(row, misfit.reason, misfit.path) from None
    return plain


def _stacked_arrays(arrays: Sequence[np.ndarray[Any, Any]]) -> NumberArray | None:
    """Arrays as one, where all are of the same dtype, which a dataset has, and shape."""
    dtype, shape = arrays[0].dtype, arrays[0].shape
    name = numpy_dtype_name(dtype)
    if not name or any(array.dtype != dtype or array.shape != shape for array in arrays):
        return None
    # np.stack takes twice as long for small arrays.
    joined = np.concatenate(arrays) if shape and shape[0] else np.array(arrays)
    return NumberArray(name, joined.reshape(len(arrays), *shape).astype(STORAGE[name], copy=False))


def _stacked_tensors(tensors: Sequence[torch.Tensor]) -> NumberArray | None:
    dtype = tensors[0].dtype
    if any(tensor.dtype != dtype for tensor in tensors):
        return None
    try:
        with torch.no_grad():
            value = tensor_value(torch.stack(tuple(tensors)))
    except (RuntimeError, Misfit):  # of different shapes, devices or layouts: looked at one by one
        return None
    return NumberArray(value.dtype, value.array) if isinstance(value, Typed) else NumberArray(dtype_of(value), value)


def plain_value(value: Any) -> Any:
    """The plain value of one.

    :raises Misfit: as :func:`plain_values`.
    """
    kind = type(value)
    if kind in _ATOMS:
        return value
    if isinstance(value, torch.Tensor):
        return tensor_value(value)
    if isinstance(value, np.ndarray):
        return array_value(value)
    if isinstance(value, np.generic):
        return value if dtype_of(value) else typed_bits(value) or _unnumbered(value)
    if isinstance(value, Mapping):
        return {key: _below(str(key), item) for key, item in value.items()}
    if isinstance(value, list):
        return [_below(str(i), item) for i, item in enumerate(value)]
    if isinstance(value, tuple):
        return _tuple_value(value)
    if is_image(value):
        return pixels(value)
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    if kind_of(kind):
        return value
    raise Misfit(0, f"a value of type {_name(kind)} cannot be part of a dataset; {_advice(kind)}")


_ANY_ADVICE = "make it numbers, arrays, tensors, text, bytes, CIDs, or lists and maps of them"
_TIME_ADVICE = "make it a number, such as value.timestamp(), or text, such as value.isoformat()"
_ADVICE = {
    "datetime.datetime": _TIME_ADVICE,
    "datetime.date": "make it text, such as value.isoformat()",
    "datetime.timedelta": "make it a number, such as value.total_seconds()",
    "decimal.Decimal": "make it a float or text",
    "fractions.Fraction": "make it a float or text",
    "builtins.set": "make it a sorted list",
    "builtins.frozenset": "make it a sorted list",
    "builtins.range": "make it a list",
    "pandas.api.typing.NAType": "make it None",
    "pandas.api.typing.NaTType": "make it None",
}


def _advice(kind: type) -> str:
    if issubclass(kind, PurePath):  # whose module has another name in each version of Python
        return "make it text, or read the file"
    return next((_ADVICE[name] for name in map(_name, kind.__mro__) if name in _ADVICE), _ANY_ADVICE)


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _below(name: str, value: Any) -> Any:
    try:
        return plain_value(value)
    except Misfit as misfit:
        raise misfit.under(name) from None


def _tuple_value(value: tuple[Any, ...]) -> Any:
    names = getattr(value, "_fields", None)
    if names is None:
        items = [_below(str(i), item) for i, item in enumerate(value)]
        kinds = {kind_of(type(item)) for item in items} - {"null"}  # which may be of any kind in other samples
        if kinds <= {"int", "float"} or (len(kinds) == 1 and not kinds & {"array", "struct", "list"}):
            return items
        names = map(str, range(len(items)))
        return dict(zip(names, items, strict=True))
    return {name: _below(name, item) for name, item in zip(names, value, strict=True)}


def tensor_value(tensor: torch.Tensor) -> Any:
    """A tensor as an array of its dtype, wherever it is. It may share the tensor's memory.

    :raises Misfit: for a layout or dtype that a dataset does not have.
    """
    check_dense(tensor)
    if tensor.dtype in NATIVE:
        return tensor.numpy(force=True)
    tensor = tensor.detach().cpu().resolve_conj().resolve_neg()
    if tensor.dtype is torch.complex32:
        return Typed("complex32", torch.view_as_real(tensor).contiguous().numpy())
    if tensor.dtype not in BITS:
        raise Misfit(0, f"a tensor of {tensor.dtype} cannot be part of a dataset; convert it with tensor.to(...)")
    return Typed(str(tensor.dtype).removeprefix("torch."), tensor.contiguous().view(BITS[tensor.dtype]).numpy())


def check_dense(tensor: torch.Tensor) -> None:
    """:raises Misfit: a tensor does not have its values one after the other in memory."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested or tensor.is_meta:
        state = "nested" if tensor.is_nested else "quantized" if tensor.is_quantized else str(tensor.layout)
        state = "meta" if tensor.is_meta else state
        raise Misfit(
            0, f"a {state} tensor cannot be part of a dataset; make it dense: tensor.to_dense(), .dequantize()"
        )


def array_value(array: np.ndarray[Any, Any]) -> Any:
    """An array as it is; one of objects or text as lists.

    :raises Misfit: for a dtype that a dataset does not have.
    """
    if isinstance(array, np.ma.MaskedArray):
        raise Misfit(0, "a masked array cannot be part of a dataset; fill it with .filled(), or put None in a list")
    if dtype_of(array):
        return array
    if (typed := typed_bits(array)) is not None:
        return typed
    if array.dtype.kind == "O":
        return plain_value(array.tolist())
    if array.dtype.kind in "UTS":
        return array.tolist()
    if array.dtype.names is not None and array.ndim == 0:
        return {name: _below(name, array[name]) for name in array.dtype.names}
    return _unnumbered(array)


def typed_bits(array: np.ndarray[Any, Any] | np.generic) -> Typed | None:
    """An array of a dtype that numpy lacks and a dataset has, as its bits: ml_dtypes adds bfloat16 and float8 to numpy, for
    JAX and TensorFlow among others. ``None`` for any other.
    """
    name = array.dtype.name
    if name not in STORAGE or numpy_dtype_name(array.dtype) or array.dtype.itemsize != STORAGE[name].itemsize:
        return None
    bits = np.asarray(array).view(f"u{array.dtype.itemsize}")
    return Typed(name, bits if name != "complex32" else bits.copy()[..., None].view(np.float16))


def _unnumbered(value: Any) -> Any:
    """A numpy value whose dtype is not that of a number."""
    if isinstance(value, np.void) and value.dtype.names is not None:
        return {name: _below(name, value[name]) for name in value.dtype.names}
    if isinstance(value, np.str_ | np.bytes_):
        return value.item()
    advice = {
        "M": "make it numbers with .astype('int64'), or text with .astype(str)",
        "m": "make it numbers with .astype('int64')",
    }.get(value.dtype.kind, "convert it with .astype(...)")
    raise Misfit(0, f"an array of {value.dtype} cannot be part of a dataset; {advice}")


def is_image(value: Any) -> bool:
    """Whether it is a PIL image; where PIL was never imported there are none."""
    module = sys.modules.get("PIL.Image")
    return module is not None and isinstance(value, module.Image)


def pixels(image: Any) -> np.ndarray[Any, Any]:
    """The pixels of an image.

    :raises Misfit: its mode has no plain ones, or its file is broken.
    """
    if image.mode not in _IMAGE_MODES:
        raise Misfit(
            0,
            f"an image of mode {image.mode} has no plain pixels; convert it, with image.convert('RGB') for instance, or "
            "write the bytes of its file",
        )
    try:
        return np.array(image, dtype=_IMAGE_MODES[image.mode])
    except (OSError, SyntaxError, ValueError) as error:  # of a broken file, of a broken PNG, of a closed file
        raise Misfit(0, f"an image cannot be read: {error}") from None
