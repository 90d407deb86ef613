"""Linked samples come in one stream or one by one; whichever it is, they come once, in the same order, and right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

import torch_ipfs
from tests.network.dags import as_car
from tests.network.datasets import NUM_SAMPLES, Stored, in_order, is_car, read, serving_cars, stored
from tests.network.gateways import options
from tests.network.staged import Asked, Connection, Service, StagedServer, serving
from torch_ipfs.blockstore.cached import CachedBlockstore
from torch_ipfs.blockstore.car_stream import MAX_STRAY_BYTES
from torch_ipfs.blockstore.gateway import GatewayBlockstore
from torch_ipfs.codec import dag_cbor
from torch_ipfs.codec.cid import CID
from torch_ipfs.dataset import streams

EVERY = list(range(NUM_SAMPLES))


def patient(server: StagedServer) -> GatewayBlockstore:
    """A store that asks once: what a busy machine makes late would be asked for again, and these tests count requests."""
    return GatewayBlockstore(server.url, **options(timeout_s=30.0, stall_s=30.0, connect_timeout_s=30.0))


@contextmanager
def source(service: Service, *, cache: bool = False) -> Iterator[tuple[CachedBlockstore, StagedServer]]:
    """A staged gateway behind a cache, which holds nothing unless it is to."""
    with serving(service) as server:
        store = CachedBlockstore(patient(server), cache_bytes=None if cache else 0)
        yield store, server
        store.close()


def cars(server: StagedServer) -> int:
    return sum(map(is_car, server.asked))


def singles(server: StagedServer) -> int:
    return sum(not is_car(asked) for asked in server.asked)


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("shuffle", [False, True])
def test_a_whole_epoch_is_one_stream_in_the_same_order(shuffle: bool, cache: bool, no_leaks: None):
    data = stored("samples")
    memory = torch_ipfs.MemoryBlockstore()
    memory.put_many(data.blocks.items())
    expected = read(data.root, memory, shuffle=shuffle, seed=7)
    with source(serving_cars(data), cache=cache) as (store, server):
        assert read(data.root, store, shuffle=shuffle, seed=7) == expected
        assert (cars(server), singles(server)) == (1, 1)
        assert read(data.root, store, shuffle=shuffle, seed=7) == expected
        # The dataset is another object; what is cached is there, in one file.
        assert (cars(server), singles(server)) == ((1, 1) if cache else (2, 2))


def test_the_order_in_which_blocks_come_is_not_the_order_of_samples():
    data = stored("samples")
    backwards = as_car(data.root, in_order(data)[::-1])
    with source(serving_cars(data, lambda _: backwards)) as (store, server):
        assert read(data.root, store) == EVERY
        assert singles(server) == 1


def test_few_samples_are_asked_for_one_by_one():
    data = stored("samples")
    with source(serving_cars(data)) as (store, server):
        ds = torch_ipfs.IPFSIterableDataset(data.root, store, batch_size=8, rank=1, world_size=4)
        assert len([x for batch in ds for x in batch["x"].tolist()]) == NUM_SAMPLES // 4
        assert (cars(server), singles(server)) == (0, 1 + NUM_SAMPLES // 4)


def test_a_map_dataset_asks_for_what_it_is_asked_for():
    data = stored("samples")
    with source(serving_cars(data)) as (store, server):
        ds = torch_ipfs.IPFSMapDataset(data.root, store)
        assert [int(sample["x"]) for sample in ds.__getitems__([5, 3, 99])] == [5, 3, 99]
        assert (cars(server), singles(server)) == (0, 4)


def test_large_samples_are_asked_for_one_by_one_after_a_few(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(streams, "MAX_STREAMED_BYTES", 10)
    data = stored("samples")
    with source(serving_cars(data)) as (store, server):
        ds = torch_ipfs.IPFSIterableDataset(data.root, store, batch_size=8)
        for epoch in range(2):
            ds.set_epoch(epoch)
            assert [x for batch in ds for x in batch["x"].tolist()] == EVERY
        assert cars(server) == 1  # it has learnt


def test_what_samples_link_to_is_not_dragged_in():
    """Each sample links to far more than itself; a server that follows is left, and the epoch goes on."""
    data = stored("samples")
    huge = bytes(2**20)
    others = [(CID.of(bytes([i]) + huge), bytes([i]) + huge) for i in range(2 + MAX_STRAY_BYTES // 2**20)]
    blocks = in_order(data)
    body = as_car(data.root, [*blocks[:10], *others, *blocks[10:]])
    with source(serving_cars(data, lambda _: body)) as (store, server):
        assert read(data.root, store) == EVERY
        assert cars(server) == 1
        assert 1 < singles(server) <= NUM_SAMPLES


def test_the_same_sample_may_be_linked_many_times():
    data = stored("samples")
    node = dag_cbor.decode(data.blocks[data.root])
    block = dag_cbor.encode({**node, "samples": [*node["samples"], *node["samples"]]})
    twice = Stored(CID.of(block, "dag-cbor"), {**data.blocks, CID.of(block, "dag-cbor"): block}, data.victim, [])
    with source(serving_cars(twice, lambda cid: as_car(cid, in_order(data)))) as (store, server):
        assert read(twice.root, store) == EVERY * 2
        assert cars(server) == 1


def test_links_as_text_need_no_stream():
    """In plain JSON a CID is text: no server follows it."""
    data = stored("samples")
    node = dag_cbor.decode(data.blocks[data.root])
    block = dag_cbor.encode({**node, "samples": [str(cid) for cid in node["samples"]]})
    root = CID.of(block, "dag-cbor")
    with source(serving_cars(Stored(root, {**data.blocks, root: block}, data.victim, []))) as (store, server):
        assert read(root, store) == EVERY
        assert cars(server) == 0


def test_what_is_held_is_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(streams, "WINDOW_BYTES", 500)
    data = stored("samples")
    with source(serving_cars(data)) as (store, _):
        assert read(data.root, store) == EVERY
        assert sorted(read(data.root, store, shuffle=True)) == EVERY


def test_an_epoch_that_is_left_leaves_nothing_running(no_leaks: None):
    data = stored("samples")

    def endless(asked: Asked, connection: Connection) -> None:
        if not is_car(asked):
            serving_cars(data)(asked, connection)
            return
        connection.head(200, {"Content-Length": "1000000"})
        connection.send(as_car(data.root, in_order(data)[:30]))
        connection.silence()

    with source(endless) as (store, _):
        iterator = iter(torch_ipfs.IPFSIterableDataset(data.root, store, batch_size=8))
        assert next(iterator)["x"].tolist() == EVERY[:8]
        del iterator


def damaged_cache(damage: Callable[[bytes], bytes]) -> tuple[list[int], Counter[bool]]:
    """What is read, and asked for, after the one file of a filled cache was damaged."""
    data = stored("samples")
    with source(serving_cars(data), cache=True) as (store, server):
        assert read(data.root, store) == EVERY
        (pack,) = (path for path in (store.cache_dir / "blocks").rglob("8204*") if path.is_file())
        pack.with_suffix(".new").write_bytes(damage(pack.read_bytes()))
        pack.with_suffix(".new").rename(pack)
        server.asked.clear()
        seen = read(data.root, store)
        assert store.stats()["bad_blocks"] == 1
        return seen, Counter(map(is_car, server.asked))


def test_a_bad_block_of_a_pack_is_fetched_again():
    seen, asked = damaged_cache(lambda data: data[:-1] + bytes([data[-1] ^ 1]))
    assert seen == EVERY
    assert asked == {False: 1}


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: b"nonsense" + data, lambda _: b""])
def test_a_pack_that_is_damaged_is_fetched_again(damage: Callable[[bytes], bytes]):
    seen, asked = damaged_cache(damage)
    assert seen == EVERY
    assert asked == {True: 1}


def test_packs_are_evicted_like_blocks():
    data = stored("samples")
    with serving(serving_cars(data)) as server:
        gateway = patient(server)
        store = CachedBlockstore(gateway, cache_bytes=4 * 2**10)  # less than the samples take, more than one
        assert read(data.root, store) == EVERY
        assert store.stats()["bytes"] <= 4 * 2**10
        store.close()


def test_what_came_in_a_stream_is_found_again_by_workers_behind_tiers():
    """They want few samples each, one by one, of what another pass has put into the cache together."""
    data = stored("samples")
    with serving(serving_cars(data)) as server:
        cached = CachedBlockstore(patient(server))
        store = torch_ipfs.TieredBlockstore([torch_ipfs.MemoryBlockstore(), cached])
        assert read(data.root, store) == EVERY
        assert cars(server) == 1
        server.asked.clear()
        loader = torch_ipfs.make_dataloader(
            torch_ipfs.IPFSIterableDataset(data.root, store, batch_size=8), num_workers=4
        )
        assert [x for batch in loader for x in batch["x"].tolist()] == EVERY
        assert server.asked == []
        store.close()


def test_a_stream_that_fails_is_warned_of_once(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(streams, "RESTED_S", 0.0)
    data = stored("samples")
    with source(serving_cars(data, lambda _: b"")) as (store, server):
        ds = torch_ipfs.IPFSIterableDataset(data.root, store, batch_size=8)
        for epoch in range(3):
            ds.set_epoch(epoch)
            assert [x for batch in ds for x in batch["x"].tolist()] == EVERY
        assert cars(server) == 3
    assert [record.levelname for record in caplog.records].count("WARNING") == 1
