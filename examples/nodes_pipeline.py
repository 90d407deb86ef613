"""torchdata.nodes: the dataset as the source of a pipeline of threads. The pipeline's state is exact.

python examples/nodes_pipeline.py CID digits.car
torchrun --nproc-per-node 2 examples/nodes_pipeline.py CID digits.car
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from torch import distributed, nn
from torchdata.nodes import IterableWrapper, Loader, ParallelMapper, Prefetcher

import torch_ipfs

EPOCHS, BATCH_SIZE, SAVE_EVERY = 2, 8, 5


def loss_of(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return nn.functional.cross_entropy(model(batch["image"]), batch["label"])


def decoded(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What a pipeline is for: images are decoded, texts become tokens."""
    return {**batch, "image": batch["image"].flatten(1).float() / 16}


def main(cid: str, source: str, checkpoint: Path) -> None:
    if "RANK" in os.environ and not distributed.is_initialized():
        distributed.init_process_group("gloo")
    model: nn.Module = nn.Linear(64, 10)
    if distributed.is_initialized():
        model = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    dataset = torch_ipfs.IPFSIterableDataset(cid, source, batch_size=BATCH_SIZE, shuffle=True, seed=1)
    pipeline = ParallelMapper(IterableWrapper(dataset), decoded, num_workers=2, method="thread")
    loader = Loader(Prefetcher(pipeline, prefetch_factor=4))

    saved = torch.load(checkpoint, weights_only=True) if checkpoint.exists() else None
    if saved:
        model.load_state_dict(saved["model"])
        loader.load_state_dict(saved["data"])
    for epoch in range(saved["epoch"] if saved else 0, EPOCHS):
        dataset.set_epoch(epoch)
        for step, batch in enumerate(loader, start=1):
            optimizer.zero_grad()
            loss_of(model, batch).backward()
            optimizer.step()
            if step % SAVE_EVERY == 0 and int(os.environ.get("RANK", "0")) == 0:
                torch.save({"model": model.state_dict(), "data": loader.state_dict(), "epoch": epoch}, checkpoint)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path("nodes_pipeline.pt"))
    if distributed.is_initialized():
        distributed.destroy_process_group()
