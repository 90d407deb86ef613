"""What should the local store keep blocks in? Files, SQLite and LMDB side by side; docs/design.md has the figures.

    python benchmarks/local_store_engines.py [--folder DIR] [--scale 1.0]

Each engine writes the same blocks, unhashed, in two ways: durable (on disk when the call returns) and quick (whole or
missing after a crash of the process; after a power cut files may be empty, SQLite lacks the last transactions, LMDB may be
damaged). Columns are blocks/s: put one by one, put_many, get of all in random order with a look at each page, has, listing;
get and put by 4 processes together; MiB on disk. LMDB is left out where it is not installed.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import importlib.util
import multiprocessing
import os
import random
import shutil
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from torch_ipfs.blockstore.block_files import BlockFiles, load

PROCESSES = 4
PAGE_BYTES = 4096
BATCH_BLOCKS = 1024
BATCH_BYTES = 64 * 2**20
Pair = tuple[bytes, bytes]


class Engine(Protocol):
    """What is measured."""

    def put(self, key: bytes, data: bytes) -> None: ...
    def put_many(self, pairs: Iterable[Pair]) -> None: ...
    def get(self, key: bytes) -> bytes | memoryview: ...
    def has(self, key: bytes) -> bool: ...
    def listed(self) -> Iterable[bytes]: ...
    def close(self) -> None: ...


class Files:
    """What LocalBlockstore does, without hashing."""

    def __init__(self, folder: str, *, durable: bool) -> None:
        self._files = BlockFiles(folder, fsync=durable)

    def put(self, key: bytes, data: bytes) -> None:
        self._files.write(self._files.path_of(key), data)

    def put_many(self, pairs: Iterable[Pair]) -> None:
        self._files.write_many((self._files.path_of(key), data) for key, data in pairs)

    def get(self, key: bytes) -> bytes | memoryview:
        file = os.open(self._files.path_of(key), os.O_RDONLY)
        try:
            return load(file, os.fstat(file).st_size)
        finally:
            os.close(file)

    def has(self, key: bytes) -> bool:
        return os.access(self._files.path_of(key), os.F_OK)

    def listed(self) -> Iterator[bytes]:
        return (multihash for multihash, _ in self._files.files())

    def close(self) -> None:
        pass


class SQLite:
    """One table in WAL mode, read through SQLite's own map of the file."""

    def __init__(self, folder: str, *, durable: bool) -> None:
        self._connection = sqlite3.connect(f"{folder}/blocks.db", timeout=60, isolation_level=None)
        for pragma in ("journal_mode=WAL", f"synchronous={'FULL' if durable else 'NORMAL'}", "mmap_size=34359738368"):
            self._connection.execute(f"PRAGMA {pragma}")
        self._connection.execute("CREATE TABLE IF NOT EXISTS blocks (key BLOB PRIMARY KEY, data BLOB)")

    def put(self, key: bytes, data: bytes) -> None:
        self._connection.execute("INSERT OR REPLACE INTO blocks VALUES (?, ?)", (key, data))

    def put_many(self, pairs: Iterable[Pair]) -> None:
        for batch in batches(pairs):
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany("INSERT OR REPLACE INTO blocks VALUES (?, ?)", batch)
            self._connection.execute("COMMIT")

    def get(self, key: bytes) -> bytes:
        (data,) = self._connection.execute("SELECT data FROM blocks WHERE key = ?", (key,)).fetchone()
        return bytes(data)

    def has(self, key: bytes) -> bool:
        return self._connection.execute("SELECT 1 FROM blocks WHERE key = ?", (key,)).fetchone() is not None

    def listed(self) -> Iterator[bytes]:
        return (key for (key,) in self._connection.execute("SELECT key FROM blocks"))

    def close(self) -> None:
        self._connection.close()


class LMDB:
    """One map. A view into it lives no longer than its transaction, so that get has to copy."""

    def __init__(self, folder: str, *, durable: bool) -> None:
        self._map: Any = importlib.import_module("lmdb").open(folder, map_size=2**35, sync=durable, metasync=durable)

    def put(self, key: bytes, data: bytes) -> None:
        with self._map.begin(write=True) as transaction:
            transaction.put(key, data)

    def put_many(self, pairs: Iterable[Pair]) -> None:
        for batch in batches(pairs):
            with self._map.begin(write=True) as transaction:
                for key, data in batch:
                    transaction.put(key, data)

    def get(self, key: bytes) -> bytes:
        with self._map.begin() as transaction:
            return bytes(transaction.get(key))

    def has(self, key: bytes) -> bool:
        with self._map.begin() as transaction:
            return bool(transaction.cursor().set_key(key))

    def listed(self) -> Iterator[bytes]:
        with self._map.begin() as transaction:
            yield from transaction.cursor().iternext(values=False)

    def close(self) -> None:
        self._map.close()


