"""What a dataset's samples hold: the names, types and shapes of their fields.

A schema is decided once for a whole dataset. Written datasets carry it in their root, as a list of maps:

    [{"name": "image", "dtype": "uint8", "shape": [3, 32, 32]}, {"name": "caption", "dtype": "text", "nullable": True}]

``shape`` belongs to numeric fields (``[]`` is a scalar, and is left out; ``None`` is a dimension that varies from
sample to sample), ``item`` to lists and ``fields`` to structs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from operator import itemgetter
from typing import Any

import numpy as np

from torch_ipfs.errors import ManifestError, OptionError

STORAGE: dict[str, np.dtype[Any]] = {
    **{name: np.dtype(name) for name in ("bool", "uint8", "uint16", "uint32", "uint64")},
    **{name: np.dtype(name) for name in ("int8", "int16", "int32", "int64")},
    **{name: np.dtype(name) for name in ("float16", "float32", "float64", "complex64", "complex128")},
    "bfloat16": np.dtype("uint16"),
    "complex32": np.dtype(("float16", (2,))),
    "float8_e4m3fn": np.dtype("uint8"),
    "float8_e4m3fnuz": np.dtype("uint8"),
    "float8_e5m2": np.dtype("uint8"),
    "float8_e5m2fnuz": np.dtype("uint8"),
    "float8_e8m0fnu": np.dtype("uint8"),
}
"""Numeric dtype -> the numpy dtype its elements are kept in; what numpy lacks is kept as its bits.

complex32 is a subarray dtype: an array of it has a last dimension of 2 (real, imaginary) in float16.
"""

PLAIN = frozenset({"text", "bytes", "link", "null", "any"})
"""Dtypes without a shape, an item or fields. ``any`` is what foreign samples hold that no other dtype fits."""

MAX_FIELDS = 10_000
"""Fields of all levels of a schema together."""
MAX_DEPTH = 32
"""Levels of lists and structs in each other."""
MAX_RANK = 32
MAX_NAME_BYTES = 1024
MAX_ROW_BYTES = 2**31 - 1
"""Bytes of one sample's tensor: the list size of Arrow's fixed size lists is an int32."""

_NAMES_TOLD = 50
"""Of a schema's names, in errors."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a sample.

    :param dtype: a key of :data:`STORAGE`, a name in :data:`PLAIN`, ``list`` or ``struct``.
    :param shape: of a numeric field; ``None`` marks a dimension that varies (a ragged tensor).
    :param nullable: whether samples may lack it, or hold ``None``.
    :param item: what a ``list`` holds.
    :param fields: what a ``struct`` holds, by name.
    :raises OptionError: where these do not go together, or are over this module's bounds.
    """

    dtype: str
    shape: tuple[int | None, ...] = ()
    nullable: bool = False
    item: Field | None = None
    fields: tuple[tuple[str, Field], ...] = ()

    def __post_init__(self) -> None:
        if self.dtype not in STORAGE and self.dtype not in PLAIN and self.dtype not in ("list", "struct"):
            raise OptionError(f"no dtype {self.dtype!r}: expected one of {', '.join(sorted(STORAGE))}, {_OTHERS}")
        if (self.item is not None) != (self.dtype == "list"):
            raise OptionError(f"a field of dtype list needs an item, and no other has one; this one is {self.dtype}")
        if self.dtype == "null":
            # Nullable or not makes no difference; one way to say it keeps schemas comparable.
            object.__setattr__(self, "nullable", False)
        if self.fields:
            if self.dtype != "struct":
                raise OptionError(f"only a field of dtype struct has fields; this one is {self.dtype}")
            _check_names(self.fields)
        if self.shape:
            self._check_shape()

    def _check_shape(self) -> None:
        if not self.numeric:
            raise OptionError(f"only numeric fields have a shape; this one is {self.dtype}")
        if len(self.shape) > MAX_RANK:
            raise OptionError(f"a shape has at most {MAX_RANK} dimensions, this one {len(self.shape)}")
        if not all(size is None or (type(size) is int and size >= 0) for size in self.shape):
            raise OptionError(f"a shape's dimensions are whole numbers of at least 0, or None: {self.shape!r}")
        if prod(size or 1 for size in self.shape) * STORAGE[self.dtype].itemsize > MAX_ROW_BYTES:
            raise OptionError(f"a sample of shape {self.shape} is over {MAX_ROW_BYTES} bytes")

    @property
    def numeric(self) -> bool:
        """Whether its values are numbers or tensors."""
        return self.dtype in STORAGE

    @property
    def fixed(self) -> bool:
        """Whether each sample takes the same number of bytes, so that a column of it is one array."""
        return self.numeric and not self.nullable and None not in self.shape

    @property
    def row_bytes(self) -> int:
        """Bytes that one sample's value takes in a :attr:`fixed` field."""
        return prod(size or 0 for size in self.shape) * STORAGE[self.dtype].itemsize

    def __str__(self) -> str:
        parts = self.dtype
        if self.shape:
            parts += "[" + ", ".join("?" if size is None else str(size) for size in self.shape) + "]"
        if self.item is not None:
            parts += f" of {self.item}"
        if self.dtype == "struct":
            parts += "{" + ", ".join(f"{name}: {field}" for name, field in self.fields) + "}"
        return f"nullable {parts}" if self.nullable else parts


