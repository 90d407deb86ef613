"""DAG-PB: the forms of the spec, sorting, and what is no canonical node."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.codec.strategies import cids, same, texts
from torch_ipfs.codec import dag_pb
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import CodecError

A = CID.parse("bafkqabiaaebagba")
HASH = "0a09" + bytes(A).hex()

links = st.fixed_dictionaries({"Hash": cids}, optional={"Name": texts, "Tsize": st.integers(0, 2**63 - 1)})
nodes = st.fixed_dictionaries({"Links": st.lists(links, max_size=8)}, optional={"Data": st.binary(max_size=300)})


@given(nodes)
def test_round_trip_sorts_links_by_name_and_keeps_equal_names_in_order(node: dict[str, Any]) -> None:
    block = dag_pb.encode(node)
    node["Links"].sort(key=lambda link: link.get("Name", "").encode())
    assert same(dag_pb.decode(block), node)
    assert same(dag_pb.decode(memoryview(block)), node)
    assert dag_pb.encode(dag_pb.decode(block)) == block


@pytest.mark.parametrize(
    ("block", "node"),
    [
        ("", {"Links": []}),
        ("0a00", {"Links": [], "Data": b""}),
        ("0a03010203", {"Links": [], "Data": b"\1\2\3"}),
        ("120b" + HASH, {"Links": [{"Hash": A}]}),
        ("120d" + HASH + "1200", {"Links": [{"Hash": A, "Name": ""}]}),
        ("1212" + HASH + "1205c3a9c3a961", {"Links": [{"Hash": A, "Name": "ééa"}]}),
        ("120d" + HASH + "1800", {"Links": [{"Hash": A, "Tsize": 0}]}),
        ("1215" + HASH + "18ffffffffffffffff7f", {"Links": [{"Hash": A, "Tsize": 2**63 - 1}]}),
        ("120b" + HASH + "0a0161", {"Links": [{"Hash": A}], "Data": b"a"}),
    ],
)
def test_forms(block: str, node: dict[str, Any]) -> None:
    assert same(dag_pb.decode(bytes.fromhex(block)), node)
    assert dag_pb.encode(node).hex() == block


def test_the_empty_node_has_the_cid_that_the_spec_gives() -> None:
    assert str(CID.of(dag_pb.encode({}), "dag-pb")) == "bafybeihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"


def test_data_before_links_is_read_as_old_blocks_have_it() -> None:
    block = bytes.fromhex("0a0161" + "120b" + HASH + "120b" + HASH)
    assert dag_pb.decode(block) == {"Data": b"a", "Links": [{"Hash": A}, {"Hash": A}]}


def test_links_out_of_order_are_read_as_they_stand() -> None:
    block = bytes.fromhex("120e" + HASH + "120162" + "120e" + HASH + "120161")
    assert [link["Name"] for link in dag_pb.decode(block)["Links"]] == ["b", "a"]


REFUSED = {
    "an unknown field": ("1a0161", "no field of a node: 0x1a.*at byte 0"),
    "an unknown varint field": ("0801", "no field of a node: 0x08"),
    "field 0": ("0200", "no field of a node: 0x02"),
    "a group": ("0b", "no field of a node: 0x0b"),
    "Data as a varint": ("0800", "no field of a node"),
    "Links as fixed": ("150000", "no field of a node"),
    "a long form of a field": ("8a000161", "no field of a node: 0x8a"),
    "Data twice": ("0a01610a0162", "a second Data, at byte 3"),
    "empty Data twice": ("0a000a00", "a second Data, at byte 2"),
    "Links around Data": ("120b" + HASH + "0a00" + "120b" + HASH, "Links on both sides of Data, at byte 15"),
    "cut Data": ("0a0261", "a field is cut: 2 bytes from byte 2, its message ends at 3, at byte 0"),
    "no length": ("0a", "varint at byte 1 is cut"),
    "a length of 2**62": ("0affffffffffffffff3f61", "a field is cut: 4611686018427387903 bytes"),
    "a length of ten bytes": ("0affffffffffffffffff0161", "longer than 9 bytes"),
    "a length that is not minimal": ("0a810061", "not minimal"),
    "a cut link": ("120c" + HASH, "a field is cut: 12 bytes from byte 2"),
    "an empty link": ("1200", "a link without Hash, at byte 2"),
    "a link without Hash": ("12021200", "a link without Hash"),
    "an unknown field of a link": ("120d" + HASH + "2000", "no field of a link: 0x20.*at byte 13"),
    "Hash as a varint": ("12020801", "no field of a link: 0x08"),
    "Name as a varint": ("120d" + HASH + "1001", "no field of a link: 0x10"),
    "Tsize as bytes": ("120d" + HASH + "1a00", "no field of a link: 0x1a"),
    "Hash twice": ("1216" + HASH + HASH, "Hash after Hash, at byte 13"),
    "Name twice": ("120f" + HASH + "12001200", "Name after Name"),
    "Tsize twice": ("120f" + HASH + "18001800", "Tsize after Tsize"),
    "Name before Hash": ("120d1200" + HASH, "Hash after Name, at byte 4"),
    "Tsize before Name": ("120f" + HASH + "18001200", "Name after Tsize"),
    "a Hash that is no CID": ("12040a0200ff", "Hash is no CID .*, at byte 4"),
    "a Hash that is empty": ("12020a00", "Hash is no CID"),
    "a Hash with more bytes": ("120c0a0a" + bytes(A).hex() + "00", "Hash is no CID .*followed by 1 more"),
    "a Hash that runs out of its link": ("120a" + HASH, "a field is cut: 9 bytes from byte 4, its message ends at 12"),
    "a Tsize that runs out of its link": (
        "120d" + HASH + "1880010a00",
        "Tsize is cut: it runs past its link, at byte 13",
    ),
    "a Tsize of 64 bits": ("1216" + HASH + "18ffffffffffffffffff01", "longer than 9 bytes"),
    "a Tsize that is not minimal": ("120e" + HASH + "188000", "not minimal"),
    "a name that is not UTF-8": ("120f" + HASH + "120261ff", "Name is not UTF-8, at byte 16"),
}


@pytest.mark.parametrize(("block", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(block: str, message: str) -> None:
    with pytest.raises(CodecError, match=message):
        dag_pb.decode(bytes.fromhex(block))


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ([], "a node is a map, not list"),
        ({"data": b""}, "a node has no 'data', only Data, Links"),
        ({"Links": {}}, "Links is a list, not dict"),
        ({"Data": "text"}, "Data is bytes, not str"),
        ({"Links": [A]}, "a link is a map, not CID"),
        ({"Links": [{}]}, "a link's Hash is a CID, not NoneType"),
        ({"Links": [{"Hash": bytes(A)}]}, "a link's Hash is a CID, not bytes"),
        ({"Links": [{"Hash": A, "Name": b"a"}]}, "Name is a str"),
        ({"Links": [{"Hash": A, "Name": "\ud800"}]}, "UTF-8 cannot hold"),
        ({"Links": [{"Hash": A, "Tsize": 1.0}]}, "its Tsize an int"),
        ({"Links": [{"Hash": A, "Tsize": True}]}, "its Tsize an int"),
        ({"Links": [{"Hash": A, "Tsize": -1}]}, "not -1"),
        ({"Links": [{"Hash": A, "Size": 1}]}, "a link has no 'Size'"),
    ],
)
def test_values_that_it_does_not_hold(node: object, message: str) -> None:
    with pytest.raises(CodecError, match=message):
        dag_pb.encode(node)


@given(st.binary(max_size=80))
def test_any_bytes_are_a_node_or_a_codec_error(data: bytes) -> None:
    try:
        node = dag_pb.decode(data)
    except CodecError:
        return
    assert dag_pb.decode(dag_pb.encode(node))["Links"] == sorted(
        node["Links"], key=lambda link: link.get("Name", "").encode()
    )
