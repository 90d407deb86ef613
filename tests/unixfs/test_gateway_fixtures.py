"""The CARs that the gateways' conformance suite reads, https://github.com/ipfs/gateway-conformance."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from torch_ipfs import unixfs
from torch_ipfs.blockstore.car_file import CarBlockstore
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import BlockNotFound, CodecError, OptionError
from torch_ipfs.unixfs.directory_writer import write_directory

MULTIBLOCK = "bafybeigcisqd7m5nf3qmuvjdbakl5bdnh4ocrmacaqkpuh77qjvggmt2sa"
HELLO = "bafkreifjjcie6lypi6ny7amxnfftagclbuxndqonfipmb64f2km2devei4"


@pytest.fixture
def opened(fixtures_path: Path) -> Iterator[Callable[[str], tuple[CarBlockstore, CID]]]:
    """Opens a CAR by its name: a store and its root."""
    stores = []

    def open_(name: str) -> tuple[CarBlockstore, CID]:
        stores.append(CarBlockstore(fixtures_path / "gateway" / name))
        return stores[-1], stores[-1].roots[0]

    yield open_
    for store in stores:
        store.close()


@pytest.mark.parametrize(
    ("car", "path", "content"),
    [
        ("dir-with-files.car", "ascii.txt", b"hello application/vnd.ipld.car\n"),
        ("dir-with-files.car", "hello.txt", b"hello world\n"),
        ("dir-with-duplicate-files.car", "ascii-copy.txt", b"hello application/vnd.ipld.car\n"),
        ("subdir-with-mixed-block-files.car", "subdir/hello.txt", b"hello world\n"),
        ("gateway-raw-block.car", "dir/ascii.txt", b"hello application/vnd.ipld.raw\n"),
        ("symlink.car", "foo", b"content\n"),
        (
            "dir-with-percent-encoded-filename.car",
            "Portugal%2C+España=Peninsula Ibérica.txt",
            b"hello from a percent encoded filename\n",
        ),
        ("dir-with-dag-cbor-with-links.car", "document/files/single", b"hello world\n"),
    ],
)
def test_files_are_read_by_their_paths(opened, car: str, path: str, content: bytes) -> None:
    store, root = opened(car)
    assert bytes(unixfs.read(store, unixfs.resolve(store, f"/ipfs/{root}/{path}"))) == content


def test_in_a_uri_names_are_percent_encoded(opened) -> None:
    store, root = opened("dir-with-percent-encoded-filename.car")
    name = "Portugal%252C+Espa%C3%B1a=Peninsula%20Ib%C3%A9rica.txt"
    cid = unixfs.resolve(store, f"ipfs://{root}/{name}")
    assert bytes(unixfs.read(store, cid)).startswith(b"hello from a percent")
    with pytest.raises(BlockNotFound, match="no entry"):
        unixfs.resolve(store, f"ipfs://{root}/{name.replace('%25', '%')}")


@pytest.mark.parametrize(
    ("car", "path"),
    [
        ("dir-with-files.car", "multiblock.txt"),
        ("subdir-with-mixed-block-files.car", "subdir/multiblock.txt"),
        ("dir-with-dag-cbor-with-links.car", "document/files/multiblock"),
        ("single-layer-hamt-with-multi-block-files.car", "685.txt"),
    ],
)
def test_files_of_several_blocks_are_read_whole_and_in_ranges(opened, car: str, path: str) -> None:
    store, root = opened(car)
    cid = unixfs.resolve(store, f"{root}/{path}")
    assert str(cid) == MULTIBLOCK
    content = bytes(unixfs.read(store, cid))
    assert len(content) == unixfs.file_size(store, cid) == 1026
    assert content.startswith(b"Lorem ipsum dolor sit amet")
    for offset, length in [(0, 5), (250, 20), (256, 256), (1000, None), (1025, 1), (1026, 5), (0, 10**12)]:
        piece = b"".join(unixfs.iter_read(store, cid, offset, length))
        assert piece == content[offset : None if length is None else offset + length]


def test_a_sharded_directory_is_listed_and_searched(opened) -> None:
    store, root = opened("single-layer-hamt-with-multi-block-files.car")
    listed = list(unixfs.ls(store, root))
    assert {link.name for link in listed} == {f"{i}.txt" for i in range(1, 1001)}
    assert {str(link.cid) for link in listed} == {MULTIBLOCK}
    assert {str(unixfs.lookup(store, root, f"{i}.txt")) for i in range(1, 1001, 37)} == {MULTIBLOCK}
    with pytest.raises(BlockNotFound, match=r"no entry '1001\.txt'"):
        unixfs.lookup(store, root, "1001.txt")


@pytest.mark.parametrize("car", ["dir-with-files.car", "subdir-with-mixed-block-files.car", "gateway-raw-block.car"])
def test_what_was_listed_is_written_back_to_the_same_cid(opened, car: str) -> None:
    store, root = opened(car)
    assert write_directory(unixfs.ls(store, root), lambda cid, block: None).cid == root


def test_the_blocks_around_a_missing_one_are_read(opened) -> None:
    store, root = opened("file-3k-and-3-blocks-missing-block.car")
    assert unixfs.file_size(store, root) == 3072
    assert len(b"".join(unixfs.iter_read(store, root, 0, 1024))) == 1024
    assert len(b"".join(unixfs.iter_read(store, root, 2048))) == 1024
    for offset, length in [(1024, 1), (1023, 2), (2047, 1), (0, None)]:
        with pytest.raises(BlockNotFound):
            list(unixfs.iter_read(store, root, offset, length))
    with pytest.raises(BlockNotFound):
        unixfs.read(store, root)


def test_symlinks_are_shown_and_not_followed(opened) -> None:
    store, root = opened("symlink.car")
    assert [link.name for link in unixfs.ls(store, root)] == ["bar", "foo"]
    with pytest.raises(CodecError, match="symlink to b'foo'"):
        unixfs.read(store, unixfs.resolve(store, f"{root}/bar"))


@pytest.mark.parametrize("car", ["dag-cbor-traversal.car", "dag-json-traversal.car"])
def test_values_are_gone_through(opened, car: str) -> None:
    store, root = opened(car)
    last = unixfs.resolve(store, f"/ipfs/{root}/foo/link/bar")
    assert b"this is not a link" in bytes(store.get(last))
    with pytest.raises(OptionError, match="ends inside a block"):
        unixfs.resolve(store, f"/ipfs/{root}/foo/link/bar/hello")
    with pytest.raises(BlockNotFound, match="no entry 'nothing'"):
        unixfs.resolve(store, f"/ipfs/{root}/foo/nothing")


def test_plain_json_has_no_links(opened) -> None:
    store, root = opened("plain-json.car")
    with pytest.raises(BlockNotFound, match="no entry 'test' in a json block"):
        unixfs.resolve(store, f"{root}/test")
