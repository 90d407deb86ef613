"""Which adapter takes what ``write_dataset`` was given.

pyarrow, pandas, datasets and our own loader are looked for where they are imported already: nobody can hold one of their
objects otherwise.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import isnan
from typing import Any

import numpy as np
import torch
from torch.utils.data import ChainDataset, DataLoader, Dataset, IterableDataset, TensorDataset

from torch_ipfs.dataset.arguments import checked_columns
from torch_ipfs.dataset.iterable import IPFSIterableDataset
from torch_ipfs.dataset.write_columns import ColumnSource, InputColumn, ListColumn, MapColumn, NumberColumn
from torch_ipfs.dataset.write_plain import check_dense, typed_bits
from torch_ipfs.dataset.write_rows import RowSource
from torch_ipfs.dataset.write_source import Source, length
from torch_ipfs.errors import OptionError
from torch_ipfs.manifest.values import Misfit, numpy_dtype_name

_FORMS = (
    "expected an iterable of samples, a torch Dataset, a map of columns, a pyarrow Table or RecordBatchReader, a pandas "
    "DataFrame or a Hugging Face Dataset"
)


def open_source(samples: Any, columns: Sequence[str] | None) -> Source:
    """The source for ``samples``, by what they are.

    :raises OptionError: they are nothing that can be written, or ``columns`` does not go with them.
    """
    columns = _checked_names(columns)
    source = _table_source(samples)
    if source is None and isinstance(samples, Mapping):
        source = ColumnSource({name: _column(name, values) for name, values in samples.items()})
    if source is not None:
        if columns is not None:
            raise OptionError("columns= names the parts of samples that are tuples; these samples have names already")
        return source
    if type(samples) is TensorDataset:
        names = [str(i) for i in range(len(samples.tensors))] if columns is None else columns
        if len(names) != len(samples.tensors):
            raise OptionError(f"columns= names {len(names)} parts, and samples are tuples of {len(samples.tensors)}")
        return ColumnSource({name: NumberColumn(tensor) for name, tensor in zip(names, samples.tensors, strict=True)})
    return RowSource(_iterated(samples), length(samples), columns)


def _checked_names(columns: Sequence[str] | None) -> tuple[str, ...] | None:
    names = checked_columns(columns)
    if names is not None and len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise OptionError(f"columns is a list of names that differ; {twice!r} is there twice")
    return names


def _table_source(samples: Any) -> Source | None:
    """The source of a table, of whichever library; ``None`` for anything else."""
    pandas, datasets, pyarrow = (sys.modules.get(name) for name in ("pandas", "datasets", "pyarrow"))
    if not hasattr(datasets, "IterableDatasetDict"):  # somebody's own package of that name
        datasets = None
    if pandas is not None and isinstance(samples, pandas.DataFrame):
        return ColumnSource(_frame_columns(samples))
    if datasets is not None and isinstance(samples, datasets.DatasetDict | datasets.IterableDatasetDict):
        raise OptionError(f"a {type(samples).__name__} holds several datasets; write one of them: {', '.join(samples)}")
    if datasets is not None and isinstance(samples, datasets.Dataset | datasets.IterableDataset):
        from torch_ipfs.dataset.write_hugging_face import hugging_face_source

        return hugging_face_source(samples)
    if pyarrow is not None and isinstance(samples, pyarrow.Table | pyarrow.RecordBatch):
        from torch_ipfs.dataset.write_arrow import table_columns

        return ColumnSource(table_columns(samples))
    if hasattr(samples, "__arrow_c_stream__"):
        return _stream_source(samples)
    return None


def _stream_source(samples: Any) -> Source:
    """A ``RecordBatchReader``, or what gives one."""
    import pyarrow as pa

    from torch_ipfs.dataset.write_arrow import ArrowStreamSource

    try:
        reader = samples if isinstance(samples, pa.RecordBatchReader) else pa.RecordBatchReader.from_stream(samples)
    except pa.ArrowException as error:
        raise OptionError(
            f"a {type(samples).__name__} gives no table ({error}); if it is one column, write {{'name': column}}"
        ) from error
    return ArrowStreamSource(reader, None, pa.Table.from_batches([], schema=reader.schema))


def _frame_columns(frame: Any) -> dict[str, InputColumn]:
    """The columns of a pandas DataFrame, without its index."""
    columns: dict[str, InputColumn] = {}
    for i, label in enumerate(frame.columns):
        name, series = str(label), frame.iloc[:, i]
        if name in columns:
            raise OptionError(f"the DataFrame has two columns {name!r}")
        if isinstance(series.dtype, np.dtype) and series.dtype.kind == "O":
            columns[name] = ListColumn(_present_or_none(series.tolist()))
        elif isinstance(series.dtype, np.dtype) and numpy_dtype_name(series.dtype):
            columns[name] = NumberColumn(series.to_numpy())
        else:
            columns[name] = _arrow_column(series)
    return columns


def _present_or_none(values: list[Any]) -> list[Any]:
    """Values of a pandas object column, with ``None`` for pandas' ways to say that there is none."""
    pandas = sys.modules["pandas"]
    # NaN stands for a missing value too, but where all are floats it may be just that.
    floats = all(isinstance(value, float) or value is None for value in values)
    return [None if _is_missing(value, pandas, floats=floats) else value for value in values]


