"""Where blocks and caches live by default."""

from __future__ import annotations

from pathlib import Path

import pytest

from torch_ipfs.blockstore.directories import cache_directory, data_directory

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
