from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unixfs.dags import Recorder
from tests.unixfs.keystream import keystream
from torch_ipfs import unixfs
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import BlockNotFound, CodecError, OptionError
from torch_ipfs.unixfs import Link
from torch_ipfs.unixfs.node import Node, Type

NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=12)
NAMES = NAMES.filter(lambda name: name not in (".", ".."))
ALPHABET = "abcdefghijklmnopqrstuvwxyz01234567890-_"  # Kubo's, with 0 twice


def names_of_ipip_499(last_length: int) -> list[str]:
    """The 4,766 names of the directories among IPIP-499's vectors: of 11 characters, the last of ``last_length``."""
    drawn = next(keystream("hamt-unixfs-v1-2025", 2**16, 2**16))
    starts = range(0, 11 * 4766, 11)
    lengths = [11] * 4765 + [last_length]
    return ["".join(ALPHABET[byte % 39] for byte in drawn[at:][:n]) for at, n in zip(starts, lengths, strict=True)]


@pytest.mark.parametrize(
    ("last_length", "expected", "sharded"),
    [
        (21, "bafybeic3h7rwruealwxkacabdy45jivq2crwz6bufb5ljwupn36gicplx4", False),
        (22, "bafybeiegvuterwurhdtkikfhbxcldohmxp566vpjdofhzmnhv6o4freidu", True),
    ],
    ids=["256 KiB", "one byte more"],
)
def test_directories_have_the_cids_of_ipip_499(last_length: int, expected: str, sharded: bool) -> None:
    store = Recorder()
    x = store.raw(b"x")
    names = names_of_ipip_499(last_length)
    dag = unixfs.write_directory([Link(name, x.cid, 1) for name in reversed(names)], store.put)
    assert str(dag.cid) == expected
    assert sorted(link.name for link in unixfs.ls(store, dag.cid)) == sorted(names)
    store.asked.clear()
    assert unixfs.lookup(store, dag.cid, names[1000]) == x.cid
    assert len(store.asked) == (2 if sharded else 1)


@given(st.sets(NAMES, max_size=8))
def test_what_was_written_is_listed_and_found(names: set[str]) -> None:
    store = Recorder()
    files = {name: store.raw(name.encode()) for name in names}
    dag = unixfs.write_directory([Link(name, file.cid, file.tsize) for name, file in files.items()], store.put)
    listed = list(unixfs.ls(store, dag.cid))
    assert {link.name: link.cid for link in listed} == {name: file.cid for name, file in files.items()}
    assert [link.name.encode() for link in listed] == sorted(name.encode() for name in names)
    for name, file in files.items():
        assert unixfs.lookup(store, dag.cid, name) == file.cid


def test_an_entry_that_is_not_there_is_named() -> None:
    store = Recorder()
    dag = unixfs.write_directory([Link("a", store.raw(b"").cid, 0)], store.put)
    with pytest.raises(BlockNotFound, match=r"no entry 'b' in the directory .*memory"):
        unixfs.lookup(store, dag.cid, "b")


@pytest.mark.parametrize("name", ["", ".", "..", "../up", "/etc/passwd", "a/b", "nul\0"])
def test_names_that_lead_elsewhere_are_refused_in_reading_and_writing(name: str) -> None:
    store = Recorder()
    entries = [Link("good", store.raw(b"1").cid, 1), Link(name, store.raw(b"2").cid, 1)]
    directory = store.node(Node(Type.DIRECTORY, links=entries))
    with pytest.raises(CodecError, match="cannot name an entry"):
        list(unixfs.ls(store, directory.cid))
    with pytest.raises(CodecError, match="cannot name an entry"):
        unixfs.lookup(store, directory.cid, "good")
    with pytest.raises(CodecError, match="cannot name an entry"):
        unixfs.write_directory(entries, store.put)


def test_a_name_that_is_no_unicode_is_refused() -> None:
    store = Recorder()
    leaf = store.raw(b"")
    with pytest.raises(CodecError, match="cannot name an entry"):
        unixfs.write_directory([Link("\ud800", leaf.cid, 0)], store.put)
    directory = unixfs.write_directory([Link("a", leaf.cid, 0)], store.put)
    with pytest.raises(BlockNotFound):
        unixfs.lookup(store, directory.cid, "\ud800")


def test_two_entries_of_one_name_are_refused() -> None:
    store = Recorder()
    entries = [Link("same", store.raw(b"1").cid, 1), Link("same", store.raw(b"2").cid, 1)]
    with pytest.raises(CodecError, match="two entries 'same'"):
        list(unixfs.ls(store, store.node(Node(Type.DIRECTORY, links=entries)).cid))
    with pytest.raises(OptionError, match="two entries 'same'"):
        unixfs.write_directory(entries, store.put)


@pytest.mark.parametrize(
    ("node", "says"),
    [
        (Node(Type.FILE), "a UnixFS FILE, not a directory"),
        (Node(Type.METADATA), "a UnixFS METADATA, not a directory"),
        (Node(Type.SYMLINK, b"/etc"), "symlinks are not followed"),
    ],
)
def test_what_is_no_directory_has_no_entries(node: Node, says: str) -> None:
    store = Recorder()
    cid = store.node(node).cid
    with pytest.raises(CodecError, match=says):
        list(unixfs.ls(store, cid))
    with pytest.raises(CodecError, match=says):
        unixfs.lookup(store, cid, "a")


def test_a_raw_block_has_no_entries() -> None:
    store = Recorder()
    with pytest.raises(CodecError, match="a raw block, not a directory"):
        list(unixfs.ls(store, store.raw(b"").cid))


def test_the_empty_directory_is_the_one_that_kubo_has() -> None:
    empty = unixfs.write_directory([], Recorder().put)
    assert empty.cid == CID.parse("bafybeiczsscdsbs7ffqz55asqdf3smv6klcw3gofszvwlyarci47bgf354")
