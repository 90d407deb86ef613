"""Hashing ahead in threads: in order, bounded, and gone with the iterator."""

from __future__ import annotations

import os
import sys
import threading
import types
from collections.abc import Callable, Iterator

import pytest

from torch_ipfs.blockstore import hash_ahead
from torch_ipfs.blockstore.base import Block
from torch_ipfs.blockstore.hash_ahead import HashAhead, read_ahead, spare_threads
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import BlockNotFound, OptionError, TorchIPFSError

DEADLINE_S = 30.0
SIZE_BYTES = 100_000
CIDS = [CID.of(str(number).encode()) for number in range(40)]
POSITION = {cid: position for position, cid in enumerate(CIDS)}


def read(
    get: Callable[[CID], Block],
    *,
    peek: Callable[[CID], Block | int] = lambda _: SIZE_BYTES,
    threads: int | None = 2,
    window_bytes: int = 10 * SIZE_BYTES,
) -> Iterator[Block | TorchIPFSError]:
    options = HashAhead(threads, window_bytes)
    return read_ahead(CIDS, peek=peek, get=get, options=options, return_exceptions=False)


def name(cid: CID) -> bytes:
    return str(POSITION[cid]).encode()


NAMES = [name(cid) for cid in CIDS]


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_blocks_come_in_order_whoever_is_first(threads: int) -> None:
    later_is_done = threading.Event()

    def get(cid: CID) -> bytes:
        if threads > 1 and POSITION[cid] == 0:
            assert later_is_done.wait(DEADLINE_S)
        if POSITION[cid] == 5:
            later_is_done.set()
        return name(cid)

    assert list(read(get, threads=threads)) == NAMES


@pytest.mark.usefixtures("no_leaks")
@pytest.mark.parametrize("taken", [0, 1, 17, len(CIDS)])
def test_threads_end_with_the_iterator(taken: int) -> None:
    before = set(threading.enumerate())
    blocks = read(name)
    assert [next(blocks) for _ in range(taken)] == NAMES[:taken]
    if taken:
        assert set(threading.enumerate()) - before
    blocks.close()  # type: ignore[attr-defined]
    assert not set(threading.enumerate()) - before


def test_no_thread_where_every_block_is_at_hand_or_small() -> None:
    seen = set()

    def get(cid: CID) -> bytes:
        seen.add(threading.current_thread())
        return name(cid)

    assert list(read(get, peek=name)) == NAMES
    assert list(read(get, peek=lambda _: hash_ahead.INLINE_BYTES - 1)) == NAMES
    assert seen == {threading.current_thread()}


def test_the_caller_helps_while_it_waits() -> None:
    helped = threading.Event()

    def get(cid: CID) -> bytes:
        if threading.current_thread() is threading.main_thread():
            helped.set()
        else:
            assert helped.wait(DEADLINE_S)
        return name(cid)

    assert list(read(get, threads=1)) == NAMES


def test_blocks_come_where_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert list(read(name)) == NAMES


def test_an_unexpected_error_is_raised_in_its_place() -> None:
    def get(cid: CID) -> bytes:
        if POSITION[cid] == 3:
            raise ZeroDivisionError
        return name(cid)

    for threads in (0, 1, 2):
        blocks = read(get, threads=threads)
        assert [next(blocks) for _ in range(3)] == NAMES[:3]
        with pytest.raises(ZeroDivisionError):
            next(blocks)


def test_an_error_of_peek_comes_in_its_place() -> None:
    def peek(cid: CID) -> int:
        if POSITION[cid] == 2:
            raise BlockNotFound("gone", cid=cid)
        return SIZE_BYTES

    blocks = read_ahead(CIDS[:4], peek=peek, get=name, options=HashAhead(2), return_exceptions=True)
    assert [type(block) for block in blocks] == [bytes, bytes, BlockNotFound, bytes]


def test_a_child_forked_half_way_reads_on() -> None:
    blocks = read(name)
    assert next(blocks) == NAMES[0]
    child = os.fork()
    if child == 0:
        os._exit(0 if list(blocks) == NAMES[1:] else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert list(blocks) == NAMES[1:]


@pytest.mark.parametrize(
    ("cores", "workers", "threads"),
    [(1, None, 0), (2, None, 1), (64, None, 8), (2, 2, 0), (2, 4, 0), (8, 2, 3), (8, 7, 1), (1, 1, 0)],
)
def test_threads_take_the_cores_to_spare(
    monkeypatch: pytest.MonkeyPatch, cores: int, workers: int | None, threads: int
) -> None:
    info = None if workers is None else types.SimpleNamespace(num_workers=workers)
    loading = types.SimpleNamespace(get_worker_info=lambda: info)
    monkeypatch.setitem(sys.modules, "torch.utils.data", loading)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    assert spare_threads() == threads


@pytest.mark.parametrize("options", [{"hash_threads": -1}, {"window_bytes": 0}])
def test_options_that_cannot_work_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(OptionError):
        HashAhead(**options)
