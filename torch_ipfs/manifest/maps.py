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


def as_maps(samples: Sequence[Any]) -> Sequence[Any]:
    """``samples`` where all or none are maps; else with each that is not put into one, under ``value``.

    The functions below take those that are none as maps of ``value``: two million numbers in a block would be 400 MB of them.
    """
    kinds = kinds_of(samples)
    if kinds <= {"struct"} or "struct" not in kinds:
        return samples
    return [sample if isinstance(sample, Mapping) else {"value": sample} for sample in samples]


def keys_of(maps: Sequence[Any]) -> tuple[str, ...]:
    """The keys of ``maps``, in the order in which they first appear.

    :raises Misfit: for a key that is not text, and for more than ``schema.MAX_FIELDS``.
    """
    if _are_values(maps):
        return ("value",)
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


def _are_values(samples: Sequence[Any]) -> bool:
    return len(samples) > 0 and not isinstance(samples[0], Mapping)


def columns_of(maps: Sequence[Any], names: Sequence[str], known: frozenset[str]) -> list[list[Any]]:
    """The values of ``names`` in ``maps``, ``None`` where there is none.

    :param known: the keys that maps may have.
    :raises Misfit: for another key, and for keys so sparse that ``None`` would fill the memory.
    """
    if _are_values(maps):
        if "value" not in known:
            raise Misfit(0, "the dataset's schema has no such field", ("value",))
        _refuse_sparse(len(maps), len(known), len(maps))
        return [list(maps) if name == "value" else [None] * len(maps) for name in names]
    keys = set(map(tuple, maps))
    if len(keys) == 1 and known == frozenset(next(iter(keys))):
        return [list(map(itemgetter(name), maps)) for name in names]
    _refuse_sparse(len(maps), len(known), sum(map(len, maps)))
    columns: dict[str, list[Any]] = {name: [None] * len(maps) for name in names}
    for row, value in enumerate(maps):
        for key, item in value.items():
            if key in columns:
                columns[key][row] = item
            elif key not in known:
                raise Misfit(row, "the dataset's schema has no such field", (str(key),))
    return list(columns.values())


def _refuse_sparse(maps: int, fields: int, values: int) -> None:
    if fields * maps > max(MAX_CELLS, _SPARSEST * values):
        raise Misfit(0, f"{maps} samples lack nearly all of {fields} fields; put what varies into lists")
