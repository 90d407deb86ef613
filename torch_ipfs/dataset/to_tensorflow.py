"""Passes over a dataset as the numpy batches that the bridge to TensorFlow takes.

Every pass of the ``tf.data.Dataset`` is a pass of its own over a whole epoch, read in the thread of TensorFlow's that asks for
it; ``prefetch(AUTOTUNE)`` keeps elements ahead. No worker processes are started: TensorFlow does not promise to survive forks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from torch_ipfs.bridges.tensorflow import Form, load_tensorflow, signature_of, tensorflow_dataset
from torch_ipfs.dataset.collate import tuple_like
from torch_ipfs.dataset.dataloader import Received
from torch_ipfs.dataset.dtypes import BITS
from torch_ipfs.dataset.leaves import INFERENCE_SAMPLES
from torch_ipfs.dataset.passes import Output, report_skipped
from torch_ipfs.dataset.write_plain import typed_bits
from torch_ipfs.errors import OptionError
from torch_ipfs.manifest.column import Column, FixedColumn, StructColumn
from torch_ipfs.manifest.infer import infer_schema
from torch_ipfs.manifest.rows import shard_from_rows
from torch_ipfs.manifest.schema import Schema
from torch_ipfs.manifest.values import Typed

if TYPE_CHECKING:
    from torch_ipfs.dataset.iterable import IPFSIterableDataset


def to_tensorflow(
    dataset: IPFSIterableDataset,
    *,
    next_epoch: Callable[[], int],
    output_signature: Any = None,
    trained: Callable[[Schema], Schema] = lambda schema: schema,
    begun: Callable[[Received], None] = lambda _: None,
    going_on: Callable[[], None] = lambda: None,
) -> Any:
    """``dataset`` as a ``tf.data.Dataset`` of its batches, or of its samples where it has no batch_size.

    Where on_error skips samples their batch is the shorter by them. One of which nothing is left takes a neighbour's first
    sample, so that the number of batches is what was promised.

    :param next_epoch: tells a pass that begins which epoch it is of.
    :param output_signature: in place of what the samples say.
    :param trained: from the schema of maps to that of elements. What else a transform makes stays as it is.
    :param begun: is given what counts a pass, when it begins.
    :param going_on: is called before each element; what it raises ends the pass.
    :raises OptionError: see :func:`torch_ipfs.bridges.tensorflow.tensorflow_dataset`.
    :raises ImportError: there is no TensorFlow.
    """
    load_tensorflow()
    base = dataset.beside(_schema_of_first_rows(dataset))
    schema, form = (None, None) if dataset.batch_transform else _schema_and_form(dataset, base)
    if schema is not None and output_signature is None:
        wanted = schema if form in ("tuple", "value") else trained(schema)
        output_signature = signature_of(wanted, batched=dataset.batch_size is not None, form=form)

    def elements() -> Iterator[Any]:
        reading = base.beside().for_receiver(list if dataset.transform else None)
        reading.set_epoch(next_epoch())
        received = Received(*reading.next_pass(), ahead=True)
        begun(received)
        for at, value in _filled(dataset, iter(reading), received):
            going_on()
            yield _as_numpy(dataset, value, schema, at)

    return tensorflow_dataset(
        elements,
        schema,
        num_elements=len(dataset),
        batched=dataset.batch_size is not None,
        output_signature=output_signature,
    )


def _schema_of_first_rows(dataset: IPFSIterableDataset) -> Schema | None:
    """What the first samples of a large embedded leaf hold, where no schema is written: what comes later has to be like it."""
    manifest = dataset.manifest
    if manifest.schema is not None or manifest.num_samples == 0:
        return None
    leaf = manifest.leaf_at(0)
    if leaf.format != "data" or leaf.count <= INFERENCE_SAMPLES:
        return None
    return infer_schema((leaf.values or ())[:INFERENCE_SAMPLES])


def _schema_and_form(dataset: IPFSIterableDataset, base: IPFSIterableDataset) -> tuple[Schema, Form | None]:
    """What samples hold, and what elements are: of tuples that a transform makes tuples, of what is no map the values."""
    if dataset.transform is None:
        return base.schema, None
    samples = _first_samples(dataset)
    form: Form | None = (
        "tuple" if isinstance(samples[0], tuple) else None if isinstance(samples[0], Mapping) else "value"
    )
    return infer_schema([_plain(sample) for sample in samples]), form


def _first_samples(dataset: IPFSIterableDataset) -> list[Any]:
    """The dataset's first samples as its transform leaves them.

    :raises OptionError: there are none.
    """
    first = dataset.beside().for_receiver(None)
    first.batch_size, first.batch_transform, first.shuffle = None, None, False
    samples = []
    for output in first:
        if output.has_value:
            samples.append(output.value)
        if len(samples) == INFERENCE_SAMPLES:
            break
    if not samples:
        raise OptionError("no sample can be read to see what the transform makes of it; give an output_signature=")
    return samples


def _filled(dataset: IPFSIterableDataset, outputs: Iterator[Output], received: Received) -> Iterator[tuple[int, Any]]:
    """The values of ``outputs``, each with its number, and a neighbour's first sample for each that has none."""
    first = None
    at = 0
    for output in outputs:
        received.steps += 1
        received.skipped.merge(output.skipped)
        if output.has_value:
            first = _first(dataset, output.value)
            for number in range(at, received.steps - 1):
                yield number, first
            yield received.steps - 1, output.value
            at = received.steps
        elif first is not None:
            yield received.steps - 1, first
            at = received.steps
    received.ended = True
    report_skipped(received.skipped, nothing_left=first is None)


