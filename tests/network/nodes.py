"""Real Kubo nodes on 127.0.0.1 for tests: found, configured, started, killed, started again, connected to a private swarm."""

from __future__ import annotations

import json
import os
import re
import secrets
import selectors
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil

READY_S = 60.0
"""How long a daemon may take to be ready; it takes a tenth of a second on an idle machine."""

KUBO_MODULE = Path(__file__).resolve().parent.parent / "kubo"


class NoKubo(Exception):
    """There is no Kubo to run. The message says what to do."""


def find_kubo() -> Path:
    """The Kubo that ``TORCH_IPFS_KUBO`` names, else the one that ``make kubo`` built, else the ``ipfs`` on PATH.

    :raises NoKubo: none of them is there.
    """
    if named := os.environ.get("TORCH_IPFS_KUBO"):
        if not os.access(named, os.X_OK):
            raise NoKubo(f"TORCH_IPFS_KUBO names {named!r}, which cannot be run")
        return Path(named)
    built = built_kubo()
    if os.access(built, os.X_OK):
        return built
    if on_path := shutil.which("ipfs"):
        return Path(on_path)
    raise NoKubo("no Kubo: run `make kubo` (needs Go), put `ipfs` on PATH, or name it with TORCH_IPFS_KUBO")


def built_kubo() -> Path:
    """Where kubo.mk beside the module leaves what it builds."""
    found = re.search(r"github\.com/ipfs/kubo (v[0-9.]+)", (KUBO_MODULE / "go.mod").read_text())
    assert found, "go.mod pins Kubo"
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "torch_ipfs" / f"kubo-{found[1]}" / "ipfs"


class KuboNode:
    """One node with a repo of its own in a folder of its own. Ports are the system's choice and stay over a restart.

    :param folder: an empty folder; the repo and the daemon's log go there.
    :param config: settings in the form of ``ipfs config``, key to value.
    :param swarm_key: the private swarm to be a member of; it then talks to no other node.
    """

    rpc_port: int
    gateway_port: int

    def __init__(
        self, binary: Path, folder: Path, *, config: Mapping[str, object] | None = None, swarm_key: str | None = None
    ) -> None:
        self._binary = binary
        self._folder = folder
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._environment = {**os.environ, "IPFS_PATH": str(folder / "repo"), "IPFS_TELEMETRY": "off"}
        self.cli("init", "--profile=test")
        if swarm_key is not None:
            (folder / "repo" / "swarm.key").write_text(swarm_key)
            self._environment["LIBP2P_FORCE_PNET"] = "1"
        for key, value in {"Routing.Type": "none", **(config or {})}.items():
            self.configure(key, value)

    @property
    def rpc(self) -> str:
        """The RPC's address in the form that a person types."""
        return f"kubo://127.0.0.1:{self.rpc_port}"

    @property
    def gateway(self) -> str:
        """The gateway's URL."""
        return f"http://127.0.0.1:{self.gateway_port}"

    @property
    def pid(self) -> int:
        """The running daemon's process id."""
        return self._pid

    def start(self) -> None:
        """Start the daemon and wait until it answers. Nothing where it runs."""
        if self._supervisor is not None:
            return
        with (self._folder / "daemon.log").open("ab") as log:
            command = [sys.executable, str(Path(__file__).with_name("supervise.py")), str(self._binary), "daemon"]
            self._supervisor = subprocess.Popen(
                command, env=self._environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, bufsize=0
            )
        self._pid = int(self._wait_for(rb"^(\d+)\n"))
        self._wait_for(rb"(Daemon is ready)")
        self.rpc_port = _port((self._folder / "repo" / "api").read_text())
        self.gateway_port = _port((self._folder / "repo" / "gateway").read_text())
        self.configure("Addresses.API", f"/ip4/127.0.0.1/tcp/{self.rpc_port}")
        self.configure("Addresses.Gateway", f"/ip4/127.0.0.1/tcp/{self.gateway_port}")

    def stop(self) -> None:
        """End the daemon with SIGKILL and wait for its end. Nothing where it does not run."""
        if self._supervisor is None:
            return
        assert self._supervisor.stdin is not None
        assert self._supervisor.stdout is not None
        self._supervisor.stdin.close()
        self._supervisor.wait()
        self._supervisor.stdout.close()
        self._supervisor = None

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """The daemon does not run, though its sockets are open: connections are half-open, nothing is answered."""
        os.kill(self.pid, signal.SIGSTOP)
        deadline = time.monotonic() + READY_S
        while psutil.Process(self.pid).status() != psutil.STATUS_STOPPED:
            assert time.monotonic() < deadline, "the daemon does not stop"
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)

    def configure(self, key: str, value: object) -> None:
        """Set ``key`` of the node's configuration; the daemon reads it when it starts."""
        file = self._folder / "repo" / "config"
        config = section = json.loads(file.read_text())
        *path, last = key.split(".")
        for name in path:
            section = section.setdefault(name, {})
        section[last] = value
        file.write_text(json.dumps(config))

    def cli(self, *arguments: str) -> str:
        """What ``ipfs arguments...`` prints."""
        ran = subprocess.run(
            [self._binary, *arguments], env=self._environment, capture_output=True, text=True, check=False, timeout=60
        )
        assert ran.returncode == 0, f"ipfs {arguments}: {ran.stderr}"
        return ran.stdout

    def call(self, command: str, *arguments: str) -> str:
        """The answer of one RPC call, past every client that is under test."""
        query = "&".join(f"arg={argument}" for argument in arguments)
        url = f"http://127.0.0.1:{self.rpc_port}/api/v0/{command}?{query}"
        with urllib.request.urlopen(urllib.request.Request(url, method="POST"), timeout=60) as answer:
            return answer.read().decode()

    def unpin_all(self) -> None:
        """Remove all pins."""
        for cid, pin in json.loads(self.call("pin/ls")).get("Keys", {}).items():
            if pin["Type"] != "indirect":
                self.call("pin/rm", cid)

    def _wait_for(self, pattern: bytes) -> bytes:
        """Read the supervisor's output until ``pattern`` stands in it; answers with the pattern's group."""
        assert self._supervisor is not None
        assert self._supervisor.stdout is not None
        deadline = time.monotonic() + READY_S
        printed = b""
        while not (found := re.search(pattern, printed)):
            with selectors.DefaultSelector() as selector:  # select() itself knows no descriptors over 1023
                selector.register(self._supervisor.stdout, selectors.EVENT_READ)
                ready = selector.select(max(0.0, deadline - time.monotonic()))
            more = os.read(self._supervisor.stdout.fileno(), 1 if pattern.startswith(b"^") else 4096) if ready else b""
            if not more:
                log = (self._folder / "daemon.log").read_text(errors="replace")
                raise AssertionError(f"Kubo is not ready within {READY_S:.0f} s or has ended: {printed!r} {log}")
            printed += more
        return found[1]


def new_swarm_key() -> str:
    """The pre-shared key of a private swarm, in libp2p's file format."""
    return f"/key/swarm/psk/1.0.0/\n/base16/\n{secrets.token_hex(32)}\n"


def connect(node: KuboNode, other: KuboNode) -> None:
    """Connect ``node`` to ``other``, both running."""
    addresses = json.loads(other.call("id"))["Addresses"]
    answer = node.call("swarm/connect", addresses[0])
    assert "success" in answer, answer


def _port(address: str) -> int:
    """The port of a multiaddr or an URL, as Kubo writes them into its repo."""
    return int(re.split(r"[/:]", address.strip().rstrip("/"))[-1])
