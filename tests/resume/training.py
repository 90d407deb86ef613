"""A training run that may be killed at any moment: it goes on from its last checkpoint until it is done.

Weights follow from every sample and from the order of them all: a sample that came twice, not at all, or elsewhere would
leave others.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from torch_ipfs import IPFSIterableDataset, make_dataloader

N = 101
EPOCHS = 4
BATCH_SIZES = (3, 8, 5)
"""Each attempt has another than the one before, since a state holds at any."""


@dataclass(frozen=True)
class Run:
    """What an attempt is told.

    :param attempt: how many there were before.
    """

    folder: Path
    root: str
    attempt: int

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    @property
    def log(self) -> Path:
        """A byte for each step that was taken, of all attempts: for whoever waits to kill this one."""
        return self.folder / "steps"


class Model:
    """One weight, moved by each sample in turn; and how often each sample has been seen."""

    def __init__(self) -> None:
        self.weight = torch.zeros((), dtype=torch.float64)
        self.seen = torch.zeros((EPOCHS, N), dtype=torch.int64)

    def learn(self, epoch: int, batch: dict[str, torch.Tensor]) -> None:
        for index in batch["index"].tolist():
            self.weight = self.weight * 0.99 + 0.01 * (index + 1) * (epoch + 1)
            self.seen[epoch, index] += 1


def save(path: Path, checkpoint: dict[str, Any]) -> None:
    """In its place as a whole, or not at all."""
    partial = path.with_suffix(".tmp")
    with partial.open("wb") as file:
        torch.save(checkpoint, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def train(run: Run) -> None:
    """Train to the end. A checkpoint is written after every third step, so that a kill loses some work as well."""
    model = Model()
    dataset = IPFSIterableDataset(
        run.root, run.folder / "data.car", batch_size=BATCH_SIZES[run.attempt % len(BATCH_SIZES)], shuffle=True, seed=3
    )
    # Forked, as DataLoader does by itself on Linux; not by a fork server, the default of a process that one has started:
    # torch's workers watch that server then, and outlive a training process that is killed.
    workers: Any = {"num_workers": run.attempt % 3, "multiprocessing_context": "fork"} if run.attempt % 3 else {}
    loader = make_dataloader(dataset, **workers)
    if run.checkpoint.exists():
        checkpoint = torch.load(run.checkpoint, weights_only=True)
        loader.load_state_dict(checkpoint["loader"])
        model.weight, model.seen = checkpoint["weight"], checkpoint["seen"]
    steps = 0
    with run.log.open("ab", buffering=0) as log:
        for epoch in range(loader.dataset.epoch, EPOCHS):
            loader.set_epoch(epoch)
            for batch in loader:
                model.learn(epoch, batch)
                steps += 1
                if steps % 3 == 0:
                    save(run.checkpoint, {"loader": loader.state_dict(), "weight": model.weight, "seen": model.seen})
                log.write(b".")
    save(run.checkpoint, {"loader": loader.state_dict(), "weight": model.weight, "seen": model.seen})
    loader.close()
    (run.folder / "done").touch()


def trained_alone(root: str, car: Path) -> Model:
    """The model of a run that nobody has killed, in one process and one sample at a time."""
    model = Model()
    dataset = IPFSIterableDataset(root, car, batch_size=1, shuffle=True, seed=3)
    for epoch in range(EPOCHS):
        dataset.set_epoch(epoch)
        for batch in dataset:
            model.learn(epoch, batch)
    return model
