from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import torch_ipfs
from benchmarks.memory import anonymous_bytes
from tests.examples.recorded import load
from torch_ipfs import unixfs
from torch_ipfs.blockstore.local import LocalBlockstore

CLIP_BYTES, CLIPS = 10_000_000, 16
MOST_BYTES = 5 * CLIP_BYTES
"""A clip's pieces, the clip that is made of them, and what the allocator keeps; not a third of all clips."""


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> tuple[torch_ipfs.CID, LocalBlockstore]:
    folder = tmp_path_factory.mktemp("clips")
    files = [folder / f"{i}.raw" for i in range(CLIPS)]
    for i, file in enumerate(files):
        file.write_bytes(i.to_bytes(2, "little") * (CLIP_BYTES // 2))
    store = LocalBlockstore(folder / "store", fsync=False)
    return load("large_files").pack(files, store), store


@pytest.mark.parametrize("batch_size", [None, 1])
def test_memory_holds_few_of_the_files_that_are_read_whole(
    clips: tuple[torch_ipfs.CID, LocalBlockstore], batch_size: int | None
) -> None:
    cid, store = clips
    used = []

    def decoded(sample: dict[str, Any]) -> dict[str, Any]:
        data = b"".join(unixfs.iter_read(store, sample["clip"]))
        used.append(anonymous_bytes())
        assert len(data) == CLIP_BYTES
        return {"index": sample["index"], "clip": int.from_bytes(data[-2:], "little")}

    dataset = torch_ipfs.IPFSIterableDataset(cid, store, batch_size=batch_size, shuffle=True, transform=decoded)
    before = anonymous_bytes()
    samples = list(dataset)
    assert sorted(int(sample["index"]) for sample in samples) == list(range(CLIPS))
    assert all(int(sample["index"]) == int(sample["clip"]) for sample in samples)
    assert max(used) - before < MOST_BYTES


def test_a_crop_reads_only_the_blocks_that_hold_it(clips: tuple[torch_ipfs.CID, LocalBlockstore]) -> None:
    cid, packed = clips
    store = LocalBlockstore(packed.source)
    crop = load("large_files").Crop(store)
    dataset = torch_ipfs.IPFSIterableDataset(cid, store, transform=crop)
    assert all(sample["clip"].shape == (16_000,) for sample in dataset)
    assert store.stats()["bytes_verified"] < 0.25 * CLIPS * CLIP_BYTES


def test_the_files_are_kept_by_the_pin_of_the_dataset(
    clips: tuple[torch_ipfs.CID, LocalBlockstore], tmp_path: Path
) -> None:
    cid, packed = clips
    assert packed.pins() == {cid: "recursive"}
    blocks = len(list(packed.cids()))
    assert packed.gc(grace_s=0).kept_blocks == blocks
