"""The public codec fixtures: one value in several codecs, each file named by its CID."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.codec.strategies import same
from torch_ipfs import codec
from torch_ipfs.codec.cid import CID


@pytest.mark.parametrize(("codec_name", "count"), [("dag-cbor", 128), ("dag-json", 128), ("dag-pb", 17)])
def test_every_file_decodes_and_encodes_back_to_the_cid_in_its_name(
    fixtures_path: Path, codec_name: str, count: int
) -> None:
    files = sorted((fixtures_path / "codec").glob(f"*/*.{codec_name}"))
    assert len(files) == count
    for file in files:
        cid, block = CID.parse(file.stem), file.read_bytes()
        assert CID.of(block, codec_name) == cid, file
        value = codec.decode(cid, block)
        assert codec.encode(codec_name, value) == block, file
        assert same(codec.decode(cid, memoryview(block)), value), file


def test_all_codecs_have_the_same_value(fixtures_path: Path) -> None:
    folders = [folder for folder in (fixtures_path / "codec").iterdir() if folder.is_dir()]
    assert len(folders) == 128
    for folder in folders:
        first, *others = (codec.decode(CID.parse(file.stem), file.read_bytes()) for file in sorted(folder.iterdir()))
        assert others, folder
        assert all(same(first, other) for other in others), folder
