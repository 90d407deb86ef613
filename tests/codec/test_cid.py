"""CIDs: known ones, all text forms, the value type, and what is none."""

from __future__ import annotations

import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.codec.strategies import cids
from torch_ipfs.codec import multibase
from torch_ipfs.codec.cid import MAX_CID_BYTES, CID
from torch_ipfs.errors import CodecError

RAW = "bafkreifw7plhl6mofk6sfvhnfh64qmkq73oeqwl6sloru6rehaoujituke"
V0 = "QmRgutAxd8t7oGkSm4wmeuByG6M51wcTso6cubDdQtuEfL"


def test_of_a_block() -> None:
    assert str(CID.of(b"cccc")) == RAW
    cid = CID.of(b"cccc")
    assert (cid.version, cid.codec, cid.codec_name, cid.hash_code, len(cid.digest)) == (1, 0x55, "raw", 0x12, 32)
    assert cid.multihash == b"\x12\x20" + cid.digest
    assert bytes(cid) == b"\x01\x55\x12\x20" + cid.digest


def test_version_0() -> None:
    cid = CID.parse(V0)
    assert (cid.version, cid.codec_name, cid.hash_code, str(cid)) == (0, "dag-pb", 0x12, V0)
    assert bytes(cid) == cid.multihash == b"\x12\x20" + cid.digest
    assert cid.to_string("z") == cid.to_string("base58btc") == V0
    with pytest.raises(CodecError, match="base58btc alone"):
        cid.to_string("base32")


def test_versions_0_and_1_of_a_block_differ_and_share_the_multihash() -> None:
    old = CID.parse(V0)
    new = CID.from_multihash("dag-pb", old.multihash)
    assert old != new
    assert (old.multihash, old.codec) == (new.multihash, new.codec)


@pytest.mark.parametrize(
    ("text", "codec", "hash_code", "digest_bytes"),
    [
        ("bafkqabiaaebagba", "raw", 0x00, 5),
        ("baguqeera6yza2lamkvlohaytwwccgqrswciqhuglte7qta4vfjuwia5xkxvq", "dag-json", 0x12, 32),
        ("z8mWaJ1dZ9fH5EetPuRsj8jj26pXsgpsr", "git-raw", 0x11, 20),
        ("bagyacvradn6dsgl6sw2jwoh7s3d37hq5wsu7g22wtdwnmaaaaaaaaaaaaaaa", "0xb0", 0x56, 32),
        ("bafy2bzaced4ueelaegfs5fqu4tzsh6ywbbpfk3cxppupmxfdhbpbhzawfw5oy", "dag-cbor", 0xB220, 32),
    ],
)
def test_foreign_codecs_and_hashes(text: str, codec: str, hash_code: int, digest_bytes: int) -> None:
    cid = CID.parse(text)
    assert (cid.codec_name, cid.hash_code, len(cid.digest)) == (codec, hash_code, digest_bytes)
    assert CID.from_bytes(bytes(cid)) == cid


@pytest.mark.parametrize(
    "text",
    [
        "bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq",
        "BAFKREIBM6JG3UX5QUMHCN2B3FLC3TYU6DMLB4XA7U5BF44YEGNRJHC4YEQ",
        "cafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq======",
        "CAFKREIBM6JG3UX5QUMHCN2B3FLC3TYU6DMLB4XA7U5BF44YEGNRJHC4YEQ======",
        "zb2rhZfjRh2FHHB2RkHVEvL2vJnCTcu7kwRqgVsf9gpkLgteo",
        "k2cwue9rqdypmt3thjky14z1tk9fi9f0o5w7b3ofitdewlcf87lismqs",
        "K2CWUE9RQDYPMT3THJKY14Z1TK9FI9F0O5W7B3OFITDEWLCF87LISMQS",
        "f015512202cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824",
        "F015512202CF24DBA5FB0A30E26E83B2AC5B9E29E1B161E5C1FA7425E73043362938B9824",
        "mAVUSICzyTbpfsKMOJug7KsW54p4bFh5cH6dCXnMEM2KTi5gk",
        "MAVUSICzyTbpfsKMOJug7KsW54p4bFh5cH6dCXnMEM2KTi5gk",
        "uAVUSICzyTbpfsKMOJug7KsW54p4bFh5cH6dCXnMEM2KTi5gk",
        "UAVUSICzyTbpfsKMOJug7KsW54p4bFh5cH6dCXnMEM2KTi5gk",
    ],
)
def test_every_base_reads_and_writes(text: str) -> None:
    cid = CID.of(b"hello")
    assert CID.parse(text) == cid
    assert cid.to_string(text[0]) == text
    assert str(cid) == "bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq"


@given(cids, st.sampled_from(sorted(multibase.PREFIXES)))
def test_round_trips(cid: CID, base: str) -> None:
    assert CID.from_bytes(bytes(cid)) == cid
    assert CID.from_bytes(memoryview(bytes(cid))) == cid
    assert CID.parse(str(cid)) == cid
    if cid.version == 1:
        assert CID.parse(cid.to_string(base)) == cid
        assert CID.from_multihash(cid.codec, cid.multihash) == cid


@given(cids, st.binary(max_size=4), st.binary(max_size=4), st.integers(1, 50))
def test_reads_one_out_of_more_bytes_whatever_was_expected(cid: CID, before: bytes, after: bytes, guess: int) -> None:
    data = before + bytes(cid) + after
    end = len(before) + len(bytes(cid))
    assert CID.read(data, len(before)) == (cid, end)
    assert CID.read(memoryview(data), len(before), expected_bytes=guess) == (cid, end)


