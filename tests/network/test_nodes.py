from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.network.nodes import KuboNode, NoKubo, built_kubo, find_kubo

pytestmark = pytest.mark.kubo


def test_a_node_is_killed_and_started_again_on_the_same_ports(own_kubo_node: KuboNode, no_leaks: None):
    own_kubo_node.start()
    ports = own_kubo_node.rpc_port, own_kubo_node.gateway_port
    identity = json.loads(own_kubo_node.call("id"))["ID"]
    own_kubo_node.stop()
    own_kubo_node.start()
    assert (own_kubo_node.rpc_port, own_kubo_node.gateway_port) == ports
    assert json.loads(own_kubo_node.call("id"))["ID"] == identity
    own_kubo_node.stop()


def test_a_private_swarm_knows_only_itself(kubo_swarm: list[KuboNode]):
    ids = {json.loads(node.call("id"))["ID"] for node in kubo_swarm}
    for node in kubo_swarm:
        peers = {peer["Peer"] for peer in json.loads(node.call("swarm/peers"))["Peers"]}
        assert peers == ids - {json.loads(node.call("id"))["ID"]}


def test_a_daemon_dies_with_the_process_that_started_it(kubo_binary: Path, tmp_path: Path):
    """Killed with SIGKILL, the process has no chance to end its daemon itself."""
    script = (
        "import sys; from pathlib import Path; from tests.network.nodes import KuboNode; import time\n"
        "node = KuboNode(Path(sys.argv[1]), Path(sys.argv[2])); node.start(); print(node.pid, flush=True); time.sleep(60)"
    )
    root = Path(__file__).parents[2]
    owner = subprocess.Popen(
        [sys.executable, "-c", script, str(kubo_binary), str(tmp_path)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
    )
    with owner:
        assert owner.stdout is not None
        daemon = psutil.Process(int(owner.stdout.readline()))
        assert daemon.is_running()
        owner.kill()
    psutil.wait_procs([daemon], timeout=10)
    assert not daemon.is_running() or daemon.status() == psutil.STATUS_ZOMBIE


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a daemon ends with its tests alone")
def test_a_daemon_dies_with_its_supervisor(own_kubo_node: KuboNode):
    own_kubo_node.start()
    daemon = psutil.Process(own_kubo_node.pid)
    daemon.parent().kill()
    psutil.wait_procs([daemon], timeout=10)
    assert not daemon.is_running() or daemon.status() == psutil.STATUS_ZOMBIE


def test_a_named_kubo_comes_before_a_built_one_and_must_exist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("TORCH_IPFS_KUBO", sys.executable)
    assert find_kubo() == Path(sys.executable)
    monkeypatch.setenv("TORCH_IPFS_KUBO", str(tmp_path / "absent"))
    with pytest.raises(NoKubo, match="TORCH_IPFS_KUBO"):
        find_kubo()


def test_a_built_kubo_comes_before_the_one_on_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv("TORCH_IPFS_KUBO", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoKubo, match="make kubo"):
        find_kubo()
    for place in (tmp_path / "ipfs", built_kubo()):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch(mode=0o755)
        assert find_kubo() == place
