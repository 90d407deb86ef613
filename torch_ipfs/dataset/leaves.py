"""From a leaf of the manifest to a shard in memory: blocks in, columns out, nothing believed that was not checked."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from torch_ipfs import unixfs
from torch_ipfs.blockstore.base import Block, Blockstore, source_of
from torch_ipfs.codec import decode
from torch_ipfs.codec import json as plain_json
from torch_ipfs.codec.cid import DAG_PB, RAW, CID
from torch_ipfs.errors import BlockError, CodecError, ManifestError, SampleError, TorchIPFSError
from torch_ipfs.manifest.column import Shard
from torch_ipfs.manifest.infer import infer_schema
from torch_ipfs.manifest.leaf import Leaf
from torch_ipfs.manifest.naming import as_cid, check_json
from torch_ipfs.manifest.rows import shard_from_rows
from torch_ipfs.manifest.schema import Schema
from torch_ipfs.manifest.tree import Manifest
from torch_ipfs.manifest.unpack import unpack

BROKEN = (BlockError, CodecError, ManifestError)
"""What makes one sample unreadable while others may be read. A source that is out of reach is another matter."""

INFERENCE_SAMPLES = 1024
"""Linked samples that are read to find the schema of a dataset that does not carry one."""

_KEPT_BYTES = 2**24
"""How many bytes of these are kept until they are read as samples."""


def shard_of(leaf: Leaf, block: Block, store: Blockstore, schema: Schema, known: frozenset[str]) -> tuple[Shard, int]:
    """A packed shard from its block, and how many bytes of it are held outside of mapped files.

    :param block: the block of ``leaf.cid``; of a UnixFS file its root, and the rest is read from ``store``.
    :param schema: the fields that are wanted.
    :param known: the names of all that the dataset has.
    :raises ManifestError: the shard is not what the manifest or the schema says.
    """
    if leaf.cid.codec not in (RAW, DAG_PB):
        raise ManifestError(f"an Arrow shard is a raw block or a file, not {leaf.cid.codec_name}", cid=leaf.cid)
    data = block if leaf.cid.codec == RAW else unixfs.read(store, leaf.cid)
    shard = unpack(data, leaf.cid, schema.names, known)
    if shard.num_rows != leaf.count:
        raise ManifestError(
            f"the shard holds {shard.num_rows} samples where the manifest claims {leaf.count}",
            cid=leaf.cid,
            source=source_of(store),
        )
    if not shard.schema.agrees_with(schema):
        raise ManifestError(
            f"the shard's fields are {shard.schema}; the dataset's are {schema}",
            cid=leaf.cid,
            source=source_of(store),
        )
    return shard, _held_bytes(data)


def _held_bytes(data: Block) -> int:
    """0 for a view of a map or of anything else that another object owns, such as a store's own memory."""
    return len(data) if isinstance(data, bytes) else 0


def sample_value(cid: CID, block: Block, store: Blockstore) -> Any:
    """A linked sample from its block: a value of its codec; of a raw block or a UnixFS file the JSON in it, else its bytes."""
    if cid.codec not in (RAW, DAG_PB):
        return decode(cid, block)
    return json_or_bytes(block if cid.codec == RAW else unixfs.read(store, cid))


def json_or_bytes(data: Block) -> Any:
    """What the JSON of a raw block or a file says; its bytes where they are none, or more of it than is decoded."""
    data = bytes(data)
    if data[:64].lstrip()[:1] in (b"{", b"["):
        with suppress(CodecError):
            check_json(data)
            return plain_json.decode(data)
    return data


