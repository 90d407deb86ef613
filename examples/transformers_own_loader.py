"""transformers.Trainer with a loader whose processes each read their own share, and which resumes without reading again.

python examples/transformers_own_loader.py CID digits.car
torchrun --nproc-per-node 2 examples/transformers_own_loader.py CID digits.car
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
    return nn.functional.cross_entropy(model(batch["image"].flatten(1).float() / 16), batch["label"])


class Digits(nn.Linear):
    def forward(self, **batch: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": loss_of(super().forward, batch)}


class OwnLoaderTrainer(Trainer):
    """A Trainer whose checkpoints hold where the loader of ``train_dataset`` stands."""

    def get_train_dataloader(self) -> Any:
        self.loader = torch_ipfs.make_dataloader(self.train_dataset, num_workers=1)
        if last := get_last_checkpoint(self.args.output_dir):
            self.loader.load_state_dict(torch.load(Path(last, "data.pt")))
        return self.loader

    def save_model(self, output_dir: str | None = None, **options: Any) -> None:
        super().save_model(output_dir, **options)
        if output_dir and self.is_world_process_zero():
            torch.save(self.loader.state_dict(), Path(output_dir, "data.pt"))


def main(cid: str, source: str, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    dataset = torch_ipfs.IPFSIterableDataset(cid, source, batch_size=BATCH_SIZE, shuffle=True, seed=1)
    given = {"num_train_epochs": EPOCHS, "save_steps": SAVE_EVERY, "ignore_data_skip": True}
    arguments = TrainingArguments(str(folder), use_cpu=not torch.cuda.is_available(), report_to=[], **given)
    trainer = OwnLoaderTrainer(Digits(64, 10), arguments, train_dataset=dataset)
    trainer.train(resume_from_checkpoint=get_last_checkpoint(folder))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path("own_loader_output"))
    if distributed.is_initialized():
        distributed.destroy_process_group()
