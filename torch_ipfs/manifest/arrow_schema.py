"""A shard's schema as Arrow writes it: https://arrow.apache.org/docs/format/Columnar.html, Schema.fbs.

Numbers are primitive arrays, and tensors the canonical extension types ``arrow.fixed_shape_tensor`` and
``arrow.variable_shape_tensor`` over lists. What Arrow or those types cannot hold is stored as what they can, and named
in the metadata of the field, ``torch_ipfs.dtype``: bool as uint8, bfloat16 as uint16, float8 as uint8, complex of shape
``s`` as floats of shape ``(*s, 2)``, links as binary.

Reading allows those types and the plain ones that others write them in (``large_utf8``, ``bool``, bare fixed size
lists of numbers ...). Dictionaries, views, unions, decimals, times and foreign extension types are refused.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from torch_ipfs.errors import ManifestError, OptionError
from torch_ipfs.manifest.flatbuffer import New, Scalar, Structs, Table, build
from torch_ipfs.manifest.numbers import element_storage, is_complex
from torch_ipfs.manifest.schema import MAX_DEPTH, MAX_FIELDS, MAX_NAME_BYTES, STORAGE, Field, Schema

VERSION_4, VERSION_5 = 3, 4
SCHEMA_MESSAGE, RECORD_BATCH_MESSAGE = 1, 3

_NULL, _INT, _FLOAT, _BINARY, _UTF8, _BOOL, _LIST, _STRUCT = 1, 2, 3, 4, 5, 6, 12, 13
_FIXED_SIZE_LIST, _LARGE_BINARY, _LARGE_UTF8, _LARGE_LIST = 16, 19, 20, 21
_REFUSED = {
    7: "decimals", 8: "dates", 9: "times", 10: "timestamps", 11: "intervals", 14: "unions", 15: "fixed size binary",
    17: "maps", 18: "durations", 22: "run-end encoding", 23: "binary views", 24: "text views", 25: "list views",
    26: "list views",
}  # fmt: skip

_FIXED_TENSOR, _VARIABLE_TENSOR = "arrow.fixed_shape_tensor", "arrow.variable_shape_tensor"
_NAME_KEY, _METADATA_KEY, _DTYPE_KEY = "ARROW:extension:name", "ARROW:extension:metadata", "torch_ipfs.dtype"
_MAX_METADATA_ENTRIES = 64
_MAX_METADATA_BYTES = 4096
_TENSOR_LEVELS = 2
"""Levels of Arrow's fields below a tensor of varying shape, which is one field of a schema: a struct of lists."""
_MAX_TABLES = 8 * MAX_FIELDS
"""Such a tensor takes five fields and three entries of metadata. :class:`Schema` has the bound on what these make."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How one field lies in a record batch.

    :param kind: ``number``, ``bit`` (Arrow's own booleans), ``tensor``, ``binary``, ``list``, ``struct``, ``ragged``
        or ``null``.
    :param storage: numpy dtype of the elements (``number``, ``tensor``, ``ragged``), or of the offsets (others).
    :param levels: fixed size lists in each other, outermost first: their sizes (``tensor``).
    :param nodes: how many field nodes of the batch it takes, children included; ``buffers`` likewise.
    """

    kind: str
    field: Field
    storage: np.dtype[Any] | None = None
    levels: tuple[int, ...] = ()
    children: tuple[tuple[str, Layout], ...] = ()
    nodes: int = 1
    buffers: int = 2


def schema_message(schema: Schema) -> bytes:
    """The flatbuffer of the Schema message that starts a shard of ``schema``.

    :raises OptionError: for a field of dtype ``any``, which Arrow has no type for.
    """
    body = New({0: Scalar("h", 0), 1: [_field(name, field) for name, field in schema.fields]})
    return _message(SCHEMA_MESSAGE, body, 0)


