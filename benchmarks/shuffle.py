"""How well an epoch is mixed, and what that costs: our settings beside a full permutation and other loaders' defaults.

    python -m benchmarks.shuffle --chart docs/images/shuffle.png

Nothing is read: orders are computed, and what readers would open is counted. The data is the hardest to mix, sorted by class.
What WebDataset and MosaicML Streaming do by default is simulated from their documents (:mod:`benchmarks.shuffle_peers`).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.shuffle_peers import streaming_order, webdataset_order
from torch_ipfs.plan.shuffle import CountedNode, Order, ShuffleOptions

Int64s = npt.NDArray[np.int64]
TOPOLOGIES = ((1, 2), (8, 4), (64, 8))
"""Ranks x workers."""
_LOOKED_AT_BATCHES = 2000
_DEFAULT = " (default)"


@dataclass(frozen=True, slots=True)
class Sorted:
    """A dataset sorted by class.

    :param fanout: shards of a manifest node.
    """

    num_shards: int = 20_480
    shard_rows: int = 340
    row_bytes: int = 3_080
    num_classes: int = 10
    fanout: int = 2048
    batch_size: int = 256

    @property
    def num_samples(self) -> int:
        return self.num_shards * self.shard_rows


@dataclass(slots=True)
class Level:
    """A node of a manifest in memory, whose shards all have as many rows."""

    first: int
    depth: int
    counts: Int64s
    inner: npt.NDArray[np.bool_]
    shard_rows: int
    is_leaf: bool = False

    def child(self, i: int) -> CountedNode:
        count = int(self.counts[i])
        shards = np.full(count // self.shard_rows, self.shard_rows, dtype=np.int64)
        first = self.first + int(self.counts[:i].sum())
        return Level(first, self.depth + 1, shards, np.zeros(len(shards), dtype=np.bool_), self.shard_rows)


def tree(data: Sorted) -> CountedNode:
    starts = np.arange(0, data.num_shards, data.fanout)
    counts = np.minimum(data.fanout, data.num_shards - starts) * data.shard_rows
    return Level(0, 0, counts, np.ones(len(counts), dtype=np.bool_), data.shard_rows)


@dataclass(frozen=True, slots=True)
class Mixing:
    """What the order is like.

    :param top_class: part of a batch that its most frequent class has, on average.
    :param classes_of_1000: how many of 1,000 classes a batch holds, on average, where the data has so many.
    :param moved: mean distance of a sample from where it was, as a part of N; 1/3 is that of a permutation.
    :param neighbours: part of the positions that are followed by the sample that followed in the data.
    """

    top_class: float
    classes_of_1000: float
    moved: float
    neighbours: float


def mixing(data: Sorted, samples: Int64s) -> Mixing:
    """That of an order, shape (N,) or, of one that was begun, its first positions."""
    batches = samples[: len(samples) // data.batch_size * data.batch_size].reshape(-1, data.batch_size)
    batches = batches[:: max(1, len(batches) // _LOOKED_AT_BATCHES)]
    top = [np.bincount(b * data.num_classes // data.num_samples).max() / len(b) for b in batches]
    many = [len(np.unique(b * 1000 // data.num_samples)) for b in batches]
    moved = np.abs(samples - np.linspace(0, data.num_samples, len(samples), endpoint=False)).mean() / data.num_samples
    return Mixing(float(np.mean(top)), float(np.mean(many)), float(moved), float((np.diff(samples) == 1).mean()))


@dataclass(frozen=True, slots=True)
class Cost:
    """What readers hold and read.

    :param open_bytes: shards that one reader has begun and not finished, at most.
    :param amplification: shards opened by all readers together, divided by the shards there are.
    """

    open_bytes: int
    amplification: float


def cost(data: Sorted, reader_of_batch: Int64s, samples: Int64s) -> Cost:
    """That of readers of which each opens what its own batches lie in.

    :param reader_of_batch: shape (ceil(N / B),).
    """
    shards = samples // data.shard_rows
    readers = reader_of_batch.repeat(data.batch_size)[: len(samples)]
    opened = len(np.unique(shards * (int(readers.max()) + 1) + readers))
    own = shards[readers == 0]
    first, last = np.full(data.num_shards, len(own)), np.full(data.num_shards, -1)
    at = np.arange(len(own))
    first[own[::-1]], last[own] = at[::-1], at
    used = last >= 0
    begun, ended = np.bincount(first[used], minlength=len(own)), np.bincount(last[used], minlength=len(own))
    open_at_once = int((np.cumsum(begun) - np.cumsum(ended) + ended).max())
    return Cost(open_at_once * data.shard_rows * data.row_bytes, opened / data.num_shards)


@dataclass(frozen=True, slots=True)
class Setting:
    """A way to shuffle.

    :param order: ranks x workers -> the samples in order, and the reader of each batch. Ours does not depend on these.
    """

    name: str
    order: Callable[[int, int], tuple[Int64s, Int64s]]


def ours(data: Sorted, options: ShuffleOptions, name: str) -> Setting:
    def order(ranks: int, workers: int) -> tuple[Int64s, Int64s]:
        positions = np.arange(data.num_samples, dtype=np.int64)
        samples = Order(tree(data), data.num_samples, options, seed=1).samples(positions)
        return samples, dealt(data, ranks * workers)

    return Setting(name, order)


def dealt(data: Sorted, readers: int) -> Int64s:
    """Batches to readers in turn."""
    return np.arange(-(-data.num_samples // data.batch_size), dtype=np.int64) % readers


def settings(data: Sorted) -> list[Setting]:
    usual = ShuffleOptions.for_dataset(data.num_samples, data.shard_rows)

    def permuted(ranks: int, workers: int) -> tuple[Int64s, Int64s]:
        return np.random.default_rng(0).permutation(data.num_samples), dealt(data, ranks * workers)

    found = [Setting("full permutation", permuted)]
    for unit_rows in (1, 2, 4, 8, 16, 64, 256):
        name = f"L {usual.lanes}, u {unit_rows}, S {usual.window_rows}"
        options = ShuffleOptions(usual.lanes, unit_rows, usual.window_rows)
        found.append(ours(data, options, name + (_DEFAULT if options == usual else "")))
    for lanes, shards in ((usual.lanes, 8), (usual.lanes // 2, 4), (usual.lanes // 4, 8)):
        options = ShuffleOptions(max(1, lanes), usual.unit_rows, shards * data.shard_rows)
        found.append(ours(data, options, f"L {options.lanes}, u {options.unit_rows}, S {options.window_rows}"))
    return [
        *found,
        Setting("WebDataset, shuffle(1000), shardshuffle=100", lambda r, w: webdataset_order(data, r, w)),
        Setting("Streaming, py1e", lambda r, w: streaming_order(data, r, w)),
    ]


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table.

    :param costs: by topology.
    """

    name: str
    mixing: Mixing
    costs: list[Cost]


