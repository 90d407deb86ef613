"""Who reads what: disjoint, complete, equal, and the same however it is shared out."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import TensorDataset
from torch.utils.data.distributed import DistributedSampler

from torch_ipfs.errors import OptionError
from torch_ipfs.plan.partition import Partition
from torch_ipfs.plan.topology import Topology

partitions = st.builds(
    Partition,
    num_samples=st.integers(0, 200),
    batch_size=st.integers(1, 9),
    world_size=st.integers(1, 7),
    drop_last=st.booleans(),
    pad=st.booleans(),
)


def batches(p: Partition, rank: int) -> list[list[int]]:
    return [p.positions(rank, step).tolist() for step in range(p.num_steps(rank))]


def side_by_side(p: Partition) -> list[int]:
    """All positions in the order of steps, and of ranks within a step."""
    steps = max(p.num_steps(rank) for rank in range(p.world_size))
    ranks = range(p.world_size)
    return [i for step in range(steps) for rank in ranks if step < p.num_steps(rank) for i in p.positions(rank, step)]


@given(partitions)
def test_ranks_side_by_side_are_the_order_itself(p: Partition) -> None:
    seen = side_by_side(p)
    kept = p.num_samples - p.tail if p.drop_last else p.num_samples
    assert seen[:kept] == list(range(kept))
    assert len(seen) == kept + p.padding


@given(partitions)
def test_padding_repeats_the_epochs_first_positions(p: Partition) -> None:
    repeated = side_by_side(p)[p.num_samples :] if p.padding else []
    assert repeated == [i % p.num_samples for i in range(len(repeated))]
    assert p.padding < p.world_size


@given(partitions)
def test_padded_or_cut_ranks_have_equal_batches(p: Partition) -> None:
    if p.world_size > 1 and (p.pad or p.drop_last):
        shapes = [[len(b) for b in batches(p, rank)] for rank in range(p.world_size)]
        assert all(shape == shapes[0] for shape in shapes)


@given(partitions)
def test_one_process_with_the_global_batch_sees_the_same_steps(p: Partition) -> None:
    alone = Partition(p.num_samples, p.batch_size * p.world_size, drop_last=True)
    for step in range(alone.num_steps(0)):
        together = [i for rank in range(p.world_size) for i in p.positions(rank, step)]
        assert together == alone.positions(0, step).tolist()


@given(partitions, st.integers(1, 6), st.integers(1, 40))
def test_workers_in_turn_give_the_ranks_batches(p: Partition, num_workers: int, max_positions: int) -> None:
    for rank in range(p.world_size):
        by_step = {}
        for worker in range(num_workers):
            topology = Topology(rank, p.world_size, worker, num_workers)
            for steps, positions in p.runs(topology, max_positions):
                assert len(positions) <= max(max_positions, p.batch_size)
                for i, step in enumerate(steps):
                    assert step % num_workers == worker
                    by_step[step] = positions[i * p.batch_size : (i + 1) * p.batch_size].tolist()
        assert [by_step[step] for step in sorted(by_step)] == batches(p, rank)


@given(partitions, st.data())
def test_going_on_after_any_step_gives_the_rest(p: Partition, data: st.DataObject) -> None:
    taken = data.draw(st.integers(0, p.full_steps))
    rest = Partition(p.num_samples, p.batch_size, p.world_size, p.position_after(taken), p.drop_last, p.pad)
    for rank in range(p.world_size):
        assert batches(rest, rank) == batches(p, rank)[taken:]


@given(partitions, st.integers(1, 9), st.integers(1, 7), st.data())
def test_going_on_with_another_batch_and_world_completes_the_epoch(
    p: Partition, batch_size: int, world_size: int, data: st.DataObject
) -> None:
    position = p.position_after(data.draw(st.integers(0, p.full_steps)))
    rest = Partition(p.num_samples, batch_size, world_size, position, pad=False)
    assert side_by_side(rest) == list(range(position, p.num_samples))


@given(st.integers(1, 60), st.integers(1, 7), st.booleans())
def test_single_samples_are_dealt_out_as_distributed_sampler_does(n: int, world_size: int, drop_last: bool) -> None:
    for rank in range(world_size):
        theirs: DistributedSampler[int] = DistributedSampler(
            TensorDataset(torch.arange(n)), world_size, rank, shuffle=False, drop_last=drop_last and n >= world_size
        )
        ours = Partition(n, 1, world_size, drop_last=drop_last and n >= world_size)
        assert [i for batch in batches(ours, rank) for i in batch] == list(theirs)


def test_the_position_after_the_last_step_is_the_end() -> None:
    p = Partition(10, 4, 1)
    assert [p.position_after(steps) for steps in range(5)] == [0, 4, 8, 10, 10]
    assert p.positions(0, 2).tolist() == [8, 9]


@pytest.mark.parametrize(("batch_size", "start"), [(0, 0), (1, 11), (1, -1)])
def test_what_cannot_work_is_refused(batch_size: int, start: int) -> None:
    with pytest.raises(OptionError):
        Partition(10, batch_size, start=start)


@pytest.mark.parametrize("place", [(2, 2), (-1, 2), (0, 0), (0, 1, 3, 3), (0, 1, 0, 0)])
def test_a_place_outside_of_the_topology_is_refused(place: tuple[int, ...]) -> None:
    with pytest.raises(OptionError, match="must be in"):
        Topology(*place)


def test_a_million_steps_cost_no_list() -> None:
    p = Partition(10**12, 256, 8)
    runs = p.runs(Topology(3, 8, 1, 4), 1024)
    steps, positions = next(runs)
    assert list(steps) == [1]
    assert positions.dtype == np.int64
    assert positions[:2].tolist() == [(8 + 3) * 256, (8 + 3) * 256 + 1]
    assert [list(steps) for steps, _ in islice(runs, 3)] == [[5, 9, 13, 17], [21, 25, 29, 33], [37, 41, 45, 49]]
