"""The receipt of a step: which samples all ranks together read there. Nodes of the manifest are read, no samples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from torch_ipfs.codec.cid import CID
from torch_ipfs.dataset.arguments import whole_number
from torch_ipfs.dataset.leaves import link_of
from torch_ipfs.errors import OptionError
from torch_ipfs.manifest.tree import Manifest
from torch_ipfs.plan.partition import Partition
from torch_ipfs.plan.shuffle import Order

Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class GlobalBatch:
    """What all ranks together read at one step, side by side in the order of ranks.

    :param positions: places in the epoch's order, shape (n,). Those that padding repeats stand at the end, from 0 on.
    :param ranks: which rank reads each, shape (n,).
    :param samples: their indices in the dataset, shape (n,).
    :param cids: the CID of each where it is a block of its own (layout "samples"), else ``None``; so too where the node
        that says it is left out as missing or broken.
    """

    epoch: int
    step: int
    positions: Int64s
    ranks: Int64s
    samples: Int64s
    cids: tuple[CID | None, ...]

    def __len__(self) -> int:
        return len(self.positions)


def global_batch(
    manifest: Manifest, partition: Partition, order: Order, epoch: int, step: int, *, skips_broken: bool = False
) -> GlobalBatch:
    """What is read at ``step`` of ``partition`` in ``order``.

    :param skips_broken: whether nodes that are missing or broken are left out.
    :raises OptionError: there is no such step.
    """
    steps, number = partition.num_steps(0), whole_number(step)
    if number is None or not 0 <= number < steps:
        raise OptionError(f"step must be a whole number in [0, {steps}), the steps of the epoch, but is {step!r}")
    shares = [
        partition.positions(rank, number) if number < partition.num_steps(rank) else np.zeros(0, dtype=np.int64)
        for rank in range(partition.world_size)
    ]
    positions = np.concatenate(shares)
    samples = order.samples(positions)
    ranks = np.repeat(np.arange(partition.world_size), [len(share) for share in shares])
    return GlobalBatch(epoch, number, positions, ranks, samples, _cids(manifest, samples, skips_broken))


def _cids(manifest: Manifest, samples: Int64s, skips_broken: bool) -> tuple[CID | None, ...]:
    locate = manifest.locate_or_broken if skips_broken else manifest.locate
    leaves, member, rows = locate(samples)
    if skips_broken:
        manifest.forget_broken()
    cids: list[CID | None] = []
    for sample, i, row in zip(samples.tolist(), member.tolist(), rows.tolist(), strict=True):
        leaf = leaves[i]
        link = link_of((leaf.values or ())[row], sample, leaf.cid) if leaf.format == "samples" else None
        cids.append(link if isinstance(link, CID) else None)
    return tuple(cids)
