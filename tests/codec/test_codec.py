"""Choosing a codec by what a CID names."""

from __future__ import annotations

import pytest

from torch_ipfs import codec
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import CodecError

VALUE = {"Links": [{"Hash": CID.of(b"a"), "Name": "a", "Tsize": 1}], "Data": b"d"}


@pytest.mark.parametrize("name", ["dag-cbor", "dag-json", "dag-pb"])
def test_decodes_by_the_cid_what_it_encodes_by_name(name: str) -> None:
    block = codec.encode(name, VALUE)
    assert codec.decode(CID.of(block, name), block) == VALUE


def test_raw_is_bytes_as_they_are() -> None:
    cid = CID.of(b"block")
    for form in (b"block", bytearray(b"block"), memoryview(b"block")):
        assert codec.encode("raw", form) == b"block"
        decoded = codec.decode(cid, form)
        assert decoded == b"block"
        assert type(decoded) is bytes
    with pytest.raises(CodecError, match="a raw block is bytes, not str"):
        codec.encode("raw", "block")


def test_json_is_decoded_by_its_codec() -> None:
    assert codec.decode(CID.of(b"", "json"), b'{"/": "x"}') == {"/": "x"}
    assert codec.encode("json", {"b": 1, "a": None}) == b'{"a":null,"b":1}'


def test_an_error_names_the_cid() -> None:
    cid = CID.of(b"\xff", "dag-cbor")
    with pytest.raises(CodecError, match="at byte 0") as caught:
        codec.decode(cid, b"\xff")
    assert caught.value.cid == str(cid)


def test_codecs_that_are_not_here() -> None:
    cid = CID.of(b"", "git-raw")
    with pytest.raises(CodecError, match="no decoder for codec git-raw; there are raw, dag-cbor") as caught:
        codec.decode(cid, b"")
    assert caught.value.cid == str(cid)
    with pytest.raises(CodecError, match="no encoder for codec git-raw"):
        codec.encode("git-raw", b"")
    with pytest.raises(CodecError, match="unknown codec 'yaml'"):
        codec.encode("yaml", b"")
