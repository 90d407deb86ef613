"""Datasets read from a real Kubo node on this machine, measured against plain aiohttp and one raw CAR download.

    python -m benchmarks.network [--tiny] [--rounds 5] [--json FILE]

The node is the one that `make kubo` builds. Everything is measured in one process, side by side in each round, with all
connections open and the node's page cache warm; figures are medians over the rounds. The node shares the cores with its
reader. With ``--tiny`` it takes seconds, and nothing it says means anything.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp
import numpy as np

from benchmarks import machine
from benchmarks.floors import Floor
from benchmarks.report import short, table
from tests.network.nodes import KuboNode, find_kubo
from torch_ipfs import IPFSIterableDataset, write_dataset
from torch_ipfs.blockstore.base import Blockstore
from torch_ipfs.blockstore.cached import CachedBlockstore
from torch_ipfs.blockstore.car_file import CarBlockstore
from torch_ipfs.blockstore.gateway import GatewayBlockstore
from torch_ipfs.blockstore.kubo import KuboBlockstore
from torch_ipfs.blockstore.open import Source
from torch_ipfs.codec import dag_cbor
from torch_ipfs.codec.cid import CID
from torch_ipfs.dataset.write import HashFunction, LayoutName

HASH_FUNCTIONS: tuple[HashFunction, ...] = ("sha2-256", "blake3")
IN_FLIGHT = 32
DELAY_S = 0.05
SMALL = "1 KiB, sha2-256"
PROXIED = "1 MiB, blake3, through a proxy"
NEAR, FAR = "without delay", "each request 50 ms later"
IN_FLIGHT_LIMIT = "aiohttp, 32 in flight"
COLD, WARM, CAR_FILE = "cold cache", "warm cache", "CAR file"
IPFSHTTPCLIENT_BLOCKS = 500
"""One by one it takes long; so it gets the first few, and its speed is told for those."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """A dataset in the node, and the blocks that it consists of but for its nodes."""

    root: CID
    cids: list[CID]
    num_samples: int
    car: Path


@dataclass(slots=True)
class Task:
    """What is measured: ``run`` reads ``blocks`` blocks; seconds and CPU seconds of this process, a round each.

    :param prepare: what is to be done before, unmeasured.
    """

    blocks: int
    run: Callable[[], object]
    prepare: Callable[[], object] = lambda: None
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)

    def measure(self) -> None:
        self.prepare()
        start_s, start_cpu_s = time.perf_counter(), time.process_time()
        self.run()
        self.seconds.append((time.perf_counter() - start_s) / self.blocks)
        self.cpu_seconds.append((time.process_time() - start_cpu_s) / self.blocks)

    def ratio(self, limit: Task) -> float:
        """How many times as fast as ``limit``: the median of the rounds' ratios."""
        return median(theirs / ours for theirs, ours in zip(limit.seconds, self.seconds, strict=True))


Group = dict[str, Task]


def put_dataset(
    node: KuboBlockstore, folder: Path, layout: LayoutName, samples: int, hash_function: HashFunction
) -> Blocks:
    """Random samples of 3 KiB in packed shards of 1 MiB, or of 1 KiB in a block each, in the node and in a CAR file."""
    sample_bytes = 3072 if layout == "packed" else 1000
    rng = np.random.default_rng(samples)
    x = rng.integers(0, 256, (samples, sample_bytes), dtype=np.uint8)
    rows = ({"x": row.tobytes(), "label": number} for number, row in enumerate(x))
    columns = {"x": x, "label": np.arange(samples, dtype=np.int64)}
    path = folder / f"{layout}-{hash_function}.car"
    root = write_dataset(columns if layout == "packed" else rows, path, layout=layout, hash_function=hash_function)
    node.import_car(path)
    with closing(CarBlockstore(path)) as store:
        cids = list(_leaf_blocks(store, root))
    return Blocks(root, cids, samples, path)


