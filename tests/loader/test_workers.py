"""Reading ahead in worker processes: the same batches, and nothing left behind however a pass ends."""

from __future__ import annotations

import gc
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from itertools import chain
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch

import torch_ipfs
from tests.loader.datasets import embedded, labels, linked, loader_of, put, sample, samples, slowed
from torch_ipfs import MemoryBlockstore, OptionError, TransportError
from torch_ipfs.dataset.leaves import INFERENCE_SAMPLES
from torch_ipfs.loader import IPFSDataLoader
from torch_ipfs.loader.epochs import closed

N = 60
DEADLINE_S = 20.0


def eventually(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + DEADLINE_S
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.005)
    return holds()


_OTHERS: set[BaseProcess] = set()


@pytest.fixture(autouse=True)
def others() -> None:
    """Workers of other tests may live still, where garbage holds their loader."""
    _OTHERS.clear()
    _OTHERS.update(multiprocessing.active_children())


def workers() -> list[BaseProcess]:
    """Those that this test has started."""
    return [process for process in multiprocessing.active_children() if process not in _OTHERS]


@pytest.mark.parametrize(
    "options", [{"prefetch": 1}, {"prefetch": 5}, {"prefetch": 2, "num_workers": 3}, {"num_workers": 0}]
)
def test_results_and_order_are_those_of_reading_here(options: dict[str, Any], no_leaks: None) -> None:
    store, cid = embedded(N)
    here, ahead = loader_of(store, cid, prefetch=0), loader_of(store, cid, **{"prefetch": 2, **options})
    for _ in range(2):
        assert [labels([batch]) for batch in ahead] == [labels([batch]) for batch in here]


def test_prefetch_0_reads_here_whatever_the_number_of_workers(no_leaks: None) -> None:
    loader = loader_of(*embedded(N), prefetch=0, num_workers=2)
    running = iter(loader)
    next(running)
    assert workers() == []


def test_a_pass_that_was_not_begun_starts_nothing(no_leaks: None) -> None:
    loader = loader_of(*embedded(N), prefetch=2)
    running = iter(loader)
    assert workers() == []
    next(running)
    assert len(workers()) == 1
    del running
    assert eventually(lambda: not workers())


def test_an_iterator_dropped_half_way_ends_its_workers(no_leaks: None) -> None:
    loader = loader_of(*embedded(N), prefetch=2, num_workers=2)
    for _ in loader:
        assert len(workers()) == 2
        break
    assert eventually(lambda: not workers())
    assert sorted(labels(loader)) == list(range(N))


def test_next_keeps_its_pass_until_it_is_closed(no_leaks: None) -> None:
    loader = loader_of(*embedded(N), prefetch=2)
    got = labels([next(loader), next(loader)])
    gc.collect()
    assert len(workers()) == 1
    got += labels([next(loader)])
    assert len(set(got)) == 15
    loader.close()
    assert workers() == []


def test_dropping_the_loader_ends_what_next_began(no_leaks: None) -> None:
    loader = loader_of(*embedded(N), prefetch=2)
    next(loader)
    del loader
    assert eventually(lambda: not workers())


def test_a_process_that_is_forked_leaves_the_workers_be(no_leaks: None) -> None:
    loader = loader_of(*embedded(N), prefetch=2)
    running = iter(loader)
    got = labels([next(running)])
    child = multiprocessing.get_context("fork").Process(target=loader.close)
    child.start()
    child.join()
    assert child.exitcode == 0
    assert sorted(got + labels(running)) == list(range(N))


def test_workers_that_are_garbage_end_at_once(no_leaks: None) -> None:
    """An error holds the frames that it came through, and is held by the pass that it ended."""
    loader = loader_of(*embedded(N), prefetch=2, transform=_fails)
    with pytest.raises(ZeroDivisionError):
        next(iter(loader.to_pytorch()))
    started = time.monotonic()
    gc.collect()
    assert not workers()
    assert time.monotonic() - started < 4


