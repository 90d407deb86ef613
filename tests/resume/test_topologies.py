"""A run stopped anywhere goes on exactly, whatever its batches, ranks and workers were, and whatever they are from then on."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.dataset.conftest import indices
from tests.resume.conftest import Write
from tests.resume.world import Topology, World
from torch_ipfs import CarBlockstore, IPFSIterableDataset, MemoryBlockstore, ShuffleOptions, make_dataloader
from torch_ipfs.testing import assert_resumes_exactly

shuffles = st.just(False) | st.builds(
    ShuffleOptions, lanes=st.integers(1, 5), unit_rows=st.integers(1, 6), window_rows=st.integers(1, 30)
)
ends = st.fixed_dictionaries({"pad": st.booleans(), "drop_last": st.booleans()})
in_process = st.builds(Topology, batch_size=st.none() | st.integers(1, 9), world_size=st.integers(1, 4))
with_workers = st.builds(
    Topology,
    batch_size=st.integers(3, 9),
    world_size=st.integers(1, 2),
    num_workers=st.integers(1, 3),
    loader=st.fixed_dictionaries({"prefetch_factor": st.integers(1, 4), "persistent_workers": st.booleans()}),
)


@settings(max_examples=40)
@given(in_process, st.sampled_from([0, 1, 5, 23]), shuffles, ends)
def test_the_same_topology_repeats_its_batches(
    written: Write, topology: Topology, n: int, shuffle: Any, end: dict[str, bool]
) -> None:
    """Batch for batch, padding and what is dropped too."""
    assert_resumes_exactly(lambda: topology.make(written(n), shuffle=shuffle, seed=5, **end))


@settings(max_examples=40)
@given(in_process, in_process, st.sampled_from([0, 1, 5, 23]), shuffles)
def test_another_topology_goes_on_with_the_samples(
    written: Write, before: Topology, after: Topology, n: int, shuffle: Any
) -> None:
    def maker(topology: Topology) -> Callable[[], World]:
        return lambda: topology.make(written(n), shuffle=shuffle, pad=False)

    assert_resumes_exactly(maker(before), resume_with=maker(after), samples_of=list)


@settings(max_examples=3)
@given(with_workers, with_workers, st.integers(0, 2))
def test_workers_are_part_of_the_topology(written: Write, before: Topology, after: Topology, epoch: int) -> None:
    def maker(topology: Topology) -> Callable[[], World]:
        def make() -> World:
            world = topology.make(written(), shuffle=True, pad=False)
            world.set_epoch(epoch)
            return world

        return make

    assert_resumes_exactly(maker(before), resume_with=maker(after), samples_of=list)


def nasty(name: str, topology: Topology, n: int = 23, **options: Any) -> Any:
    return pytest.param(topology, n, options, id=name)


FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(["torch", "torch_ipfs.dataset.dataloader"])


def tripled(batch: dict[str, Any]) -> dict[str, Any]:
    return {**batch, "index": batch["index"] * 3}


@pytest.mark.parametrize(
    ("topology", "n", "options"),
    [
        nasty("nothing to read", Topology(num_workers=2), n=0),
        nasty("one sample for three ranks", Topology(world_size=3), n=1),
        nasty("more workers than batches", Topology(batch_size=16, num_workers=3)),
        nasty("one batch larger than all", Topology(batch_size=100, num_workers=2)),
        nasty("all is dropped", Topology(batch_size=100, num_workers=1), drop_last=True),
        nasty("a dropped tail", Topology(batch_size=6, num_workers=2), drop_last=True),
        nasty("a padded tail", Topology(batch_size=5, world_size=2, num_workers=2), n=13),
        nasty("everything prefetched at once", Topology(batch_size=6, num_workers=2, loader={"prefetch_factor": 9})),
        nasty("workers anew for each pass", Topology(6, num_workers=2, loader={"persistent_workers": False})),
        nasty("samples out of workers", Topology(batch_size=None, num_workers=2), n=6),
        nasty("pinned by a thread", Topology(batch_size=8, num_workers=1, loader={"pin_memory": True})),
        nasty("pinned without workers", Topology(batch_size=8, loader={"pin_memory": True})),
        nasty(
            "from a fork server", Topology(batch_size=8, num_workers=2, loader={"multiprocessing_context": FORKSERVER})
        ),
        nasty("with a transform", Topology(batch_size=8, num_workers=1), batch_transform=tripled),
        nasty("collated by the user", Topology(batch_size=8, num_workers=1, loader={"collate_fn": dict})),
    ],
)
def test_a_list_of_nasty_ones(written: Write, topology: Topology, n: int, options: dict[str, Any]) -> None:
    if "collate_fn" in topology.loader:
        topology.loader["collate_fn"] = lambda samples: {"index": sum(sample["index"] for sample in samples)[None]}
    assert_resumes_exactly(lambda: topology.make(written(n), shuffle=True, **options))


def test_workers_that_are_spawned(written: Write) -> None:
    """Stopped once, since to spawn a process takes seconds; the fork server, which pickles too, is stopped everywhere."""
    whole = indices(IPFSIterableDataset(*written(), shuffle=True))
    stopped = make_dataloader(IPFSIterableDataset(*written(), batch_size=4, shuffle=True))
    running = iter(stopped)
    seen = indices([next(running), next(running), next(running)])
    dataset = IPFSIterableDataset(*written(), batch_size=4, shuffle=True)
    loader = make_dataloader(dataset, num_workers=2, multiprocessing_context="spawn")
    loader.load_state_dict(stopped.state_dict())
    assert seen + indices(loader) == whole
    loader.load_state_dict(stopped.state_dict())
    assert seen + indices(loader) == whole
    assert indices(loader) == whole
    loader.close()


@pytest.mark.parametrize("layout", ["packed", "embedded", "samples"])
def test_every_layout_from_every_source(written: Write, layout: str) -> None:
    """The checkpoint of a run that read a CAR file, loaded by one that reads another store."""
    cid, path = written(layout=layout)
    store = MemoryBlockstore()
    car = CarBlockstore(path)
    store.put_many((block, bytes(car.get(block))) for block in car.cids())

    def from_the_car() -> Any:
        return make_dataloader(IPFSIterableDataset(cid, path, batch_size=4, shuffle=True))

    def from_memory() -> Any:
        return make_dataloader(IPFSIterableDataset(cid, store, batch_size=3, shuffle=True))

    assert_resumes_exactly(from_the_car, resume_with=from_memory)


@pytest.mark.filterwarnings("ignore:.*samples could not be read:UserWarning")
@pytest.mark.parametrize("num_workers", [0, 2])
def test_samples_that_are_skipped_take_their_places(written: Write, num_workers: int) -> None:
    """What is left out counts as received, so that nothing comes twice: neither at the start, nor a whole batch of it."""
    cid, path = written(layout="samples")
    car = CarBlockstore(path)
    receipt = IPFSIterableDataset(cid, path, batch_size=23).samples_at(0, 0)
    lost = {receipt.cids[i] for i in (0, 8, 9, 10, 11, 17)}
    store = MemoryBlockstore()
    store.put_many((block, bytes(car.get(block))) for block in car.cids() if block not in lost)

    def make() -> Any:
        dataset = IPFSIterableDataset(cid, store, batch_size=4, on_error="skip")
        return make_dataloader(dataset, num_workers=num_workers)

    loader = make()
    assert indices(loader) == [i for i in range(23) if receipt.cids[i] not in lost]
    loader.close()
    assert_resumes_exactly(make)
