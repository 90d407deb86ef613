"""Unsigned varints: the spec's examples, its bounds, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torch_ipfs.codec import varint
from torch_ipfs.errors import CodecError


@pytest.mark.parametrize(
    ("value", "encoded"),
    [(0, "00"), (1, "01"), (127, "7f"), (128, "8001"), (255, "ff01"), (300, "ac02"), (16384, "808001")],
)
def test_the_specs_examples(value: int, encoded: str) -> None:
    assert varint.encode(value).hex() == encoded
    assert varint.read(bytes.fromhex(encoded)) == (value, len(encoded) // 2)


@given(st.integers(0, varint.MAX_VARINT), st.binary(max_size=3), st.binary(max_size=3))
def test_reads_what_it_encodes_wherever_it_stands(value: int, before: bytes, after: bytes) -> None:
    encoded = varint.encode(value)
    assert len(encoded) <= varint.MAX_VARINT_BYTES
    data = before + encoded + after
    assert varint.read(data, len(before)) == (value, len(before) + len(encoded))
    assert varint.read(memoryview(data), len(before)) == (value, len(before) + len(encoded))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "varint at byte 0 is cut: the input ends at byte 0"),
        (b"\x80", "cut: the input ends at byte 1"),
        (b"\xff" * 8, "cut: the input ends at byte 8"),
        (b"\x80\x00", "not minimal: its last byte, at 1, is zero"),
        (b"\x81\x80\x00", "not minimal: its last byte, at 2, is zero"),
        (b"\xff" * 9, "longer than 9 bytes"),
        (b"\xff" * 9 + b"\x01", "longer than 9 bytes"),
    ],
)
def test_refuses_what_is_no_varint(data: bytes, message: str) -> None:
    with pytest.raises(CodecError, match=message):
        varint.read(data)


def test_does_not_read_past_an_end_that_is_given() -> None:
    with pytest.raises(CodecError, match="cut: the input ends at byte 1"):
        varint.read(b"\x80\x01", 0, 1)


@pytest.mark.parametrize("value", [-1, 2**63])
def test_encodes_63_bits(value: int) -> None:
    with pytest.raises(CodecError, match="0 to 2"):
        varint.encode(value)
