"""What each command does. Each takes its parsed arguments, prints, and gives the exit code."""

from __future__ import annotations

import sys
from argparse import Namespace

from torch_ipfs.blockstore.base import Blockstore, PinningBlockstore
from torch_ipfs.blockstore.open import is_network, open_blockstore
from torch_ipfs.blockstore.pins import put_links
from torch_ipfs.cli.text import escaped, of_count, of_fields, of_shards, printable
from torch_ipfs.cli.walk import Found, Pinning, Walk
from torch_ipfs.dataset.leaves import dataset_schema
from torch_ipfs.dataset.progress import progress_bar
from torch_ipfs.dataset.write_out import Out, check_not_replaced, open_sink
from torch_ipfs.errors import TorchIPFSError
from torch_ipfs.manifest.naming import resolve_root
from torch_ipfs.manifest.tree import Manifest

MOST_NAMED = 100
"""Bad blocks that are named one by one."""

_SAID_FIRST = ("name", "description", "version", "created_at")


def show(chosen: Namespace) -> int:
    """Print what the root says. Of a large dataset's manifest little is read."""
    store, manifest = _open(chosen)
    schema = dataset_schema(manifest, store)
    metadata = {name: value for name, value in manifest.metadata.items() if name != "schema"}
    said = {name: printable(metadata.pop(name)) for name in _SAID_FIRST if name in metadata}
    counts = {"samples": of_count(manifest.num_samples), "shards": of_shards(manifest)}
    for name, text in {"root": str(manifest.root), **said, **counts}.items():
        print(f"{name + ':':<13} {text}")
    print("schema:")
    for name, field in schema.fields:
        print(f"  {printable(name)}: {escaped(str(field))}")
    if metadata:
        print("metadata:")
        print("\n".join(of_fields(metadata)))
    return 0


def head(chosen: Namespace) -> int:
    """Print the first samples, each field on a line."""
    from torch_ipfs.dataset.mapped import IPFSMapDataset

    dataset = IPFSMapDataset(chosen.root, chosen.source)
    for index in range(min(chosen.samples, len(dataset))):
        print(f"sample {index}:")
        print("\n".join(of_fields(dataset[index])))
    return 0


def verify(chosen: Namespace) -> int:
    """Read every block, and name each bad one on standard error."""
    store, manifest = _open(chosen)
    counted = _Counted()
    bad: dict[str, TorchIPFSError] = {}
    with progress_bar("verifying", "B") as advance:
        for found in Walk(store, manifest, check_samples=True).blocks():
            if found.error is None:
                advance(counted.add(found))
            else:
                bad.setdefault(found.error.cid or str(found.cid), found.error)
    for error in list(bad.values())[:MOST_NAMED]:
        print(f"bad: {escaped(' '.join(str(error).split()))}", file=sys.stderr)
    if bad:
        print(f"torch-ipfs: {len(bad):,} bad blocks; {counted} are right", file=sys.stderr)
        return 1
    print(f"{manifest.root} is whole: {manifest.num_samples:,} samples, {counted}")
    return 0


def push(chosen: Namespace) -> int:
    """Copy every block. Nothing is pinned, and no CAR file is at its place, before all are there."""
    store, manifest = _open(chosen)
    target = _target(chosen.target)
    check_not_replaced(store, target)
    counted, pins = _Counted(), Pinning(manifest.root)
    with open_sink(target, root=manifest.root) as sink, progress_bar("pushing", "B") as advance:
        pinning = sink.store if isinstance(sink.store, PinningBlockstore) else None
        for found in Walk(store, manifest).blocks():
            if found.error is not None:
                raise found.error
            advance(counted.add(found))
            if pinning is not None:  # a CAR file's blocks, any number of them, need not be remembered
                pins.add(found)
            sink.put(found.cid, found.block or b"")
        sink.commit(manifest.root)
    pinned = "" if pinning is None else _pin(pinning, pins)
    where = target if isinstance(target, str) else getattr(target, "source", "the target")
    print(f"{manifest.root} is in {where}{pinned}: {counted}")
    return 0


def _open(chosen: Namespace) -> tuple[Blockstore, Manifest]:
    store = open_blockstore(chosen.source)
    return store, Manifest(store, resolve_root(store, chosen.root))


def _target(name: str) -> Out:
    """A path, or a store of the network as it is: the cache of this machine has no part in a copy."""
    if not is_network(name):
        return name
    store = open_blockstore(name)
    return getattr(store, "store", store)


def _pin(target: PinningBlockstore, pins: Pinning) -> str:
    """Pin the dataset; what to say of it."""
    target.pin(pins.root)
    lists = list(put_links(target, pins.unlinked))
    for cid in lists:
        target.pin(cid)
    if not lists:
        return ", pinned"
    named = of_count(len(pins.unlinked))
    return f", pinned with {', '.join(map(str, lists))}, which links to the {named} blocks that it names without a link"


class _Counted:
    """Blocks that were read and found right."""

    def __init__(self) -> None:
        self._blocks = self._bytes = 0

    def add(self, found: Found) -> int:
        """Count a block; its size in bytes."""
        size_bytes = len(found.block or b"")
        self._blocks += 1
        self._bytes += size_bytes
        return size_bytes

    def __str__(self) -> str:
        return f"{self._blocks:,} blocks of {self._bytes:,} bytes"