def _fails(sample: Any) -> Any:
    raise ZeroDivisionError


def test_two_iterators_at_once_each_have_their_workers(no_leaks: None) -> None:
    loader = loader_of(*embedded(N), prefetch=2)
    one, other = iter(loader), iter(loader)
    mixed = [(labels([a]), labels([b])) for a, b in zip(one, other, strict=True)]
    assert sorted(i for a, _ in mixed for i in a) == sorted(i for _, b in mixed for i in b) == list(range(N))


def test_loading_again_in_the_middle(no_leaks: None) -> None:
    store, cid = embedded(N)
    loader = loader_of(store, cid, prefetch=2)
    running = iter(loader)
    seen = labels([next(running)])
    loader.load_dataset(cid)
    assert sorted(labels(loader)) == list(range(N))
    assert sorted(seen + labels(running)) == list(range(N))


def test_close_ends_all_there_is(no_leaks: None) -> None:
    loader = loader_of(*embedded(N), prefetch=2)
    running, batches = iter(loader), iter(loader.to_pytorch())
    next(running), next(loader), next(batches)
    assert len(workers()) == 2
    loader.close()
    assert workers() == []
    for over in (running, batches):
        with pytest.raises(OptionError, match="closed"):
            next(over)


def test_closed_loaders_of_torch_start_nothing(no_leaks: None) -> None:
    loader = loader_of(*embedded(N), prefetch=2)
    batches = loader.to_pytorch()
    assert len(list(batches)) == len(batches)
    assert len(workers()) == 1
    loader.close()
    assert workers() == []
    with pytest.raises(OptionError, match="closed"):
        iter(batches)


@pytest.mark.parametrize(
    ("prefetch", "form"), [(0, lambda loader: loader), (2, lambda loader: loader), (2, IPFSDataLoader.to_pytorch)]
)
def test_close_while_another_thread_waits_for_a_batch(prefetch: int, form: Any, no_leaks: None) -> None:
    store, cid = linked(16)
    loader = loader_of(slowed(store, 0.05), cid, prefetch=prefetch, batch_size=2)
    ended: list[Any] = []

    def consume() -> None:
        try:
            ended.append(len(list(form(loader))))
        except OptionError as error:
            ended.append(str(error))

    consumer = threading.Thread(target=consume)
    consumer.start()
    assert eventually(lambda: loader._counted.received is not None)
    loader.close()
    consumer.join(DEADLINE_S)
    assert ended == [str(closed())]


def test_a_slow_source_and_a_pass_that_is_dropped(no_leaks: None) -> None:
    """Nobody waits for the worker to finish what it is reading, which takes longer than this test may."""
    early = INFERENCE_SAMPLES  # which are read to find the schema
    store, cid = linked(2 * early)
    late = {put(store, sample(i)) for i in range(early, 2 * early)}
    loader = loader_of(slowed(store, 10 * DEADLINE_S, late), cid, prefetch=2, batch_size=early, shuffle=False)
    running = iter(loader)
    assert len(next(running)) == early
    assert len(workers()) == 1
    del running
    assert eventually(lambda: not workers())


ENDS = """
import multiprocessing, os, signal, sys, torch_ipfs
from torch_ipfs.loader import IPFSDataLoader
from torch_ipfs.loader.epochs import closed
loader = IPFSDataLoader(sys.argv[1], batch_size=2, num_workers=2)
assert loader.load_dataset(sys.argv[2])["success"]
for _ in loader.to_pytorch(persistent_workers=False):
    break
next(loader)
running = iter(torch_ipfs.IPFSIterableDataset(sys.argv[2], sys.argv[1]))
next(running)
os.kill(multiprocessing.active_children()[0].pid, signal.SIGSTOP)
"""