@dataclass(frozen=True, slots=True)
class Schema:
    """The fields of a dataset's samples, by name, in order.

    :raises OptionError: for a name used twice, and over this module's bounds.
    """

    fields: tuple[tuple[str, Field], ...]

    def __post_init__(self) -> None:
        _check_names(self.fields)
        for count, depth in enumerate(_depths(self.fields), start=1):
            if depth > MAX_DEPTH:
                raise OptionError(f"lists and structs lie in each other more than {MAX_DEPTH} deep")
            if count > MAX_FIELDS:
                raise OptionError(f"a schema has at most {MAX_FIELDS} fields, counted over all levels")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.fields)

    def get(self, name: str) -> Field | None:
        """The field of that name, if there is one."""
        return next((field for key, field in self.fields if key == name), None)

    def select(self, columns: tuple[str, ...] | list[str] | None) -> Schema:
        """The schema of ``columns`` alone, in this schema's order; of all where ``columns`` is ``None``.

        :raises OptionError: for a name that is not here.
        """
        if columns is None:
            return self
        names, wanted = frozenset(self.names), frozenset(columns)
        if unknown := [name for name in columns if name not in names]:
            has = ", ".join(map(repr, self.names[:_NAMES_TOLD])) or "none"
            more = f" and {len(names) - _NAMES_TOLD} more" if len(names) > _NAMES_TOLD else ""
            raise OptionError(f"no column {unknown[0]!r}: the dataset has {has}{more}")
        return self if wanted == names else Schema(tuple(pair for pair in self.fields if pair[0] in wanted))

    def agrees_with(self, other: Schema) -> bool:
        """Whether both have the same fields, in whatever order: formats that sort their keys give another one."""
        return self == other or _sorted(self.fields) == _sorted(other.fields)

    def to_ipld(self) -> list[dict[str, Any]]:
        """The form that a dataset root carries under ``schema``."""
        return [{"name": name, **_field_to_ipld(field)} for name, field in self.fields]

    @staticmethod
    def from_ipld(value: Any) -> Schema:
        """The schema that a root carries. What it holds is not trusted.

        :raises ManifestError: when it is not a schema, or over this module's bounds.
        """
        try:
            return Schema(_fields_from_ipld(value, MAX_DEPTH, [MAX_FIELDS]))
        except OptionError as error:
            raise ManifestError(f"the schema cannot be: {error}") from None

    def __str__(self) -> str:
        return ", ".join(f"{name}: {field}" for name, field in self.fields)


_OTHERS = "text, bytes, link, list, struct, null, any"
_KEYS = frozenset({"name", "dtype", "shape", "nullable", "item", "fields"})


