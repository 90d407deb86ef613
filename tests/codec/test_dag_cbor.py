"""DAG-CBOR: round trips, links and bytes kept apart, the strict decoder and the quick path to the same answers."""

from __future__ import annotations

import math
import struct
import sys
from collections.abc import Iterator
from typing import Any

import cbor2
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.codec.strategies import binaries, check_dag_cbor, cid_like, cids, floats, nest, same, says, texts, values
from torch_ipfs import codec
from torch_ipfs.codec import cbor_decoder, cbor_encoder, dag_cbor
from torch_ipfs.codec.cid import CID
from torch_ipfs.codec.nesting import MAX_DEPTH
from torch_ipfs.errors import CodecError

CID_36 = bytes(CID.of(b""))


@given(values)
def test_round_trip(value: Any) -> None:
    block = dag_cbor.encode(value)
    assert same(dag_cbor.decode(block), value)
    assert same(dag_cbor.decode(memoryview(block)), value)
    assert dag_cbor.encode(dag_cbor.decode(block)) == block


@given(values)
def test_the_encoders_agree_and_so_do_the_decoders(value: Any) -> None:
    block = cbor_encoder.encode(value)
    assert dag_cbor.encode(value) == block
    assert same(cbor_decoder.decode(block), value)


@given(values)
def test_another_library_reads_it_as_cbor(value: Any) -> None:
    assert same(_plain(cbor2.loads(dag_cbor.encode(value))), value)


def _plain(value: Any) -> Any:
    """Another library's tags as links, and its lists and maps as the plain types."""
    if isinstance(value, cbor2.CBORTag):
        assert value.tag == 42
        assert value.value[:1] == b"\0"
        return CID.from_bytes(value.value[1:])
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


@given(cid_like)
@example(b"\x12\x20" + bytes(32))
@example(CID_36)
@example(CID_36 + b"\0")
@example(b"\x01\x55\x00\x00")
def test_bytes_never_become_a_link(data: bytes) -> None:
    for value in (data, [data], {"a": data}, [data, CID.of(b"a")], [[{"b": [data]}], data]):
        assert same(dag_cbor.decode(dag_cbor.encode(value)), value)
    assert dag_cbor.encode(data)[0] >> 5 == 2


@given(cids, cid_like)
def test_a_link_never_becomes_bytes(cid: CID, data: bytes) -> None:
    block = dag_cbor.encode(cid)
    assert block.startswith(b"\xd8\x2a")
    assert same(dag_cbor.decode(block), cid)
    assert same(dag_cbor.decode(dag_cbor.encode({"bytes": data, "link": cid})), {"bytes": data, "link": cid})


@given(st.lists(st.one_of(binaries, cids, texts), max_size=20))
def test_lists_of_links_bytes_and_texts(value: list[Any]) -> None:
    assert same(dag_cbor.decode(dag_cbor.encode(value)), value)


def test_a_block_of_random_payload_with_a_links_first_bytes_in_it() -> None:
    payload = b"\xd8\x2a\x58\x25\x00" + CID_36
    value = {"payload": payload * 100, "floats": [struct.unpack(">d", payload[:8])[0]] * 300}
    assert same(dag_cbor.decode(dag_cbor.encode(value)), value)


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (0, "00"),
        (23, "17"),
        (24, "1818"),
        (255, "18ff"),
        (256, "190100"),
        (65536, "1a00010000"),
        (2**32, "1b0000000100000000"),
        (2**64 - 1, "1bffffffffffffffff"),
        (-1, "20"),
        (-(2**64), "3bffffffffffffffff"),
        (1.0, "fb3ff0000000000000"),
        (-0.0, "fb0000000000000000"),
        (5e-324, "fb0000000000000001"),
        (None, "f6"),
        (True, "f5"),
        (False, "f4"),
        ("", "60"),
        ("é", "62c3a9"),
        (b"\0", "4100"),
        ((1, [2]), "82018102"),
        (bytearray(b"a"), "4161"),
        (memoryview(b"a"), "4161"),
        (memoryview(struct.pack("2d", 0, 0)).cast("d"), "50" + "00" * 16),
        ({"b": 1, "a": 2, "aa": 3, "": 4}, "a460046161026162016261610" + "3"),
        ({"é": 1, "z": 2, "aa": 3}, "a3617a0262616103" + "62c3a901"),
    ],
)
def test_the_one_encoding(value: object, encoded: str) -> None:
    assert dag_cbor.encode(value).hex() == encoded
    assert cbor_encoder.encode(value).hex() == encoded


