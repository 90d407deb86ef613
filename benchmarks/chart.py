"""The chart for the README."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from benchmarks.groups import ORDERS, reading_name
from benchmarks.harness import Measured

_BARS = (
    ("sha2-256", "first_epoch_s", "sha2-256, first epoch", "#1f4e79"),
    ("blake3", "first_epoch_s", "blake3, first epoch", "#2e8b9a"),
    ("blake3", "later_epoch_s", "later epochs", "#9fc9a6"),
)
_WIDTH = 0.26
_PANELS = ((0, "DataLoader(num_workers=0)"), (2, "DataLoader(num_workers=2)"))


def draw(measured: Mapping[str, Measured], workloads: Iterable[str], path: Path, caption: str) -> None:
    """Speed as a ratio to numpy.memmap, one panel a way of loading, one set of bars a workload and order."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    cases = [(workload, order) for workload in workloads for order in ORDERS]
    figure, panels = plt.subplots(1, 2, figsize=(11, 4), sharey=True)
    for panel, (num_workers, title) in zip(panels, _PANELS, strict=True):
        groups = [measured[reading_name(workload, order, num_workers)] for workload, order in cases]
        for i, (name, timed, label, color) in enumerate(_BARS):
            ratios = [group.ratio(name, timed) for group in groups]
            panel.bar(np.arange(len(cases)) + (i - 1) * _WIDTH, ratios, _WIDTH, label=label, color=color)
        panel.axhline(1, color="black", linewidth=0.8)
        panel.set_xticks(range(len(cases)), [f"{workload}\n{order}" for workload, order in cases], fontsize=8)
        panel.set_title(title, fontsize=10)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("speed; numpy.memmap in the same loader = 1", fontsize=9)
    panels[0].legend(frameon=False, fontsize=8)
    figure.supxlabel(caption, fontsize=7, color="#555555")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)
