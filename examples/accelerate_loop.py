"""Hugging Face Accelerate: its loop, its save_state and load_state.

    python examples/accelerate_loop.py CID digits.car
    accelerate launch --cpu --num_processes 2 examples/accelerate_loop.py CID digits.car

`prepare` leaves a loader of make_dataloader as it is: each process reads its own share already. Batches come on the CPU. A
plain DataLoader over the dataset would be shared out a second time, and says so; see docs/frameworks.md.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from torch import distributed, nn

import torch_ipfs

EPOCHS, BATCH_SIZE, SAVE_EVERY = 2, 8, 5


def loss_of(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return nn.functional.cross_entropy(model(batch["image"].flatten(1).float() / 16), batch["label"])


def main(cid: str, source: str, folder: Path) -> None:
    accelerator = Accelerator(cpu=True)
    dataset = torch_ipfs.IPFSIterableDataset(cid, source, batch_size=BATCH_SIZE, shuffle=True, seed=1)
    model = nn.Linear(64, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = torch_ipfs.make_dataloader(dataset, num_workers=1)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)

    if folder.exists():
        accelerator.load_state(folder)  # the loader's place in the epoch too
    for epoch in range(dataset.epoch, EPOCHS):
        loader.set_epoch(epoch)
        for step, batch in enumerate(loader, start=1):
            optimizer.zero_grad()
            accelerator.backward(loss_of(model, send_to_device(batch, accelerator.device)))
            optimizer.step()
            if step % SAVE_EVERY == 0:
                accelerator.save_state(folder)
    loader.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path("accelerate_state"))
    if distributed.is_initialized():
        distributed.destroy_process_group()
