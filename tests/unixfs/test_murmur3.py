from __future__ import annotations

import mmh3
from hypothesis import given
from hypothesis import strategies as st

from torch_ipfs.unixfs import murmur3


@given(st.binary(max_size=100))
def test_agrees_with_the_reference(data: bytes) -> None:
    assert murmur3.hash64(data) == mmh3.hash64(data, signed=False)[0]


def test_leads_to_the_entry_that_the_specification_shows() -> None:
    # https://specs.ipfs.tech/unixfs/#hamt-structure-and-parameters: "470.txt" is in bucket 00, and 6E below it.
    assert murmur3.hash64(b"470.txt").to_bytes(8, "big")[:2] == bytes.fromhex("006E")