def shards_of_rows(
    values: Sequence[Any], samples: Sequence[int], schema: Schema, columns: tuple[str, ...], cid: CID
) -> list[tuple[list[int], Shard | TorchIPFSError]]:
    """Samples as shards: one where all fit the schema, else one a sample, or its error.

    :param values: the samples' values, or the error that reading one ended in.
    :param samples: their indices in the dataset.
    :param columns: fields to decode, of all that ``schema`` has.
    :returns: places in ``values``, with the shard whose rows they are in order, or the error that all of them have.
    """
    readable = [i for i, value in enumerate(values) if not isinstance(value, TorchIPFSError)]
    results: list[tuple[list[int], Shard | TorchIPFSError]] = [
        ([i], value) for i, value in enumerate(values) if isinstance(value, TorchIPFSError)
    ]
    if readable:
        good, first = [values[i] for i in readable], samples[readable[0]]
        try:
            together = shard_from_rows(good, schema, first_position=first, cid=cid, columns=columns)
            results.append((readable, together))
        except SampleError:
            results += [([i], _shard_of_row(values[i], samples[i], schema, columns, cid)) for i in readable]
    return results


def _shard_of_row(
    value: Any, sample: int, schema: Schema, columns: tuple[str, ...], cid: CID
) -> Shard | TorchIPFSError:
    try:
        return shard_from_rows([value], schema, first_position=sample, cid=cid, columns=columns)
    except SampleError as error:
        return error


def link_of(value: Any, sample: int, cid: CID) -> CID | TorchIPFSError:
    """The CID of a linked sample, or the error that it is none.

    :param cid: the node that says so.
    """
    try:
        return as_cid(value)
    except CodecError as error:
        return ManifestError(f"sample {sample} is linked as {value!r:.100}, which is no CID: {error.reason}", cid=cid)


def dataset_schema(
    manifest: Manifest, store: Blockstore, read: dict[CID, Block] | None = None, *, skips_broken: bool = False
) -> Schema:
    """The schema of the root; of a root without one, that of the first node below it that has one and holds the first sample;
    else what the first shard holds.

    :param read: is given the blocks of linked samples that were read for it, so that none has to be asked for twice.
    :param skips_broken: take the next shard, or node, where one is missing or broken.
    :raises ManifestError, BlockError: there is none, and nothing readable to find it from.
    """
    if manifest.schema is not None:
        return manifest.schema
    sample, first_error = 0, None
    while sample < manifest.num_samples:
        try:
            return manifest.schema_below_root(sample) or _schema_shown(
                manifest.leaf_at(sample), store, {} if read is None else read
            )
        except BROKEN as error:
            if not skips_broken:
                raise
            first_error = first_error or error
            leaf = manifest.leaf_at(sample)
            sample = leaf.first + leaf.count
    if first_error is not None:
        raise first_error
    return Schema(())


def _schema_shown(leaf: Leaf, store: Blockstore, read: dict[CID, Block]) -> Schema:
    """The schema that a leaf's samples show."""
    if leaf.error is not None:
        raise leaf.error
    if leaf.format == "arrow":
        block = store.get(leaf.cid) if leaf.cid.codec == RAW else unixfs.read(store, leaf.cid)
        return unpack(block, leaf.cid).schema
    return infer_schema(_first_linked(leaf, store, read) if leaf.format == "samples" else leaf.values or ())


def _first_linked(leaf: Leaf, store: Blockstore, read: dict[CID, Block]) -> list[Any]:
    links = [link_of(link, leaf.first + i, leaf.cid) for i, link in enumerate((leaf.values or ())[:INFERENCE_SAMPLES])]
    cids = [link for link in links if isinstance(link, CID)]
    values, errors = [], [link for link in links if isinstance(link, TorchIPFSError)]
    read_bytes = 0
    for cid, block in zip(cids, store.get_many(cids, return_exceptions=True), strict=True):
        try:
            if isinstance(block, TorchIPFSError):
                raise block
            values.append(sample_value(cid, block, store))
            read_bytes += len(block)
            if read_bytes <= _KEPT_BYTES:
                read[cid] = block
        except BROKEN as error:
            errors.append(error)
    if not values:
        raise errors[0]
    return values