def _first(dataset: IPFSIterableDataset, value: Any) -> Any:
    if dataset.batch_size is None or dataset.batch_transform is not None:
        return value
    return _rows(value, slice(1))


def _rows(column: Any, rows: slice) -> Any:
    return {name: _rows(inner, rows) for name, inner in column.items()} if isinstance(column, dict) else column[rows]


def _as_numpy(dataset: IPFSIterableDataset, value: Any, schema: Schema | None, number: int) -> Any:
    """
    :param number: which output of the pass ``value`` is.
    :raises SampleError: a transform made what its first samples are not like; names the sample, counted in the pass, and
        the field.
    """
    if dataset.transform is None or schema is None:
        return numpy_of(value)
    samples = [value] if dataset.batch_size is None else value
    first_position = number * (dataset.batch_size or 1)
    shard = shard_from_rows([_plain(sample) for sample in samples], schema, first_position=first_position, cid=None)
    batch = {name: _values(column) for name, column in shard.columns.items()}
    return batch if dataset.batch_size is not None else _one(batch)


def _values(column: Column) -> Any:
    if isinstance(column, FixedColumn):
        return column.array
    if isinstance(column, StructColumn):
        return {name: _values(inner) for name, inner in column.columns.items()}
    return column.take(np.arange(column.num_rows))


def _one(batch: Any) -> Any:
    return {name: _one(column) for name, column in batch.items()} if isinstance(batch, dict) else batch[0]


def _plain(sample: Any) -> Any:
    """A sample as a transform leaves it, in values that a dataset may hold; a pair is features and labels."""
    if isinstance(sample, tuple):
        names = ("features", "labels") if len(sample) == 2 else tuple(f"sample[{i}]" for i in range(len(sample)))
        sample = dict(zip(names, sample, strict=True))
    return _plain_value(sample)


def _plain_value(sample: Any) -> Any:
    if isinstance(sample, torch.Tensor):
        numpy = numpy_of(sample)
        dtype = str(sample.dtype).removeprefix("torch.")
        return Typed(dtype, numpy) if sample.dtype in BITS or sample.dtype == torch.complex32 else numpy
    if isinstance(sample, np.ndarray | np.generic):
        return typed_bits(sample) or sample
    if isinstance(sample, Mapping):
        return {name: _plain_value(value) for name, value in sample.items()}
    return [_plain_value(value) for value in sample] if isinstance(sample, list | tuple) else sample


def numpy_of(value: Any) -> Any:
    """``value`` with arrays of their storage dtypes for tensors, in the same memory, wherever in lists and maps they are."""
    if isinstance(value, torch.Tensor):
        if value.dtype == torch.complex32:
            return torch.view_as_real(value).numpy()
        bits = BITS.get(value.dtype)
        return value.numpy() if bits is None else value.view(bits).numpy()
    if isinstance(value, dict):
        return {name: numpy_of(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple) and not isinstance(value[0] if value else None, str | bytes):
        return list(map(numpy_of, value)) if isinstance(value, list) else tuple_like(value, map(numpy_of, value))
    return value
