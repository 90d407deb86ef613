"""Where blocks and caches live by default."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import torch_ipfs
from torch_ipfs.blockstore import car_sidecar
from torch_ipfs.blockstore.cached import CachedBlockstore
from torch_ipfs.blockstore.car_file import CarBlockstore
from torch_ipfs.blockstore.directories import cache_directory, data_directory
from torch_ipfs.blockstore.local import LocalBlockstore
from torch_ipfs.blockstore.memory import MemoryBlockstore
from torch_ipfs.codec import car
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import OptionError

PLACES = [
    (data_directory, "TORCH_IPFS_HOME", "XDG_DATA_HOME"),
    (cache_directory, "TORCH_IPFS_CACHE_DIR", "XDG_CACHE_HOME"),
]


@pytest.mark.parametrize(("directory", "variable", "_"), PLACES)
def test_the_environment_names_the_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, directory, variable, _
) -> None:
    monkeypatch.setenv(variable, str(tmp_path / "here"))
    assert directory() == tmp_path / "here"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(variable, "~/there")
    assert directory() == tmp_path / "there"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(variable, "relative")
    assert directory() == tmp_path / "relative"


@pytest.mark.parametrize(("directory", "variable", "platform_variable"), PLACES)
def test_else_the_platform_does(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, directory, variable, platform_variable
) -> None:
    monkeypatch.delenv(variable)
    monkeypatch.setenv(platform_variable, str(tmp_path))
    assert directory().name == "torch_ipfs"
    assert not directory().exists()


@pytest.mark.parametrize(("directory", "variable", "platform_variable"), PLACES)
def test_who_has_no_home_is_told_what_to_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, directory, variable, platform_variable
) -> None:
    for name in (variable, platform_variable, "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 2)  # as in containers, where nobody may have the id that runs
    with pytest.raises(OptionError, match=f"set {variable}"):
        directory()
    monkeypatch.setattr(car_sidecar, "SETTLED_S", 0)
    blocks = [(CID.of(data), data) for data in (b"%d" % i for i in range(car_sidecar.MIN_BLOCKS))]
    with (tmp_path / "x.car").open("wb") as file:
        car.write(file, [], blocks)
    assert CarBlockstore(tmp_path / "x.car").get(blocks[0][0]) == b"0"


def test_a_relative_path_in_a_folder_that_was_deleted_is_an_error_of_ours(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    for store in (CarBlockstore, LocalBlockstore):
        with pytest.raises(OptionError, match="the current folder, which was deleted"):
            store("relative")
        with pytest.raises(OptionError, match="NUL"):
            store("a\0b")
        assert store("/a/../b").source == "/b"
    monkeypatch.setenv("TORCH_IPFS_CACHE_DIR", "relative")
    with pytest.raises(OptionError, match="'relative' is relative"):
        cache_directory()


@pytest.mark.parametrize("path", ["", b"here", 5])
def test_what_is_no_path_is_not_the_current_folder(path) -> None:
    for opened in (CarBlockstore, LocalBlockstore, lambda path: CachedBlockstore(MemoryBlockstore(), path)):
        with pytest.raises(OptionError, match="no path"):
            opened(path)


def test_a_home_is_the_same_place_for_all_that_take_a_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path)
    for out in ("~/a.car", "~/store"):
        cid = torch_ipfs.write_dataset([{"x": 1}], out)
        assert torch_ipfs.open_blockstore(out).has(cid)
    assert CarBlockstore("~/a.car").has(cid)
    assert LocalBlockstore("~/store").has(cid)
    assert LocalBlockstore("~/other").import_car("~/a.car") == [cid]
    assert not (tmp_path / "~").exists()
