from __future__ import annotations

import re

import pytest

from tests.unixfs.dags import Recorder
from torch_ipfs import unixfs
from torch_ipfs.codec import dag_cbor, dag_json
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import BlockNotFound, CodecError, OptionError
from torch_ipfs.unixfs import Link
from torch_ipfs.unixfs.node import Node, Type
from torch_ipfs.unixfs.path import MAX_BARE_LINKS

LEAF = CID.of(b"leaf")


def put_value(store: Recorder, value: object, codec: str = "dag-cbor") -> CID:
    block = (dag_cbor if codec == "dag-cbor" else dag_json).encode(value)
    cid = CID.of(block, codec)
    store.put(cid, block)
    return cid


@pytest.fixture
def store() -> Recorder:
    return Recorder()


@pytest.fixture
def tree(store: Recorder) -> CID:
    """A directory ``data`` with a file ``100%.txt``, a symlink ``link`` and a value ``splits`` that has links in it."""
    splits = put_value(store, {"train": [{"cid": LEAF}, LEAF], "name": "digits", "": LEAF})
    inner = unixfs.write_directory(
        [
            Link("100%.txt", LEAF, 4),
            Link("splits", splits, 50),
            Link("link", store.node(Node(Type.SYMLINK, b"splits")).cid, 5),
        ],
        store.put,
    )
    return unixfs.write_directory([Link("data", inner.cid, inner.tsize)], store.put).cid


@pytest.mark.parametrize(
    "path",
    [
        "{}/data/100%.txt",
        "/ipfs/{}/data/100%.txt",
        "/ipfs/{}//data/./100%.txt/",
        "/ipfs/{}/data/../data/splits/../100%.txt",
        "ipfs://{}/data/100%25.txt",
        "ipfs://{}/data%2F100%25.txt",
        "{}/data/splits/train/0/cid",
        "/ipfs/{}/data/splits/train/1",
    ],
)
def test_paths_lead_through_directories_and_values(store: Recorder, tree: CID, path: str) -> None:
    assert unixfs.resolve(store, path.format(tree)) == LEAF


def test_a_cid_alone_is_itself_and_nothing_is_read(store: Recorder) -> None:
    for path in (LEAF, str(LEAF), f"/ipfs/{LEAF}", f"/ipfs/{LEAF}/", f"ipfs://{LEAF}"):
        assert unixfs.resolve(store, path) == LEAF
    assert store.asked == []


def test_dag_json_and_links_of_links_are_gone_through(store: Recorder) -> None:
    inner = put_value(store, {"x": LEAF}, "dag-json")
    bare = put_value(store, inner)
    outer = put_value(store, {"a": [bare]}, "dag-json")
    assert unixfs.resolve(store, f"{outer}/a/0") == bare
    assert unixfs.resolve(store, f"{outer}/a/0/x") == LEAF


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("{}/none", "no entry 'none' in the directory"),
        ("{}/data/100%25.txt", "no entry '100%25.txt' in the directory"),
        ("{}/data/100%.txt/more", "no entry 'more' in a raw block"),
        ("{}/data/splits/none", "no entry 'none' in a map"),
        ("{}/data/splits/train/2", "no entry '2' in a list"),
        ("{}/data/splits/train/-1", "no entry '-1' in a list"),
        ("{}/data/splits/train/01", "no entry '01' in a list"),
        ("{}/data/splits/train/x", "no entry 'x' in a list"),
        ("{}/data/splits/name/x", "no entry 'x' in a value that is neither"),
    ],
)
def test_what_is_not_there_is_named(store: Recorder, tree: CID, path: str, says: str) -> None:
    with pytest.raises(BlockNotFound, match=says):
        unixfs.resolve(store, path.format(tree))


@pytest.mark.parametrize("path", ["{}/data/splits/train", "{}/data/splits/name", "{}/data/splits/train/0"])
def test_a_path_into_a_block_has_no_cid(store: Recorder, tree: CID, path: str) -> None:
    with pytest.raises(OptionError, match="ends inside a block"):
        unixfs.resolve(store, path.format(tree))


def test_symlinks_are_not_followed(store: Recorder, tree: CID) -> None:
    with pytest.raises(CodecError, match="symlinks are not followed"):
        unixfs.resolve(store, f"{tree}/data/link/train")
    with pytest.raises(CodecError, match="symlinks are not followed"):
        unixfs.read(store, unixfs.resolve(store, f"{tree}/data/link"))


@pytest.mark.parametrize("path", ["{}/..", "{}/data/../../data", "ipfs://{}/%2e%2e/data", "/ipfs/{}/./../x"])
def test_a_path_does_not_leave_its_cid(store: Recorder, tree: CID, path: str) -> None:
    with pytest.raises(OptionError, match="leads out of its CID"):
        unixfs.resolve(store, path.format(tree))


@pytest.mark.parametrize("path", ["/ipns/docs.ipfs.tech/a", "ipns://docs.ipfs.tech", "ipfs://{}/a?b", "ipfs://{}/a#b"])
def test_what_is_no_path_of_fixed_content_is_refused(store: Recorder, path: str) -> None:
    with pytest.raises(OptionError):
        unixfs.resolve(store, path.format(LEAF))


def test_a_uri_that_is_no_utf8_is_refused(store: Recorder) -> None:
    with pytest.raises(OptionError, match="not UTF-8"):
        unixfs.resolve(store, f"ipfs://{LEAF}/%ff")


@pytest.mark.parametrize("path", ["", "/", "/ipfs/", "ipfs://", "hello", "/ipfs/hello/world", "ipfs/x", "/a.car"])
def test_what_names_no_cid_is_refused(store: Recorder, path: str) -> None:
    with pytest.raises(CodecError, match=re.escape(repr(path))):
        unixfs.resolve(store, path)


def test_a_missing_block_on_the_way_is_named(store: Recorder) -> None:
    gone = CID.of(b"gone", "dag-pb")
    outer = put_value(store, {"a": gone})
    with pytest.raises(BlockNotFound) as caught:
        unixfs.resolve(store, f"{outer}/a/b")
    assert caught.value.cid == str(gone)


def test_chains_of_bare_links_are_bounded(store: Recorder) -> None:
    cid = put_value(store, {"x": LEAF})
    for _ in range(MAX_BARE_LINKS + 1):
        cid = put_value(store, cid)
    with pytest.raises(OptionError, match="bare links"):
        unixfs.resolve(store, f"{cid}/x")