def _is_missing(value: Any, pandas: Any, *, floats: bool) -> bool:
    return value is pandas.NA or value is pandas.NaT or (isinstance(value, float) and not floats and isnan(value))


def _arrow_column(series: Any) -> InputColumn:
    import pyarrow as pa

    from torch_ipfs.dataset.write_arrow import ArrowColumn

    try:
        return ArrowColumn(pa.array(series, from_pandas=True))
    except pa.ArrowException as error:
        raise OptionError(f"pandas column {series.name!r} of {series.dtype} has no form in Arrow: {error}") from None


def _column(name: str, values: Any) -> InputColumn:
    """The column of one entry in a map of columns.

    :raises OptionError: it is no column.
    """
    pandas, pyarrow = sys.modules.get("pandas"), sys.modules.get("pyarrow")
    if isinstance(values, Mapping):
        return MapColumn({key: _column(f"{name}.{key}", column) for key, column in values.items()})
    if isinstance(values, torch.Tensor):
        _check_dense(name, values)
    if isinstance(values, torch.Tensor | np.ndarray):
        if values.ndim == 0:
            raise OptionError(
                f"column {name!r} is a scalar; a map is taken for columns, so write [sample] for one sample"
            )
        if isinstance(values, np.ma.MaskedArray):
            raise OptionError(
                f"column {name!r} is a masked array; fill it with .filled(), or make it a list with None in it"
            )
        is_number = isinstance(values, torch.Tensor) or numpy_dtype_name(values.dtype) or typed_bits(values[:0])
        return NumberColumn(values) if is_number else ListColumn(values)
    if pyarrow is not None and isinstance(values, pyarrow.Array | pyarrow.ChunkedArray):
        from torch_ipfs.dataset.write_arrow import ArrowColumn

        return ArrowColumn(values)
    if pandas is not None and isinstance(values, pandas.Series):
        return _frame_columns(values.to_frame(name))[name]
    if isinstance(values, Sequence) and not isinstance(values, str | bytes | bytearray | memoryview):
        return ListColumn(values, lasting=isinstance(values, list | tuple) or _is_of_datasets(values))
    raise OptionError(
        f"column {name!r} is a {type(values).__name__}, not an array, tensor or list; a map is taken for columns, so write "
        "[sample] for one sample"
    )


def _check_dense(name: str, tensor: torch.Tensor) -> None:
    try:
        check_dense(tensor)
    except Misfit as misfit:
        raise OptionError(f"column {name!r}: {misfit.reason}") from None


def _is_of_datasets(values: Any) -> bool:
    """Whether it is a column of Hugging Face datasets, which gives slices a hundred times as fast as single values."""
    return type(values).__module__ in ("datasets.arrow_dataset", "datasets.iterable_dataset")


def _iterated(samples: Any) -> Iterable[Any]:
    """``samples`` as what can be iterated over.

    :raises OptionError: they cannot.
    """
    if isinstance(samples, DataLoader):
        if samples.batch_size is not None or samples.batch_sampler is not None:
            raise OptionError("a DataLoader gives batches, not samples: write its dataset, loader.dataset")
        _check_gives_samples(samples.dataset)
        return samples
    _check_gives_samples(samples)
    is_refused = isinstance(samples, str | bytes | bytearray | memoryview | type)
    is_map_style = isinstance(samples, Dataset) and not isinstance(samples, IterableDataset)
    is_indexed = hasattr(samples, "__getitem__") and hasattr(samples, "__len__")
    if not is_refused and is_indexed and (is_map_style or not hasattr(samples, "__iter__")):
        return _by_index(samples)
    if is_refused or not hasattr(samples, "__iter__"):
        raise OptionError(f"cannot write a {type(samples).__name__}: {_FORMS}")
    if getattr(samples, "ndim", None) == 0:
        raise OptionError(f"cannot write a {type(samples).__name__} of one number: {_FORMS}")
    return samples  # type: ignore[no-any-return]  # it has __iter__


def _check_gives_samples(iterated: Any) -> None:
    """:raises OptionError: it gives batches, or samples in an order that is another in each process."""
    if isinstance(iterated, IPFSIterableDataset) and iterated.batch_size is not None:
        raise OptionError("a dataset with a batch_size gives batches, not samples: make it without one")
    facade = sys.modules.get("torch_ipfs.loader.facade")
    if facade is not None and isinstance(iterated, facade.IPFSDataLoader):
        raise OptionError("an IPFSDataLoader gives batches, not samples: write IPFSIterableDataset(cid, source)")
    if isinstance(iterated, set | frozenset):
        raise OptionError("a set has no order that a dataset could have: write sorted(samples)")
    if isinstance(iterated, ChainDataset) and isinstance(iterated.datasets, Sequence):
        for dataset in iterated.datasets:
            _check_gives_samples(dataset)


def _by_index(samples: Any) -> Iterator[Any]:
    for i in range(len(samples)):
        yield samples[i]
