"""A process hashes each block of a CAR once, however many epochs it reads: the workers of a loader that lives on, too."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from torch.utils.data import DataLoader

import torch_ipfs
from tests.dataset.conftest import Written
from torch_ipfs.blockstore.base import verify


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Counter[tuple[str, str]]]:
    """How often which process has hashed which block, workers that were forked since included."""
    queue: Any = multiprocessing.get_context("fork").SimpleQueue()
    counts: Counter[tuple[str, str]] = Counter()

    def counted(cid: Any, *args: Any, **options: Any) -> None:
        queue.put((multiprocessing.current_process().name, str(cid)))
        verify(cid, *args, **options)

    def told() -> Counter[tuple[str, str]]:
        while not queue.empty():
            counts[queue.get()] += 1
        return counts

    monkeypatch.setattr("torch_ipfs.blockstore.car_file.verify", counted)
    return told


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_later_epochs_hash_nothing_again(
    written: Callable[..., Written], hashed: Callable[[], Counter[tuple[str, str]]], num_workers: int, shuffle: bool
) -> None:
    root, path = written()
    dataset = torch_ipfs.IPFSIterableDataset(root, path, batch_size=8, shuffle=shuffle)
    loader = DataLoader(dataset, batch_size=None, num_workers=num_workers, persistent_workers=num_workers > 0)
    blocks = []
    for epoch in range(4):
        dataset.set_epoch(epoch)
        assert sum(len(batch["index"]) for batch in loader) == 103
        blocks.append(len(hashed()))
    assert set(hashed().values()) == {1}
    assert len({process for process, _ in hashed()}) == max(1, num_workers)
    if not shuffle or num_workers == 0:  # shuffled, a worker may come to blocks that the other one read before
        assert len(set(blocks)) == 1
