"""Two ranks with batches of 32 train as one process with batches of 64 does: the losses, step by step, side by side.

    python examples/ddp.py

Starts itself through torchrun for each of the two, as ``ddp.py CAR BATCH_SIZE LOSSES``, and compares what they write.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import torch_ipfs

EPOCHS = 3
SHOWN_EVERY = 7
TOLERANCE = 1e-4


def digits() -> dict[str, Any]:
    from sklearn.datasets import load_digits

    data = load_digits()
    return {
        "image": torch.tensor(data.images, dtype=torch.uint8),
        "label": torch.tensor(data.target, dtype=torch.int64),
    }


def train(car: Path, batch_size: int) -> list[float]:
    """The loss at each step: the mean over all ranks' samples. Nothing here says which rank reads what."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    layers = torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10)
    model = DistributedDataParallel(torch.nn.Sequential(*layers))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    [root] = torch_ipfs.CarBlockstore(car).roots
    # drop_last: a short last step is padded where ranks must be equal, which one process alone has no need of.
    dataset = torch_ipfs.IPFSIterableDataset(root, car, batch_size=batch_size, shuffle=True, seed=1, drop_last=True)
    loader = torch_ipfs.make_dataloader(dataset, num_workers=1)
    losses = []
    for epoch in range(EPOCHS):
        loader.set_epoch(epoch)
        for batch in loader:
            output = model(batch["image"].flatten(1).float() / 16)
            loss = torch.nn.functional.cross_entropy(output, batch["label"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total = loss.detach()
            dist.all_reduce(total)
            losses.append(float(total) / dist.get_world_size())
    loader.close()
    return losses


def rank(car: Path, batch_size: int, out: Path) -> None:
    dist.init_process_group("gloo")
    losses = train(car, batch_size)
    if dist.get_rank() == 0:
        out.write_text(json.dumps(losses))
    dist.destroy_process_group()


def torchrun(ranks: int, *arguments: object) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks)]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1"]
    environment = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", **os.environ}
    subprocess.run([*command, __file__, *map(str, arguments)], check=True, env=environment)


def main(folder: Path) -> None:
    car = folder / "digits.car"
    cid = torch_ipfs.write_dataset(digits(), car, shard_bytes=16 * 1024)
    print(f"1,797 digits: {cid}", flush=True)
    curves = []
    for ranks, batch_size in ((1, 64), (2, 32)):
        out = folder / f"{ranks}.json"
        torchrun(ranks, car, batch_size, out)
        curves.append(json.loads(out.read_text()))
    one, two = curves
    print(f"{'step':>5} {'1 process x 64':>15} {'2 ranks x 32':>15}")
    for step in range(0, len(one), SHOWN_EVERY):
        print(f"{step:>5} {one[step]:>15.6f} {two[step]:>15.6f}")
    apart = max(abs(a - b) for a, b in zip(one, two, strict=True))
    print(f"{len(one)} steps; the curves are never further apart than {apart:.1e}")
    if apart > TOLERANCE or one[-1] > one[0] / 4:
        sys.exit("the curves are not the same, or nothing was learnt")


if __name__ == "__main__":
    if len(sys.argv) == 4:
        rank(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
