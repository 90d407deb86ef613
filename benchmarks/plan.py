"""The plan alone: which rows of which shards come next, in a dataset of 10^9 samples in 3 million shards.

    python -m benchmarks.plan

No shard is read. Each case is a cold process that opens the manifest and asks for batches from some position on, exactly
as a dataset does; the nodes of the manifest are made when they are read (:mod:`benchmarks.fabricated`), which counts for the
first batch, and not for the time of each.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.fabricated import Fabricated, FabricatedBlockstore
from benchmarks.memory import anonymous_bytes
from torch_ipfs.manifest.tree import Manifest
from torch_ipfs.plan.partition import Partition
from torch_ipfs.plan.shuffle import Order, ShuffleOptions
from torch_ipfs.plan.topology import Topology

Figures = dict[str, float]
BATCH_SIZE = 256
RUN_POSITIONS = 16_384
"""What a dataset asks the plan for at a time."""
STARTS = (0.0, 1 / 3, 0.999)
_SEED = 1


@dataclass(frozen=True, slots=True)
class Planning:
    """From a place of the epoch on.

    :param start: part of the epoch that is behind.
    :param num_batches: how many batches are asked for.
    :param topology: by whom.
    """

    start: float
    shuffle: bool
    num_batches: int
    topology: Topology = field(default_factory=Topology)


def measure(size: Fabricated, digests: Path, planning: Planning) -> Figures:
    """Seconds to the first batch and to the last; the most memory that was seen beyond what the process began with."""
    store = FabricatedBlockstore(size, np.load(digests))
    baseline_bytes = peak_bytes = anonymous_bytes()
    start_s = time.perf_counter()
    manifest = Manifest(store, store.root)
    options = ShuffleOptions.for_dataset(manifest.num_samples, manifest.shard_rows) if planning.shuffle else None
    order = Order(manifest.root_node, manifest.num_samples, options, _SEED, epoch=0)
    opened_s, topology = time.perf_counter() - start_s, planning.topology
    start = int(planning.start * manifest.num_samples)
    partition = Partition(manifest.num_samples, BATCH_SIZE, topology.world_size, start)
    planning_s, batches = 0.0, 0
    figures: Figures = {}
    for steps, positions in partition.runs(topology, RUN_POSITIONS):
        manifest.locate(order.samples(positions))
        planning_s += time.perf_counter() - start_s  # to look at the memory takes longer than to plan some batches
        if not batches:
            figures = {
                "opened_s": opened_s,
                "first_batch_s": planning_s,
                "first_batch_bytes": anonymous_bytes() - baseline_bytes,
                "first_batch_read_bytes": store.bytes_read,
            }
        batches += len(steps)
        peak_bytes = max(peak_bytes, anonymous_bytes())
        if batches >= planning.num_batches:
            break
        start_s = time.perf_counter()
    return figures | {
        "peak_bytes": peak_bytes - baseline_bytes,
        "batches": batches,
        "batch_s": (planning_s - store.making_s) / batches,
        "nodes_read": store.nodes_read,
        "read_bytes": store.bytes_read,
    }


def cases(num_batches: int) -> dict[str, Planning]:
    """What is asked for, by name."""
    return {
        f"{'shuffled' if shuffle else 'in order'} from {start:.1%}": Planning(start, shuffle, num_batches)
        for shuffle in (False, True)
        for start in STARTS
    }


def run(size: Fabricated, num_batches: int, *, cold: bool, say: Callable[[str], None]) -> dict[str, Figures]:
    """Every case once.

    :param cold: in a process of its own.
    """
    with tempfile.TemporaryDirectory() as folder:
        digests = Path(folder, "digests.npy")
        say(f"plan: {size.num_samples:,} samples in {size.num_shards:,} shards under {size.num_nodes:,} nodes")
        size.write(digests)
        measured = {}
        for name, planning in cases(num_batches).items():
            measured[name] = _in_cold_process(size, digests, planning) if cold else measure(size, digests, planning)
        return measured


def _in_cold_process(size: Fabricated, digests: Path, planning: Planning) -> Figures:
    told = [size.num_samples, size.num_shards, str(digests), planning.start, planning.shuffle, planning.num_batches]
    command = [sys.executable, "-m", "benchmarks.plan", json.dumps(told)]
    root = Path(__file__).parent.parent
    return json.loads(subprocess.check_output(command, cwd=root))  # type: ignore[no-any-return]


def main(arguments: list[str]) -> None:
    if arguments:
        num_samples, num_shards, digests, *planning = json.loads(arguments[0])
        print(json.dumps(measure(Fabricated(num_samples, num_shards), Path(digests), Planning(*planning))))
        return
    for name, figures in run(Fabricated(), NUM_BATCHES, cold=True, say=print).items():
        print(f"{name}: {figures}")


NUM_BATCHES = 32_768

if __name__ == "__main__":
    main(sys.argv[1:])
