"""Samples as torch's ``default_collate`` gets them: it is told how to make a batch of them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch.utils.data import default_collate
from torch.utils.data._utils.collate import default_collate_fn_map

from torch_ipfs.dataset.collate import Batch, Sample, collate_samples, rows_of
from torch_ipfs.manifest.schema import Schema


class Row(dict[str, Any]):
    """A sample: a map of field to tensor or value.

    ``default_collate`` treats it as :class:`Rows` says, or, where samples were read one by one (as ``ConcatDataset`` does), by
    their schema: not by what a batch happens to hold. One that was written to is a map like any other.
    """

    def __init__(self, sample: Any = (), schema: Schema | None = None) -> None:
        super().__init__(sample)
        self.schema = schema
        self.is_changed = schema is None  # made by somebody else, as frameworks do that move what is in a map

    def __reduce__(self) -> tuple[type[dict[str, Any]], tuple[Sample]]:
        return dict, (dict(self),)


def with_schema(samples: list[Sample], schema: Schema) -> list[Sample]:
    """``samples`` as rows, unless torch collates them as the schema has it anyway."""
    return samples if all(field.fixed for _, field in schema.fields) else [Row(sample, schema) for sample in samples]


def is_as_read(sample: Any) -> bool:
    """Whether its schema still says what a sample is."""
    return isinstance(sample, Row) and not sample.is_changed


class Rows(list[Row]):
    """Samples that were read together.

    ``default_collate`` takes their columns as the batch that they are, instead of taking them apart and together again,
    which costs more than reading them; unless somebody has looked at the samples, who may have changed them.
    """

    def __init__(self, batch: Batch, num_rows: int, schema: Schema) -> None:
        super().__init__()
        self.schema = schema
        self._batch: Batch | None = batch
        self._num_rows = num_rows
        self._first: Row | None = None

    @property
    def columns(self) -> Batch | None:
        """The samples as a batch; ``None`` once they were looked at."""
        return self._batch

    def __len__(self) -> int:
        return super().__len__() if self._batch is None else self._num_rows

    def __getitem__(self, index: Any) -> Any:
        if self._batch is not None:
            if self._first is None and not isinstance(index, slice) and operator.index(index) == 0 and self._num_rows:
                # default_collate looks at the first sample's type, and at no other: all of them would cost ten times as much.
                self._first = Row(_sample(self._batch, 0), self.schema)
                return self._first
            self._fill()
        return super().__getitem__(index)

    def __reduce__(self) -> tuple[type[list[Any]], tuple[list[Any]]]:
        return list, (list(self),)

    def _fill(self) -> None:
        batch, self._batch = self._batch, None
        if batch is None:
            return
        rows = [Row(sample, self.schema) for sample in rows_of(batch, self._num_rows)]
        if self._first is not None:
            rows[0] = self._first
        self.extend(rows)


def _have_first(before: Callable[[Any], None], kind: type[Any], name: str) -> None:
    """Have ``before`` called with the object before a method that its built-in base has."""
    method = getattr(kind.__base__, name)

    def call(self: Any, *arguments: Any, **options: Any) -> Any:
        before(self)
        return method(self, *arguments, **options)

    setattr(kind, name, call)


def _mark(row: Row) -> None:
    row.is_changed = True


for _name in ("__setitem__", "__delitem__", "__ior__", "clear", "pop", "popitem", "setdefault", "update"):
    _have_first(_mark, Row, _name)
_LOOKING = (
    "__iter__ __reversed__ __contains__ __eq__ __ne__ __lt__ __le__ __gt__ __ge__ __repr__ __add__ __mul__ __rmul__"
)
_CHANGING = "__setitem__ __delitem__ __iadd__ __imul__ append extend insert pop remove clear reverse sort"
for _name in (*_LOOKING.split(), *_CHANGING.split(), "copy", "index", "count"):
    _have_first(Rows._fill, Rows, _name)  # noqa: SLF001 - its own


def _sample(batch: Batch, index: int) -> Sample:
    """One sample of a batch, its tensors in memory of their own."""
    sample: Sample = {}
    for name, column in batch.items():
        if isinstance(column, dict):
            sample[name] = _sample(column, index)
        else:
            sample[name] = _copied(column[index]) if isinstance(column, torch.Tensor) else column[index]
    return sample


def _copied(tensor: torch.Tensor) -> torch.Tensor:
    """``tensor`` in memory of its own. From 32 KB on torch copies with all cores, and where these are busy waits milliseconds
    for them; numpy copies here.
    """
    try:
        return torch.from_numpy(tensor.numpy().copy())
    except TypeError:  # a dtype that numpy does not have
        return tensor.clone()


def _collate_rows(batch: Sequence[Row], *, collate_fn_map: Any = None) -> Any:  # noqa: ARG001 - torch gives it
    if isinstance(batch, Rows) and batch.columns is not None:
        return batch.columns
    rows = list(batch)
    if all(map(is_as_read, rows)):
        return collate_samples(rows, cast(Schema, rows[0].schema))
    return default_collate([dict(row) for row in rows])


# default_collate's documented way to teach it a type; it looks at the type of a batch's first element.
default_collate_fn_map[Row] = _collate_rows
