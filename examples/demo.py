"""The main job, end to end, on real data and with no daemon: pack, name, train, repeat, and catch a flipped byte.

    python examples/demo.py [folder]

Packs the 1,797 handwritten digits that scikit-learn ships into ``digits.car`` and trains a small network from its CID.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits

import torch_ipfs

EPOCHS = 20
HELD_OUT_EVERY = 5


def say(text: str) -> None:
    print(text, flush=True)


def digits() -> dict[str, Any]:
    """Columns: 1,797 images of 8x8 with values from 0 to 16, their labels, and which fifth is held out from training."""
    data = load_digits()
    return {
        "image": torch.tensor(data.images, dtype=torch.uint8),
        "label": torch.tensor(data.target, dtype=torch.int64),
        "held_out": torch.arange(len(data.target)) % HELD_OUT_EVERY == 0,
    }


def pack(path: Path) -> torch_ipfs.CID:
    # Shards of 16 KiB, so that so small a dataset has several; the default is 1 MiB.
    return torch_ipfs.write_dataset(digits(), path, shard_bytes=16 * 1024, name="digits")


def images(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return batch["image"].flatten(1).float() / 16


def train(cid: torch_ipfs.CID, path: Path) -> tuple[torch.nn.Module, torch_ipfs.IPFSIterableDataset, float]:
    """A network, the dataset that it was trained from, and samples read a second."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    dataset = torch_ipfs.IPFSIterableDataset(cid, path, batch_size=64, shuffle=True, seed=1)
    loader = torch_ipfs.make_dataloader(dataset, num_workers=2)
    samples, begin = 0, time.perf_counter()
    for epoch in range(EPOCHS):
        loader.set_epoch(epoch)
        for batch in loader:
            samples += len(batch["label"])
            used = ~batch["held_out"]
            loss = torch.nn.functional.cross_entropy(model(images(batch)[used]), batch["label"][used])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    seconds = time.perf_counter() - begin
    loader.close()
    return model, dataset, samples / seconds


@torch.no_grad()
def accuracy(model: torch.nn.Module, cid: torch_ipfs.CID, path: Path) -> float:
    """On the part that was held out."""
    right = total = 0
    for batch in torch_ipfs.IPFSIterableDataset(cid, path, batch_size=256):
        used = batch["held_out"]
        predicted = model(images(batch)[used]).argmax(1)
        right += int((predicted == batch["label"][used]).sum())
        total += int(used.sum())
    return right / total


def order(cid: torch_ipfs.CID, path: Path, num_workers: int) -> list[int]:
    """The labels of one epoch in the order in which they come."""
    dataset = torch_ipfs.IPFSIterableDataset(cid, path, batch_size=64, shuffle=True, seed=1)
    loader = torch_ipfs.make_dataloader(dataset, num_workers=num_workers, persistent_workers=False)
    return [label for batch in loader for label in batch["label"].tolist()]


def flip_a_byte(path: Path) -> Path:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    damaged = path.with_name("damaged.car")
    damaged.write_bytes(data)
    return damaged


def main(folder: Path) -> None:
    path = folder / "digits.car"
    say("1. Pack 1,797 handwritten digits into digits.car; what names them is a hash of all their bytes.")
    cid = pack(path)
    say(f"   {cid}   ({path.stat().st_size:,} bytes)")
    say("2. Pack them again, elsewhere: the same samples have the same name, on any machine.")
    again = pack(folder / "again.car")
    say(f"   {again}   the same: {again == cid}")
    say("3. Train a network from the CID with two workers, each block hashed before it is used.")
    model, dataset, rate = train(cid, path)
    stats = dataset.stats()
    say(
        f"   {EPOCHS} epochs, {rate:,.0f} samples/s, {stats['blocks']} blocks verified, {stats['samples']:,} samples read"
    )
    score = accuracy(model, cid, path)
    say(f"   accuracy on the fifth that was held out: {score:.1%}")
    say("4. Read an epoch again with the same seed, then with another number of workers: the same order each time.")
    orders = [order(cid, path, num_workers) for num_workers in (2, 2, 0, 1)]
    same = all(other == orders[0] for other in orders)
    say(f"   workers 2, 2, 0, 1: the same order of {len(orders[0]):,} samples: {same}")
    say("5. Flip one bit in a copy and read that: the error names the block.")
    try:
        for _ in torch_ipfs.IPFSIterableDataset(cid, flip_a_byte(path), batch_size=64):
            pass
    except torch_ipfs.TorchIPFSError as error:
        say(f"   {type(error).__name__}: {error}")
    else:
        sys.exit("a flipped bit went unnoticed")
    if again != cid or not same or score < 0.95:
        sys.exit("the demo did not show what it should")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
