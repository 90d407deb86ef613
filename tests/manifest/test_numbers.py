"""Numbers of the dtypes that numpy does not have, against torch, which has them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from torch_ipfs.manifest.numbers import narrow, to_python, widen
from torch_ipfs.manifest.schema import STORAGE

FLOAT8 = [name for name in STORAGE if name.startswith("float8")]


@pytest.mark.parametrize("dtype", [*FLOAT8, "bfloat16"])
def test_every_code_means_what_torch_says(dtype: str) -> None:
    if not hasattr(torch, dtype):
        pytest.skip(f"torch {torch.__version__} has no {dtype}")
    storage = STORAGE[dtype]
    codes = np.arange(2 ** (8 * storage.itemsize)).astype(storage)
    expected = torch.from_numpy(codes.view(f"int{8 * storage.itemsize}")).view(getattr(torch, dtype)).float().numpy()
    assert np.array_equal(widen(dtype, codes), expected, equal_nan=True)
    numbers = ~np.isnan(expected)
    assert np.array_equal(np.signbit(widen(dtype, codes))[numbers], np.signbit(expected)[numbers])


@pytest.mark.parametrize("dtype", [*FLOAT8, "bfloat16", "float16", "float32", "int8", "uint64", "complex64", "bool"])
def test_narrowing_what_was_widened_changes_nothing(dtype: str) -> None:
    storage = STORAGE[dtype]
    rng = np.random.default_rng(0)
    values = rng.integers(0, 2 if dtype == "bool" else 256, 512 * storage.itemsize, np.uint8).view(storage)
    values = values[np.isfinite(widen(dtype, values))]
    assert narrow(dtype, widen(dtype, values)).tobytes() == values.tobytes()


def test_bfloat16_is_rounded_as_torch_rounds() -> None:
    values = np.random.default_rng(0).standard_normal(10_000).astype(np.float32)
    values[:4] = [np.inf, -np.inf, -0.0, 3.4e38]
    expected = torch.from_numpy(values).bfloat16().view(torch.int16).numpy().view(np.uint16)
    assert np.array_equal(narrow("bfloat16", values), expected)
    assert np.isnan(widen("bfloat16", narrow("bfloat16", np.array([np.nan])))).all()


@pytest.mark.parametrize("dtype", FLOAT8)
def test_float8_takes_only_what_it_holds(dtype: str) -> None:
    with pytest.raises(ValueError, match="holds exactly"):
        narrow(dtype, np.array([1.0, 1.0001]))


@pytest.mark.parametrize(("dtype", "value"), [("int8", 128), ("uint8", -1), ("int64", 2**63), ("uint64", -1)])
def test_integers_stay_in_range(dtype: str, value: int) -> None:
    with pytest.raises(ValueError, match="out of the range"):
        narrow(dtype, np.array([0, value]) if value < 2**63 else np.array([value], np.uint64))


def test_complex32_is_a_pair_of_halves() -> None:
    stored = np.array([[1, -2], [0.5, 0]], np.float16)
    assert to_python("complex32", stored) == [1 - 2j, 0.5]
    assert narrow("complex32", np.array([1 - 2j, 0.5])).tolist() == stored.tolist()
