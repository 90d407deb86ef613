"""The shards that a reader holds open, in numbered slots, and batches gathered out of them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from torch_ipfs.dataset.collate import Batch, maps_of, to_tensors, to_torch
from torch_ipfs.dataset.gather import Gather, Picked
from torch_ipfs.manifest.column import Column, FixedColumn, ObjectColumn, Shard, StructColumn
from torch_ipfs.manifest.schema import Field, Schema

Int64s = npt.NDArray[np.int64]
_Kind = TypeVar("_Kind", FixedColumn, ObjectColumn, StructColumn)

SHARD_BUDGET_BYTES = 160 * 2**20
"""Bytes of open shards that lie in this process's own memory; those in mapped files cost but their objects."""
_SHARD_OBJECTS_BYTES = 4096


class _Objects:
    """One field of Python values over the shards in numbered slots; what :class:`Gather` is for fixed sizes."""

    def __init__(self, field: Field) -> None:
        self._field = field
        self._columns: dict[int, ObjectColumn] = {}

    def set(self, slot: int, column: ObjectColumn | None) -> None:
        if column is None:
            self._columns.pop(slot, None)
        else:
            self._columns[slot] = column

    def parts(self, picked: Picked) -> list[list[Any]]:
        values = self._values(picked.slots, picked.rows)
        return [values[at : at + picked.batch_rows] for at in range(0, len(values), picked.batch_rows)]

    def _values(self, slots: Int64s, rows: Int64s) -> list[Any]:
        out: list[Any] = [None] * len(rows)
        for slot in dict.fromkeys(slots.tolist()):
            chosen = np.flatnonzero(slots == slot)
            for i, value in zip(chosen.tolist(), self._columns[slot].take(rows[chosen]), strict=True):
                out[i] = to_torch(value, self._field)
        return out


class _Columns:
    """The fields of a schema, or of a struct in it, over the shards in numbered slots."""

    def __init__(self, fields: tuple[tuple[str, Field], ...]) -> None:
        self._fields = fields
        self._columns: dict[str, Gather | _Objects | _Columns] = {name: _over_slots(field) for name, field in fields}

    def set(self, slot: int, columns: dict[str, Column] | None) -> None:
        for name, over_slots in self._columns.items():
            column = None if columns is None else columns[name]
            if isinstance(over_slots, Gather):
                over_slots.set(slot, None if column is None else _as(FixedColumn, column).array)
            elif isinstance(over_slots, _Objects):
                over_slots.set(slot, None if column is None else _as(ObjectColumn, column))
            else:
                over_slots.set(slot, None if column is None else _as(StructColumn, column).columns)

    def parts(self, picked: Picked) -> list[Batch]:
        """The rows picked as batches."""
        columns: dict[str, list[Any]] = {}
        for name, field in self._fields:
            over_slots = self._columns[name]
            if isinstance(over_slots, Gather):
                columns[name] = to_tensors(over_slots.parts(picked), field.dtype)
            else:
                columns[name] = list(over_slots.parts(picked))
        return maps_of(columns, picked.num_batches)


def _over_slots(field: Field) -> Gather | _Objects | _Columns:
    if field.fixed:
        return Gather(field)
    if field.dtype == "struct" and not field.nullable:
        return _Columns(field.fields)
    return _Objects(field)


def _as(kind: type[_Kind], column: Column) -> _Kind:
    """``column``, which the schema says is of ``kind``: a shard of another schema never gets as far as a slot."""
    if not isinstance(column, kind):
        raise TypeError(f"expected a {kind.__name__} for {column.field}, found a {type(column).__name__}")
    return column


