from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import torch_ipfs
from tests.network.nodes import KuboNode
from torch_ipfs.blockstore.kubo import KuboBlockstore
from torch_ipfs.cli.main import main

pytestmark = pytest.mark.kubo


def test_a_dataset_pushed_to_a_node_is_pinned_there_and_is_whole(
    empty_node: KuboNode, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cid = torch_ipfs.write_dataset({"x": np.arange(1000)}, tmp_path / "a.car", shard_bytes=2048)
    assert main(["push", str(cid), str(tmp_path / "a.car"), empty_node.rpc]) == 0
    assert "pinned" in capsys.readouterr().out
    store = KuboBlockstore(empty_node.rpc)
    assert store.pins() == {cid: "recursive"}
    store.close()
    assert main(["verify", str(cid), "-s", empty_node.rpc]) == 0
    assert "1,000 samples" in capsys.readouterr().out
