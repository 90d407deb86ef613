"""What every store of blocks keeps to, as tests to subclass.

    class TestMyStore(BlockstoreConformance):
        @pytest.fixture
        def store(self, tmp_path):
            store = MyStore(tmp_path)
            store.put_many(self.blocks())
            yield store
            store.close()

Nothing here needs more than the store and pytest. Each child process that a test starts is waited for, or killed.
"""

from __future__ import annotations

import itertools
import multiprocessing
import pickle
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from torch_ipfs.blockstore.base import MAX_BLOCK_BYTES, Block, Blockstore
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import (
    BlockNotFound,
    BlockTooLarge,
    HashMismatch,
    TorchIPFSError,
    TransportError,
)

DEADLINE_S = 60.0
MIB = 2**20
LARGE_BLOCKS = 24
THREADS = 8


def block_of(seed: int, size_bytes: int, codec: str = "raw", hash_function: str = "sha2-256") -> tuple[CID, bytes]:
    """A block of that size that is the same each time, and its CID."""
    data = random.Random(seed).randbytes(size_bytes)  # noqa: S311 - test data
    return CID.of(data, codec, hash_function), data


IDENTITY = CID.of(b"carried by its CID", "raw", "identity")
ABSENT, ABSENT_DATA = block_of(1000, 100)
SMALL = [
    block_of(0, 0),
    block_of(1, 1),
    block_of(2, 1000),
    block_of(3, 1000, "dag-cbor"),
    block_of(4, 40_000, "dag-json", "sha2-512"),
    block_of(5, 70_000, "raw", "blake3"),
    block_of(6, 300_000, "dag-pb"),
    block_of(7, MAX_BLOCK_BYTES),
]
LARGE = [block_of(100 + number, MIB) for number in range(LARGE_BLOCKS)]
DAG_PB, DAG_PB_DATA = SMALL[6]
NAMES_OF_ONE_BLOCK = [
    DAG_PB,
    CID.from_bytes(DAG_PB.multihash),  # CIDv0
    CID.from_multihash("raw", DAG_PB.multihash),
    CID.from_multihash("dag-cbor", DAG_PB.multihash),
]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")
class BlockstoreConformance:
    """A subclass gives the fixture ``store``: a fresh store that holds :meth:`blocks` and nothing else.

    What it cannot do it says by these attributes, what it can be made to do by :meth:`forge`.
    """

    writable = True
    """Whether ``put`` works. Otherwise it must raise TransportError."""
    listable = True
    """Whether ``cids`` works. Otherwise it must raise TorchIPFSError."""
    shared = True
    """Whether a pickled copy, and a forked process, see what is put into the store later."""
    window_bytes = 16 * MIB
    """How far ahead ``get_many`` may fetch or hash."""

    @pytest.fixture
    def store(self) -> Iterator[Blockstore]:
        raise NotImplementedError(f"{type(self).__name__} gives no fixture 'store'")

    @classmethod
    def blocks(cls) -> list[tuple[CID, bytes]]:
        """What the store holds when a test starts."""
        return SMALL + LARGE

    def forge(self, store: Any, cid: CID, data: bytes) -> None:  # noqa: ARG002 - for subclasses
        """Make what is behind ``store`` answer ``data`` for ``cid``, past all checks.

        By default the tests of forged blocks are skipped.
        """
        pytest.skip("this store gives no way to plant forged bytes")

    # Reading

    def test_is_a_blockstore_with_a_name(self, store: Blockstore) -> None:
        assert isinstance(store, Blockstore)
        assert isinstance(store.source, str)  # type: ignore[attr-defined]

    @pytest.mark.parametrize("number", range(len(SMALL)))
    def test_get_gives_the_blocks_bytes_read_only(self, store: Blockstore, number: int) -> None:
        cid, data = SMALL[number]
        for _ in range(2):
            block = store.get(cid)
            assert block == data
            assert memoryview(block).readonly

    def test_cids_of_one_multihash_name_one_block(self, store: Blockstore) -> None:
        for cid in NAMES_OF_ONE_BLOCK:
            assert store.get(cid) == DAG_PB_DATA
            assert store.has(cid)

    def test_a_missing_block_is_named(self, store: Blockstore) -> None:
        with pytest.raises(BlockNotFound) as caught:
            store.get(ABSENT)
        assert caught.value.cid == str(ABSENT)
        assert caught.value.source
        assert not store.has(ABSENT)

    def test_has_what_it_holds(self, store: Blockstore) -> None:
        assert all(store.has(cid) for cid, _ in SMALL)

    def test_identity_blocks_are_in_their_cids(self, store: Blockstore) -> None:
        assert store.get(IDENTITY) == b"carried by its CID"
        assert store.has(IDENTITY)
        assert [bytes(block) for block in _blocks(store, [IDENTITY, IDENTITY])] == [b"carried by its CID"] * 2

    def test_a_hash_function_that_is_not_allowed_is_one_of_our_errors(self, store: Blockstore) -> None:
        with pytest.raises(TorchIPFSError):
            store.get(CID.from_multihash("raw", b"\xd5\x01\x10" + bytes(16)))  # md5

    # get_many

    def test_get_many_answers_one_for_one_in_order(self, store: Blockstore) -> None:
        wanted = [*SMALL, *LARGE[:3], SMALL[2], SMALL[2], *reversed(SMALL), LARGE[0]]
        got = _blocks(store, [cid for cid, _ in wanted])
        assert [len(block) for block in got] == [len(data) for _, data in wanted]
        assert all(block == data for block, (_, data) in zip(got, wanted, strict=True))

    def test_get_many_of_nothing_is_nothing(self, store: Blockstore) -> None:
        assert list(store.get_many([])) == []

    def test_get_many_looks_no_further_ahead_than_its_window(self, store: Blockstore) -> None:
        asked: list[CID] = []
        fetched = store.get_many(_noted(itertools.cycle([cid for cid, _ in LARGE]), asked))
        for taken in range(1, LARGE_BLOCKS + 1):
            assert next(fetched) == LARGE[taken - 1][1]
            assert (len(asked) - taken) * MIB <= self.window_bytes + MIB
        _close(fetched)

    def test_an_error_comes_in_its_place(self, store: Blockstore) -> None:
        first, last = SMALL[1], LARGE[0]
        got = list(store.get_many([first[0], ABSENT, last[0]], return_exceptions=True))
        assert got[0] == first[1]
        assert isinstance(got[1], BlockNotFound)
        assert got[1].cid == str(ABSENT)
        assert got[2] == last[1]

    def test_without_return_exceptions_the_error_is_raised_in_its_place(self, store: Blockstore) -> None:
        fetched = store.get_many([SMALL[1][0], ABSENT, LARGE[0][0]])
        assert next(fetched) == SMALL[1][1]
        with pytest.raises(BlockNotFound):
            next(fetched)

    def test_get_many_may_be_left_half_way(self, store: Blockstore) -> None:
        fetched = store.get_many([cid for cid, _ in LARGE])
        assert next(fetched) == LARGE[0][1]
        _close(fetched)
        assert list(fetched) == []
        assert store.get(LARGE[5][0]) == LARGE[5][1]

    # Forged blocks

    def test_a_forged_block_is_refused(self, store: Blockstore) -> None:
        cid, data = SMALL[2]
        self.forge(store, cid, data[:-1] + bytes([data[-1] ^ 1]))
        for _ in range(2):
            with pytest.raises(HashMismatch) as caught:
                store.get(cid)
            assert caught.value.cid == str(cid)
            assert caught.value.source

    @pytest.mark.parametrize("number", [0, 3, 6])
    def test_a_forged_block_is_an_error_among_others(self, store: Blockstore, number: int) -> None:
        cid, data = SMALL[number]
        self.forge(store, cid, data + b"more")
        before, after = SMALL[1], LARGE[1]
        got = list(store.get_many([before[0], cid, after[0]], return_exceptions=True))
        assert got[0] == before[1]
        assert isinstance(got[1], HashMismatch)
        assert got[2] == after[1]

    def test_a_block_over_the_limit_is_refused(self, store: Blockstore) -> None:
        cid, data = block_of(9, MAX_BLOCK_BYTES + 1)
        self.forge(store, cid, data)
        with pytest.raises(BlockTooLarge):
            store.get(cid)

    def test_a_damaged_block_is_mended_by_put(self, store: Blockstore) -> None:
        if not self.writable:
            pytest.skip("a read-only store")
        cid, data = LARGE[2]
        self.forge(store, cid, data[:-1])
        with pytest.raises(HashMismatch):
            store.get(cid)
        store.put(cid, data)
        assert store.get(cid) == data

    # Writing

    def test_put(self, store: Blockstore) -> None:
        if not self.writable:
            with pytest.raises(TransportError):
                store.put(ABSENT, ABSENT_DATA)
            return
        for form in (ABSENT_DATA, memoryview(b"_" + ABSENT_DATA)[1:]):
            store.put(ABSENT, form)
            assert store.has(ABSENT)
            assert store.get(ABSENT) == ABSENT_DATA

    def test_what_is_put_is_verified(self, store: Blockstore) -> None:
        with pytest.raises(HashMismatch if self.writable else TransportError):
            store.put(ABSENT, ABSENT_DATA[:-1])
        assert not store.has(ABSENT)
        with pytest.raises(BlockNotFound):
            store.get(ABSENT)

    def test_a_block_over_the_limit_is_not_put(self, store: Blockstore) -> None:
        cid, data = block_of(10, MAX_BLOCK_BYTES + 1)
        with pytest.raises(BlockTooLarge if self.writable else TransportError):
            store.put(cid, data)
        assert not store.has(cid)

    def test_put_many(self, store: Blockstore) -> None:
        fresh = [block_of(2000 + number, 100 * number) for number in range(20)]
        if not self.writable:
            with pytest.raises(TransportError):
                store.put_many(fresh)
            return
        store.put_many(iter([*fresh, fresh[0], (IDENTITY, IDENTITY.digest)]))
        assert _blocks(store, [cid for cid, _ in fresh]) == [data for _, data in fresh]

    def test_put_many_keeps_what_came_before_a_bad_block(self, store: Blockstore) -> None:
        if not self.writable:
            pytest.skip("a read-only store")
        with pytest.raises(HashMismatch):
            store.put_many([(ABSENT, ABSENT_DATA), (block_of(11, 10)[0], b"something else")])
        assert store.get(ABSENT) == ABSENT_DATA

    def test_what_is_put_does_not_change_with_the_memory_it_came_from(self, store: Blockstore) -> None:
        if not self.writable:
            pytest.skip("a read-only store")
        memory = bytearray(ABSENT_DATA)
        store.put(ABSENT, memoryview(memory).toreadonly())
        memory[0] ^= 1
        assert store.get(ABSENT) == ABSENT_DATA

    def test_cids_lists_each_block_once(self, store: Blockstore) -> None:
        if not self.listable:
            with pytest.raises(TorchIPFSError):
                list(store.cids())
            return
        listed = [cid.multihash for cid in store.cids()]
        assert len(listed) == len(set(listed))
        assert set(listed) == {cid.multihash for cid, _ in self.blocks()}

    # Processes and threads

    def test_pickles(self, store: Blockstore) -> None:
        store.get(SMALL[2][0])
        copy = pickle.loads(pickle.dumps(store))  # noqa: S301 - our own
        try:
            assert all(copy.get(cid) == data for cid, data in SMALL)
            if self.writable and self.shared:
                store.put(ABSENT, ABSENT_DATA)
                assert copy.get(ABSENT) == ABSENT_DATA
        finally:
            copy.close()

    @pytest.mark.parametrize("method", ["fork", "spawn"])
    @pytest.mark.parametrize("used", [False, True], ids=["fresh", "used"])
    def test_works_in_a_child_process(self, store: Blockstore, method: str, *, used: bool) -> None:
        if used:
            _blocks(store, [cid for cid, _ in SMALL])
        _run_in_child(method, store)
        assert all(store.get(cid) == data for cid, data in SMALL)

    def test_works_in_a_child_forked_while_threads_read(self, store: Blockstore) -> None:
        stop = threading.Event()

        def read() -> None:
            while not stop.is_set():
                _read_all(store)

        with ThreadPoolExecutor(2) as pool:
            readers = [pool.submit(read) for _ in range(2)]
            try:
                for _ in range(3):
                    _run_in_child("fork", store)
            finally:
                stop.set()
            for reader in readers:
                reader.result(DEADLINE_S)

    def test_many_threads_read_and_write(self, store: Blockstore) -> None:
        def work(seed: int) -> None:
            order = random.Random(seed).sample(SMALL + LARGE[:4], len(SMALL) + 4)  # noqa: S311 - an order
            for cid, data in order:
                assert store.get(cid) == data
            if self.writable:
                store.put(ABSENT, ABSENT_DATA)
                assert store.get(ABSENT) == ABSENT_DATA
            assert _blocks(store, [cid for cid, _ in order]) == [data for _, data in order]

        with ThreadPoolExecutor(THREADS) as pool:
            for future in [pool.submit(work, seed) for seed in range(THREADS)]:
                future.result(DEADLINE_S)

    def test_close_may_come_twice_and_before_further_use(self, store: Blockstore) -> None:
        block = store.get(LARGE[0][0])
        store.close()
        store.close()
        assert block == LARGE[0][1]
        assert store.get(SMALL[2][0]) == SMALL[2][1]
        assert _blocks(store, [LARGE[1][0]]) == [LARGE[1][1]]


def _blocks(store: Blockstore, cids: list[CID]) -> list[Block]:
    got = []
    for block in store.get_many(cids):
        assert not isinstance(block, TorchIPFSError)
        got.append(block)
    return got


def _noted(cids: Iterator[CID], asked: list[CID]) -> Iterator[CID]:
    for cid in cids:
        asked.append(cid)
        yield cid


def _close(fetched: object) -> None:
    close: Callable[[], None] | None = getattr(fetched, "close", None)
    assert close is not None, "what get_many returns can be closed"
    close()


def _read_all(store: Blockstore) -> None:
    for cid, data in SMALL:
        assert store.get(cid) == data
    large = LARGE[:4]
    assert _blocks(store, [cid for cid, _ in large]) == [data for _, data in large]


def _run_in_child(method: str, store: Blockstore) -> None:
    """Read everything in a process started that way."""
    child = multiprocessing.get_context(method).Process(target=_read_all, args=(store,))  # type: ignore[attr-defined]
    child.start()
    child.join(DEADLINE_S)
    hung = child.is_alive()
    if hung:
        child.kill()
        child.join()
    assert not hung, f"a child process started by {method} hung"
    assert child.exitcode == 0, f"a child process started by {method} failed; its output says how"
