from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unixfs.dags import Recorder
from torch_ipfs import unixfs
from torch_ipfs.codec import dag_cbor
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import BlockNotFound, CodecError, OptionError
from torch_ipfs.unixfs.file_reader import MAX_DEPTH
from torch_ipfs.unixfs.node import Dag, Link, Node, Type


@st.composite
def any_dag(draw: st.DrawFn, store: Recorder, levels: int = 3) -> tuple[Dag, bytes]:
    """A file laid out at random, with its content: raw and wrapped leaves at any depth, content in inner nodes too."""
    if levels == 0 or draw(st.booleans()):
        content = draw(st.binary(max_size=12))
        return draw(st.sampled_from([store.raw(content), store.file(data=content)])), content
    parts = draw(st.lists(any_dag(store, levels - 1), max_size=4))
    own = draw(st.binary(max_size=5))
    return store.file([dag for dag, _ in parts], own), own + b"".join(content for _, content in parts)


@given(st.data())
def test_any_dag_reads_as_its_content_and_any_range_as_a_slice_of_it(data: st.DataObject) -> None:
    store = Recorder()
    dag, content = data.draw(any_dag(store))
    offset = data.draw(st.integers(0, len(content) + 3))
    length = data.draw(st.none() | st.integers(0, len(content) + 3))
    assert bytes(unixfs.read(store, dag.cid)) == content
    assert unixfs.file_size(store, dag.cid) == len(content)
    pieces = list(unixfs.iter_read(store, dag.cid, offset, length))
    assert b"".join(pieces) == content[offset : None if length is None else offset + length]
    assert all(len(piece) for piece in pieces)


@given(st.binary(min_size=1, max_size=300), st.integers(1, 7), st.integers(2, 5), st.data())
def test_a_range_reads_the_blocks_it_needs_and_no_others(
    content: bytes, chunk_bytes: int, width: int, data: st.DataObject
) -> None:
    store = Recorder()
    dag = unixfs.write_file(content, store.put, chunk_bytes=chunk_bytes, width=width)
    offset = data.draw(st.integers(0, len(content) - 1))
    length = data.draw(st.integers(1, len(content) - offset))
    store.asked.clear()
    assert b"".join(unixfs.iter_read(store, dag.cid, offset, length)) == content[offset : offset + length]
    leaves = [cid for cid in store.asked if cid.codec_name == "raw"]
    first, last = offset // chunk_bytes, (offset + length - 1) // chunk_bytes
    assert leaves == [CID.of(content[i * chunk_bytes :][:chunk_bytes]) for i in range(first, last + 1)]


def test_trickle_dags_are_read_in_order() -> None:
    store = Recorder()
    leaves = [store.raw(bytes([i])) for i in range(40)]
    dag = store.trickle(iter(leaves), 3, 4)
    assert dag.blocksize == 40
    assert unixfs.read(store, dag.cid) == bytes(range(40))


def test_a_file_of_one_block_is_that_block() -> None:
    store = Recorder()
    leaf = store.raw(b"as it lies there")
    stored = store.get(leaf.cid)
    assert unixfs.read(store, leaf.cid) is stored
    assert unixfs.read(store, store.file([leaf]).cid) is stored
    assert next(unixfs.iter_read(store, leaf.cid)) is stored


def test_a_mapped_block_is_sliced_and_not_copied() -> None:
    class Mapped(Recorder):
        def get(self, cid: CID) -> memoryview:
            return memoryview(super().get(cid))

    store = Mapped()
    leaf = store.raw(b"0123456789")
    (piece,) = unixfs.iter_read(store, store.file([leaf]).cid, 2, 5)
    assert isinstance(piece, memoryview)
    assert bytes(piece) == b"23456"


@pytest.mark.parametrize("type_", [Type.FILE, Type.RAW])
def test_content_wrapped_in_a_node_is_a_file(type_: Type) -> None:
    store = Recorder()
    leaf = store.file(data=b"wrapped", type_=type_)
    assert unixfs.read(store, leaf.cid) == b"wrapped"
    assert unixfs.read(store, store.file([leaf, leaf], b"in ").cid) == b"in wrappedwrapped"


def hostile_files(store: Recorder) -> Iterator[tuple[str, CID]]:
    """Files that lie, by what the error says of them."""
    leaf = store.raw(b"leaf")
    link = Link("", leaf.cid, 4)
    wrapped = store.file([leaf])
    value = dag_cbor.encode({"no": "file"})
    cbor = CID.of(value, "dag-cbor")
    store.put(cbor, value)
    for says, node in [
        ("1 links and 0 blocksizes", Node(Type.FILE, links=[link], filesize=4)),
        ("1 links and 2 blocksizes", Node(Type.FILE, links=[link], filesize=8, blocksizes=[4, 4])),
        ("0 links and 1 blocksizes", Node(Type.FILE, blocksizes=[4], filesize=4)),
        ("says that it has 5 bytes", Node(Type.FILE, links=[link], filesize=5, blocksizes=[4])),
        ("says that it has 0 bytes", Node(Type.FILE, b"data")),
        ("have no names", Node(Type.FILE, links=[Link("a", leaf.cid, 4)], filesize=4, blocksizes=[4])),
        ("4 bytes where its parent says 5", Node(Type.FILE, links=[link], filesize=5, blocksizes=[5])),
        (
            "4 bytes where its parent says 3",
            Node(Type.FILE, links=[Link("", wrapped.cid, 0)], filesize=3, blocksizes=[3]),
        ),
        ("not of dag-cbor", Node(Type.FILE, links=[Link("", cbor, 0)], filesize=9, blocksizes=[9])),
        ("a UnixFS DIRECTORY, not a file", Node(Type.DIRECTORY)),
        ("a UnixFS METADATA, not a file", Node(Type.METADATA)),
        ("a UnixFS HAMT_SHARD, not a file", Node(Type.HAMT_SHARD, hash_type=0x22, fanout=256)),
        ("symlinks are not followed", Node(Type.SYMLINK, b"../../etc/passwd")),
    ]:
        yield says, store.node(node).cid
    yield "not of dag-cbor", cbor


