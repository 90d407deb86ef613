"""``merge_datasets``: one root of many."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch_ipfs.blockstore.open import Source, open_blockstore
from torch_ipfs.codec.cid import CID
from torch_ipfs.dataset.leaves import dataset_schema
from torch_ipfs.dataset.write import HashFunction, check_hash_function, root_extras
from torch_ipfs.dataset.write_out import Out, check_not_replaced, open_sink
from torch_ipfs.errors import OptionError
from torch_ipfs.manifest.build import ManifestBuilder
from torch_ipfs.manifest.naming import resolve_root
from torch_ipfs.manifest.schema import Schema
from torch_ipfs.manifest.tree import Manifest


def merge_datasets(
    roots: Sequence[CID | str],
    source: Source = None,
    out: Out | None = None,
    *,
    hash_function: HashFunction = "sha2-256",
    name: str | None = None,
    description: str | None = None,
    version: str | None = None,
    created_at: float | str | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> CID:
    """One dataset of the samples of several, in their order, for what several writers wrote.

    Only their roots are read, and only nodes are written: a root takes over the children of theirs, so that merging what was
    merged comes to the same as merging all at once. To read it takes the sources of all and ``out``.

    :param roots: the datasets; their schemas agree.
    :param source: where their roots are; as for the datasets that read.
    :param out: where the new nodes go; as for ``write_dataset``. By default ``source``, which then must be a store that takes
        blocks.
    :raises OptionError: no roots, or the schemas differ (names the field); or ``out`` is a CAR file of ``source``.
    :raises ManifestError: one of the roots is no dataset.
    """
    check_hash_function(hash_function)
    if isinstance(roots, CID | str) or not isinstance(roots, Iterable):
        raise OptionError(f"roots is a list of datasets, not {str(roots)!r}")
    extras = root_extras(name, description, version, created_at, metadata)
    store = open_blockstore(source)
    check_not_replaced(store, out)
    manifests = [Manifest(store, resolve_root(store, root)) for root in roots]
    if not manifests:
        raise OptionError("merging takes one dataset at least")
    schemas = [dataset_schema(manifest, store) for manifest in manifests]
    for manifest, schema in zip(manifests, schemas, strict=True):
        _check_same(manifests[0].root, schemas[0], manifest.root, schema)
    with open_sink(store if out is None else out) as sink:
        builder = ManifestBuilder(sink.put, hash_function)
        for manifest in manifests:
            _add_children(builder, manifest)
        root = builder.finish({**extras, "schema": schemas[0].to_ipld()})
        sink.commit(root)
    return root


def _add_children(builder: ManifestBuilder, manifest: Manifest) -> None:
    node = manifest.root_node
    if node.is_leaf:
        if node.num_samples:
            builder.add(manifest.root, count=node.num_samples, size_bytes=None, form="manifest")
        return
    for i, (count, inner) in enumerate(zip(node.counts.tolist(), node.inner.tolist(), strict=True)):
        builder.add(node.cid(i), count=count, size_bytes=None, form="manifest" if inner else "arrow")


def _check_same(first: CID, expected: Schema, root: CID, found: Schema) -> None:
    if found == expected:
        return
    ours, theirs = dict(expected.fields), dict(found.fields)
    for name in dict.fromkeys((*ours, *theirs)):
        if ours.get(name) != theirs.get(name):
            there, here = theirs.get(name, "not there"), ours.get(name, "not there")
            raise OptionError(
                f"the schemas differ in field {name!r}: it is {there} here, and {here} in {first}", cid=root
            )
    raise OptionError(f"the schemas differ in the order of their fields from that of {first}", cid=root)
