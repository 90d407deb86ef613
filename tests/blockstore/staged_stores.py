"""Stores of somebody else's making, which fail, lie, dawdle and tell what they were asked; and processes that use them."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from torch_ipfs.blockstore.base import Block, Blockstore, one_by_one, verify
from torch_ipfs.blockstore.tiered import TieredBlockstore
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import BlockNotFound, TorchIPFSError, TransportError

DEADLINE_S = 30.0


def blocks_of(count: int, size_bytes: int = 1000, first: int = 1) -> list[tuple[CID, bytes]]:
    """Blocks that differ from each other, the same each time."""
    datas = [(first + number).to_bytes(size_bytes, "little") for number in range(count)]
    return [(CID.of(data), data) for data in datas]


class DictStore:
    """A store that believes what it holds. Kept simple: it verifies nothing that it gives."""

    def __init__(self, blocks: Iterable[tuple[CID, bytes]], source: str = "dict") -> None:
        self.blocks = {cid.multihash: data for cid, data in blocks}
        self.source = source

    def get(self, cid: CID) -> Block:
        try:
            return self.blocks[cid.multihash]
        except KeyError:
            raise BlockNotFound("not in the dict", cid=cid, source=self.source) from None

    def get_many(self, cids: Iterable[CID], *, return_exceptions: bool = False) -> Iterator[Block | TorchIPFSError]:
        return one_by_one(self.get, cids, return_exceptions=return_exceptions)

    def has(self, cid: CID) -> bool:
        return cid.multihash in self.blocks

    def put(self, cid: CID, data: Block) -> None:
        verify(cid, data, self.source)
        self.blocks[cid.multihash] = bytes(data)

    def put_many(self, blocks: Iterable[tuple[CID, Block]]) -> None:
        for cid, data in blocks:
            self.put(cid, data)

    def cids(self) -> Iterator[CID]:
        return (CID.from_multihash("raw", multihash) for multihash in self.blocks)

    def close(self) -> None:
        """Nothing to let go of."""


class LoggingStore(DictStore):
    """Notes each block that is fetched in a file that processes share.

    :param pause_s: what each fetch takes.
    """

    def __init__(self, blocks: Iterable[tuple[CID, bytes]], log: Path, pause_s: float = 0.0) -> None:
        super().__init__(blocks, "logging")
        self.log = log
        self.pause_s = pause_s

    def get(self, cid: CID) -> Block:
        fd = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            os.write(fd, f"{cid}\n".encode())
        finally:
            os.close(fd)
        time.sleep(self.pause_s)
        return super().get(cid)

    def fetched(self) -> Counter[str]:
        """How often each CID was fetched, by all processes."""
        return Counter(self.log.read_text().split()) if self.log.exists() else Counter()


class StagedStore(DictStore):
    """Does what its attributes say at the time, and counts what it is asked.

    ``failure`` is raised, ``forged`` answered for the CIDs in it, and while ``gate`` is clear no call comes back.
    """

    def __init__(self, blocks: Iterable[tuple[CID, bytes]], source: str = "staged") -> None:
        super().__init__(blocks, source)
        self.failure: BaseException | None = None
        self.forged: dict[CID, bytes] = {}
        self.gate = threading.Event()
        self.gate.set()
        self.asked: list[CID] = []
        self.rounds = 0
        self.closed_rounds = 0

    def get(self, cid: CID) -> Block:
        self.asked.append(cid)
        assert self.gate.wait(DEADLINE_S), "the test forgot to open the gate"
        if self.failure is not None:
            raise self.failure
        return self.forged[cid] if cid in self.forged else super().get(cid)

    def get_many(self, cids: Iterable[CID], *, return_exceptions: bool = False) -> Iterator[Block | TorchIPFSError]:
        self.rounds += 1
        try:
            yield from one_by_one(self.get, cids, return_exceptions=return_exceptions)
        finally:
            self.closed_rounds += 1


def down(source: str = "staged") -> TransportError:
    """What a source raises that cannot be reached."""
    return TransportError("connection refused", source=source)


def got(store: Blockstore, cids: Iterable[CID]) -> list[bytes]:
    """The blocks by ``get_many``, as bytes."""
    blocks = []
    for block in store.get_many(cids):
        assert not isinstance(block, TorchIPFSError)
        blocks.append(bytes(block))
    return blocks


def counted(store: TieredBlockstore, name: str) -> list[Any]:
    """What its stats say of each source."""
    return [source[name] for source in store.stats()["sources"]]


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Wait for something that another thread or process does."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"in vain: {what}"
        time.sleep(0.002)


@contextmanager
def children(*calls: tuple[Callable[..., Any], tuple[Any, ...]], method: str = "fork") -> Iterator[list[BaseProcess]]:
    """Processes that make these calls, ended when the block is left."""
    context: Any = multiprocessing.get_context(method)
    started = [context.Process(target=function, args=arguments) for function, arguments in calls]
    try:
        for child in started:
            child.start()
        yield started
    finally:
        for child in started:
            child.kill()
            child.join()


def join(started: list[BaseProcess]) -> None:
    """Wait for processes to end well."""
    for child in started:
        child.join(DEADLINE_S)
        assert child.exitcode == 0, f"{child.name} ended with {child.exitcode}"
