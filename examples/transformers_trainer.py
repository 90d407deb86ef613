"""transformers.Trainer with the dataset as train_dataset, and its own way to resume.

    python examples/transformers_trainer.py CID digits.car
    torchrun --nproc-per-node 2 examples/transformers_trainer.py CID digits.car

Trainer reads an iterable train_dataset in process 0 alone, and sends its batches to the others. So it has to give every sample
there: rank=0, world_size=1. Without that it says so. transformers_own_loader.py has each process read its own share.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

import torch_ipfs

EPOCHS, BATCH_SIZE, SAVE_EVERY = 2, 8, 5


def loss_of(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return nn.functional.cross_entropy(model(batch["image"].flatten(1).float() / 16), batch["labels"])


class Digits(nn.Linear):
    """What is trained."""

    def forward(self, **batch: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": loss_of(super().forward, batch)}


def main(cid: str, source: str, folder: Path) -> None:
    dataset = torch_ipfs.IPFSIterableDataset(cid, source, shuffle=True, seed=1, rank=0, world_size=1)
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=BATCH_SIZE,
        save_steps=SAVE_EVERY,
        remove_unused_columns=False,  # fields are chosen by the dataset's columns=
        use_cpu=not torch.cuda.is_available(),  # Trainer wants to be told
        report_to=[],
    )
    trainer = Trainer(Digits(64, 10), arguments, train_dataset=dataset)
    trainer.train(resume_from_checkpoint=get_last_checkpoint(folder) if folder.exists() else None)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path("trainer_output"))
    if distributed.is_initialized():
        distributed.destroy_process_group()