class Shouting(str):
    __slots__ = ()


@pytest.mark.parametrize("value", [-0.0, [1.5, {"a": [-0.0, 0.0]}], {"l": CID.of(b"x"), "z": -0.0}])
def test_minus_zero_stays_where_that_is_asked_for(value: Any) -> None:
    data = dag_cbor.encode(value, minus_zero=True)
    assert repr(dag_cbor.decode(data, minus_zero=True)) == repr(value)
    assert repr(codec.decode(CID.of(data, codec="dag-cbor"), data)) == repr(value)
    with pytest.raises(CodecError, match=r"the float -0\.0"):
        dag_cbor.decode(data)


def test_subclasses_are_written_as_what_they_are() -> None:
    numbers = pytest.importorskip("numpy")
    value = [Shouting("a"), numbers.float64(0.5), {Shouting("k"): 1}]
    assert dag_cbor.encode(value) == dag_cbor.encode(["a", 0.5, {"k": 1}])
    assert dag_cbor.encode([value, CID_36]) == dag_cbor.encode([["a", 0.5, {"k": 1}], CID_36])


LINK = "d82a5825000155122" + "0" + "00" * 32
REFUSED = {
    "nothing": ("", "an item is missing, the input is cut, at byte 0"),
    "a second item": ("0000", "1 bytes follow the value, at byte 1"),
    "an integer of one byte that needs none": ("1817", "value 23 is not written as short as can be, at byte 0"),
    "an integer of two bytes that needs one": ("1900ff", "value 255 is not written as short"),
    "an integer of four bytes that needs two": ("1a0000ffff", "value 65535 is not written as short"),
    "an integer of eight bytes that needs four": ("1b00000000ffffffff", "value 4294967295 is not written as short"),
    "a negative that is too long": ("8200" + "3800", "value 0 is not written as short as can be, at byte 2"),
    "a long length of text": ("780161", "text string whose length 1 is not written as short"),
    "a long length of bytes": (
        "8158174141",
        "byte string whose length 23 is not written as short as can be, at byte 1",
    ),
    "a long length of a list": ("980100", "list whose length 1 is not written as short"),
    "a long length of a map": ("b800", "map whose length 0 is not written as short"),
    "a long tag": ("d9002a5825000155122000", "tag whose number 42 is not written as short"),
    "a link whose length is long": ("d82a5900" + LINK[6:], "length 37 is not written as short as can be, at byte 2"),
    "indefinite bytes": ("5f4100ff", "byte string of indefinite length, at byte 0"),
    "indefinite text": ("7f6161ff", "text string of indefinite length"),
    "an indefinite list": ("9f01ff", "list of indefinite length"),
    "an indefinite map": ("bf616101ff", "map of indefinite length"),
    "a break": ("ff", "a break, which DAG-CBOR does not have"),
    "a reserved head": ("1c", "integer of reserved form 28"),
    "an indefinite integer": ("1f", "integer of reserved form 31"),
    "half a float": ("f93c00", "a float of 16 bits"),
    "a single float": ("fa3f800000", "a float of 32 bits"),
    "NaN": ("fb7ff8000000000000", "the float nan"),
    "another NaN": ("fbfff0000000000001", "the float nan"),
    "half a NaN": ("f97e00", "a float of 16 bits"),
    "infinity": ("fb7ff0000000000000", "the float inf"),
    "minus infinity": ("8101fbfff0000000000000"[:0] + "81fbfff0000000000000", "the float -inf, .* at byte 1"),
    "minus zero": ("fb8000000000000000", "the float -0.0"),
    "undefined": ("f7", "undefined"),
    "a simple value": ("e0", "simple value 0"),
    "a simple value of one byte": ("f8ff", "simple value 24"),
    "false in two bytes": ("f814", "simple value 24"),
    "a date": ("c074323031332d30332d32315432303a30343a30305a", "tag 0, only 42 .* at byte 0"),
    "a large integer": ("c249010000000000000000", "tag 2, only 42"),
    "tag 43": ("81d82b4100", "tag 43, only 42 .* at byte 1"),
    "a link of text": ("d82a6100", "link that is no byte string but text string, at byte 2"),
    "a link of a link": ("d82ad82a4100", "link that is no byte string but tag"),
    "a link of nothing": ("d82a40", "link that does not begin with a zero byte, at byte 3"),
    "a link without zero": ("d82a5824" + LINK[10:], "link that does not begin with a zero byte, at byte 4"),
    "a link of zero alone": ("d82a4100", "link that is no CID"),
    "a link that is cut": (
        "d82a5825000155",
        "byte string is cut: 37 bytes from byte 4, the input ends at 7, at byte 2",
    ),
    "a link with more bytes": ("d82a5826" + LINK[8:] + "00", "link that is no CID .*followed by 1 more"),
    "a link with a cut digest": ("d82a460001551220ff", "link that is no CID .*cut.*, at byte 4"),
    "a link of version 3": ("d82a46000355122000", "version 3"),
    "key twice": ("a2616101616102", "map key 'a' twice, at byte 4"),
    "keys out of order": ("a2616201616102", "map key 'a' after 'b', keys are sorted by length first, at byte 4"),
    "a long key before a short one": ("a262616101616202", "map key 'b' after 'aa'"),
    "an integer as key": ("a10101", "map key that is no text string but integer, at byte 1"),
    "bytes as key": ("a1416101", "no text string but byte string"),
    "null as key": ("a1f601", "no text string but simple value"),
    "a key without value": ("a1616100"[:6], "an item is missing, the input is cut, at byte 3|claims 1 entries"),
    "text that is not UTF-8": ("8261616261ff", "text that is not UTF-8, at byte 5"),
    "a surrogate": ("63eda080", "text that is not UTF-8, at byte 1"),
    "UTF-8 that is too long": ("62c080", "text that is not UTF-8"),
    "a key that is not UTF-8": ("a161ff01", "text that is not UTF-8, at byte 2"),
    "a cut head": ("19", "integer is cut: 2 bytes from byte 1, the input ends at 1, at byte 0"),
    "cut text": ("636161", "text string is cut: 3 bytes from byte 1, the input ends at 3"),
    "cut bytes": ("58ff00", "byte string is cut: 255 bytes from byte 2"),
    "a cut float": ("fb000000", "simple value is cut"),
    "a cut list": ("8201", "list claims 2 entries, 1 bytes are left, at byte 0"),
    "a cut list in a list": ("828101", "an item is missing, the input is cut, at byte 3"),
    "a list of 2**60": ("9b1000000000000000", "list claims 1152921504606846976 entries, 0 bytes are left"),
    "a list of 2**64 - 1": ("9bffffffffffffffff", "list claims 18446744073709551615 entries"),
    "a map of 2**60": ("bb1000000000000000", "map claims 1152921504606846976 entries"),
    "a map of 2**63": ("bb8000000000000000" + "00" * 8, "map claims 9223372036854775808 entries"),
    "bytes of 2**60": ("5b1000000000000000", "byte string is cut: 1152921504606846976 bytes"),
    "text of 2**63": ("7b8000000000000000", "text string is cut: 9223372036854775808 bytes"),
}


