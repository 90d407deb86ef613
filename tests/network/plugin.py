"""pytest fixtures: real Kubo nodes. Where there is no Kubo their tests are skipped, but in CI they fail."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from tests.network.nodes import KuboNode, NoKubo, connect, find_kubo, new_swarm_key
from torch_ipfs.blockstore.kubo import KuboBlockstore
from torch_ipfs.codec.cid import CID


@pytest.fixture(scope="session")
def kubo_binary() -> Path:
    """The Kubo to run."""
    try:
        return find_kubo()
    except NoKubo as missing:
        if os.environ.get("CI") == "true":
            pytest.fail(str(missing))
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def kubo_node(kubo_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KuboNode]:
    """A running node for the whole session; its gateway answers 404 for what it does not hold. Do not stop it."""
    folder = tmp_path_factory.mktemp("kubo")
    node = KuboNode(kubo_binary, folder, config={"Gateway.NoFetch": True})
    node.start()
    yield node
    node.stop()
    shutil.rmtree(folder)


@pytest.fixture
def empty_node(kubo_node: KuboNode) -> KuboNode:
    """The session's node, without a pin, and with no block but the empty directory that its MFS is."""
    kubo_node.unpin_all()
    kubo_node.call("repo/gc")
    return kubo_node


@pytest.fixture
def filled_node(kubo_node: KuboNode) -> Callable[[Iterable[tuple[CID, bytes]]], KuboNode]:
    """Called with blocks, the session's node with those, without a pin, and with no other block."""

    def fill(blocks: Iterable[tuple[CID, bytes]]) -> KuboNode:
        wanted = {cid.multihash: (cid, data) for cid, data in blocks}
        kubo_node.unpin_all()
        store = KuboBlockstore(kubo_node.rpc)
        held = {cid.multihash: cid for cid in store.cids()}
        if extra := [str(cid) for multihash, cid in held.items() if multihash not in wanted]:
            kubo_node.call("block/rm", *extra)
        store.put_many(block for multihash, block in wanted.items() if multihash not in held)
        store.close()
        return kubo_node

    return fill


@pytest.fixture
def own_kubo_node(kubo_binary: Path, tmp_path: Path) -> Iterator[KuboNode]:
    """A node of the test's own, made but not started: to configure, to kill, to start again."""
    folder = tmp_path / "kubo"
    folder.mkdir()
    node = KuboNode(kubo_binary, folder)
    yield node
    node.stop()


@pytest.fixture
def kubo_swarm(kubo_binary: Path, tmp_path: Path) -> Iterator[list[KuboNode]]:
    """Three running nodes of a private swarm, each connected to the other two, that pass messages on."""
    key = new_swarm_key()
    nodes = []
    for name in ("a", "b", "c"):
        folder = tmp_path / f"kubo-{name}"
        folder.mkdir()
        nodes.append(KuboNode(kubo_binary, folder, config={"Pubsub.Enabled": True}, swarm_key=key))
    try:
        for node in nodes:
            node.start()
        for i, node in enumerate(nodes):
            for other in nodes[:i]:
                connect(node, other)
        yield nodes
    finally:
        for node in nodes:
            node.stop()
