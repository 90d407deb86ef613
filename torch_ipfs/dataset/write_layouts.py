"""Rows as blocks: packed shards, embedded samples, or a block for each sample."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from torch_ipfs import unixfs
from torch_ipfs.codec import dag_cbor
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import CodecError, SampleError
from torch_ipfs.manifest.arrays import Array, concatenate
from torch_ipfs.manifest.build import FANOUT, MAX_BLOCK_BYTES, ManifestBuilder
from torch_ipfs.manifest.embed import samples_of
from torch_ipfs.manifest.pack import MAX_SHARD_ROWS, Packer
from torch_ipfs.manifest.schema import Schema
from torch_ipfs.unixfs.file_reader import MAX_READ_BYTES
from torch_ipfs.unixfs.file_writer import Put

Columns = Mapping[str, Array]

_ROWS_AT_ONCE = 1024


class Layout(Protocol):
    """Takes the rows of a dataset in order, in pieces of any size, and makes blocks that do not depend on the pieces."""

    rows_per_shard: int | None
    """Rows in each block but the last, where that is known; pieces of a multiple of it need no joining."""

    def add(self, columns: Columns, num_rows: int) -> None:
        """The next rows.

        :raises SampleError: one of them is too large for this layout.
        """
        ...

    def finish(self, extras: Mapping[str, Any]) -> CID:
        """The root, which says ``extras`` beside its samples."""
        ...


class PackedLayout:
    """Arrow shards of at most ``shard_bytes``. One over a block's bound, for a large row, is a UnixFS file."""

    def __init__(self, schema: Schema, put: Put, hash_function: str, shard_bytes: int) -> None:
        self._packer = Packer(schema)
        self._packer.check(shard_bytes)
        self._put, self._hash_function, self._shard_bytes = put, hash_function, shard_bytes
        self._builder = ManifestBuilder(put, hash_function)
        self.rows_per_shard = self._packer.rows_per_shard(shard_bytes)
        self._pieces: list[Columns] = []
        self._num_rows = self._num_bytes = self._num_written = 0

    def add(self, columns: Columns, num_rows: int) -> None:
        self._pieces.append(columns)
        self._num_rows += num_rows
        self._num_bytes += self._packer.packed_bytes(columns, 0, num_rows)
        # Small pieces are gathered first: each joining copies what is left of a shard.
        if self._num_bytes >= 2 * self._shard_bytes or self._num_rows >= MAX_SHARD_ROWS:
            self._cut(last=False)

    def finish(self, extras: Mapping[str, Any]) -> CID:
        if self._pieces:
            self._cut(last=True)
        return self._builder.finish(extras)

    def _cut(self, *, last: bool) -> None:
        """Make the shards that are full, and the ``last`` one too."""
        columns = {name: concatenate([piece[name] for piece in self._pieces]) for name in self._pieces[0]}
        start = 0
        while start < self._num_rows:
            stop, is_full = self._end(columns, start)
            if not is_full and not last:
                break
            self._shard(columns, start, stop)
            start = stop
        self._pieces = [{name: array.slice(start, self._num_rows) for name, array in columns.items()}]
        self._num_rows -= start
        if not self._num_rows:
            self._pieces = []
        self._num_bytes = self._packer.packed_bytes(self._pieces[0], 0, self._num_rows) if self._pieces else 0

    def _end(self, columns: Columns, start: int) -> tuple[int, bool]:
        """Where the shard that starts there ends, and whether it does for sure, whatever rows follow."""
        if self.rows_per_shard is not None:
            stop = start + self.rows_per_shard
            return min(stop, self._num_rows), stop <= self._num_rows
        stop = self._packer.fitting(columns, start, self._num_rows, self._shard_bytes)
        return stop, stop < self._num_rows

    def _shard(self, columns: Columns, start: int, stop: int) -> None:
        size_bytes = self._packer.packed_bytes(columns, start, stop)
        if size_bytes > MAX_READ_BYTES:  # of one row, since no shard_bytes is as much
            raise SampleError(
                f"sample {self._num_written} takes {size_bytes} bytes, over {MAX_READ_BYTES}, which no reader takes: make "
                "several samples of it"
            )
        self._num_written += stop - start
        data = self._packer.pack(columns, start, stop)
        if len(data) > MAX_BLOCK_BYTES:
            cid = unixfs.write(data, self._put, hash_function=self._hash_function)
        else:
            cid = CID.of(data, "raw", self._hash_function)
            self._put(cid, data)
        self._builder.add(cid, count=stop - start, size_bytes=len(data), form="arrow")


