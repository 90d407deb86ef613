"""Training from the network as it is done: a real node that is killed, three nodes, workers with one cache, and its mishaps."""

from __future__ import annotations

import gc
import multiprocessing
import os
import resource
import shutil
import signal
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import torch_ipfs
from tests.network.datasets import NUM_SAMPLES, Stored, in_order, is_car, read, serving_cars, stored
from tests.network.gateways import options
from tests.network.nodes import KuboNode
from tests.network.staged import Asked, Connection, serving
from torch_ipfs.blockstore.cached import CachedBlockstore
from torch_ipfs.blockstore.gateway import GatewayBlockstore
from torch_ipfs.blockstore.kubo import KuboBlockstore
from torch_ipfs.cli.main import main

EVERY = list(range(NUM_SAMPLES))
LAYOUTS = ("packed", "samples")
JOIN_S = 60.0


@pytest.mark.kubo
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("by", ["rpc", "gateway"])
def test_a_daemon_is_killed_in_the_middle_of_an_epoch_and_started_again(
    own_kubo_node: KuboNode, layout: Any, by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch_ipfs.dataset.streams.WINDOW_BYTES", 2**16)
    own_kubo_node.start()
    node = KuboBlockstore(own_kubo_node.rpc)
    columns = {"x": np.arange(400), "y": np.zeros((400, 2000))}
    root = torch_ipfs.write_dataset(columns, node, layout=layout, shard_bytes=40_000)
    # Small windows, so that most is still to be asked for when the daemon dies; it is back long before the last retry.
    patient: Any = {"in_flight": 2, "retries": 400, "backoff_s": 0.05, "backoff_max_s": 0.2}
    remote = GatewayBlockstore(own_kubo_node.gateway, **patient)
    store = CachedBlockstore(
        KuboBlockstore(own_kubo_node.rpc, **patient) if by == "rpc" else remote, tmp_path / "cache", window_bytes=2**18
    )
    batches = iter(torch_ipfs.IPFSIterableDataset(root, store, batch_size=8))
    seen = next(batches)["x"].tolist()
    own_kubo_node.stop()
    restart = threading.Timer(0.2, own_kubo_node.start)
    restart.start()
    for batch in batches:
        seen += batch["x"].tolist()
    restart.join()
    assert seen == columns["x"].tolist()
    assert store.store.stats()["retries"] > 0  # type: ignore[attr-defined]
    for opened in (node, remote, store):
        opened.close()


@pytest.mark.kubo
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_dataset_goes_from_node_to_node_and_into_training(
    kubo_swarm: list[KuboNode], layout: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pushed to A, pinned by B over bitswap, trained from the gateway of C, which has it from B, while A is stopped."""
    a, b, c = kubo_swarm
    samples = np.arange(500)
    root = torch_ipfs.write_dataset({"x": samples}, tmp_path / "data.car", layout=layout, shard_bytes=1024)
    assert main(["push", str(root), str(tmp_path / "data.car"), a.rpc]) == 0
    assert "pinned" in capsys.readouterr().out
    second = KuboBlockstore(b.rpc, timeout_s=20.0)
    second.pin(root)
    second.close()
    a.stop()
    ds = torch_ipfs.IPFSIterableDataset(root, c.gateway, batch_size=20, shuffle=True)
    loader = torch_ipfs.make_dataloader(ds, num_workers=2)
    assert sorted(x for batch in loader for x in batch["x"].tolist()) == samples.tolist()


@pytest.mark.parametrize("batch_size", [8, 300])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_eight_workers_and_one_cold_cache_fetch_each_block_once(layout: str, shuffle: bool, batch_size: int) -> None:
    """Also where one of them wants most of what a node links to, and the others the rest."""
    data = stored(layout, 400)
    with serving(serving_cars(data)) as server:
        ds = torch_ipfs.IPFSIterableDataset(data.root, server.url, batch_size=batch_size, shuffle=shuffle)
        loader = torch_ipfs.make_dataloader(ds, num_workers=8)
        for _ in range(2):
            assert sorted(x for batch in loader for x in batch["x"].tolist()) == list(range(400))
        del loader
        come = Counter(cid for asked in server.asked for cid in sent(data, asked))
    assert come.keys() == set(map(str, data.blocks))
    assert come.pop(str(data.root)) == (1 if layout == "packed" else 2)  # a CAR begins with the node
    assert set(come.values()) == {1}


def sent(data: Stored, asked: Asked) -> list[str]:
    """The blocks that the gateway answers with."""
    return [str(cid) for cid, _ in in_order(data)] if is_car(asked) else [asked.cid]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_an_epoch_has_read_is_verified_from_the_cache(layout: str, capsys: pytest.CaptureFixture[str]) -> None:
    data = stored(layout)
    with serving(serving_cars(data)) as server:
        assert read(data.root, server.url) == EVERY
    assert main(["verify", str(data.root), "--source", server.url]) == 0  # which is gone
    assert f"{len(data.blocks)} blocks" in capsys.readouterr().out


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_block_counts_as_a_miss_once_and_then_as_a_hit(layout: str) -> None:
    data = stored(layout)
    with serving(serving_cars(data)) as server:
        store = CachedBlockstore(GatewayBlockstore(server.url, **options()))
        for epoch in range(3):
            assert read(data.root, store) == EVERY
            told = store.stats()
            assert (told["misses"], told["hits"]) == (len(data.blocks), epoch * len(data.blocks))
        store.close()


def test_processes_that_read_everything_at_once_fetch_one_stream() -> None:
    data = stored("samples", 400)
    with serving(serving_cars(data)) as server:
        context = multiprocessing.get_context("fork")
        children = [context.Process(target=_read_all, args=(data.root, server.url)) for _ in range(4)]
        for child in children:
            child.start()
        for child in children:
            child.join(JOIN_S)
            assert child.exitcode == 0
        assert Counter(is_car(asked) for asked in server.asked) == {True: 1, False: 1}


def _read_all(root: torch_ipfs.CID, source: str) -> None:
    assert read(root, source) == list(range(400))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_process_is_killed_while_it_writes_the_cache(layout: str) -> None:
    data = stored(layout)
    good = serving_cars(data)
    served = threading.Event()
    killed = threading.Event()
    count = [0]

    def service(asked: Asked, connection: Connection) -> None:
        count[0] += 1
        if count[0] == 2 and not killed.is_set():
            if is_car(asked):  # some of the stream, so that its file is being written
                connection.head(200, {"Content-Length": "1000000"})
                connection.send(b"\x3a\xa2" + bytes(1000))
            served.set()
            assert killed.wait(JOIN_S)
            return
        good(asked, connection)

    with serving(service) as server:
        child = multiprocessing.get_context("fork").Process(target=read, args=(data.root, server.url))
        child.start()
        assert served.wait(JOIN_S)
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        child.join(JOIN_S)
        killed.set()
        assert read(data.root, server.url) == EVERY
        server.asked.clear()
        assert read(data.root, server.url) == EVERY
        assert server.asked == []


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_cache_is_deleted_while_it_is_used(layout: str, tmp_path: Path) -> None:
    data = stored(layout)
    with serving(serving_cars(data)) as server:
        store = CachedBlockstore(GatewayBlockstore(server.url, **options()), tmp_path / "cache")
        ds = torch_ipfs.IPFSIterableDataset(data.root, store, batch_size=8)
        for epoch in range(3):
            ds.set_epoch(epoch)
            seen: list[int] = []
            for batch in ds:
                seen += batch["x"].tolist()
                shutil.rmtree(tmp_path / "cache", ignore_errors=True)
            assert seen == EVERY
        store.close()


@pytest.mark.parametrize("most_bytes", [0, 1000])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_disk_is_full(layout: str, most_bytes: int) -> None:
    """Files may not grow any longer: training goes on without a cache."""
    data = stored(layout)
    with serving(serving_cars(data)) as server:
        child = multiprocessing.get_context("fork").Process(
            target=_read_with_small_files, args=(data.root, server.url, most_bytes)
        )
        child.start()
        child.join(JOIN_S)
        assert child.exitcode == 0
        assert read(data.root, server.url) == EVERY  # there is room again


def _read_with_small_files(root: torch_ipfs.CID, source: str, most_bytes: int) -> None:
    ds = torch_ipfs.IPFSIterableDataset(root, source, batch_size=8)
    for _ in range(2):
        batches = iter(ds)  # torch's shared memory are files, too, that must be allowed to grow
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, resource.RLIM_INFINITY))
        assert [x for batch in batches for x in batch["x"].tolist()] == EVERY
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def test_a_shuffled_epoch_of_a_store_without_cache_fetches_each_shard_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However few shards fit in memory: datasets put the node's cache before stores of the network."""
    monkeypatch.setattr("torch_ipfs.dataset.shards.SHARD_BUDGET_BYTES", 3000)
    data = stored("packed", 400)
    with serving(serving_cars(data)) as server:
        store = GatewayBlockstore(server.url, **options())
        for seed in (1, 2):
            assert sorted(read(data.root, store, shuffle=True, seed=seed)) == list(range(400))
        assert set(Counter(asked.cid for asked in server.asked).values()) == {1}
        store.close()


def test_shards_that_are_fetched_again_for_want_of_a_cache_are_warned_of_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("torch_ipfs.dataset.shards.SHARD_BUDGET_BYTES", 3000)
    data = stored("packed", 400)
    with serving(serving_cars(data)) as server:
        store = GatewayBlockstore(server.url, **options())
        ds = torch_ipfs.IPFSIterableDataset(
            data.root, CachedBlockstore(store, cache_bytes=0), batch_size=8, shuffle=True
        )
        for _ in range(2):
            assert sum(len(batch["x"]) for batch in ds) == 400
        store.close()
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warned) == 1
    assert "more than once an epoch" in warned[0]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_epoch_that_is_left_asks_for_nothing_more(layout: str) -> None:
    """At once, without help by the garbage collector."""
    data = stored(layout, 1000)
    good = serving_cars(data)
    held = threading.Event()

    def service(asked: Asked, connection: Connection) -> None:
        if is_car(asked):
            connection.answer(b"", 406)
        else:
            if len(server.asked) > 4:
                held.wait(JOIN_S)
            good(asked, connection)

    with serving(service) as server:
        gateway = GatewayBlockstore(server.url, in_flight=2)
        gc.collect()
        gc.disable()
        try:
            for _ in torch_ipfs.IPFSIterableDataset(data.root, CachedBlockstore(gateway, cache_bytes=0), batch_size=1):
                break
        finally:
            gc.enable()
        held.set()
        for _ in range(50):  # the time in which an epoch that goes on would ask for as much
            assert gateway.get(data.root) == data.blocks[data.root]
        assert len([asked for asked in server.asked if asked.cid != str(data.root)]) < 12
        gateway.close()