def measure(data: Sorted, say: Callable[[str], None]) -> list[Row]:
    rows = []
    for setting in settings(data):
        costs, looked = [], None
        for ranks, workers in TOPOLOGIES:
            samples, readers = setting.order(ranks, workers)
            looked = looked or mixing(data, samples)
            costs.append(cost(data, readers, samples))
        assert looked is not None
        rows.append(Row(setting.name, looked, costs))
        say(line(rows[-1]))
    return rows


def line(row: Row) -> str:
    m = row.mixing
    figures = [f"{m.top_class:.3f}", f"{m.classes_of_1000:.0f}", f"{m.moved:.3f}", f"{m.neighbours:.5f}"]
    figures += [f"{c.open_bytes / 2**20:,.0f} / {c.amplification:.2f}" for c in row.costs]
    return "| " + " | ".join([row.name, *figures]) + " |"


def head() -> str:
    columns = ["setting", "top class", "classes of 1,000", "moved", "neighbours kept"]
    columns += [f"{r}x{w}: MiB open / read" for r, w in TOPOLOGIES]
    return "| " + " | ".join(columns) + " |\n|" + "---|" * len(columns)


def draw(rows: list[Row], path: Path) -> None:
    """Mixing against read amplification, a line for each number of readers."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    units = [row for row in rows if row.name.removesuffix(_DEFAULT).endswith(rows[1].name.split(",")[2])]
    for (ranks, workers), marker in zip(TOPOLOGIES, "os^", strict=True):
        of_topology = TOPOLOGIES.index((ranks, workers))
        x = [row.costs[of_topology].amplification for row in units]
        axes.plot(x, [row.mixing.top_class for row in units], f"{marker}-", label=f"{ranks} ranks x {workers} workers")
        if of_topology == len(TOPOLOGIES) - 1:
            for row, at in zip(units, x, strict=True):
                label = row.name.split(", ")[1] + (_DEFAULT if row.name.endswith(_DEFAULT) else "")
                axes.annotate(label, (at, row.mixing.top_class), textcoords="offset points", xytext=(6, 6), fontsize=8)
    axes.axhline(rows[0].mixing.top_class, color="grey", linestyle=":", label="full permutation")
    peer = next(row for row in rows if row.name.startswith("WebDataset"))
    axes.axhline(peer.mixing.top_class, color="tab:red", linestyle="--", label="WebDataset, by default (reads once)")
    axes.set(xscale="log", xlabel="shards opened by all readers / shards", ylabel="top class of a batch of 256")
    axes.set_title("Sorted data: mixing of a batch, and what it costs in reading")
    axes.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--chart", type=Path)
    arguments = parser.parse_args()
    print(head())
    rows = measure(Sorted(), print)
    if arguments.chart:
        draw(rows, arguments.chart)


if __name__ == "__main__":
    main()