def _leaf_blocks(store: Blockstore, node: CID) -> Iterator[CID]:
    """The packed shards, or the samples, below a node of a dataset."""
    value: dict[str, Any] = dag_cbor.decode(bytes(store.get(node)))
    yield from value.get("samples", ())
    for shard in value.get("shards", ()):
        if shard["format"] == "arrow":
            yield shard["cid"]
        else:
            yield from _leaf_blocks(store, shard["cid"])


async def _aiohttp_in_flight(gateway: str, cids: Sequence[CID]) -> None:
    """The limit for single requests: so many at once, bodies dropped, nothing verified, in no order."""
    left = iter(cids)

    async def lane(session: aiohttp.ClientSession) -> None:
        for cid in left:
            headers = {"Accept": "application/vnd.ipld.raw"}
            async with session.get(f"{gateway}/ipfs/{cid}?format=raw", headers=headers) as response:
                await response.read()

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(lane(session) for _ in range(IN_FLIGHT)))


async def _aiohttp_car(gateway: str, root: CID) -> None:
    """The limit for a stream: one CAR, dropped."""
    headers = {"Accept": "application/vnd.ipld.car; version=1; order=dfs; dups=n"}
    url = f"{gateway}/ipfs/{root}?format=car&dag-scope=all"
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as response:
        async for _ in response.content.iter_any():
            pass