class EmbeddedLayout:
    """Nodes with the samples in them, of at most ``shard_bytes`` each; a small dataset is one root with its samples."""

    rows_per_shard: int | None = None

    def __init__(self, schema: Schema, put: Put, hash_function: str, shard_bytes: int) -> None:
        self._schema = schema
        self._builder = ManifestBuilder(put, hash_function)
        self._bound_bytes = min(shard_bytes, MAX_BLOCK_BYTES)
        self._samples: list[dict[str, Any]] = []
        self._num_bytes = _NODE_BYTES
        self._num_rows = 0

    def add(self, columns: Columns, num_rows: int) -> None:
        for sample in _samples(columns, self._schema, num_rows):
            size_bytes = len(_encoded(sample, self._num_rows))
            if self._samples and self._num_bytes + size_bytes > self._bound_bytes:
                self._builder.add_node({"data": self._samples}, count=len(self._samples))
                self._samples, self._num_bytes = [], _NODE_BYTES
            self._samples.append(sample)
            self._num_bytes += size_bytes
            self._num_rows += 1

    def finish(self, extras: Mapping[str, Any]) -> CID:
        return self._builder.finish(extras, {"data": self._samples})


class SamplesLayout:
    """A DAG-CBOR block for each sample, and nodes of links to them; a small dataset is one root with its links."""

    rows_per_shard: int | None = None

    def __init__(self, schema: Schema, put: Put, hash_function: str, shard_bytes: int) -> None:  # noqa: ARG002 - as others
        self._schema, self._put, self._hash_function = schema, put, hash_function
        self._builder = ManifestBuilder(put, hash_function)
        self._links: list[CID] = []
        self._num_bytes = self._num_rows = 0

    def add(self, columns: Columns, num_rows: int) -> None:
        for sample in _samples(columns, self._schema, num_rows):
            block = _encoded(sample, self._num_rows)
            cid = CID.of(block, "dag-cbor", self._hash_function)
            self._put(cid, block)
            if len(self._links) == FANOUT:
                self._builder.add_node({"samples": self._links}, count=FANOUT, size_bytes=self._num_bytes)
                self._links, self._num_bytes = [], 0
            self._links.append(cid)
            self._num_bytes += len(block)
            self._num_rows += 1

    def finish(self, extras: Mapping[str, Any]) -> CID:
        return self._builder.finish(extras, {"samples": self._links}, self._num_bytes)


_NODE_BYTES = 16
"""What a node of embedded samples takes beside them: a map, a key, the head of a list."""


def _samples(columns: Columns, schema: Schema, num_rows: int) -> Iterator[dict[str, Any]]:
    for start in range(0, num_rows, _ROWS_AT_ONCE):
        yield from samples_of(columns, schema, start, min(start + _ROWS_AT_ONCE, num_rows))


def _encoded(sample: dict[str, Any], position: int) -> bytes:
    try:
        block = dag_cbor.encode(sample)
    except CodecError as error:
        raise SampleError(f"sample {position} cannot be encoded: {error}") from None
    if len(block) > MAX_BLOCK_BYTES - _NODE_BYTES:
        raise SampleError(
            f"sample {position} takes {len(block)} bytes as a block, over {MAX_BLOCK_BYTES}; layout 'packed' has room for it"
        )
    return block
