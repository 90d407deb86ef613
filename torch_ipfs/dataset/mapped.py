"""IPFSMapDataset: samples of a dataset by index, for DistributedSampler and random access."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, SupportsIndex, cast

import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from torch_ipfs.blockstore.open import Source
from torch_ipfs.blockstore.process_lock import ProcessLock
from torch_ipfs.codec.cid import CID
from torch_ipfs.dataset.arguments import check_function, checked_columns
from torch_ipfs.dataset.batch_stream import BatchStream
from torch_ipfs.dataset.collate import Batch, rows_of
from torch_ipfs.dataset.opening import Opening
from torch_ipfs.dataset.passes import transformed
from torch_ipfs.dataset.reader import Reader
from torch_ipfs.dataset.row import Rows, with_schema
from torch_ipfs.dataset.sending import send_small_tensors_by_value
from torch_ipfs.manifest.tree import Manifest

Int64s = npt.NDArray[np.int64]


def _checked(indices: Sequence[SupportsIndex], size: int) -> Int64s:
    """Sample indices, shape (n,), those below 0 counted from the end.

    :raises IndexError: one is outside of the dataset.
    :raises TypeError: they are no indices; booleans, which Python and torch take for 0 and 1, are a mask's.
    """
    samples = np.asarray(indices)  # of a tensor: to ask for a copy would be warned of
    if samples.dtype != np.int64 or samples.ndim != 1:
        if samples.dtype == np.bool_:
            raise TypeError("booleans are no indices; those of a mask's True are mask.nonzero()")
        # Numbers of other types, or no numbers: each is asked what index it is.
        samples = np.array([operator.index(index) for index in indices], dtype=object)
    elif (samples.view(np.uint64) < size).all():  # seen as unsigned, an index below 0 is beyond every end
        return samples
    if len(samples) and not -size <= samples.min() <= samples.max() < size:
        outside = next(index for index in samples.tolist() if not -size <= index < size)
        raise IndexError(f"sample {outside} is outside of a dataset of {size} samples")
    samples = samples.astype(np.int64, copy=False)
    return np.where(samples < 0, samples + size, samples)


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
        check_function("transform", transform, "a sample")
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

    def __getitem__(self, index: SupportsIndex | slice | Sequence[SupportsIndex] | Tensor | npt.NDArray[Any]) -> Any:
        """Sample ``index``; negative ones count from the end. Of a slice, or of a list, array or tensor of indices, the batch
        that DataLoader makes of these samples: what a sampler of batches asks for where a loader's ``batch_size`` is ``None``.

        :raises IndexError: outside of the dataset, or a batch of none.
        """
        if isinstance(index, slice):
            index = range(*index.indices(len(self)))
        if isinstance(index, list | range) or (isinstance(index, np.ndarray | Tensor) and index.ndim > 0):
            if len(index) == 0:
                raise IndexError("no index is given, and a batch has one sample at least")
            samples = self.__getitems__(cast(Sequence[SupportsIndex], index))
            return samples.columns if isinstance(samples, Rows) else default_collate(samples)
        return self.__getitems__([cast(SupportsIndex, index)])[0]

    def __getitems__(self, indices: Sequence[SupportsIndex]) -> list[Any]:
        """Samples at ``indices``, read together; what DataLoader calls for a batch.

        :raises IndexError: one is outside of the dataset.
        """
        send_small_tensors_by_value()
        samples = _checked(indices, len(self))
        with self._lock:
            return self._read(samples)

    def _read(self, samples: Int64s) -> list[Any]:
        reader = self._opening.reader
        rows = reader.locate_open(samples)
        batch = self._read_through(reader, samples) if rows is None else reader.batch(rows)
        if self.transform is not None:
            given = with_schema(rows_of(batch, len(samples)), reader.table.schema)
            return [transformed(sample, self.transform, "transform") for sample in given]
        return Rows(batch, len(samples), reader.schema)

    def _read_through(self, reader: Reader, samples: Int64s) -> Batch:
        """The batch of samples whose shards have to be opened first. What cannot be had is looked for again by the next."""
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
            reader.forget_broken()

    def __repr__(self) -> str:
        return f"IPFSMapDataset({str(self.root)!r}, {self._opening.source_name!r})"