class ShardTable:
    """Open shards in slots. A slot belongs to one leaf, whether its shard is open or not, until that is forgotten.

    :param budget_bytes: bound on open shards' own memory, ``SHARD_BUDGET_BYTES`` if none is given; the least recently used
        are let go of above it.
    """

    def __init__(self, schema: Schema, budget_bytes: int | None = None) -> None:
        self.schema = schema
        self._columns = _Columns(schema.fields)
        self._slots: dict[int, int] = {}
        self._free: list[int] = []
        self._size = 0
        self._budget_bytes = SHARD_BUDGET_BYTES if budget_bytes is None else budget_bytes
        self._held: OrderedDict[int, int] = OrderedDict()
        self._uses: dict[int, int] = {}
        self._held_bytes = 0
        self.open = np.zeros(0, dtype=np.bool_)
        """Which slots have their shard. Shape (slots,)."""

    def slot(self, key: int) -> int:
        """The slot of the leaf that ``key`` tells from others."""
        slot = self._slots.get(key)
        if slot is None:
            slot = self._slots[key] = self._new_slot()
        return slot

    def kept(self) -> set[int]:
        """The slots that are open or in use."""
        return {*np.flatnonzero(self.open).tolist(), *self._uses}

    def forget(self, key: int) -> None:
        """Free the slot, which is not kept, of a leaf."""
        self._free.append(self._slots.pop(key))

    def _new_slot(self) -> int:
        if self._free:
            return self._free.pop()
        self._size += 1
        if self._size > len(self.open):
            self.open = np.append(self.open, np.zeros(max(64, len(self.open)), dtype=np.bool_))
        return self._size - 1

    def closed(self, slots: Int64s) -> list[int]:
        """Those of ``slots``, shape (n,), whose shard is not open, each once, in the order in which they come first."""
        begins = np.ones(len(slots), dtype=np.bool_)
        np.not_equal(slots[1:], slots[:-1], out=begins[1:])
        distinct = slots[begins]  # but for those that come back
        return list(dict.fromkeys(distinct[~self.open[distinct]].tolist()))

    @property
    def within_budget(self) -> bool:
        """Whether no shard has to be let go of for those that are open."""
        return self._held_bytes <= self._budget_bytes

    def put(self, slot: int, shard: Shard, held_bytes: int) -> None:
        """Open ``shard`` in ``slot``.

        :param held_bytes: of its memory that is not a mapped file.
        """
        self._columns.set(slot, shard.columns)
        self.open[slot] = True
        self._held[slot] = held_bytes + _SHARD_OBJECTS_BYTES
        self._held_bytes += self._held[slot]

    def put_passing(self, shard: Shard) -> int:
        """Open ``shard`` in a slot of its own until :meth:`drop`: rows that were decoded for one batch."""
        slot = self._new_slot()
        self._columns.set(slot, shard.columns)
        self.open[slot] = True
        return slot

    def drop(self, slot: int) -> None:
        """Let go of a passing shard; its slot is free again."""
        self._columns.set(slot, None)
        self.open[slot] = False
        self._free.append(slot)

    def use(self, slots: Int64s) -> list[int]:
        """Keep the shards in ``slots`` open until they are given to :meth:`release`, and close others to keep the budget.

        :param slots: shape (n,); those below 0 are none.
        :returns: each slot once.
        """
        present = np.zeros(len(self.open), dtype=np.bool_)
        present[slots[slots >= 0]] = True
        used = np.flatnonzero(present).tolist()
        for slot in used:
            self._uses[slot] = self._uses.get(slot, 0) + 1
        if not self.within_budget:
            for slot in self._held.keys() & set(used):
                self._held.move_to_end(slot)
            self._close_least_used()
        return used

    def release(self, used: list[int]) -> None:
        """Let go of what :meth:`use` returned."""
        for slot in used:
            self._uses[slot] -= 1
            if self._uses[slot] == 0:
                del self._uses[slot]

    def _close_least_used(self) -> None:
        for slot in [slot for slot in self._held if slot not in self._uses]:
            if self._held_bytes <= self._budget_bytes:
                return
            self._held_bytes -= self._held.pop(slot)
            self.open[slot] = False
            self._columns.set(slot, None)

    def batch(self, slots: Int64s, rows: Int64s) -> Batch:
        """The samples at ``rows`` of the shards in ``slots``, which are open. Shapes (n,), of at least one."""
        return self._columns.parts(Picked.of(slots, rows, len(rows)))[0]

    def batches(self, slots: Int64s, rows: Int64s, batch_rows: int, *, at_once: int = 1) -> Iterator[list[Batch]]:
        """The samples at ``rows`` of the shards in ``slots``, which are open until the end, as batches. Shapes (n,).

        Nothing is copied before it is asked for: memory that was written just now is at hand still when it is used.

        :param batch_rows: samples of each batch; the last one has fewer where it must.
        :param at_once: batches that are made together.
        """
        picked = Picked.of(slots, rows, batch_rows)
        for first in range(0, picked.num_batches, at_once):
            yield self._columns.parts(picked.part(range(first, first + at_once)))
