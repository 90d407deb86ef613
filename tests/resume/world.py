"""Loaders of any topology, and the loaders of all ranks as one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch.utils.data import DataLoader

from torch_ipfs import CID, IPFSIterableDataset, make_dataloader
from torch_ipfs.dataset.collate import rows_of

Written = tuple[CID, str]


def samples_of(item: Any) -> list[Any]:
    """The samples of a batch, or the one that ``item`` is."""
    return [item] if item["index"].dim() == 0 else rows_of(item, len(item["index"]))


@dataclass(frozen=True)
class Topology:
    """How a run is spread out.

    :param loader: options of ``make_dataloader`` beside ``num_workers``.
    """

    batch_size: int | None = 4
    world_size: int = 1
    num_workers: int = 0
    loader: dict[str, Any] = field(default_factory=dict)

    def make(self, written: Written, **options: Any) -> World:
        datasets = [
            IPFSIterableDataset(*written, batch_size=self.batch_size, rank=rank, world_size=self.world_size, **options)
            for rank in range(self.world_size)
        ]
        return World([make_dataloader(dataset, num_workers=self.num_workers, **self.loader) for dataset in datasets])


class World:
    """The loaders of all ranks. An item is what they give at one step, side by side: a list of samples."""

    def __init__(self, loaders: list[Any]) -> None:
        self.loaders = loaders

    def __iter__(self) -> Iterator[list[Any]]:
        passes = [iter(loader) for loader in self.loaders]
        while True:
            items = [next(running, None) for running in passes]
            if all(item is None for item in items):
                return
            yield [sample for item in items if item is not None for sample in samples_of(item)]

    def set_epoch(self, epoch: int) -> None:
        for loader in self.loaders:
            loader.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """The state of any rank, since all are alike."""
        states: list[dict[str, Any]] = [loader.state_dict() for loader in self.loaders]
        assert all(state == states[0] for state in states), states
        return states[0]

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for loader in self.loaders:
            loader.load_state_dict(state)

    def close(self) -> None:
        for loader in self.loaders:
            loader.close()


def plain(dataset: IPFSIterableDataset, num_workers: int = 0, **options: Any) -> Any:
    """torch's own DataLoader over a dataset."""
    return DataLoader(dataset, batch_size=None, num_workers=num_workers, **options)