def test_a_program_that_ends_in_the_middle_says_nothing_of_it_and_leaves_nothing(tmp_path: Path) -> None:
    """Not even where a worker does not listen."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    cid = torch_ipfs.write_dataset(samples(N), tmp_path / "a.car")
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ENDS, str(tmp_path / "a.car"), str(cid)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "TMPDIR": str(temporary)},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    assert list(temporary.iterdir()) == []


def test_tensors_come_however_long_the_path_of_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_leaks: None
) -> None:
    """Large ones come through a socket, whose path is bounded."""
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    monkeypatch.setitem(multiprocessing.current_process()._config, "tempdir", str(folder))  # type: ignore[attr-defined]
    store = MemoryBlockstore()
    features = torch.arange(8.0).repeat_interleave(2**15).reshape(8, -1)
    cid = torch_ipfs.write_dataset({"features": features, "labels": torch.arange(8)}, store)
    loader = loader_of(store, cid, prefetch=2, batch_size=2)
    for features, numbers in loader.to_pytorch():
        assert features.mean(1).tolist() == numbers.tolist()
    loader.close()


def _with_a_lock(sample: dict[str, Any]) -> dict[str, Any]:
    return {**sample, "lock": threading.Lock()} if sample["labels"] == 17 else sample


def test_what_a_worker_cannot_send_is_an_error_and_no_wait(no_leaks: None) -> None:
    store, cid = embedded(N)
    loader = loader_of(store, cid, prefetch=2, shuffle=False, batch_size=5, transform=_with_a_lock)
    running = iter(loader)
    assert labels([next(running) for _ in range(3)]) == list(range(15))
    with pytest.raises(TypeError, match=r"(?s)as it sent what it had read, which must pickle.*cannot pickle"):
        next(running)


def test_a_consumer_that_dawdles_gets_everything(no_leaks: None) -> None:
    loader = loader_of(*embedded(N), prefetch=2, num_workers=2)
    got = []
    for batch in loader:
        time.sleep(0.05)
        got += labels([batch])
    assert sorted(got) == list(range(N))


def test_a_source_out_of_reach_raises_in_the_consumer(no_leaks: None) -> None:
    class Down(MemoryBlockstore):
        down = False

        def get(self, cid: Any) -> Any:
            if self.down:
                raise TransportError("the cable is cut", cid=cid, source="down")
            return super().get(cid)

    memory, cid = linked(N)
    store = Down([(c, memory.get(c)) for c in memory.cids()])
    for prefetch in (0, 2):
        store.down = False
        loader = loader_of(store, cid, prefetch=prefetch)
        next(loader)
        store.down = True
        with pytest.raises(TransportError, match="cable"):
            list(iter(loader))


def test_a_worker_that_is_killed_is_told(no_leaks: None) -> None:
    loader = loader_of(*linked(400), prefetch=1, batch_size=2)
    running = iter(loader)
    next(running)
    workers()[0].kill()
    with pytest.raises(RuntimeError, match="worker"):
        list(running)


def test_spawned_workers_read_the_same(tmp_path: Path, no_leaks: None) -> None:
    cid = torch_ipfs.write_dataset(samples(N), tmp_path / "a.car", layout="samples")
    loader = loader_of(str(tmp_path / "a.car"), cid)
    expected = [labels([batch]) for batch in loader]
    loader.set_epoch(0)
    before = multiprocessing.get_start_method()
    batches = loader.to_pytorch(num_workers=1, multiprocessing_context="spawn", persistent_workers=False)
    assert [batch[1].tolist() for batch in batches] == expected
    assert multiprocessing.get_start_method() == before


def test_ranks_share_the_epoch() -> None:
    store, cid = embedded(N)
    shares = [labels(loader_of(store, cid, rank=rank, world_size=3, prefetch=rank)) for rank in range(3)]
    assert sorted(chain.from_iterable(shares)) == list(range(N))
    assert len(set(map(len, shares))) == 1


def test_ranks_are_found_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    store, cid = embedded(N)
    shares = []
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        shares.append(labels(loader_of(store, cid)))
    assert sorted(chain.from_iterable(shares)) == list(range(N))
