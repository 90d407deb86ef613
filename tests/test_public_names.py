"""The names that others build on, and that asking for them costs nothing before they are used."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys

import pytest

import torch_ipfs
from torch_ipfs import blockstore
from torch_ipfs.blockstore import base

NAMES = [
    "BlockError",
    "BlockNotFound",
    "BlockRefused",
    "BlockTooLarge",
    "Blockstore",
    "CID",
    "CachedBlockstore",
    "CarBlockstore",
    "CodecError",
    "Field",
    "GatewayBlockstore",
    "HashMismatch",
    "IPFSDataLoader",
    "IPFSIterableDataset",
    "IPFSMapDataset",
    "KuboBlockstore",
    "LocalBlockstore",
    "ManifestError",
    "MemoryBlockstore",
    "OptionError",
    "ResumeError",
    "SampleError",
    "Schema",
    "ShuffleOptions",
    "TieredBlockstore",
    "TorchIPFSError",
    "TransportError",
    "ipfs_kit",
    "make_dataloader",
    "merge_datasets",
    "open_blockstore",
    "write_dataset",
]


def test_the_public_names_are_these() -> None:
    assert sorted(torch_ipfs.__all__) == sorted(NAMES)
    assert set(NAMES) <= set(dir(torch_ipfs))


@pytest.mark.parametrize("name", NAMES)
def test_each_is_there_and_says_what_it_is(name: str) -> None:
    value = getattr(torch_ipfs, name)
    assert value.__name__ == name
    assert value.__doc__


def test_the_stores_are_in_their_own_package_too() -> None:
    for name in blockstore.__all__:
        assert getattr(blockstore, name) is getattr(torch_ipfs, name, getattr(base, name, None))
    assert {name for name in NAMES if name.endswith("Blockstore")} <= set(blockstore.__all__)


def test_the_version_is_that_of_the_installed_package() -> None:
    assert torch_ipfs.__version__ == importlib.metadata.version("torch-ipfs")


def test_another_name_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        torch_ipfs.nonsense  # type: ignore[attr-defined]  # noqa: B018 - asking is the test


def test_modules_with_names_of_their_own_are_there_whatever_else_was_imported() -> None:
    names = (
        "codec.dag_cbor.encode",
        "errors.HashMismatch",
        "unixfs.read",
        "testing",
        "loader.IPFSDataLoader",
        "kit.ipfs_kit",
    )
    code = f"import torch_ipfs as t; print({', '.join(f't.{name}' for name in names)}, *dir(t))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert {"codec", "testing", "unixfs"} <= set(done.stdout.split())


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, torch_ipfs; print([name for name in ('torch', 'numpy', 'pyarrow', 'aiohttp') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