def batches(pairs: Iterable[Pair]) -> Iterator[list[Pair]]:
    batch: list[Pair] = []
    for pair in pairs:
        batch.append(pair)
        if len(batch) >= BATCH_BLOCKS or len(batch) * len(pair[1]) >= BATCH_BYTES:
            yield batch
            batch = []
    yield batch


def blocks(size_bytes: int, count: int, seed: int) -> list[Pair]:
    body = random.Random(seed).randbytes(size_bytes - 8)
    datas = (number.to_bytes(8, "big") + body for number in range(count))
    return [(b"\x12\x20" + hashlib.sha256(b"%d" % seed + data[:8]).digest(), data) for data in datas]


def read_all(engine: Engine, keys: Iterable[bytes]) -> None:
    for key in keys:
        sum(engine.get(key)[::PAGE_BYTES])


def put_each(engine: Engine, pairs: Iterable[Pair]) -> None:
    for key, data in pairs:
        engine.put(key, data)


def rate(count: int, work: Callable[[], object]) -> float:
    begun_s = time.perf_counter()
    work()
    return count / (time.perf_counter() - begun_s)


def one_process(make: Callable[[], Engine], pairs: list[Pair], single: list[Pair]) -> dict[str, float]:
    engine = make()
    keys = random.Random(0).sample([key for key, _ in pairs], len(pairs))
    rates = {
        "put": rate(len(single), lambda: put_each(engine, single)),
        "put_many": rate(len(pairs), lambda: engine.put_many(pairs)),
        "get": rate(len(keys), lambda: read_all(engine, keys)),
        "has": rate(len(keys), lambda: [engine.has(key) for key in keys]),
        "cids": rate(len(pairs) + len(single), lambda: sum(1 for _ in engine.listed())),
    }
    engine.close()
    return rates


def by_processes(make: Callable[[], Engine], work: Callable[[Engine, int], object], count: int) -> float:
    """Blocks/s of several processes that begin together, from the first one's start to the last one's end."""
    context = multiprocessing.get_context("fork")
    begin = context.Barrier(PROCESSES)
    times: multiprocessing.SimpleQueue[tuple[float, float]] = context.SimpleQueue()

    def run(number: int) -> None:
        engine = make()
        begin.wait()
        begun_s = time.perf_counter()
        work(engine, number)
        times.put((begun_s, time.perf_counter()))
        engine.close()

    processes = [context.Process(target=run, args=(number,)) for number in range(PROCESSES)]
    for process in processes:
        process.start()
    spans = [times.get() for _ in processes]
    for process in processes:
        process.join()
    return count / (max(end_s for _, end_s in spans) - min(begun_s for begun_s, _ in spans))


def measure(
    kind: Callable[..., Engine], folder: str, size_bytes: int, count: int, *, durable: bool
) -> dict[str, float]:
    make = functools.partial(kind, folder, durable=durable)
    pairs, single = blocks(size_bytes, count, 1), blocks(size_bytes, max(PROCESSES, count // 10), 2)
    more = [blocks(size_bytes, len(single) // PROCESSES, 3 + number) for number in range(PROCESSES)]
    rates = one_process(make, pairs, single)
    gets = [[key for key, _ in pairs[number::PROCESSES]] for number in range(PROCESSES)]
    rates["get x4"] = by_processes(make, lambda engine, n: read_all(engine, gets[n]), count)
    rates["put x4"] = by_processes(make, lambda engine, n: put_each(engine, more[n]), len(single))
    used = subprocess.run(["du", "-sm", folder], check=True, capture_output=True, text=True).stdout
    return rates | {"MiB": float(used.split()[0])}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--folder", help="where to write; a folder of the disk to measure")
    arguments.add_argument("--scale", type=float, default=1.0, help="of the number of blocks")
    options = arguments.parse_args()
    engines: list[Callable[..., Engine]] = [Files, SQLite]
    if importlib.util.find_spec("lmdb") is None:
        print("LMDB is not installed")
    else:
        engines.append(LMDB)
    for size_bytes, count in ((2**10, 20_000), (2**20, 400)):
        for kind in engines:
            for durable in (True, False):
                folder = tempfile.mkdtemp(dir=options.folder)
                try:
                    rates = measure(kind, folder, size_bytes, max(40, int(count * options.scale)), durable=durable)
                finally:
                    shutil.rmtree(folder)
                name = f"{kind.__name__} {'durable' if durable else 'quick'}"
                print(
                    f"{size_bytes:8} {name:15}",
                    *(f"{key} {value:,.0f}" for key, value in rates.items()),
                    sep=" | ",
                    flush=True,
                )


if __name__ == "__main__":
    main()
