from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unixfs.dags import Recorder
from tests.unixfs.keystream import keystream
from torch_ipfs import unixfs
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import CodecError, OptionError
from torch_ipfs.unixfs import node as unixfs_node

MIB = 2**20


def test_small_files_have_the_cids_that_kubo_gives_them() -> None:
    store = Recorder()
    # IPIP-499's vector for one block, and the empty file that every Kubo knows.
    hello = "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"
    empty = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"
    assert str(unixfs.write(b"hello world", store.put)) == hello
    assert str(unixfs.write(b"", store.put)) == str(unixfs.write([], store.put)) == empty
    assert unixfs.read(store, CID.parse(empty)) == b""


@pytest.mark.slow
def test_large_files_have_the_cids_of_ipip_499() -> None:
    """1,025 MiB: one leaf more than a node has links for. The first of its two children is the vector of 1,024 MiB."""
    nodes: dict[CID, bytes] = {}

    def put(cid: CID, block: bytes) -> None:
        if cid.codec_name == "dag-pb":
            nodes[cid] = block

    root = unixfs.write(keystream("v1-2025-seed", 1025 * MIB), put)
    assert str(root) == "bafybeihmzokxxjqwxjcryerhp5ezpcog2wcawfryb2xm64xiakgm4a5jue"
    children = [str(link.cid) for link in unixfs_node.decode(root, nodes[root]).links]
    assert children[0] == "bafybeihmf37wcuvtx4hpu7he5zl5qaf2ineo2lqlfrapokkm5zzw7zyhvm"
    assert len(children) == 2


def pieces_of(content: bytes, cuts: list[int]) -> list[bytes]:
    at = [0, *sorted(min(cut, len(content)) for cut in cuts), len(content)]
    return [content[start:stop] for start, stop in itertools.pairwise(at)]


@given(
    st.binary(max_size=400),
    st.lists(st.integers(0, 400), max_size=8),
    st.integers(1, 50),
    st.integers(2, 6),
    st.sampled_from(["sha2-256", "blake3"]),
)
def test_how_the_content_comes_in_pieces_does_not_matter(
    content: bytes, cuts: list[int], chunk_bytes: int, width: int, hash_function: str
) -> None:
    store = Recorder()
    options: dict[str, Any] = {"chunk_bytes": chunk_bytes, "width": width, "hash_function": hash_function}
    whole = unixfs.write_file(content, store.put, **options)
    pieces = (bytearray(piece) for piece in pieces_of(content, cuts))
    assert unixfs.write_file(pieces, store.put, **options) == whole
    assert bytes(unixfs.read(store, whole.cid)) == content
    assert whole.blocksize == len(content)


@given(st.integers(0, 200), st.integers(2, 6))
def test_all_leaves_are_at_one_depth_and_tsize_is_the_bytes_of_the_tree(leaves: int, width: int) -> None:
    store = Recorder()
    dag = unixfs.write_file(np.arange(leaves, dtype=np.uint8).data, store.put, chunk_bytes=1, width=width)

    def walk(cid: CID) -> tuple[set[int], int]:
        block = store.get(cid)
        if cid.codec_name == "raw":
            return {0}, len(block)
        below = [walk(link.cid) for link in unixfs_node.decode(cid, block).links]
        assert 1 <= len(below) <= width
        return {depth + 1 for depths, _ in below for depth in depths}, len(block) + sum(size for _, size in below)

    depths, tsize = walk(dag.cid)
    assert len(depths) == 1
    assert tsize == dag.tsize
    assert min(depths) == 0 or width ** (min(depths) - 1) < leaves <= width ** min(depths)


def test_content_of_any_buffer_is_its_bytes() -> None:
    store = Recorder()
    array = np.arange(12, dtype=np.int32).reshape(3, 4)
    cid = unixfs.write([array.data, memoryview(b""), np.empty((0, 4)).data], store.put)
    assert unixfs.read(store, cid) == array.tobytes()


def test_a_piece_may_be_reused_by_whoever_gave_it() -> None:
    store = Recorder()
    buffer = bytearray(4)

    def pieces() -> Iterator[bytearray]:
        for i in range(4):
            buffer[:] = bytes([i]) * 4
            yield buffer

    kept: list[tuple[CID, bytes]] = []
    unixfs.write_file(pieces(), lambda cid, block: kept.append((cid, block)), chunk_bytes=4)
    store.put_many(kept)
    assert b"".join(block for _, block in kept[:4]) == b"".join(bytes([i]) * 4 for i in range(4))


def test_memory_does_not_grow_with_the_file() -> None:
    piece = bytes(MIB)
    tracemalloc.start()
    try:
        unixfs.write(itertools.repeat(piece, 200), lambda cid, block: None)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * MIB


@pytest.mark.parametrize("piece", ["text", 5, np.zeros((4, 4))[:, ::2].data], ids=["text", "number", "strided"])
def test_what_is_not_bytes_is_refused(piece: Any) -> None:
    with pytest.raises(OptionError, match="contiguous bytes"):
        unixfs.write([piece], Recorder().put)


def test_options_that_cannot_work_are_refused() -> None:
    store = Recorder()
    with pytest.raises(OptionError, match="leaves of 1 byte"):
        unixfs.write_file(b"x", store.put, chunk_bytes=0)
    with pytest.raises(OptionError, match="2 links"):
        unixfs.write_file(b"x", store.put, width=1)
    with pytest.raises(CodecError):
        unixfs.write(b"x", store.put, hash_function="md5")
