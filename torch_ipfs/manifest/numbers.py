"""Numbers between the storage dtypes of a dataset and those that Python and numpy can count with.

numpy has no bfloat16, float8 or complex32; a dataset keeps them as their bits (``schema.STORAGE``). Here those bits are
given a meaning, for samples that hold them as plain numbers.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from torch_ipfs.manifest.schema import STORAGE

_FLOAT8 = {
    # name: (exponent bits, mantissa bits, exponent bias, codes of infinity, codes of NaN)
    "float8_e4m3fn": (4, 3, 7, (), (0x7F, 0xFF)),
    "float8_e4m3fnuz": (4, 3, 8, (), (0x80,)),
    "float8_e5m2": (5, 2, 15, (0x7C, 0xFC), (0x7D, 0x7E, 0x7F, 0xFD, 0xFE, 0xFF)),
    "float8_e5m2fnuz": (5, 2, 16, (), (0x80,)),
}


def element_storage(dtype: str) -> np.dtype[Any]:
    """The numpy dtype of what Arrow sees of a numeric dtype: complex numbers are pairs of floats, bools are bytes."""
    storage = STORAGE[dtype].base
    if storage.kind == "c":
        return np.dtype(f"float{4 * storage.itemsize}")
    return np.dtype("uint8") if storage.kind == "b" else storage


def is_complex(dtype: str) -> bool:
    """Whether an element is a pair of floats."""
    return dtype.startswith("complex")


def number_kind(dtype: str) -> str:
    """The letter that numpy has for what a dtype's values are, also of the dtypes that numpy does not have."""
    if dtype == "bfloat16" or dtype.startswith("float8"):
        return "f"
    return "c" if is_complex(dtype) else STORAGE[dtype].kind


def python_kinds(dtype: str) -> frozenset[str]:
    """Which of Python's numbers a dtype takes, as :func:`torch_ipfs.manifest.values.kind_of` names them."""
    return _PYTHON_KINDS[number_kind(dtype)]


_PYTHON_KINDS = {
    "b": frozenset({"bool"}),
    "i": frozenset({"int"}),
    "u": frozenset({"int"}),
    "f": frozenset({"int", "float"}),
    "c": frozenset({"int", "float", "complex"}),
}


def widen(dtype: str, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """``values`` of a storage dtype as numbers that numpy knows, exactly: bfloat16 as float32, complex32 as complex64,
    float8 as float32.
    """
    if dtype == "bfloat16":
        bits: npt.NDArray[np.uint32] = values.astype(np.uint32) << np.uint32(16)
        return bits.view(np.float32)
    if dtype == "complex32":
        pairs: npt.NDArray[np.complex64] = np.ascontiguousarray(values.astype(np.float32)).view(np.complex64)
        widened: npt.NDArray[np.complex64] = pairs[..., 0]
        return widened
    if dtype.startswith("float8"):
        floats: npt.NDArray[np.float32] = _float8_values(dtype)[values]
        return floats
    return values


def to_python(dtype: str, values: npt.NDArray[Any]) -> list[Any]:
    """``values`` of a storage dtype as Python's numbers, in lists nested as deep as there are dimensions."""
    numbers: list[Any] = widen(dtype, values).tolist()
    return numbers


def narrow(dtype: str, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """``values``, numbers that numpy knows, in the storage dtype of ``dtype``; floats are rounded to the nearest.

    :raises ValueError: for an integer out of range, and for what a float8 does not hold exactly.
    """
    storage = STORAGE[dtype]
    if storage.kind in "iu" and dtype == storage.name:
        return _narrow_integers(storage, values)
    with np.errstate(over="ignore", invalid="ignore"):
        if dtype == "bfloat16":
            return _bfloat16_bits(values.astype(np.float32))
        if dtype == "complex32":
            return np.ascontiguousarray(values.astype(np.complex64))[..., None].view(np.float32).astype(np.float16)
        if dtype.startswith("float8"):
            return _float8_codes(dtype, values.astype(np.float64))
        return values.astype(storage)


def _narrow_integers(storage: np.dtype[Any], values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if values.size and values.dtype != storage:
        bounds = np.iinfo(storage)
        # Compared as Python's integers: numpy would compare uint64 with int64 as floats.
        low, high = int(values.min()), int(values.max())
        if low < bounds.min or high > bounds.max:
            raise ValueError(f"{low if low < bounds.min else high} is out of the range of {storage.name}")
    return values.astype(storage)


def _bfloat16_bits(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Round to nearest, ties to even; NaN becomes the quiet NaN of its sign."""
    bits = values.view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    quiet_nan = (bits >> np.uint32(16)) | np.uint32(0x40)
    return np.where(np.isnan(values), quiet_nan, rounded).astype(np.uint16)


@cache
def _float8_values(dtype: str) -> npt.NDArray[np.float32]:
    """The value of each of the 256 codes."""
    codes = np.arange(256)
    if dtype == "float8_e8m0fnu":
        return np.where(codes == 255, np.nan, np.ldexp(1.0, codes - 127)).astype(np.float32)
    exponent_bits, mantissa_bits, bias, infinities, nans = _FLOAT8[dtype]
    exponent = (codes >> mantissa_bits) & ((1 << exponent_bits) - 1)
    mantissa = codes & ((1 << mantissa_bits) - 1)
    normal = exponent > 0
    significand = mantissa + np.where(normal, 1 << mantissa_bits, 0)
    values = np.ldexp(significand.astype(np.float64), np.maximum(exponent, 1) - bias - mantissa_bits)
    values[list(infinities)] = np.inf
    values[list(nans)] = np.nan
    signed: npt.NDArray[np.float32] = np.where(codes < 128, values, -values).astype(np.float32)
    return signed


def _float8_codes(dtype: str, values: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    table = _float8_values(dtype).astype(np.float64)
    order = np.lexsort(
        (~np.signbit(table), table)
    )  # NaN last; -0.0 before 0.0, so that searching from the right finds 0.0
    place = np.searchsorted(table[order], values, side="right") - 1
    codes = order[np.clip(place, 0, 255)]
    codes = np.where(np.isnan(values), order[255], codes)
    codes = np.where((values == 0) & np.signbit(values) & (table[128] == 0), 128, codes)
    held = (table[codes] == values) | (np.isnan(table[codes]) & np.isnan(values))
    if not held.all():
        raise ValueError(f"{values[~held].flat[0]!r} is not a value that {dtype} holds exactly")
    return codes.astype(np.uint8)
