"""torch's DistributedSampler over the map dataset deals samples out as the iterable dataset does by itself."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, DistributedSampler

import torch_ipfs
from tests.dataset.conftest import indices
from torch_ipfs import CID, IPFSIterableDataset, IPFSMapDataset, MemoryBlockstore
from torch_ipfs.manifest.schema import Field, Schema


@cache
def written(n: int) -> tuple[CID, MemoryBlockstore]:
    """``n`` samples in shards of uneven lengths."""
    store = MemoryBlockstore()
    samples = [{"index": torch.tensor(i), "note": "." * (5 * i)} for i in range(n)]
    schema = Schema((("index", Field("int64")), ("note", Field("text"))))  # which nothing could show where n is 0
    return torch_ipfs.write_dataset(samples, store, shard_bytes=1200, schema=schema), store


@settings(max_examples=150)
@given(n=st.integers(0, 40), world_size=st.integers(1, 9), drop_last=st.booleans(), batch_size=st.integers(1, 9))
def test_each_rank_gets_the_same_samples(n: int, world_size: int, drop_last: bool, batch_size: int) -> None:
    for rank in range(world_size):
        mapped = IPFSMapDataset(*written(n), columns=["index"])
        sampler: Any = DistributedSampler(mapped, world_size, rank, shuffle=False, drop_last=drop_last)
        theirs = DataLoader(mapped, batch_size=batch_size, sampler=sampler)
        ours = IPFSIterableDataset(
            *written(n), columns=["index"], rank=rank, world_size=world_size, drop_last=drop_last
        )
        assert len(ours) == len(sampler)
        assert indices(ours) == indices(theirs)
        assert indices(DataLoader(ours, batch_size=batch_size)) == indices(theirs)


@settings(max_examples=50)
@given(n=st.integers(1, 40), world_size=st.integers(1, 9), epoch=st.integers(0, 5))
def test_shuffled_each_keeps_the_same_promise(n: int, world_size: int, epoch: int) -> None:
    """Orders differ, but equal shares, all samples, and no more repeats than there are ranks."""
    mapped = IPFSMapDataset(*written(n))
    theirs, ours = [], []
    for rank in range(world_size):
        sampler: Any = DistributedSampler(mapped, world_size, rank, shuffle=True)
        sampler.set_epoch(epoch)
        theirs.append(list(sampler))
        dataset = IPFSIterableDataset(*written(n), shuffle=True, rank=rank, world_size=world_size, columns=["index"])
        dataset.set_epoch(epoch)
        ours.append(indices(dataset))
    for shares in (theirs, ours):
        assert {len(share) for share in shares} == {-(-n // world_size)}
        assert {i for share in shares for i in share} == set(range(n))