def _one_by_one(port: int, cids: Sequence[CID]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ipfshttpclient

        with ipfshttpclient.Client(f"/ip4/127.0.0.1/tcp/{port}/http") as client:
            for cid in cids:
                client.block.get(str(cid))


def _drain(blocks: Iterable[object]) -> None:
    for _ in blocks:
        pass


def _epoch(blocks: Blocks, source: Source, *, shuffle: bool) -> None:
    """One epoch in batches of 64."""
    dataset = IPFSIterableDataset(blocks.root, source, batch_size=64, shuffle=shuffle)
    assert sum(len(batch["label"]) for batch in dataset) == blocks.num_samples


class Cache:
    """Folders for caches, another one each time that it is to be cold.

    Files of the last one are emptied and not removed: for each new file ext4 looks through all inodes that were freed in the
    last seconds, which took up to twice as long as to write 1 MiB, and is no part of a cache that is cold.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._number = 0

    def before(self, store: Blockstore) -> CachedBlockstore:
        """The store behind the cache, as datasets have it by default."""
        return CachedBlockstore(store, self._folder / str(self._number))

    def clear(self) -> None:
        """Make it cold."""
        for file in (self._folder / str(self._number)).rglob("*"):
            if file.is_file():
                os.truncate(file, 0)
        self._number += 1


def _epoch_with(cache: Cache, store: Blockstore, blocks: Blocks, *, shuffle: bool) -> None:
    """One epoch of a process that has not used the cache before."""
    _epoch(blocks, cache.before(store), shuffle=shuffle)


def groups(
    node: KuboNode, rpc: KuboBlockstore, gateway: GatewayBlockstore, folder: Path, tiny: bool
) -> dict[str, Group]:
    """What is measured next to each other."""
    found: dict[str, Group] = {}
    packed_samples, small_samples = (2_000, 50) if tiny else (85_000, 10_000)
    for hash_function in HASH_FUNCTIONS:
        packed = put_dataset(rpc, folder, "packed", packed_samples, hash_function)
        found[f"1 MiB, {hash_function}"] = _reading(node, gateway, packed, Cache(folder / hash_function))
    small = put_dataset(rpc, folder, "samples", small_samples, "sha2-256")
    few = random.Random(0).sample(small.cids, min(IPFSHTTPCLIENT_BLOCKS, len(small.cids)))
    for size_bytes in (2**10, 2**14, 2**16, 2**18):
        found[f"linked blocks of {size_bytes >> 10} KiB"] = _choice(rpc, gateway, size_bytes, 8 if tiny else 2048)
    found[SMALL] = _reading(node, gateway, small, Cache(folder / "small")) | {
        "aiohttp, one CAR": Task(len(small.cids), lambda: asyncio.run(_aiohttp_car(node.gateway, small.root))),
        "gateway, get_car": Task(len(small.cids), lambda: _drain(gateway.get_car(small.root))),
        "RPC, get_car": Task(len(small.cids), lambda: _drain(rpc.get_car(small.root))),
        "ipfshttpclient, one by one": Task(len(few), lambda: _one_by_one(node.rpc_port, few)),
    }
    return found


def _choice(rpc: KuboBlockstore, gateway: GatewayBlockstore, size_bytes: int, most: int) -> Group:
    """What a node links to, in requests and in a stream: what the dataset's choice between them rests on."""
    rng = random.Random(size_bytes)
    blocks = [rng.randbytes(size_bytes) for _ in range(min(most, 2**26 // size_bytes))]
    cids = [CID.of(block) for block in blocks]
    data = dag_cbor.encode({"samples": cids})
    root = CID.of(data, "dag-cbor")
    rpc.put_many([(root, data), *zip(cids, blocks, strict=True)])
    stores = (("gateway", gateway), ("RPC", rpc))
    return {
        f"{name}, {way}": Task(len(cids), partial(lambda read: _drain(read()), read))
        for name, store in stores
        for way, read in (
            ("requests", partial(store.get_many, cids)),
            ("stream", partial(store.get_linked, root, cids)),
        )
    }


def _reading(node: KuboNode, gateway: GatewayBlockstore, blocks: Blocks, cache: Cache) -> Group:
    cids, count = random.Random(0).sample(blocks.cids, len(blocks.cids)), len(blocks.cids)
    uncached = CachedBlockstore(gateway, cache_bytes=0)
    found = {
        IN_FLIGHT_LIMIT: Task(count, lambda: asyncio.run(_aiohttp_in_flight(node.gateway, cids))),
        "get_many": Task(count, lambda: _drain(gateway.get_many(cids))),
    }
    for shuffle, order in ((False, "in order"), (True, "shuffled")):
        found |= {
            f"batches {order}, no cache": Task(count, partial(_epoch, blocks, uncached, shuffle=shuffle)),
            f"batches {order}, {COLD}": Task(
                count, partial(_epoch_with, cache, gateway, blocks, shuffle=shuffle), cache.clear
            ),
            f"batches {order}, {WARM}": Task(count, partial(_epoch_with, cache, gateway, blocks, shuffle=shuffle)),
            f"batches {order}, {CAR_FILE}": Task(count, partial(_epoch, blocks, blocks.car, shuffle=shuffle)),
        }
    return found


@contextmanager
def delay_proxy(port: int, delay_s: float) -> Iterator[str]:
    """The URL of a proxy before ``port`` that keeps each request back."""
    command = [sys.executable, "-m", "benchmarks.delay_proxy", str(port), str(delay_s)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as proxy:
        assert proxy.stdin is not None
        assert proxy.stdout is not None
        yield f"http://127.0.0.1:{int(proxy.stdout.readline())}"
        proxy.stdin.close()


def measure(rounds: int, tiny: bool, say: Callable[[str], None]) -> dict[str, Group]:
    """Everything, measured ``rounds`` times, once more before that to open connections."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "node").mkdir()
        node = KuboNode(find_kubo(), folder / "node", config={"Gateway.NoFetch": True})
        stack.callback(node.stop)
        node.start()
        rpc, gateway = KuboBlockstore(node.rpc), GatewayBlockstore(node.gateway)
        stack.callback(rpc.close)
        stack.callback(gateway.close)
        found = groups(node, rpc, gateway, folder, tiny)
        packed = put_dataset(rpc, folder, "packed", 2_000 if tiny else 85_000, "blake3")
        found[PROXIED], cache = {}, Cache(folder / "proxied")
        for name, delay_s in ((NEAR, 0.0), (FAR, DELAY_S)):
            store = GatewayBlockstore(stack.enter_context(delay_proxy(node.gateway_port, delay_s)))
            stack.callback(store.close)
            found[PROXIED][name] = Task(
                len(packed.cids), partial(_epoch_with, cache, store, packed, shuffle=False), cache.clear
            )
        for number in range(-1, rounds):
            _measure_round(found, f"round {number + 1} of {rounds}", say, warm_up=number < 0)
    return found


def _measure_round(found: dict[str, Group], which: str, say: Callable[[str], None], *, warm_up: bool) -> None:
    for name, group in found.items():
        say(f"{which}: {name}")
        for task in group.values():
            if warm_up:
                task.prepare()
                task.run()
            else:
                task.measure()


def floors(found: dict[str, Group]) -> list[Floor]:
    """What is demanded of the figures, at default settings: with a cache, which is cold but where it says otherwise."""
    small = found[SMALL]
    demanded = []
    for hash_function, bound in (("sha2-256", 0.5), ("blake3", 0.65)):
        group = found[f"1 MiB, {hash_function}"]
        for order in ("in order", "shuffled"):
            value = group[f"batches {order}, {COLD}"].ratio(group[IN_FLIGHT_LIMIT])
            demanded.append(Floor(f"1 MiB, {hash_function}, {order}, against aiohttp", value, bound))
    for order, limit, bound in (
        ("in order", "aiohttp, one CAR", 0.5),
        ("shuffled", IN_FLIGHT_LIMIT, 0.6),
        ("shuffled", "ipfshttpclient, one by one", 6.0),
    ):
        value = small[f"batches {order}, {COLD}"].ratio(small[limit])
        demanded.append(Floor(f"1 KiB {order}, against {limit}", value, bound))
    for name, group in found.items():
        for order in ("in order", "shuffled") if IN_FLIGHT_LIMIT in group else ():
            value = group[f"batches {order}, {WARM}"].ratio(group[f"batches {order}, {CAR_FILE}"])
            demanded.append(Floor(f"{name}, {order}, {WARM} against {CAR_FILE}", value, 0.8))
    proxied = found[PROXIED]
    demanded.append(Floor("1 MiB, 50 ms a request, against none", proxied[FAR].ratio(proxied[NEAR]), 0.5))
    return demanded


def text(found: dict[str, Group], demanded: Sequence[Floor]) -> str:
    """The tables."""
    rows = []
    for name, group in found.items():
        limit = next(iter(group.values()))
        for what, task in group.items():
            speed, cpu = f"{short(1 / median(task.seconds))}/s", f"{1e6 * median(task.cpu_seconds):.0f}"
            rows.append([name, what, speed, f"{task.ratio(limit):.2f}x", cpu])
    measured = table(["blocks", "read by", "speed", "against the first", "CPU us a block"], rows)
    checks = [[f.what, f"{f.value:.2f}{f.unit}", f"{f.bound:g}", "yes" if f.met else "NO"] for f in demanded]
    return f"{measured}\n\n{table(['demanded', 'measured', 'at least', 'met'], checks)}"


def as_json(found: dict[str, Group], demanded: Sequence[Floor]) -> dict[str, Any]:
    """Everything that was measured."""
    return {
        "machine": machine.describe(),
        "seconds_a_block": {
            name: {what: task.seconds for what, task in group.items()} for name, group in found.items()
        },
        "floors": [
            {"what": floor.what, "value": floor.value, "bound": floor.bound, "met": floor.met} for floor in demanded
        ],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.network", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="a few blocks, one round: over in seconds")
    parser.add_argument("--rounds", type=int, default=5, help="how often everything is measured (default: 5)")
    parser.add_argument("--json", type=Path, help="write everything that was measured")
    options = parser.parse_args(arguments)
    found = measure(1 if options.tiny else options.rounds, options.tiny, lambda what: print(what, file=sys.stderr))
    demanded = floors(found)
    print(text(found, demanded))
    if options.json is not None:
        options.json.write_text(json.dumps(as_json(found, demanded), indent=1) + "\n")


if __name__ == "__main__":
    main()
