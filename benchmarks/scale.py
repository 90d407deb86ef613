"""What a dataset of 10^9 samples in 3 million shards costs before the first shard is read, for one reader and for thousands.

    python -m benchmarks.scale

The nodes of the manifest are made when they are read (:mod:`benchmarks.fabricated`); each case is a process of its own, forked
when everything is imported, that opens the dataset and computes where the rows of its first batch are.
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.fabricated import Fabricated, FabricatedBlockstore
from benchmarks.plan import BATCH_SIZE, Figures, Planning, measure
from torch_ipfs.manifest.tree import Manifest
from torch_ipfs.plan.partition import Partition
from torch_ipfs.plan.shuffle import Order, ShuffleOptions
from torch_ipfs.plan.topology import Topology

RANKS, WORKERS = 1024, 8
JUMPS = (0.0, 0.25, 0.5, 0.9, 0.999)
_READERS_MEASURED = 32


def jumps() -> dict[str, Planning]:
    """One reader's first batch from places all over the epoch."""
    return {
        f"{'shuffled' if shuffle else 'in order'}, first batch at {at:.1%}": Planning(at, shuffle, 1)
        for shuffle in (False, True)
        for at in JUMPS
    }


def readers(number: int, ranks: int, workers: int) -> list[Planning]:
    """The first batch of ``number`` of ``ranks * workers`` readers, evenly chosen."""
    chosen = np.linspace(0, ranks * workers - 1, number).astype(int).tolist()
    topologies = [Topology(at // workers, ranks, at % workers, workers) for at in chosen]
    return [Planning(0.0, True, 1, topology) for topology in topologies]


def in_processes(size: Fabricated, digests: Path, plannings: list[Planning]) -> list[Figures]:
    """Each measured in a process that nothing else was measured in, one at a time."""
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        return pool.starmap(measure, [(size, digests, planning) for planning in plannings], chunksize=1)


def all_first_batches_differ(size: Fabricated, digests: Path, ranks: int, workers: int) -> bool:
    """Whether no sample is in the first batches of two of all the readers."""
    store = FabricatedBlockstore(size, np.load(digests))
    manifest = Manifest(store, store.root)
    options = ShuffleOptions.for_dataset(manifest.num_samples, manifest.shard_rows)
    order = Order(manifest.root_node, manifest.num_samples, options, 1, 0)
    partition = Partition(manifest.num_samples, BATCH_SIZE, ranks)
    positions = [partition.positions(rank, worker) for rank in range(ranks) for worker in range(workers)]
    samples = order.samples(np.concatenate(positions))
    return len(np.unique(samples)) == len(samples) == ranks * workers * BATCH_SIZE


def run(size: Fabricated, ranks: int, workers: int, number: int, say: Callable[[str], None]) -> dict[str, Figures]:
    """Every case, and over readers the median and the worst."""
    with tempfile.TemporaryDirectory() as folder:
        digests = Path(folder, "digests.npy")
        say(f"{size.num_samples:,} samples in {size.num_shards:,} shards under {size.num_nodes:,} nodes")
        size.write(digests)
        named = jumps()
        found = dict(zip(named, in_processes(size, digests, list(named.values())), strict=True))
        each = in_processes(size, digests, readers(number, ranks, workers))
        for name, over in (("median", np.median), ("worst", np.max)):
            figures = {key: float(over([one[key] for one in each])) for key in each[0]}
            found[f"shuffled, {ranks} ranks x {workers} workers, {name} of {number} readers"] = figures
        for name, figures in found.items():
            say(told(name, figures))
        differ = all_first_batches_differ(size, digests, ranks, workers)
        say(f"the first batches of all {ranks * workers:,} readers have no sample in common: {differ}")
        if not differ:
            raise AssertionError("two readers have a sample of their first batches in common")
        return found


def told(name: str, figures: Figures) -> str:
    return (
        f"| {name} | {1000 * figures['opened_s']:.0f} ms | {1000 * figures['first_batch_s']:.0f} ms "
        f"| {figures['first_batch_bytes'] / 2**20:.0f} MiB | {figures['nodes_read']:.0f} "
        f"| {figures['first_batch_read_bytes'] / 2**20:.2f} MiB |"
    )


def main(arguments: list[str]) -> None:
    number = int(arguments[0]) if arguments else _READERS_MEASURED
    print(
        "| case | opened after | first batch after | memory | nodes read | manifest bytes read |\n|---|---|---|---|---|---|"
    )
    run(Fabricated(), RANKS, WORKERS, number, print)


if __name__ == "__main__":
    main(sys.argv[1:])
