"""Arrow arrays in the types that shards have: categories and views spelled out, maps as lists of pairs, fixed binary as bytes.

What has parts is put together from its parts again: pyarrow's own casts of slices of nested arrays fail for some of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from torch_ipfs.manifest.values import Misfit

Offsets = npt.NDArray[np.int64]

_ADVICE = "cast it to integers, float64 or string"


def has_nulls(values: Any) -> bool:
    """Whether some of an array's values are null, or of a category that stands for null."""
    if isinstance(values, pa.DictionaryArray) and values.dictionary.null_count:
        return bool(values.null_count or values.dictionary.is_null().take(values.indices).true_count)
    return bool(values.null_count)


def has_null_items(values: Any) -> bool:
    """Whether lists of a fixed size have nulls among their items, wherever in an array they are."""
    kind, types = values.type, pa.types
    if types.is_struct(kind):
        return any(map(has_null_items, values.flatten()))
    if types.is_map(kind):
        return has_null_items(values.items)
    if types.is_dictionary(kind):
        return has_null_items(values.dictionary)
    if _is_dressed(kind):
        return has_null_items(values.storage)
    if not _is_list(kind):
        return False
    items = values.flatten()
    return (types.is_fixed_size_list(kind) and has_nulls(items)) or has_null_items(items)


def _is_list(kind: Any) -> bool:
    types = pa.types
    is_view = types.is_list_view(kind) or types.is_large_list_view(kind)
    return bool(is_view or types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _is_dressed(kind: Any) -> bool:
    """Whether it is an extension type of which a dataset keeps what it stores."""
    return isinstance(kind, pa.BaseExtensionType) and not isinstance(kind, pa.FixedShapeTensorType)


def _holds_tensors(kind: Any) -> bool:
    return isinstance(kind, pa.FixedShapeTensorType) or pa.types.is_fixed_size_list(kind)


def storable(values: Any, *, open_lists: bool) -> Any:
    """An array in a type that shards have, where there is one.

    :param open_lists: whether lists of a fixed size become lists of any.
    :raises Misfit: there is none.
    """
    kind = values.type
    try:
        plain = _plain(values, open_lists)
        if pa.types.is_primitive(plain.type) or pa.types.is_null(plain.type) or _holds_tensors(plain.type):
            return plain
        # Older versions write offsets that do not begin at 0 as they are, beside none but what they point into.
        return pa.concat_arrays([plain])
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise Misfit(0, f"Arrow's {kind} cannot be part of a dataset; {_ADVICE} ({error})") from None


def _plain(values: Any, open_lists: bool) -> Any:
    kind, types = values.type, pa.types
    if types.is_dictionary(kind):
        if len(values.dictionary) == 0:  # pyarrow looks into it for nulls too
            return _plain(pa.nulls(len(values), kind.value_type), open_lists)
        return _plain(values.dictionary_decode(), open_lists)
    plain = _plain_type(kind, open_lists)
    if _is_dressed(kind):
        return _plain(values.storage, open_lists)
    if plain == kind:
        return values
    if types.is_struct(kind):
        children = [_plain(child, open_lists) for child in values.flatten()]  # null where the struct is
        return pa.StructArray.from_arrays(children, names=[field.name for field in kind], mask=values.is_null())
    if not (types.is_list(plain) or types.is_large_list(plain) or types.is_fixed_size_list(plain)):
        return _cast(values, plain)
    offsets, items = _opened(values, open_lists)
    items = _plain(items, open_lists)
    if types.is_fixed_size_list(plain):
        return pa.FixedSizeListArray.from_arrays(items, plain.list_size, mask=values.is_null())
    if types.is_large_list(plain):
        return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), items, mask=values.is_null())
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), items, mask=values.is_null())


def _opened(values: Any, open_lists: bool) -> tuple[Offsets, Any]:
    """Lists of any kind, or maps, as offsets that begin at 0, and items."""
    kind, types = values.type, pa.types
    if types.is_fixed_size_list(kind):
        size, rows = kind.list_size, len(values)
        return np.arange(rows + 1) * size, values.values.slice(values.offset * size, rows * size)
    if types.is_list_view(kind) or types.is_large_list_view(kind):
        starts, counts = (
            part.to_numpy(zero_copy_only=False).astype(np.int64) for part in (values.offsets, values.sizes)
        )
        counts = np.where(values.is_valid().to_numpy(zero_copy_only=False), counts, 0)
        ends = np.append(0, np.cumsum(counts))
        chosen = np.repeat(starts - ends[:-1], counts) + np.arange(ends[-1])
        first, last = (int(chosen.min()), int(chosen.max()) + 1) if len(chosen) else (0, 0)
        # Spelled out first: pyarrow takes nothing from views.
        return ends, _plain(values.values.slice(first, last - first), open_lists).take(pa.array(chosen - first))
    offsets = values.offsets.to_numpy(zero_copy_only=False).astype(np.int64)
    first, length = int(offsets[0]), int(offsets[-1] - offsets[0])
    if types.is_map(kind):
        pairs = [values.keys.slice(first, length), values.items.slice(first, length)]
        return offsets - first, pa.StructArray.from_arrays(pairs, names=["key", "value"])
    return offsets - first, values.values.slice(first, length)


def _cast(values: Any, kind: Any) -> Any:
    try:
        return values.cast(kind)
    except pa.ArrowNotImplementedError:  # of views, by older versions
        return pa.array(values.to_pylist(), kind)


def _plain_type(kind: Any, open_lists: bool) -> Any:
    types = pa.types
    if types.is_temporal(kind) or types.is_decimal(kind) or types.is_union(kind):
        raise Misfit(0, f"Arrow's {kind} cannot be part of a dataset; {_ADVICE}")
    if isinstance(kind, pa.DictionaryType):
        return _plain_type(kind.value_type, open_lists)
    if _is_dressed(kind):
        if kind.extension_name == "pandas.period":  # counted from 1970 in a unit that only the type tells
            raise Misfit(0, f"pandas' periods cannot be part of a dataset; {_ADVICE}")
        return _plain_type(kind.storage_type, open_lists)
    if types.is_fixed_size_binary(kind) or types.is_binary_view(kind):
        return pa.large_binary()
    if types.is_string_view(kind):
        return pa.large_string()
    if types.is_map(kind):
        pair = {"key": _plain_type(kind.key_type, open_lists), "value": _plain_type(kind.item_type, open_lists)}
        return pa.list_(pa.struct(list(pair.items())))
    if types.is_struct(kind):
        return pa.struct([field.with_type(_plain_type(field.type, open_lists)) for field in kind])
    if not _is_list(kind):
        return kind
    item = kind.value_field.with_type(_plain_type(kind.value_type, open_lists))
    if not (types.is_list(kind) or types.is_fixed_size_list(kind)):
        return pa.large_list(item)
    # Of a fixed size are tensors alone: whatever else has one is a list.
    is_tensor = types.is_integer(item.type) or types.is_floating(item.type) or types.is_fixed_size_list(item.type)
    return pa.list_(item, kind.list_size if types.is_fixed_size_list(kind) and is_tensor and not open_lists else -1)
