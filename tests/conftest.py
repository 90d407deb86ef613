"""What all tests share: hypothesis's profile, the fixtures' folder, homes of their own, a check for what is left behind."""

from __future__ import annotations

import gc
import multiprocessing.resource_tracker
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import psutil
import pytest

pytest_plugins = ["tests.network.plugin"]

hypothesis.settings.register_profile(
    "ci",
    derandomize=True,
    print_blob=True,
    deadline=None,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("ci")

LEAK_DEADLINE_S = 10.0
"""How long a thread, a process or a file may take to be gone once nothing needs it."""

AMBIENT = (
    "TORCH_IPFS_SOURCE",
    "TORCH_IPFS_CACHE_BYTES",
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
)
"""Variables of the environment that change what the library does."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A property test that hangs ends the run.

    The exception that interrupts other tests when their time is up is one more failure to hypothesis, which it then shrinks
    by running what hangs again.
    """
    for item in items:
        if item.get_closest_marker("hypothesis") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(method="thread"))


@pytest.fixture(scope="session")
def fixtures_path() -> Path:
    """The folder of shared fixtures. Where it is missing a test is skipped, but in CI it fails."""
    named = os.environ.get("TORCH_IPFS_FIXTURES")
    if named and Path(named).is_dir():
        return Path(named)
    reason = f"TORCH_IPFS_FIXTURES names no folder (it is {named!r})"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(autouse=True)
def own_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test sees the user's stores, caches or distributed job. Store and cache are folders yet to be made."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.getbasetemp() / f"home-{next(_HOMES)}"
        patch.setenv("TORCH_IPFS_HOME", str(home / "store"))
        patch.setenv("TORCH_IPFS_CACHE_DIR", str(home / "cache"))
        for name in AMBIENT:
            patch.delenv(name, raising=False)
        yield
    shutil.rmtree(home, ignore_errors=True)


_HOMES = iter(range(10**9))


@pytest.fixture
def no_leaks() -> Iterator[None]:
    """Fails where the test leaves a process, a thread or an open file behind.

    What multiprocessing keeps for the rest of the process (its resource tracker, its fork server) does not count.
    """
    multiprocessing.resource_tracker.ensure_running()
    before = _held()
    yield
    deadline = time.monotonic() + LEAK_DEADLINE_S
    while (left := _held() - before) and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.01)
    assert not left, f"left behind: {sorted(left)}"


def _held() -> set[str]:
    return _processes() | _threads() | _files()


def _processes() -> set[str]:
    held = set()
    for child in psutil.Process().children(recursive=True):
        try:
            command = " ".join(child.cmdline())
        except psutil.NoSuchProcess:
            continue
        if "multiprocessing.forkserver" not in command and "multiprocessing.resource_tracker" not in command:
            held.add(f"process {child.pid}: {command}")
    return held


def _threads() -> set[str]:
    return {f"thread {thread.ident}: {thread.name}" for thread in threading.enumerate()}


def _files() -> set[str]:
    """Open files, sockets and maps of files by name; pipes by their number."""
    here = psutil.Process()
    held = {f"file {file.fd}: {file.path}" for file in here.open_files()}
    held |= {f"socket {socket.fd}: {socket.laddr} {socket.raddr}" for socket in here.net_connections("all")}
    return held | {f"map of {path}" for path in _mapped()}


def _mapped() -> set[str]:
    """Files mapped by the process, but for the libraries it loaded. Linux alone says which."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return set()
    paths = {line.split(maxsplit=5)[-1] for line in maps.read_text().splitlines() if line.count("/") > 1}
    return {path for path in paths if not path.startswith(("/usr/", "/lib", "/dev/shm")) and ".so" not in path}
