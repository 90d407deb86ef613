"""What a sample may hold, as plain values: the kinds of them, and the error of one that does not fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import SampleError
from torch_ipfs.manifest.schema import STORAGE


@dataclass(frozen=True, slots=True)
class Typed:
    """A tensor of a dtype that numpy does not have.

    :param dtype: a key of ``schema.STORAGE``.
    :param array: ``shape`` of the storage dtype; complex32 has a last dimension of 2 more.
    """

    dtype: str
    array: npt.NDArray[Any]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape[:-1] if self.dtype == "complex32" else self.array.shape

    @property
    def nbytes(self) -> int:
        return self.array.nbytes


class Misfit(Exception):
    """One value does not fit. Where it is gets known on the way out; it leaves the package as a SampleError.

    :param row: index in the list of values at hand.
    :param path: names of fields from there down.
    """

    def __init__(self, row: int, reason: str, path: tuple[str, ...] = ()) -> None:
        super().__init__(reason)
        self.row, self.reason, self.path = row, reason, path

    def under(self, name: str, row: int | None = None) -> Misfit:
        """The same, seen from the parent: the value lies in its field ``name``, in the parent's ``row``."""
        return Misfit(self.row if row is None else row, self.reason, (name, *self.path))

    def error(self, first_position: int, cid: CID | None = None, advice: str = "") -> SampleError:
        field = f", field {'.'.join(self.path)[:200]!r}" if self.path else ""
        return SampleError(f"sample {first_position + self.row}{field}: {self.reason}{advice}", cid=cid)


_KINDS: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (type(None), "null"),
    ((bool,), "bool"),
    # Before numpy's scalars: some of those are text and bytes. After them: others are floats.
    (str, "text"),
    ((bytes, bytearray, memoryview), "bytes"),
    ((np.generic, np.ndarray, Typed), "array"),
    (int, "int"),
    (float, "float"),
    (complex, "complex"),
    (CID, "link"),
    (Mapping, "struct"),
    ((list, tuple), "list"),
)


_KNOWN: dict[type, str] = {type(None): "null", bool: "bool", int: "int", float: "float", str: "text"}
_MAX_KNOWN = 1024


def kind_of(value_type: type) -> str:
    """The kind of a type's values; ``""`` for a type that no sample may hold."""
    kind = _KNOWN.get(value_type)
    if kind is None:
        kind = next((kind for types, kind in _KINDS if issubclass(value_type, types)), "")
        if len(_KNOWN) < _MAX_KNOWN:
            _KNOWN[value_type] = kind
    return kind


def kinds_of(values: Iterable[Any]) -> set[str]:
    """The kinds that are among ``values``."""
    return set(map(kind_of, set(map(type, values))))


def describe(value: Any) -> str:
    """What an error says that a value is."""
    if isinstance(value, np.ndarray | np.generic):
        return f"an array of {value.dtype.name} of shape {value.shape}" if value.shape else f"a {value.dtype.name}"
    if isinstance(value, Typed):
        return f"a tensor of {value.dtype} of shape {value.shape}"
    names = {"null": "None", "text": "text", "struct": "a map", "link": "a CID"}
    kind = kind_of(type(value))
    return names.get(kind) or f"{'an' if kind == 'int' else 'a'} {type(value).__name__}"


@lru_cache(maxsize=256)
def numpy_dtype_name(dtype: np.dtype[Any]) -> str:
    """The dataset's name for a dtype of numpy's own, of either byte order; ``""`` where it has none.

    What others add to numpy, such as ml_dtypes its bfloat16, is no such dtype: a dataset keeps it as its bits.
    """
    try:
        native = dtype.newbyteorder("=")
    except TypeError:  # text of numpy 2, which has no order of bytes
        return ""
    return native.name if native.name in STORAGE and STORAGE[native.name] == native else ""


def dtype_of(value: Any) -> str:
    """The dtype of an array value; ``""`` where a dataset cannot hold it."""
    return value.dtype if isinstance(value, Typed) else numpy_dtype_name(value.dtype)
