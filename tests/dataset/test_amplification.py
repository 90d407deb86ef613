"""How often shards are opened, over all ranks and workers, as stats() counts it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import torch_ipfs
from torch_ipfs import CID, IPFSIterableDataset, ShuffleOptions, make_dataloader
from torch_ipfs.dataset.write import LayoutName


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[CID, Path]:
    path = tmp_path_factory.mktemp("packed") / "rows.car"
    samples = {"index": torch.arange(2000), "x": torch.zeros(2000, 4)}
    return torch_ipfs.write_dataset(samples, path, shard_bytes=2048), path


BATCH_SIZE = 8


def opened(
    packed: tuple[CID, Path], options: ShuffleOptions, *, ranks: int, workers: int, epochs: int = 1
) -> tuple[int, float]:
    """Shards opened by all ranks' workers, and the dataset's shards."""
    shards, amplification = 0.0, 0.0
    for rank in range(ranks):
        dataset = IPFSIterableDataset(
            *packed, batch_size=BATCH_SIZE, shuffle=options, rank=rank, world_size=ranks, drop_last=True
        )
        loader = make_dataloader(dataset, num_workers=workers)
        for epoch in range(epochs):
            dataset.set_epoch(epoch)
            assert sum(len(batch["index"]) for batch in loader) == len(dataset) * BATCH_SIZE
        shards += dataset.stats()["shards"]
        amplification += dataset.stats()["read_amplification"] / ranks
    return int(shards), amplification


@pytest.mark.parametrize(("ranks", "workers"), [(1, 2), (2, 2)])
def test_a_shard_is_opened_about_once_where_readers_have_lanes_of_their_own(
    packed: tuple[CID, Path], ranks: int, workers: int
) -> None:
    """L is a multiple of R W B / u, and u divides B."""
    options = ShuffleOptions(lanes=8, unit_rows=4, window_rows=100)
    assert options.lanes % (ranks * workers * BATCH_SIZE // options.unit_rows) == 0
    num_shards = IPFSIterableDataset(*packed).manifest.num_shards
    shards, amplification = opened(packed, options, ranks=ranks, workers=workers)
    assert num_shards - 1 <= shards <= num_shards + options.lanes  # the last step is dropped
    assert amplification == pytest.approx(shards / num_shards, rel=0.05)


def test_it_is_seen_where_they_have_not(packed: tuple[CID, Path]) -> None:
    num_shards = IPFSIterableDataset(*packed).manifest.num_shards
    shards, amplification = opened(packed, ShuffleOptions(lanes=8, unit_rows=1, window_rows=100), ranks=1, workers=2)
    assert shards > 1.5 * num_shards
    assert amplification > 1.5


def test_persistent_workers_open_nothing_again_in_later_epochs(packed: tuple[CID, Path]) -> None:
    options = ShuffleOptions(lanes=8, unit_rows=1, window_rows=10**4)
    shards, _ = opened(packed, options, ranks=1, workers=2, epochs=3)
    assert shards <= 2 * IPFSIterableDataset(*packed).manifest.num_shards


def test_nothing_is_read_to_say_that_nothing_was_read(packed: tuple[CID, Path]) -> None:
    stats = IPFSIterableDataset(packed[0], "/nowhere/at/all.car").stats()
    assert stats == {"blocks": 0, "shards": 0, "samples": 0, "read_amplification": 0.0}


@pytest.mark.parametrize("layout", ["samples", "embedded"])
def test_samples_that_are_in_no_shards_are_counted_too(tmp_path: Path, layout: LayoutName) -> None:
    """Linked samples by their blocks, nodes of embedded ones as the shards that they are for the plan."""
    root = torch_ipfs.write_dataset({"index": torch.arange(3000)}, tmp_path / "rows.car", layout=layout)
    dataset = IPFSIterableDataset(root, tmp_path / "rows.car", batch_size=BATCH_SIZE)
    assert sum(len(batch["index"]) for batch in dataset) == 3000
    assert dataset.stats()["read_amplification"] == pytest.approx(1, abs=0.01)