@given(cids, cids)
def test_is_a_value(left: CID, right: CID) -> None:
    assert (left == right) == (bytes(left) == bytes(right))
    assert (left < right, left <= right) == (bytes(left) < bytes(right), bytes(left) <= bytes(right))
    assert (left > right, left >= right) == (bytes(left) > bytes(right), bytes(left) >= bytes(right))
    for twin in (CID.from_bytes(bytes(left)), pickle.loads(pickle.dumps(left)), copy.deepcopy(left)):
        assert twin == left
        assert hash(twin) == hash(left)


def test_is_no_bytes_and_no_text_and_does_not_change() -> None:
    cid = CID.of(b"")
    assert cid != bytes(cid)
    assert cid != str(cid)
    assert eval(repr(cid)) == cid
    with pytest.raises(AttributeError, match="does not change"):
        cid._binary = b""
    with pytest.raises(AttributeError, match="does not change"):
        del cid._binary
    with pytest.raises(TypeError):
        _ = cid < bytes(cid)
    with pytest.raises(TypeError, match=r"CID\.parse"):
        CID()


IDENTITY_OF_129 = b"\x01\x55\x00\x81\x01" + bytes(129)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "varint at byte 0 is cut"),
        (b"\x01", "varint at byte 1 is cut"),
        (b"\x01\x55\x12", "varint at byte 3 is cut"),
        (b"\x01\x55\x12\x20" + bytes(31), "multihash at byte 2 is cut"),
        (b"\x01\x55\x12\x20" + bytes(33), "followed by 1 more, from byte 36"),
        (b"\x12\x20" + bytes(31), "has version 18"),
        (b"\x12\x20" + bytes(33), "followed by 1 more, from byte 34"),
        (b"\x00\x55\x12\x20" + bytes(32), "has version 0"),
        (b"\x02\x55\x12\x20" + bytes(32), "has version 2"),
        (b"\x81\x00\x55\x12\x20" + bytes(32), "not minimal"),
        (b"\x01\xd5\x00\x12\x20" + bytes(32), "not minimal"),
        (b"\x01\x55\x12\xa0\x00" + bytes(32), "not minimal"),
        (b"\x01" + b"\xff" * 9 + b"\x01", "longer than 9 bytes"),
        (IDENTITY_OF_129, "claims a digest of 129 bytes; the limit is 128"),
        (b"\x01\x55\x12" + b"\xff" * 8 + b"\x7f", "claims a digest of 9223372036854775807 bytes"),
    ],
)
def test_bytes_that_are_no_cid(data: bytes, message: str) -> None:
    for form in (data, memoryview(data), bytearray(data)):
        with pytest.raises(CodecError, match=message):
            CID.from_bytes(form)  # type: ignore[arg-type]


def test_a_view_is_measured_before_it_is_copied() -> None:
    with pytest.raises(CodecError, match=f"at most {MAX_CID_BYTES} bytes, not 1000000"):
        CID.from_bytes(memoryview(bytes(10**6)))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "b",
        "Qm",
        "x" + RAW[1:],
        RAW[:-1],
        RAW + "a",
        RAW.replace("a", "1"),
        RAW + "=",
        " " + RAW,
        RAW + "\n",
        "b" + RAW[1:].upper(),
        "B" + RAW[1:],
        "bafkreifw7plhl6mofk6sfvhnfh64qmkq73oeqwl6sloru6rehaoujitukf",  # bits are left over
        V0[:-1],
        V0 + "1",
        V0[:-1] + "0",
        "z" + V0,
        "bciqaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "b\ud800",
        "\u212acwue9rqdypmt3thjky14z1tk9fi9f0o5w7b3ofitdewlcf87lismqs",
        "k\u2070",
        "z" + "1" * 10**6,
        "b" + "a" * 10**6,
        "/ipfs/" + RAW,
    ],
)
def test_text_that_is_no_cid(text: str) -> None:
    with pytest.raises(CodecError) as caught:
        CID.parse(text)
    assert len(str(caught.value)) < 300


def test_a_cidv0_that_is_cut_says_how_long_it_is() -> None:
    with pytest.raises(CodecError, match="Qm has 46 characters, not 45"):
        CID.parse(V0[:-1])


def test_unknown_names() -> None:
    with pytest.raises(CodecError, match="unknown codec 'dag-xml'; known are"):
        CID.of(b"", "dag-xml")
    with pytest.raises(CodecError, match="md4 is not on the allowlist"):
        CID.of(b"", hash_function="md4")
    with pytest.raises(CodecError, match="unknown multibase 'base57'"):
        CID.of(b"").to_string("base57")


@given(st.binary(max_size=80))
def test_any_bytes_are_a_cid_or_a_codec_error(data: bytes) -> None:
    try:
        cid = CID.from_bytes(data)
    except CodecError:
        return
    assert bytes(cid) == data
    assert CID.from_multihash(cid.codec, cid.multihash).digest == cid.digest


@given(st.text(max_size=60), st.sampled_from(["", *multibase.PREFIXES.values(), "Qm"]))
def test_any_text_is_a_cid_or_a_codec_error(text: str, prefix: str) -> None:
    try:
        cid = CID.parse(prefix + text)
    except CodecError:
        return
    assert cid.to_string("z" if cid.version == 0 else prefix) == prefix + text