def record_batch_message(num_rows: int, nodes: bytes, buffers: bytes, body_bytes: int) -> bytes:
    """The flatbuffer of the RecordBatch message; ``nodes`` and ``buffers`` are int64 pairs as they lie in it."""
    structs = {1: Structs(len(nodes) // 16, nodes), 2: Structs(len(buffers) // 16, buffers)}
    return _message(RECORD_BATCH_MESSAGE, New({0: Scalar("q", num_rows), **structs}), body_bytes)


def read_schema(message: Table) -> tuple[tuple[str, Layout], ...]:
    """The fields of a Schema message that a stranger may have made.

    :raises ManifestError: for what is malformed, not allowed, or over the bounds of ``schema``.
    """
    body = message.table(2)
    if message.scalar(1, "B") != SCHEMA_MESSAGE or body is None:
        raise ManifestError("it does not begin with a schema")
    if message.scalar(0, "h") not in (VERSION_4, VERSION_5) or body.scalar(0, "h") != 0:
        raise ManifestError("its format is not little-endian Arrow 1.0 or later")
    budget = [_MAX_TABLES]
    try:
        return tuple(_read_field(table, MAX_DEPTH + _TENSOR_LEVELS, budget) for table in body.tables(1, MAX_FIELDS))
    except OptionError as error:
        raise ManifestError(str(error)) from None


def _message(kind: int, body: New, body_bytes: int) -> bytes:
    return build(New({0: Scalar("h", VERSION_5), 1: Scalar("B", kind), 2: body, 3: Scalar("q", body_bytes)}))


# Writing


def _field(name: str, field: Field) -> New:
    if field.numeric and None in field.shape:
        return _variable_tensor(name, field)
    if field.numeric and (field.shape or is_complex(field.dtype)):
        return _fixed_tensor(name, field)
    children: list[New] = []
    metadata: dict[str, str] = {}
    if field.numeric:
        kind, details = _primitive(STORAGE[field.dtype])
        metadata = _dtype_metadata(field.dtype)
    elif field.item is not None:
        kind, details, children = _LIST, New(), [_field("item", field.item)]
    elif field.dtype == "struct":
        kind, details, children = _STRUCT, New(), [_field(*pair) for pair in field.fields]
    elif field.dtype == "any":
        raise OptionError(f"field {name!r} has values of several types, which a packed dataset cannot hold")
    else:
        kind, details = {"text": _UTF8, "bytes": _BINARY, "link": _BINARY, "null": _NULL}[field.dtype], New()
        metadata = {_DTYPE_KEY: "link"} if field.dtype == "link" else {}
    return _arrow_field(name, kind, details, children, nullable=field.nullable or kind == _NULL, metadata=metadata)


def _arrow_field(
    name: str, kind: int, details: New, children: list[New], *, nullable: bool, metadata: dict[str, str] | None = None
) -> New:
    slots: dict[int, Scalar | New | str | list[New] | Structs] = {
        0: name, 1: Scalar("?", nullable), 2: Scalar("B", kind), 3: details, 5: children
    }  # fmt: skip
    if metadata:
        slots[6] = [New({0: key, 1: value}) for key, value in metadata.items()]
    return New(slots)


def _primitive(storage: np.dtype[Any]) -> tuple[int, New]:
    base = storage.base
    if base.kind == "f":
        return _FLOAT, New({0: Scalar("h", {2: 0, 4: 1, 8: 2}[base.itemsize])})
    return _INT, New({0: Scalar("i", 8 * base.itemsize), 1: Scalar("?", base.kind == "i")})


def _dtype_metadata(dtype: str) -> dict[str, str]:
    """Nothing for the dtypes whose name is that of their Arrow type."""
    return {} if element_storage(dtype).name == dtype else {_DTYPE_KEY: dtype}


def _fixed_tensor(name: str, field: Field) -> New:
    shape = [*field.shape, 2] if is_complex(field.dtype) else [*field.shape]
    metadata = {_NAME_KEY: _FIXED_TENSOR, _METADATA_KEY: _json({"shape": shape}), **_dtype_metadata(field.dtype)}
    size = New({0: Scalar("i", prod(size or 0 for size in shape))})
    item = _arrow_field("item", *_primitive(element_storage(field.dtype)), [], nullable=True)
    return _arrow_field(name, _FIXED_SIZE_LIST, size, [item], nullable=field.nullable, metadata=metadata)


def _variable_tensor(name: str, field: Field) -> New:
    shape = [*field.shape, 2] if is_complex(field.dtype) else [*field.shape]
    metadata = {_NAME_KEY: _VARIABLE_TENSOR, _METADATA_KEY: _json({"uniform_shape": shape})}
    item = _arrow_field("item", *_primitive(element_storage(field.dtype)), [], nullable=True)
    data = _arrow_field("data", _LIST, New(), [item], nullable=False)
    size = _arrow_field("item", *_primitive(np.dtype("int32")), [], nullable=True)
    sizes = _arrow_field("shape", _FIXED_SIZE_LIST, New({0: Scalar("i", len(shape))}), [size], nullable=False)
    metadata |= _dtype_metadata(field.dtype)
    return _arrow_field(name, _STRUCT, New(), [data, sizes], nullable=field.nullable, metadata=metadata)


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


# Reading


def _read_field(table: Table, depth: int, budget: list[int]) -> tuple[str, Layout]:
    """``budget`` holds how many more fields and entries of metadata may come: a list of one, which every level counts down."""
    entries = table.tables(6, _MAX_METADATA_ENTRIES)
    budget[0] -= 1 + len(entries)
    if depth <= 0 or budget[0] < 0:
        raise ManifestError(f"its schema is over {MAX_DEPTH} levels or {MAX_FIELDS} fields")
    name = table.text(0, MAX_NAME_BYTES) or ""
    if table.table(4) is not None:
        raise ManifestError(f"field {name[:40]!r} is dictionary-encoded, which is refused")
    children = [_read_field(child, depth - 1, budget) for child in table.tables(5, MAX_FIELDS)]
    metadata = _read_metadata(entries)
    extension = metadata.pop(_NAME_KEY, None)
    kind, details = table.scalar(2, "B"), table.table(3)
    if details is None:
        raise ManifestError(f"field {name[:40]!r} has no type")
    try:
        layout = _extension_layout(extension, kind, details, children, metadata)
    except (ManifestError, OptionError) as error:
        raise ManifestError(f"field {name[:40]!r}: {error}") from None
    nodes = 1 + sum(child.nodes for _, child in children)
    buffers = layout.buffers + sum(child.buffers for _, child in children)
    nullable = bool(table.scalar(1, "?")) and layout.kind != "null"
    return name, replace(layout, field=replace(layout.field, nullable=nullable), nodes=nodes, buffers=buffers)


def _read_metadata(entries: list[Table]) -> dict[str, str]:
    metadata = {}
    for entry in entries:
        key, value = entry.text(0, _MAX_METADATA_BYTES), entry.text(1, _MAX_METADATA_BYTES)
        metadata[key or ""] = value or ""
    return metadata


def _extension_layout(
    extension: str | None, kind: int, details: Table, children: list[tuple[str, Layout]], metadata: dict[str, str]
) -> Layout:
    dtype = metadata.get(_DTYPE_KEY)
    if extension == _FIXED_TENSOR and kind == _FIXED_SIZE_LIST:
        plain = _plain_layout(kind, details, children)
        return _as_dtype(_with_shape(plain, _shape(metadata.get(_METADATA_KEY, ""), "shape")), dtype)
    if extension == _VARIABLE_TENSOR and kind == _STRUCT:
        return _ragged_layout(children, _shape(metadata.get(_METADATA_KEY, ""), "uniform_shape"), dtype)
    if extension is not None:
        raise ManifestError(f"extension type {extension[:40]!r} is refused")
    return _as_dtype(_plain_layout(kind, details, children), dtype)


def _plain_layout(kind: int, details: Table, children: list[tuple[str, Layout]]) -> Layout:
    if kind not in _ALLOWED:
        name = _REFUSED.get(kind, f"Arrow type {kind}")
        raise ManifestError(f"{name} cannot be read; write it as numbers, text or bytes")
    if kind != _STRUCT and len(children) != (kind in (_LIST, _LARGE_LIST, _FIXED_SIZE_LIST)):
        raise ManifestError(f"{len(children)} children, which its type does not have")
    if kind in (_INT, _FLOAT):
        storage = _number_storage(kind, details)
        return Layout("number", Field(storage.name), storage)
    if kind in _OBJECTS:
        name, dtype, offset_bytes = _OBJECTS[kind]
        offsets = np.dtype(f"int{8 * offset_bytes}") if offset_bytes else None
        return Layout(name, Field(dtype), offsets, buffers={"null": 0, "bit": 2}.get(name, 3))
    if kind in (_LIST, _LARGE_LIST):
        storage = np.dtype("int32" if kind == _LIST else "int64")
        return Layout("list", Field("list", item=children[0][1].field), storage, children=tuple(children))
    if kind == _STRUCT:
        fields = tuple((name, child.field) for name, child in children)
        return Layout("struct", Field("struct", fields=fields), children=tuple(children), buffers=1)
    return _tensor_layout(details.scalar(0, "i"), children[0][1])


_OBJECTS = {
    _NULL: ("null", "null", 0),
    _BOOL: ("bit", "bool", 0),
    _UTF8: ("binary", "text", 4),
    _LARGE_UTF8: ("binary", "text", 8),
    _BINARY: ("binary", "bytes", 4),
    _LARGE_BINARY: ("binary", "bytes", 8),
}
"""Arrow type -> kind, dtype, bytes of an offset."""
_ALLOWED = frozenset({_INT, _FLOAT, _LIST, _LARGE_LIST, _FIXED_SIZE_LIST, _STRUCT, *_OBJECTS})


def _number_storage(kind: int, details: Table) -> np.dtype[Any]:
    if kind == _FLOAT:
        name = {0: "float16", 1: "float32", 2: "float64"}.get(details.scalar(0, "h"))
    else:
        bits = details.scalar(0, "i")
        name = f"{'int' if details.scalar(1, '?') else 'uint'}{bits}" if bits in (8, 16, 32, 64) else None
    if name is None:
        raise ManifestError("numbers of a width that Arrow does not have")
    return np.dtype(name)


def _tensor_layout(size: int, item: Layout) -> Layout:
    """A fixed size list: of numbers a tensor, of such tensors one of a dimension more."""
    if item.kind not in ("number", "tensor") or item.field.dtype not in _STORED_AS_THEMSELVES:
        raise ManifestError("a fixed size list of what is not numbers cannot be read")
    if size < 0:
        raise ManifestError(f"a list size of {size}")
    field = Field(item.field.dtype, (size, *item.field.shape))
    return Layout("tensor", field, item.storage, (size, *item.levels), (("item", item),), buffers=1)


def _with_shape(layout: Layout, shape: tuple[int | None, ...]) -> Layout:
    if len(layout.levels) != 1 or None in shape or prod(size or 0 for size in shape) != layout.levels[0]:
        raise ManifestError(f"shape {shape} does not go with its list size")
    return replace(layout, field=Field(layout.field.dtype, shape))


def _ragged_layout(children: list[tuple[str, Layout]], shape: tuple[int | None, ...], dtype: str | None) -> Layout:
    kinds = [(name, child.kind, child.field.nullable) for name, child in children]
    if kinds != [("data", "list", False), ("shape", "tensor", False)]:
        raise ManifestError("a tensor of varying shape is a struct of data and shape, neither of them nullable")
    data, sizes = children[0][1], children[1][1]
    item = data.children[0][1]
    if item.kind != "number" or sizes.field.dtype != "int32" or sizes.levels != (len(shape),) or None not in shape:
        raise ManifestError("a tensor of varying shape has numbers for data, and int32 for each dimension of its shape")
    numbers = _as_dtype(Layout("ragged", Field(item.field.dtype, shape), item.storage, buffers=1), dtype)
    return replace(numbers, children=tuple(children))


def _shape(text: str, key: str) -> tuple[int | None, ...]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    shape = value.get(key) if isinstance(value, dict) else None
    # Before anything is counted with: what is no number may be multiplied as well, to a text that fills the memory.
    if not isinstance(shape, list) or not all(size is None or type(size) is int for size in shape):
        raise ManifestError("its extension metadata gives no shape")
    if value.get("permutation") not in (None, [*range(len(shape))]):
        raise ManifestError("its extension metadata permutes its shape, which is refused")
    return tuple(shape)


_STORED_AS_THEMSELVES = frozenset(name for name in STORAGE if element_storage(name).name == name)


def _as_dtype(layout: Layout, dtype: str | None) -> Layout:
    """``layout`` with the dtype that ``torch_ipfs.dtype`` names, where its storage is the one this dtype is kept in."""
    if dtype is None:
        return layout
    if dtype == "link" and layout.field.dtype == "bytes":
        return replace(layout, field=Field("link"))
    if dtype not in STORAGE or layout.storage != element_storage(dtype) or layout.kind not in _NUMERIC_KINDS:
        raise ManifestError(f"its {_DTYPE_KEY} {dtype[:40]!r} does not go with how it is stored")
    shape = layout.field.shape
    if is_complex(dtype):
        if not shape or shape[-1] != 2:
            raise ManifestError(f"{dtype} needs a last dimension of 2")
        shape = shape[:-1]
    return replace(layout, field=Field(dtype, shape))


_NUMERIC_KINDS = frozenset({"number", "tensor", "ragged"})
