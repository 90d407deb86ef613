"""Reading from a real Kubo node on this machine, measured against plain aiohttp and one raw CAR download.

    python -m benchmarks.network [--tiny] [--rounds 5] [--json FILE]

The node is the one that `make kubo` builds. Everything is measured in one process, side by side in each round, with all
connections open and the node's page cache warm; figures are medians over the rounds. The node shares the cores with its
reader. With ``--tiny`` it takes seconds, and nothing it says means anything.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp

from benchmarks import machine
from benchmarks.floors import Floor
from benchmarks.report import short, table
from tests.network.nodes import KuboNode, find_kubo
from torch_ipfs.blockstore.base import Blockstore
from torch_ipfs.blockstore.gateway import GatewayBlockstore
from torch_ipfs.blockstore.kubo import KuboBlockstore
from torch_ipfs.codec import dag_cbor
from torch_ipfs.codec.cid import CID

KiB, MiB = 2**10, 2**20
IN_FLIGHT = 32
DELAY_S = 0.05
PROXIED = "1 MiB, blake3, through a proxy"
IPFSHTTPCLIENT_BLOCKS = 500
"""One by one it takes long; so it gets the first few, and its speed is told for those."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """Random blocks in the node, and a node that links to all of them."""

    name: str
    root: CID
    cids: list[CID]
    block_bytes: int


@dataclass(slots=True)
class Task:
    """What is measured: ``run`` reads ``blocks`` blocks; seconds and CPU seconds of this process, a round each."""

    blocks: int
    run: Callable[[], object]
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)

    def measure(self) -> None:
        start_s, start_cpu_s = time.perf_counter(), time.process_time()
        self.run()
        self.seconds.append((time.perf_counter() - start_s) / self.blocks)
        self.cpu_seconds.append((time.process_time() - start_cpu_s) / self.blocks)

    def ratio(self, limit: Task) -> float:
        """How many times as fast as ``limit``: the median of the rounds' ratios."""
        return median(theirs / ours for theirs, ours in zip(limit.seconds, self.seconds, strict=True))


Group = dict[str, Task]


def put_blocks(node: KuboBlockstore, name: str, count: int, block_bytes: int, hash_function: str) -> Blocks:
    """Put random blocks into the node."""
    rng = random.Random(f"{name} {hash_function}")
    cids: list[CID] = []

    def blocks() -> Iterator[tuple[CID, bytes]]:
        for _ in range(count):
            data = rng.randbytes(block_bytes)
            cids.append(CID.of(data, "raw", hash_function))
            yield cids[-1], data

    node.put_many(blocks())
    root = dag_cbor.encode({"samples": cids})
    node.put(CID.of(root, "dag-cbor"), root)
    return Blocks(name, CID.of(root, "dag-cbor"), cids, block_bytes)


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


def _read_all(store: Blockstore, cids: Sequence[CID]) -> None:
    _drain(store.get_many(cids))


def _shuffled(cids: Sequence[CID]) -> list[CID]:
    return random.Random(0).sample(cids, len(cids))


def groups(node: KuboNode, rpc: KuboBlockstore, gateway: GatewayBlockstore, tiny: bool) -> dict[str, Group]:
    """What is measured next to each other."""
    found: dict[str, Group] = {}
    packed_blocks, small_blocks = (8, 50) if tiny else (256, 10_000)
    for hash_function in ("sha2-256", "blake3"):
        packed = put_blocks(rpc, "packed", packed_blocks, MiB, hash_function)
        found[f"1 MiB, {hash_function}"] = _reading(node, rpc, gateway, packed)
    small = put_blocks(rpc, "small", small_blocks, KiB, "sha2-256")
    few = small.cids[:IPFSHTTPCLIENT_BLOCKS]
    found["1 KiB, sha2-256"] = _reading(node, rpc, gateway, small) | {
        "ipfshttpclient, one by one": Task(len(few), lambda: _one_by_one(node.rpc_port, few))
    }
    return found


def _reading(node: KuboNode, rpc: KuboBlockstore, gateway: GatewayBlockstore, blocks: Blocks) -> Group:
    cids, root, count = _shuffled(blocks.cids), blocks.root, len(blocks.cids)
    return {
        "aiohttp, 32 in flight": Task(count, lambda: asyncio.run(_aiohttp_in_flight(node.gateway, cids))),
        "aiohttp, one CAR": Task(count, lambda: asyncio.run(_aiohttp_car(node.gateway, root))),
        "gateway, get_many": Task(count, partial(_read_all, gateway, cids)),
        "gateway, get_car": Task(count, lambda: _drain(gateway.get_car(root))),
        "RPC, get_many": Task(count, partial(_read_all, rpc, cids)),
        "RPC, get_car": Task(count, lambda: _drain(rpc.get_car(root))),
    }


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
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        node = KuboNode(find_kubo(), Path(folder), config={"Gateway.NoFetch": True})
        stack.callback(node.stop)
        node.start()
        rpc, gateway = KuboBlockstore(node.rpc), GatewayBlockstore(node.gateway)
        stack.callback(rpc.close)
        stack.callback(gateway.close)
        found = groups(node, rpc, gateway, tiny)
        packed = put_blocks(rpc, "packed", 8 if tiny else 256, MiB, "blake3")
        proxied: Group = {}
        for name, delay_s in (("without delay", 0.0), ("each request 50 ms later", DELAY_S)):
            store = GatewayBlockstore(stack.enter_context(delay_proxy(node.gateway_port, delay_s)))
            stack.callback(store.close)
            proxied[name] = Task(len(packed.cids), partial(_read_all, store, packed.cids))
        found[PROXIED] = proxied
        for number in range(-1, rounds):
            _measure_round(found, f"round {number + 1} of {rounds}", say, warm_up=number < 0)
    return found


def _measure_round(found: dict[str, Group], which: str, say: Callable[[str], None], *, warm_up: bool) -> None:
    for name, group in found.items():
        say(f"{which}: {name}")
        for task in group.values():
            if warm_up:
                task.run()
            else:
                task.measure()


def floors(found: dict[str, Group]) -> list[Floor]:
    """What is demanded of the figures."""
    small = found["1 KiB, sha2-256"]
    near, far = found[PROXIED].values()
    demanded = [
        Floor("1 MiB, sha2-256, gateway", _against(found["1 MiB, sha2-256"], "gateway, get_many"), 0.5),
        Floor("1 MiB, blake3, gateway", _against(found["1 MiB, blake3"], "gateway, get_many"), 0.65),
        Floor("1 KiB in order, against one CAR", small["gateway, get_car"].ratio(small["aiohttp, one CAR"]), 0.5),
        Floor("1 KiB shuffled, gateway", _against(small, "gateway, get_many"), 0.6),
        Floor("1 MiB, 50 ms a request, against none", far.ratio(near), 0.5),
    ]
    client = small["ipfshttpclient, one by one"]
    demanded.append(Floor("1 KiB shuffled, against ipfshttpclient", small["gateway, get_many"].ratio(client), 6.0))
    return demanded


def _against(group: Group, name: str) -> float:
    return group[name].ratio(group["aiohttp, 32 in flight"])


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
