"""What all stores share: verifying, naming whom to blame."""

from __future__ import annotations

import errno

import pytest

from torch_ipfs.blockstore.base import MAX_BLOCK_BYTES, blaming, identity_block, verify
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import BlockTooLarge, CodecError, HashMismatch, TransportError

DATA = b"a block"


@pytest.mark.parametrize("hash_function", ["sha2-256", "sha2-512", "blake3", "identity"])
@pytest.mark.parametrize("form", [bytes, memoryview])
def test_a_block_is_verified_by_its_own_hash_function(hash_function: str, form: type) -> None:
    cid = CID.of(DATA, "raw", hash_function)
    verify(cid, form(DATA), "here")
    for forged in (b"", DATA[:-1], DATA + b"\0", b"A block"):
        with pytest.raises(HashMismatch) as caught:
            verify(cid, form(forged), "https://gateway.example")
        assert caught.value.cid == str(cid)
        assert caught.value.source == "https://gateway.example"


def test_a_block_over_the_limit_is_not_hashed() -> None:
    never_hashed = CID.from_multihash("raw", b"\xd5\x01\x10" + bytes(16))  # md5
    for size_bytes, limit in ((MAX_BLOCK_BYTES + 1, MAX_BLOCK_BYTES), (11, 10)):
        with pytest.raises(BlockTooLarge):
            verify(never_hashed, bytes(size_bytes), None, max_block_bytes=limit)


def test_a_hash_function_that_is_not_allowed_names_the_source() -> None:
    with pytest.raises(CodecError) as caught:
        verify(CID.from_multihash("raw", b"\xd5\x01\x10" + bytes(16)), DATA, "here")
    assert caught.value.source == "here"


def test_identity_blocks() -> None:
    assert identity_block(CID.of(DATA, "raw", "identity")) == DATA
    assert identity_block(CID.of(DATA)) is None


def test_blame_goes_to_who_is_named_first() -> None:
    with pytest.raises(CodecError) as unnamed, blaming("the file"):
        raise CodecError("bad bytes")
    assert unnamed.value.source == "the file"
    with pytest.raises(CodecError) as named, blaming("the file"):
        raise CodecError("bad bytes", source="another")
    assert named.value.source == "another"
    with pytest.raises(TransportError, match="No space left") as refused, blaming("the disk"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert refused.value.source == "the disk"
    with pytest.raises(ZeroDivisionError), blaming("the file"):
        raise ZeroDivisionError
