"""Clips of ten megabytes and more: each a UnixFS file that its sample links to, of which a transform reads what it needs.

    python examples/large_files.py CID FOLDER
    torchrun --nproc-per-node 2 examples/large_files.py CID FOLDER

Samples stay small wherever they are shuffled or prefetched: a link is a few bytes. layout="samples" makes it one that pins
follow; in a packed shard it is a value among others, and a garbage collection may take the file.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import torch_ipfs
from torch_ipfs import unixfs

BATCH_SIZE, CROP_BYTES = 4, 2 * 16_000


def pack(files: Iterable[Path], store: torch_ipfs.LocalBlockstore) -> torch_ipfs.CID:
    with store.writing():
        samples = ({"index": i, "clip": unixfs.write(path.read_bytes(), store.put)} for i, path in enumerate(files))
        return torch_ipfs.write_dataset(samples, store, layout="samples", name="clips")


class Crop:
    """A second of 16-bit sound from anywhere in the clip. Only the blocks that hold it are fetched and verified."""

    def __init__(self, store: torch_ipfs.Blockstore) -> None:
        self.store = store

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        frames = (unixfs.file_size(self.store, sample["clip"]) - CROP_BYTES) // 2
        offset = 2 * int(torch.randint(frames + 1, ()))
        data = bytearray().join(unixfs.iter_read(self.store, sample["clip"], offset, CROP_BYTES))
        return {**sample, "clip": torch.frombuffer(data, dtype=torch.int16).float() / 2**15}


def loss_of(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return model(batch["clip"].reshape(len(batch["clip"]), -1, 160)).square().mean()


def main(cid: str, source: str) -> None:
    store = torch_ipfs.open_blockstore(source)
    dataset = torch_ipfs.IPFSIterableDataset(cid, store, batch_size=BATCH_SIZE, shuffle=True, transform=Crop(store))
    model = nn.Linear(160, 1)
    for batch in torch_ipfs.make_dataloader(dataset, num_workers=1):
        loss_of(model, batch).backward()


if __name__ == "__main__":
    main(*sys.argv[1:])
