"""PyTorch Lightning: fit, and go on from its own checkpoint in the middle of an epoch.

    python examples/lightning_fit.py CID digits.car
    torchrun --nproc-per-node 2 examples/lightning_fit.py CID digits.car

Trainer tells the loader which epoch it is, and keeps the loader's state in its checkpoints.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn

import torch_ipfs

EPOCHS, BATCH_SIZE, SAVE_EVERY = 2, 8, 5


def loss_of(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return nn.functional.cross_entropy(model(batch["image"].flatten(1).float() / 16), batch["label"])


class Digits(lightning.LightningModule):
    """What is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Linear(64, 10)

    def training_step(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return loss_of(self.model, batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def main(cid: str, source: str, folder: Path) -> None:
    dataset = torch_ipfs.IPFSIterableDataset(cid, source, batch_size=BATCH_SIZE, shuffle=True, seed=1)
    trainer = lightning.Trainer(
        max_epochs=EPOCHS,
        devices=int(os.environ.get("WORLD_SIZE", "1")),
        accelerator="cpu",
        callbacks=[ModelCheckpoint(folder, every_n_train_steps=SAVE_EVERY, save_top_k=-1, save_last=True)],
        logger=False,
        enable_progress_bar=False,
    )
    loader = torch_ipfs.make_dataloader(dataset, num_workers=1)
    trainer.fit(Digits(), loader, ckpt_path="last")  # of the folder; from the beginning where there is none
    loader.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path("lightning_checkpoints"))
