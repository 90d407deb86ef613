from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torch_ipfs.codec import dag_pb
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import CodecError
from torch_ipfs.unixfs import node as unixfs_node
from torch_ipfs.unixfs.node import Link, Node, Type

LINKS = st.builds(Link, st.text(max_size=5), st.binary(max_size=5).map(CID.of), st.integers(0, 2**62))


def block_of(message: bytes) -> tuple[CID, bytes]:
    block = dag_pb.encode({"Data": message, "Links": []})
    return CID.of(block, "dag-pb"), block


@given(
    st.sampled_from([Type.FILE, Type.HAMT_SHARD, Type.DIRECTORY, Type.SYMLINK]),
    st.binary(max_size=300),
    st.lists(LINKS, max_size=5),
    st.lists(st.integers(0, 2**63 - 1), max_size=5),
    st.integers(0, 2**63 - 1),
)
def test_a_node_is_read_as_it_was_written(
    type_: Type, data: bytes, links: list[Link], blocksizes: list[int], number: int
) -> None:
    filesize = number if type_ is Type.FILE else 0
    hamt = number if type_ is Type.HAMT_SHARD else 0
    links = sorted(links, key=lambda link: link.name.encode())  # as dag-pb has them
    node = Node(type_, data, links, filesize, blocksizes, hamt, hamt)
    block = unixfs_node.encode(node)
    assert unixfs_node.decode(CID.of(block, "dag-pb"), block) == node


def test_packed_blocksizes_and_fields_of_no_meaning_here_are_read() -> None:
    # A file of two blocksizes in protobuf's packed form, with mode, mtime and a field that nobody has defined.
    message = bytes.fromhex("0802 1807 220203 04 38a403 42 02 0801 4d 01020304 91 04 0102030405060708".replace(" ", ""))
    node = unixfs_node.decode(*block_of(message))
    assert (node.type, node.filesize, node.blocksizes) == (Type.FILE, 7, [3, 4])


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ("", "has no Type"),
        ("1801", "has no Type"),
        ("0806", "Type 6; 0 to 5"),
        ("08", "cut"),
        ("0802 12ff01 00", "claims 255 bytes, of which 1 are there"),
        ("0802 12ffffffffffffffff7f", "claims 9223372036854775807 bytes"),
        ("0802 20ffffffffffffffffff01", "longer than 9 bytes"),
        ("0802 22 02 8080", "cut"),
        ("0802 13", "wire type 3"),
        ("0802 17", "wire type 7"),
    ],
)
def test_messages_that_are_none_are_refused(message: str, says: str) -> None:
    cid, block = block_of(bytes.fromhex(message.replace(" ", "")))
    with pytest.raises(CodecError, match=says) as caught:
        unixfs_node.decode(cid, block, "/data/x.car")
    assert (caught.value.cid, caught.value.source) == (str(cid), "/data/x.car")


def test_a_dag_pb_node_without_a_message_is_refused() -> None:
    block = dag_pb.encode({"Links": []})
    with pytest.raises(CodecError, match="has no Data"):
        unixfs_node.decode(CID.of(block, "dag-pb"), block)


@given(st.binary(max_size=60))
def test_no_bytes_do_worse_than_an_error(message: bytes) -> None:
    for cid, block in (block_of(message), (CID.of(message, "dag-pb"), message)):
        with contextlib.suppress(CodecError):
            assert isinstance(unixfs_node.decode(cid, block), Node)
