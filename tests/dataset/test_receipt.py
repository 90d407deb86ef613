"""samples_at: the receipt of a step is what was read there, and costs no sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import torch_ipfs
from tests.dataset.conftest import N, Written, indices
from torch_ipfs import CarBlockstore, CID, IPFSIterableDataset, MemoryBlockstore
from torch_ipfs.codec import dag_cbor

Write = Callable[..., Written]


@given(
    batch_size=st.none() | st.integers(1, 40),
    world_size=st.integers(1, 4),
    shuffle=st.booleans(),
    end=st.fixed_dictionaries({"pad": st.booleans(), "drop_last": st.booleans()}),
    epoch=st.integers(0, 3),
    start=st.integers(0, N),
)
def test_it_is_what_the_ranks_read(
    written: Write, world_size: int, end: Any, epoch: int, start: int, **rest: Any
) -> None:
    ranks = [
        IPFSIterableDataset(*written(), rank=rank, world_size=world_size, **(end | rest)) for rank in range(world_size)
    ]
    state = ranks[0].state_at(epoch, start)
    shares = []
    for dataset in ranks:
        dataset.load_state_dict(state)
        shares.append([indices([item]) for item in dataset])
    for step in range(len(shares[0])):
        receipt = ranks[-1].samples_at(epoch, step, start=start)
        for rank, share in enumerate(shares):
            read = share[step] if step < len(share) else []
            assert receipt.samples[receipt.ranks == rank].tolist() == read
        assert len(receipt) == sum(len(share[step]) for share in shares if step < len(share))
        assert receipt.ranks.tolist() == sorted(receipt.ranks.tolist())
    with pytest.raises(torch_ipfs.OptionError, match="step"):
        ranks[0].samples_at(epoch, len(shares[0]), start=start)


def test_positions_are_places_in_the_epoch_and_padding_begins_again(written: Write) -> None:
    dataset = IPFSIterableDataset(*written(n=10), batch_size=4, rank=0, world_size=2)
    assert dataset.samples_at(0, 0).positions.tolist() == list(range(8))
    assert dataset.samples_at(0, 1).positions.tolist() == [8, 9]
    assert IPFSIterableDataset(*written(n=9), batch_size=4, rank=0, world_size=2).samples_at(
        0, 1
    ).positions.tolist() == [8, 0]


@pytest.mark.parametrize("layout", ["packed", "embedded", "samples"])
def test_samples_with_cids_of_their_own_are_named_by_them(written: Write, layout: str) -> None:
    cid, path = written(layout=layout)
    receipt = IPFSIterableDataset(cid, path, batch_size=8, shuffle=True).samples_at(2, 3)
    if layout != "samples":
        assert receipt.cids == (None,) * 8
        return
    store = CarBlockstore(path)
    named = [dag_cbor.decode(store.get(cid)) for cid in receipt.cids if cid is not None]
    assert [sample["index"] for sample in named] == receipt.samples.tolist()


def test_only_nodes_of_the_manifest_are_read(written: Write) -> None:
    for layout in ("packed", "samples"):
        cid, path = written(layout=layout)
        car = CarBlockstore(path)
        nodes = MemoryBlockstore()

        def keep(node: CID, car: CarBlockstore = car, nodes: MemoryBlockstore = nodes) -> None:
            nodes.put(node, bytes(car.get(node)))
            for entry in dag_cbor.decode(car.get(node)).get("shards", []):
                if entry["format"] == "manifest":
                    keep(entry["cid"])

        keep(cid)
        whole = IPFSIterableDataset(cid, path, batch_size=8, shuffle=True).samples_at(1, 5)
        alone = IPFSIterableDataset(cid, nodes, batch_size=8, shuffle=True).samples_at(1, 5)
        assert (alone.samples == whole.samples).all()
        assert alone.cids == whole.cids


def test_it_leaves_the_run_where_it_stands(written: Write) -> None:
    dataset = IPFSIterableDataset(*written(), batch_size=8, shuffle=True)
    running = iter(dataset)
    next(running)
    state = dataset.state_dict()
    dataset.samples_at(4, 2)
    assert dataset.state_dict() == state
    assert len(indices(running)) == N - 8


@pytest.mark.parametrize(
    ("epoch", "step", "named"), [(0, -1, "step"), (0, 13, "step"), (0, True, "step"), (-1, 0, "epoch")]
)
def test_no_such_step(written: Write, epoch: int, step: int, named: str) -> None:
    with pytest.raises(torch_ipfs.OptionError, match=named):
        IPFSIterableDataset(*written(), batch_size=8).samples_at(epoch, step)


def test_an_empty_dataset_has_no_step(written: Write) -> None:
    with pytest.raises(torch_ipfs.OptionError, match=r"step must be a whole number in \[0, 0\)"):
        IPFSIterableDataset(*written(n=0), batch_size=8).samples_at(0, 0)


@pytest.mark.parametrize("layout", ["embedded", "packed"])
def test_nodes_that_are_left_out_are_named_as_if_they_were_there(written: Write, layout: str) -> None:
    cid, path = written(layout=layout)
    car = CarBlockstore(path)
    only_root = MemoryBlockstore({cid: bytes(car.get(cid))})
    receipt = IPFSIterableDataset(cid, only_root, batch_size=8, on_error="skip").samples_at(0, 3)
    assert receipt.samples.tolist() == list(range(24, 32))
    assert receipt.cids == (None,) * 8
