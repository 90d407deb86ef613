"""How many bytes rows of an Arrow array take once dictionaries and views are spelled out.

pyarrow's own ``nbytes`` counts a slice of those with all of the values that it points into: a category of which there are ten
thousand would be counted with each row, and one long text that a million rows share only once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Sizes = npt.NDArray[np.int64]

_VIEW_BYTES = 16


def has_shared_values(kind: Any) -> bool:
    """Whether arrays of that type point into values that rows share: dictionaries and views, or lists and structs of them."""
    types = pa.types
    if types.is_dictionary(kind) or types.is_string_view(kind) or types.is_binary_view(kind):
        return True
    if types.is_list_view(kind) or types.is_large_list_view(kind):
        return True
    if isinstance(kind, pa.BaseExtensionType):
        return has_shared_values(kind.storage_type)
    return any(has_shared_values(kind.field(i).type) for i in range(kind.num_fields))


def row_bytes(values: Any) -> Sizes:
    """About what each row of an array takes, shape (n,)."""
    kind, types = values.type, pa.types
    if isinstance(kind, pa.BaseExtensionType):
        return row_bytes(values.storage)
    if types.is_dictionary(kind):
        return _of_dictionary(values)
    if types.is_string_view(kind) or types.is_binary_view(kind):
        views = np.frombuffer(values.buffers()[1] or b"", dtype="<i4").reshape(-1, 4)
        return _VIEW_BYTES + views[values.offset : values.offset + len(values), 0].astype(np.int64)
    if types.is_struct(kind):
        return sum((row_bytes(values.field(i)) for i in range(kind.num_fields)), np.ones(len(values), dtype=np.int64))
    if types.is_list(kind) or types.is_large_list(kind) or types.is_map(kind):
        offsets = values.offsets.to_numpy(zero_copy_only=False).astype(np.int64)
        parts = [values.keys, values.items] if types.is_map(kind) else [values.values]
        return sum((_of_items(part, offsets) for part in parts), np.zeros(len(values), dtype=np.int64))
    if types.is_list_view(kind) or types.is_large_list_view(kind):
        counts: Sizes = values.sizes.to_numpy(zero_copy_only=False).astype(np.int64)
        item_bytes = int(values.values.get_total_buffer_size()) // max(len(values.values), 1) + 1
        return 8 + item_bytes * counts
    if types.is_fixed_size_list(kind):
        offsets = (np.arange(len(values) + 1) + values.offset) * kind.list_size
        return _of_items(values.values, offsets)
    if types.is_binary(kind) or types.is_string(kind) or types.is_large_binary(kind) or types.is_large_string(kind):
        width = 8 if types.is_large_binary(kind) or types.is_large_string(kind) else 4
        offsets = np.frombuffer(values.buffers()[1] or bytes(width), dtype=f"<i{width}")
        return width + np.diff(offsets[values.offset : values.offset + len(values) + 1]).astype(np.int64)
    if types.is_primitive(kind) or types.is_fixed_size_binary(kind):
        return np.full(len(values), kind.bit_width // 8 + 1, dtype=np.int64)
    return np.full(len(values), values.get_total_buffer_size() // max(len(values), 1) + 1, dtype=np.int64)


def _of_dictionary(values: Any) -> Sizes:
    sizes = row_bytes(values.dictionary)
    if len(sizes) == 0:
        return np.ones(len(values), dtype=np.int64)
    chosen: Sizes = sizes[values.indices.fill_null(0).to_numpy(zero_copy_only=False)]
    return chosen


def _of_items(items: Any, offsets: Sizes) -> Sizes:
    first, last = int(offsets[0]), int(offsets[-1])
    ends = np.append(0, np.cumsum(row_bytes(items.slice(first, last - first))))
    sizes: Sizes = 8 + ends[offsets[1:] - first] - ends[offsets[:-1] - first]
    return sizes
