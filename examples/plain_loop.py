"""A plain torch loop that may be stopped at any step and goes on from there, with any number of processes.

    python examples/plain_loop.py CID digits.car
    torchrun --nproc-per-node 2 examples/plain_loop.py CID digits.car

`python examples/demo.py FOLDER` makes digits.car and prints its CID.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from torch import distributed, nn

import torch_ipfs

EPOCHS, BATCH_SIZE, SAVE_EVERY = 2, 8, 5


def loss_of(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return nn.functional.cross_entropy(model(batch["image"].flatten(1).float() / 16), batch["label"])


def main(cid: str, source: str, checkpoint: Path) -> None:
    if "RANK" in os.environ and not distributed.is_initialized():
        distributed.init_process_group("gloo")
    model = nn.Linear(64, 10)  # what a checkpoint holds, so that one process takes up what several have saved
    parallel = nn.parallel.DistributedDataParallel(model) if distributed.is_initialized() else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    # Which share is this process's the dataset finds out itself.
    dataset = torch_ipfs.IPFSIterableDataset(cid, source, batch_size=BATCH_SIZE, shuffle=True, seed=1)
    loader = torch_ipfs.make_dataloader(dataset, num_workers=1)

    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        loader.load_state_dict(saved["data"])
    for epoch in range(dataset.epoch, EPOCHS):
        loader.set_epoch(epoch)  # the epoch of a loaded state goes on where it stood
        for step, batch in enumerate(loader, start=1):
            optimizer.zero_grad()
            loss_of(parallel, batch).backward()
            optimizer.step()
            if step % SAVE_EVERY == 0 and int(os.environ.get("RANK", "0")) == 0:
                states = {"model": model, "optimizer": optimizer, "data": loader}
                torch.save({name: item.state_dict() for name, item in states.items()}, checkpoint.with_suffix(".tmp"))
                checkpoint.with_suffix(".tmp").replace(checkpoint)
    loader.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path("plain_loop.pt"))
    if distributed.is_initialized():
        distributed.destroy_process_group()