@pytest.mark.parametrize(("block", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(block: str, message: str) -> None:
    data = bytes.fromhex(block)
    for decode in (dag_cbor.decode, cbor_decoder.decode):
        with pytest.raises(CodecError, match=message):
            decode(data)


@pytest.mark.parametrize(("block", "message"), REFUSED.values(), ids=REFUSED)
def test_refused_deep_in_a_large_block_and_beside_links(block: str, message: str) -> None:
    del message
    before = b"\x19\x03\xe8" * 300
    links = bytes.fromhex(LINK) * 10
    data = b"\x99\x01\x37" + before + links + bytes.fromhex(block)
    with pytest.raises(CodecError, match="at byte"):
        dag_cbor.decode(data)


UNHELD: list[tuple[Any, str]] = [
    (math.nan, "has no nan"),
    (-math.inf, "has no -inf"),
    (2**64, "integers lie between"),
    (-(2**64) - 1, "integers lie between"),
    (2**10000, "integers lie between"),
    ({1: 2}, "map keys are str, not int: 1"),
    ({b"a": 2}, "map keys are str, not bytes"),
    ({None: 2}, "map keys are str, not NoneType"),
    ({1, 2}, "has no set"),
    (1j, "has no complex"),
    (object(), "has no object"),
    ("\ud800", "UTF-8 cannot hold"),
    ({"\ud800": 1}, "UTF-8 cannot hold"),
    (range(3), "has no range"),
]


@pytest.mark.parametrize(("value", "message"), UNHELD, ids=[message for _, message in UNHELD])
def test_values_that_it_does_not_hold(value: Any, message: str) -> None:
    for held in (value, [[value]], {"a": value}, [CID.of(b""), value]):
        with pytest.raises(CodecError, match=message):
            dag_cbor.encode(held)


@pytest.mark.parametrize("maps", [False, True])
@pytest.mark.parametrize("core", [0, [], {}, CID.of(b""), CID_36], ids=repr)
def test_nests_as_deep_as_the_limit_and_no_deeper(core: Any, *, maps: bool) -> None:
    deepest = nest(MAX_DEPTH, core, maps=maps)
    assert same(dag_cbor.decode(dag_cbor.encode(deepest)), deepest)
    with pytest.raises(CodecError, match=f"nests deeper than {MAX_DEPTH}"):
        dag_cbor.encode([deepest])
    for deeper in (1, 2, 1000):
        before = (b"\xa1\x61a" if maps else b"\x81") * (MAX_DEPTH + deeper)
        with pytest.raises(
            CodecError, match=rf"nesting deeper than {MAX_DEPTH} .*, at byte {(3 if maps else 1) * 257}"
        ):
            dag_cbor.decode(before + dag_cbor.encode(core))


def test_a_value_that_holds_itself() -> None:
    around: list[Any] = [1]
    around.append(around)
    with pytest.raises(CodecError, match="nests deeper"):
        dag_cbor.encode(around)
    around.clear()


@pytest.fixture(params=[150, 20_000])
def recursion_limit(request: pytest.FixtureRequest) -> Iterator[int]:
    before = sys.getrecursionlimit()
    yield request.param
    sys.setrecursionlimit(before)


def test_pythons_recursion_limit_changes_nothing(recursion_limit: int) -> None:
    deepest = nest(MAX_DEPTH, {"a": [CID.of(b""), 1.5]})
    block = dag_cbor.encode(deepest[0][0])
    deeper = b"\x81" * 19_000 + b"\0"
    sys.setrecursionlimit(recursion_limit)
    decoded = dag_cbor.decode(block)
    again = dag_cbor.encode(decoded)
    with pytest.raises(CodecError) as caught:
        dag_cbor.decode(deeper)
    sys.setrecursionlimit(1000)
    assert again == block
    assert "at byte 257" in str(caught.value)


@given(st.lists(floats, min_size=1), st.integers(0, 2**16), st.integers(0, 255))
def test_a_changed_byte_gives_another_value_or_an_error(numbers: list[float], place: int, byte: int) -> None:
    block = bytearray(dag_cbor.encode({"features": numbers, "label": CID.of(b""), "name": "é" * 30}))
    place %= len(block)
    if block[place] == byte:
        return
    block[place] = byte
    try:
        value = dag_cbor.decode(block)
    except CodecError as error:
        says(error, "at byte")
    else:
        assert dag_cbor.encode(value) == block


@given(st.binary(max_size=60))
def test_any_bytes_decode_to_what_encodes_to_them_or_raise(data: bytes) -> None:
    check_dag_cbor(data)