def as_nullable(field: Field) -> Field:
    """``field``, but allowing ``None``."""
    return field if field.nullable else replace(field, nullable=True)


def _sorted(fields: tuple[tuple[str, Field], ...]) -> tuple[tuple[str, Field], ...]:
    return tuple(sorted(((name, _with_sorted(field)) for name, field in fields), key=itemgetter(0)))


def _with_sorted(field: Field) -> Field:
    """``field`` with the fields of all structs in it in the order of their names."""
    item = None if field.item is None else _with_sorted(field.item)
    return replace(field, item=item, fields=_sorted(field.fields))


def _check_names(fields: tuple[tuple[str, Field], ...]) -> None:
    seen = set()
    for name, _ in fields:
        if not isinstance(name, str):
            raise OptionError(f"a field's name is a string, not {type(name).__name__}")
        # Four bytes at most a character; only a name that may be over the bound is encoded to see.
        if not name.isascii() and any("\ud800" <= letter <= "\udfff" for letter in name[:MAX_NAME_BYTES]):
            raise OptionError(f"field name {name[:40]!r} holds half a surrogate pair, which is no text")
        if len(name) > MAX_NAME_BYTES or (4 * len(name) > MAX_NAME_BYTES and len(name.encode()) > MAX_NAME_BYTES):
            raise OptionError(f"field name {name[:40]!r}... is over {MAX_NAME_BYTES} bytes")
        if name in seen:
            raise OptionError(f"field {name[:40]!r} is named twice")
        seen.add(name)


def _depths(fields: tuple[tuple[str, Field], ...]) -> Iterator[int]:
    """The depth of each field of all levels, the outermost at 1; without recursion, which nothing bounds yet."""
    pending = [(1, field) for _, field in fields]
    while pending:
        depth, field = pending.pop()
        yield depth
        pending += [(depth + 1, child) for _, child in field.fields]
        if field.item is not None:
            pending.append((depth + 1, field.item))


def _field_to_ipld(field: Field) -> dict[str, Any]:
    value: dict[str, Any] = {"dtype": field.dtype}
    if field.shape:
        value["shape"] = list(field.shape)
    if field.nullable:
        value["nullable"] = True
    if field.item is not None:
        value["item"] = _field_to_ipld(field.item)
    if field.dtype == "struct":
        value["fields"] = [{"name": name, **_field_to_ipld(child)} for name, child in field.fields]
    return value


def _fields_from_ipld(value: Any, depth: int, budget: list[int]) -> tuple[tuple[str, Field], ...]:
    """``budget`` holds how many more fields may come: a list of one, counted down by every level."""
    if not isinstance(value, list):
        raise OptionError(f"expected a list of fields, found {type(value).__name__}")
    return tuple((_name(entry), _field_from_ipld(entry, depth, budget)) for entry in value)


def _name(entry: Any) -> str:
    name = entry.get("name") if isinstance(entry, dict) else None
    if not isinstance(name, str):
        raise OptionError("expected a field as a map with a name")
    return name


def _field_from_ipld(entry: Any, depth: int, budget: list[int]) -> Field:
    budget[0] -= 1
    if depth <= 0 or budget[0] < 0:
        raise OptionError(f"over {MAX_DEPTH} levels or {MAX_FIELDS} fields")
    if not isinstance(entry, dict) or not entry.keys() <= _KEYS or not isinstance(entry.get("dtype"), str):
        raise OptionError("expected a field as a map of dtype and, where it has them, shape, nullable, item, fields")
    shape, nullable = entry.get("shape", []), entry.get("nullable", False)
    if not isinstance(shape, list) or not isinstance(nullable, bool):
        raise OptionError("expected shape as a list and nullable as a boolean")
    item = entry.get("item")
    return Field(
        entry["dtype"],
        tuple(shape),
        nullable,
        None if item is None else _field_from_ipld(item, depth - 1, budget),
        _fields_from_ipld(entry["fields"], depth - 1, budget) if "fields" in entry else (),
    )