def test_files_that_lie_are_refused() -> None:
    store = Recorder()
    for says, cid in hostile_files(store):
        with pytest.raises(CodecError, match=says):
            unixfs.read(store, cid)
        with pytest.raises(CodecError, match=says):
            list(unixfs.iter_read(store, cid))


def doubled(store: Recorder, levels: int) -> Dag:
    """A file of ``2**levels`` bytes in ``levels + 1`` blocks."""
    dag = store.raw(b"x")
    for _ in range(levels):
        dag = store.file([dag, dag])
    return dag


def test_a_small_tree_that_claims_a_huge_file_is_streamed_but_not_read_whole() -> None:
    store = Recorder()
    bomb = doubled(store, 60)
    assert unixfs.file_size(store, bomb.cid) == 2**60
    with pytest.raises(CodecError, match="over the limit"):
        unixfs.read(store, bomb.cid)
    assert list(itertools.islice(unixfs.iter_read(store, bomb.cid), 1000)) == [b"x"] * 1000
    store.asked.clear()
    assert b"".join(unixfs.iter_read(store, bomb.cid, 2**59 - 3, 7)) == b"x" * 7
    assert len(store.asked) < 4 * 60


def test_a_large_file_of_tiny_parts_is_not_read_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch_ipfs.unixfs.file_reader._SMALL_PARTS", 2000)
    store = Recorder()
    many = store.file([store.raw(b"xy")] * 100)
    file = store.file([many] * 10)
    assert unixfs.read(store, file.cid) == b"xy" * 1000
    bomb = store.file([store.file([many] * 100)] * 60)
    store.asked.clear()
    with pytest.raises(CodecError, match="too many blocks for its size"):
        unixfs.read(store, bomb.cid)
    assert len(store.asked) < 5000


def test_a_file_over_64_bits_is_refused() -> None:
    store = Recorder()
    half = Link("", doubled(store, 20).cid, 0)
    huge = store.node(Node(Type.FILE, links=[half, half], filesize=2**63 - 1, blocksizes=[2**62, 2**62]))
    with pytest.raises(CodecError, match=f"make {2**63}"):
        unixfs.file_size(store, huge.cid)


def test_parts_without_content_cost_nothing() -> None:
    store = Recorder()
    empty = store.file([store.raw(b"")] * 1000)
    for _ in range(20):
        empty = store.file([empty] * 1000)
    store.asked.clear()
    assert unixfs.read(store, empty.cid) == b""
    assert len(store.asked) == 1


def test_depth_is_bounded() -> None:
    store = Recorder()
    dag = store.raw(b"deep")
    for _ in range(MAX_DEPTH):
        dag = store.file([dag])
    assert unixfs.read(store, dag.cid) == b"deep"
    with pytest.raises(CodecError, match=f"deeper than {MAX_DEPTH}"):
        unixfs.read(store, store.file([dag]).cid)


def test_a_missing_block_is_named_and_what_lies_before_it_is_read() -> None:
    store = Recorder()
    missing = Dag(CID.of(b"gone"), 4, 4)
    dag = store.file([store.raw(b"here"), missing])
    pieces = unixfs.iter_read(store, dag.cid)
    assert next(pieces) == b"here"
    with pytest.raises(BlockNotFound) as caught:
        next(pieces)
    assert caught.value.cid == str(missing.cid)


@pytest.mark.parametrize(("offset", "length"), [(-1, None), (0, -1)])
def test_negative_ranges_are_refused_at_the_call(offset: int, length: int | None) -> None:
    store = Recorder()
    with pytest.raises(OptionError, match="negative"):
        unixfs.iter_read(store, store.raw(b"abc").cid, offset, length)


def test_an_abandoned_read_closes_what_it_began() -> None:
    closed: list[bool] = []

    class Closing(Recorder):
        def get_many(self, cids, *, return_exceptions=False):
            try:
                yield from super().get_many(cids)
            finally:
                closed.append(True)

    store = Closing()
    leaves = [store.raw(bytes([i])) for i in range(3)]
    pieces = unixfs.iter_read(store, store.file([store.file(leaves), store.file(leaves)]).cid)
    next(pieces)
    assert not closed
    pieces.close()
    assert closed == [True, True]
