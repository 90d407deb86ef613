"""Lists of maps -> a list of values for each of their keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

from torch_ipfs.manifest.schema import MAX_FIELDS
from torch_ipfs.manifest.values import Misfit, kinds_of

MAX_CELLS = 2**24
"""Values that maps may have on paper, keys times maps, when they lack most of them."""
_SPARSEST = 64


def as_maps(samples: Sequence[Any]) -> Sequence[Mapping[str, Any]]:
    """``samples`` with each that is not a map put into one, under ``value``."""
    if kinds_of(samples) <= {"struct"}:
        return samples
    return [sample if isinstance(sample, Mapping) else {"value": sample} for sample in samples]


def keys_of(maps: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The keys of ``maps``, in the order in which they first appear.

    :raises Misfit: for a key that is not text, and for more than ``schema.MAX_FIELDS``.
    """
    names: dict[str, int] = {}
    for row, value in enumerate(maps):
        if value.keys() <= names.keys():
            continue
        for key in value:
            if not isinstance(key, str):
                raise Misfit(row, f"its key {str(key)[:40]!r} is not text")
            names.setdefault(key, row)
        if len(names) > MAX_FIELDS:
            raise Misfit(row, f"with it there are more than {MAX_FIELDS} keys; put what varies into lists")
    return tuple(names)


def columns_of(maps: Sequence[Mapping[str, Any]], names: Sequence[str], known: frozenset[str]) -> list[list[Any]]:
    """The values of ``names`` in ``maps``, ``None`` where there is none.

    :param known: the keys that maps may have.
    :raises Misfit: for another key, and for keys so sparse that ``None`` would fill the memory.
    """
    keys = set(map(tuple, maps))
    if len(keys) == 1 and known == frozenset(next(iter(keys))):
        return [list(map(itemgetter(name), maps)) for name in names]
    if len(known) * len(maps) > max(MAX_CELLS, _SPARSEST * sum(map(len, maps))):
        raise Misfit(0, f"{len(maps)} samples lack nearly all of {len(known)} fields; put what varies into lists")
    columns: dict[str, list[Any]] = {name: [None] * len(maps) for name in names}
    for row, value in enumerate(maps):
        for key, item in value.items():
            if key in columns:
                columns[key][row] = item
            elif key not in known:
                raise Misfit(row, "the dataset's schema has no such field", (str(key),))
    return list(columns.values())
