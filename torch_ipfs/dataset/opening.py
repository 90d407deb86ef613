"""How a dataset object comes to a reader: on first use, once a process, and never through a pickle."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import torch_ipfs.dataset.workers  # noqa: F401 - worker processes that have a dataset tell of what they cannot send
from torch_ipfs.blockstore.base import Block, Blockstore, source_of
from torch_ipfs.blockstore.endpoint import without_secrets
from torch_ipfs.blockstore.open import Source, is_network, open_cached
from torch_ipfs.codec.cid import CID
from torch_ipfs.dataset.leaves import dataset_schema
from torch_ipfs.dataset.reader import Reader
from torch_ipfs.errors import OptionError
from torch_ipfs.manifest.naming import resolve_root
from torch_ipfs.manifest.schema import Schema
from torch_ipfs.manifest.tree import Manifest


@dataclass(slots=True)
class _Found:
    """The schema of a dataset, and the blocks of linked samples that were read to find it."""

    schema: Schema | None = None
    blocks: dict[CID, Block] = field(default_factory=dict)

    def __getstate__(self) -> tuple[None, dict[str, Any]]:
        return None, {"schema": self.schema, "blocks": {}}


class Opening:
    """A root, where its blocks are, and which fields are wanted.

    :param skips_broken: whether shards that are missing or broken are left out, and do not matter for the schema either.
    """

    def __init__(
        self, root: CID | str, source: Source, columns: tuple[str, ...] | None, *, skips_broken: bool = False
    ) -> None:
        if not isinstance(root, CID | str):
            raise OptionError(f"root is a CID, its text, /ipfs/CID/path or ipfs://CID/path, not {type(root).__name__}")
        self.root = root
        self._source = source
        self._columns = columns
        self._skips_broken = skips_broken
        self._store: Blockstore | None = None
        self._manifest: tuple[int, Manifest] | None = None
        self._found = _Found()
        self._reader: tuple[int, Reader] | None = None

    @property
    def source_name(self) -> str:
        """The source as errors and logs may show it."""
        return _name_of(self._source)

    @property
    def store(self) -> Blockstore:
        if self._store is None:
            self._store = open_cached(self._source)
        return self._store

    @property
    def manifest(self) -> Manifest:
        """The root, as this process has read it."""
        pid = os.getpid()
        if self._manifest is None or self._manifest[0] != pid:
            self._manifest = pid, Manifest(self.store, resolve_root(self.store, self.root))
        return self._manifest[1]

    @property
    def schema(self) -> Schema:
        """The dataset's schema. Where samples had to be read for it they are read once: processes started later know it."""
        if self._found.schema is None:
            self._found.schema = dataset_schema(
                self.manifest, self.store, self._found.blocks, skips_broken=self._skips_broken
            )
        return self._found.schema

    @property
    def selected_schema(self) -> Schema:
        """The schema of the fields that are wanted."""
        return self.schema.select(self._columns)

    @property
    def reader(self) -> Reader:
        """This process's reader. What a parent process had open is not carried on in a fork of it: its locks may be held."""
        pid = os.getpid()
        if self._reader is None or self._reader[0] != pid:
            reader = Reader(self.store, self.manifest, self.schema, self._columns)
            reader.known_blocks = dict(self._found.blocks)
            self._reader = pid, reader
        return self._reader[1]

    def beside(self, schema: Schema | None = None) -> Opening:
        """The same with a reader of its own, for another thread.

        :param schema: to read samples by, in place of the dataset's own.
        """
        other = Opening(self.root, self.store, self._columns, skips_broken=self._skips_broken)
        other._manifest = self._manifest
        other._found = self._found if schema is None else _Found(schema)
        return other

    def __getstate__(self) -> dict[str, Any]:
        # A store that was opened from a name is opened anew; one that the caller made is the caller's, and travels.
        return {**self.__dict__, "_store": None, "_manifest": None, "_reader": None}


def _name_of(source: Source) -> str:
    if source is None:
        return "the default source"
    if isinstance(source, list | tuple):
        return ", ".join(map(_name_of, source))
    if isinstance(source, str | os.PathLike):
        text = os.fspath(source)
        return without_secrets(text) if is_network(text) else text
    return source_of(source)
