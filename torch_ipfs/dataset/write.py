"""``write_dataset``: samples in, a dataset and its CID out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

from torch_ipfs.codec import dag_cbor
from torch_ipfs.codec.cid import CID
from torch_ipfs.dataset.arguments import whole_number
from torch_ipfs.dataset.progress import progress_bar
from torch_ipfs.dataset.write_adapters import open_source
from torch_ipfs.dataset.write_layouts import EmbeddedLayout, Layout, PackedLayout, SamplesLayout
from torch_ipfs.dataset.write_out import Out, open_sink
from torch_ipfs.errors import CodecError, OptionError, SampleError
from torch_ipfs.manifest.schema import Field, Schema
from torch_ipfs.unixfs.file_writer import Put

LayoutName = Literal["packed", "samples", "embedded"]
HashFunction = Literal["sha2-256", "blake3"]
SchemaLike = Schema | Mapping[str, Field | str]

_LAYOUTS: dict[str, type[PackedLayout | EmbeddedLayout | SamplesLayout]] = {
    "packed": PackedLayout,
    "samples": SamplesLayout,
    "embedded": EmbeddedLayout,
}
_HASH_FUNCTIONS = ("sha2-256", "blake3")
_RESERVED = frozenset({"samples", "data", "shards", "schema"})
MIN_SHARD_BYTES, MAX_SHARD_BYTES = 2**10, 2**30


def write_dataset(
    samples: Any,
    out: Out,
    *,
    layout: LayoutName = "packed",
    hash_function: HashFunction = "sha2-256",
    shard_bytes: int = 2**20,
    schema: SchemaLike | None = None,
    columns: Sequence[str] | None = None,
    name: str | None = None,
    description: str | None = None,
    version: str | None = None,
    created_at: float | str | None = None,
    metadata: Mapping[str, Any] | None = None,
    progress: bool | None = None,
) -> CID:
    """Write a dataset, and name it.

    The CID is a function of the samples and of these options: not of the machine, the process, the time, how the samples
    were given (as rows, columns or a table, in pieces of whatever size), or of the versions of the libraries that gave
    them. Memory is bounded, whatever their number.

    :param samples: an iterable of samples, a torch ``Dataset``, a map of columns (arrays, tensors, lists), a pyarrow
        ``Table``, ``RecordBatch`` or ``RecordBatchReader``, a pandas ``DataFrame``, or a Hugging Face ``Dataset``, of which
        images and audio are the bytes of their files. A sample is a map, or a tuple (see ``columns``), or any value, which
        becomes ``{"value": sample}``.
    :param out: a path that ends in ``.car``, the folder of a local store (where the root is pinned, which keeps all that is
        written, but not what CIDs in packed samples name), or a Blockstore. Until the dataset is whole, nothing is at a CAR's
        path but what was there before.
    :param layout: ``packed``: Arrow shards of columns, to be read fast. ``embedded``: samples within the nodes, as DAG-CBOR.
        ``samples``: each sample a DAG-CBOR block of its own.
    :param hash_function: blake3 is hashed three to four times as fast as sha2-256, which more of IPFS knows.
    :param shard_bytes: bound on a shard. Above 1 MiB a shard is a UnixFS file of 1 MiB blocks, as a shard of one row is
        that is larger than this.
    :param schema: what the samples hold, as a ``Schema`` or a map of names to ``Field`` or dtype; found from the first of
        them by default: their dtypes and shapes, which of them may be ``None``, what varies in shape.
    :param columns: names for the parts of samples that are tuples; by default ``"0"``, ``"1"`` and so on.
    :param metadata: more of what the root says, beside ``name``, ``description``, ``version`` and ``created_at`` (which is
        never taken from the clock).
    :param progress: a bar on standard error; by default where that is a terminal.
    :raises SampleError: a sample does not fit the schema, or holds what no dataset can; names its position and the field.
    :raises OptionError: an option that cannot be, or samples of an unknown type.
    :raises TransportError: ``out`` cannot be written.
    """
    begin = _checked_layout(layout, hash_function, shard_bytes)
    extras = root_extras(name, description, version, created_at, metadata)
    given = _given_schema(schema)
    source = open_source(samples, columns)
    with open_sink(out) as sink, _bounded_depth():
        found = source.schema(given)
        blocks = begin(found, sink.put)
        with progress_bar("writing", "sample", source.num_rows, shown=progress) as advance:
            for chunk, num_rows in source.chunks(blocks.rows_per_shard):
                blocks.add(chunk, num_rows)
                advance(num_rows)
        root = blocks.finish({**extras, "schema": found.to_ipld()})
        sink.commit(root)
    return root


def _checked_layout(layout: str, hash_function: str, shard_bytes: int) -> Callable[[Schema, Put], Layout]:
    """What makes the blocks of rows of a schema.

    :raises OptionError: an option cannot be.
    """
    if not isinstance(layout, str) or layout not in _LAYOUTS:
        raise OptionError(f"layout is one of {', '.join(map(repr, _LAYOUTS))}, not {layout!r}")
    check_hash_function(hash_function)
    number = whole_number(shard_bytes)
    if number is None or not MIN_SHARD_BYTES <= number <= MAX_SHARD_BYTES:
        raise OptionError(
            f"shard_bytes is a whole number from {MIN_SHARD_BYTES} to {MAX_SHARD_BYTES}, not {shard_bytes!r}"
        )
    return partial(_LAYOUTS[layout], hash_function=hash_function, shard_bytes=number)


def check_hash_function(hash_function: object) -> None:
    """:raises OptionError: datasets are not written with it."""
    if hash_function not in _HASH_FUNCTIONS:
        raise OptionError(f"hash_function is one of {', '.join(map(repr, _HASH_FUNCTIONS))}, not {hash_function!r}")


def root_extras(
    name: str | None,
    description: str | None,
    version: str | None,
    created_at: float | str | None,
    metadata: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """What a root says beside samples and schema.

    :raises OptionError: ``metadata`` says what it cannot.
    """
    if not isinstance(metadata, Mapping | None):
        raise OptionError(f"metadata is a map of what the root says, not a {type(metadata).__name__}")
    named = {"name": name, "description": description, "version": version, "created_at": created_at}
    extras = {key: value for key, value in named.items() if value is not None}
    for key, value in (metadata or {}).items():
        if key in _RESERVED or key in extras:
            raise OptionError(
                f"metadata cannot say {key!r}: it is {'the format' if key in _RESERVED else 'given twice'}"
            )
        extras[key] = value
    try:
        dag_cbor.encode(extras)
    except CodecError as error:
        raise OptionError(f"the metadata cannot be written: {error}") from None
    return extras


def _given_schema(schema: SchemaLike | None) -> Schema | None:
    if schema is None or isinstance(schema, Schema):
        return schema
    if not isinstance(schema, Mapping):
        raise OptionError(f"schema is a Schema or a map of names to Field or dtype, not a {type(schema).__name__}")
    for name, field in schema.items():
        if not isinstance(field, Field | str):
            raise OptionError(f"schema has a {type(field).__name__} for {name!r}, not a Field or the name of a dtype")
    return Schema(tuple((name, Field(field) if isinstance(field, str) else field) for name, field in schema.items()))


@contextmanager
def _bounded_depth() -> Iterator[None]:
    """:raises SampleError: for a sample that Python comes to no end of."""
    try:
        yield
    except RecursionError:
        raise SampleError("a sample has lists or maps in each other without end, or too many of them") from None
