"""IPFSMapDataset: samples of a dataset by index, for DistributedSampler and random access."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any, SupportsIndex, overload

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset
from torch.utils.data._utils.collate import default_collate_fn_map

from torch_ipfs.blockstore.open import Source
from torch_ipfs.blockstore.process_lock import ProcessLock
from torch_ipfs.codec.cid import CID
from torch_ipfs.dataset.batch_stream import BatchStream
from torch_ipfs.dataset.collate import Batch, Sample, collate_samples, rows_of
from torch_ipfs.dataset.opening import Opening, check_function, checked_columns
from torch_ipfs.dataset.reader import Reader
from torch_ipfs.dataset.sending import send_small_tensors_by_value
from torch_ipfs.manifest.schema import Schema
from torch_ipfs.manifest.tree import Manifest

Int64s = npt.NDArray[np.int64]


class Row(dict[str, Any]):
    """A sample of a map dataset: a map of field to tensor or value, which ``default_collate`` treats as :class:`Rows` says, or,
    where samples were read one by one (as ``ConcatDataset`` does), by their schema: not by what a batch happens to hold.
    """

    def __init__(self, sample: Sample, schema: Schema) -> None:
        super().__init__(sample)
        self.schema = schema


class Rows(Sequence[Row]):
    """Samples that were read together.

    ``default_collate`` takes their columns as the batch that they are, instead of taking them apart and together again,
    which costs more than reading them.
    """

    def __init__(self, batch: Batch, num_rows: int, schema: Schema) -> None:
        self.batch, self.schema = batch, schema
        self._num_rows = num_rows
        self._rows: list[Row] | None = None
        self._asked = False

    def __len__(self) -> int:
        return self._num_rows

    @overload
    def __getitem__(self, index: SupportsIndex) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: SupportsIndex | slice) -> Row | list[Row]:
        if self._rows is None:
            if not isinstance(index, slice) and not self._asked:
                # default_collate looks at the first sample's type, and at no other: all of them would cost ten times as much.
                self._asked = True
                return self._row(operator.index(index))
            self._rows = [Row(sample, self.schema) for sample in rows_of(self.batch, self._num_rows)]
        return self._rows[index]

    def _row(self, index: int) -> Row:
        if not -self._num_rows <= index < self._num_rows:
            raise IndexError(f"sample {index} of {self._num_rows}")
        return Row(_sample(self.batch, index % self._num_rows), self.schema)

    def __iter__(self) -> Iterator[Row]:
        return iter(self[:])


def _checked(indices: Sequence[SupportsIndex], size: int) -> Int64s:
    """Sample indices, shape (n,), those below 0 counted from the end.

    :raises IndexError: one is outside of the dataset.
    """
    samples = np.array(indices)
    if samples.dtype != np.int64 or samples.ndim != 1:
        # Numbers of other types, or no numbers: each is asked what index it is.
        samples = np.array([operator.index(index) for index in indices], dtype=object)
    if len(samples) and not -size <= samples.min() <= samples.max() < size:
        outside = next(index for index in samples.tolist() if not -size <= index < size)
        raise IndexError(f"sample {outside} is outside of a dataset of {size} samples")
    samples = samples.astype(np.int64, copy=False)
    return np.where(samples < 0, samples + size, samples) if len(samples) and samples.min() < 0 else samples


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


class IPFSMapDataset(Dataset[Any]):
    """The samples of a dataset by index, verified block by block.

    :param root: CID of the dataset, ``/ipfs/CID/path`` or ``ipfs://CID/path``.
    :param source: a Blockstore, or what :func:`torch_ipfs.open_blockstore` takes; one of the network that has no cache gets the
        node's (``CachedBlockstore(store, cache_bytes=0)`` for none).
    :param columns: fields to read; only these are decoded.
    :param transform: applied to each sample.
    """

    def __init__(
        self,
        root: CID | str,
        source: Source = None,
        *,
        columns: Sequence[str] | None = None,
        transform: Callable[[Any], Any] | None = None,
    ) -> None:
        check_function("transform", transform)
        self._opening = Opening(root, source, checked_columns(columns))
        self.transform = transform
        self._lock = ProcessLock()

    @property
    def root(self) -> CID | str:
        return self._opening.root

    @property
    def manifest(self) -> Manifest:
        """The dataset's root, read on first use."""
        return self._opening.reader.manifest

    def __len__(self) -> int:
        return self.manifest.num_samples

    def __getitem__(self, index: SupportsIndex) -> Any:
        """Sample ``index``; negative ones count from the end.

        :raises IndexError: outside of the dataset.
        """
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[SupportsIndex]) -> Sequence[Any]:
        """Samples at ``indices``, read together; what DataLoader calls for a batch.

        :raises IndexError: one is outside of the dataset.
        """
        send_small_tensors_by_value()
        samples = _checked(indices, len(self))
        with self._lock:
            return self._read(samples)

    def _read(self, samples: Int64s) -> Sequence[Any]:
        reader = self._opening.reader
        rows = reader.locate_open(samples)
        batch = self._read_through(reader, samples) if rows is None else reader.batch(rows)
        if self.transform is not None:
            return [self.transform(sample) for sample in rows_of(batch, len(samples))]
        return Rows(batch, len(samples), reader.schema)

    def _read_through(self, reader: Reader, samples: Int64s) -> Batch:
        """The batch of samples whose shards have to be opened first."""
        reader.forget_broken()
        stream = BatchStream.of(reader, samples)
        try:
            rows = next(stream)
            if rows.errors:
                place = min(rows.errors)
                rows.errors[place].add_note(f"while reading sample {samples[place]} of {self.manifest.root}")
                raise rows.errors[place]
            return reader.batch(rows)
        finally:
            stream.close()

    def __repr__(self) -> str:
        return f"IPFSMapDataset({str(self.root)!r}, {self._opening.source_name!r})"


def _collate_rows(batch: Sequence[Row], *, collate_fn_map: Any = None) -> Batch:  # noqa: ARG001 - torch gives it
    if isinstance(batch, Rows):
        return batch.batch
    return collate_samples(list(batch), batch[0].schema)  # type: ignore[no-any-return]


# default_collate's documented way to teach it a type; it looks at the type of a batch's first element.
default_collate_fn_map[Row] = _collate_rows
