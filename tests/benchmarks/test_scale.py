"""The benchmark of scale, and that of shuffles, run at a size that takes seconds; what they claim holds there too."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.fabricated import Fabricated
from benchmarks.scale import run
from benchmarks.shuffle import Sorted, draw, measure


def test_what_is_read_of_a_manifest_is_what_the_first_batch_needs() -> None:
    size = Fabricated(num_samples=10**7, num_shards=30_000)
    found = run(size, ranks=16, workers=2, number=2, say=lambda _: None)
    assert size.num_nodes == 15
    in_order = [figures for name, figures in found.items() if "in order" in name]
    assert len(in_order) == 5
    assert all(figures["nodes_read"] <= 2 for figures in in_order)
    shuffled = [figures for name, figures in found.items() if "shuffled, first" in name]
    least, most = (pick(figures["read_bytes"] for figures in shuffled) for pick in (min, max))
    assert most <= 1.5 * least  # wherever in the epoch


def test_the_table_of_shuffles(tmp_path: Path) -> None:
    data = Sorted(num_shards=120, shard_rows=64, fanout=40, batch_size=32)
    rows = {row.name: row for row in measure(data, lambda _: None)}
    permutation = rows["full permutation"].mixing
    assert permutation.moved == pytest.approx(1 / 3, abs=0.02)
    default = next(row for name, row in rows.items() if "default" in name)
    assert default.mixing.top_class < rows["L 64, u 64, S 128"].mixing.top_class
    lanes, shards = 64, data.num_shards  # 2 readers: L is a multiple of 2 B / u, and u divides B
    assert default.costs[0].amplification <= (shards + lanes) / shards
    assert rows["L 64, u 1, S 128"].mixing.top_class == pytest.approx(permutation.top_class, abs=0.1)
    draw(list(rows.values()), tmp_path / "chart.png")
    assert (tmp_path / "chart.png").stat().st_size > 10_000
