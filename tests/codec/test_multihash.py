"""Hash functions: known digests, the allowlist, and what it refuses."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.codec.strategies import says
from torch_ipfs.codec import multihash, varint
from torch_ipfs.errors import CodecError

# Digests of b"multihash" and b"", as published with the multihash spec and the functions' own.
KNOWN = [
    ("sha1", b"multihash", "111488c2f11fb2ce392acb5b2986e640211c4690073e"),
    ("sha2-256", b"multihash", "12209cbc07c3f991725836a3aa2a581ca2029198aa420b9d99bc0e131d9f3e2cbe47"),
    ("sha3-256", b"", "1620a7ffc6f8bf1ed76651c14756a061d662f580ff4de43b49fa82d80a4b80f8434a"),
    ("sha3-224", b"", "171c6b4e03423667dbb73b6e15454f0eb1abd4597f9a1b078e3f5b5a6bc7"),
    ("shake-128", b"", "18207f9c2ba4e88f827d616045507605853ed73b8093f6efbc88eb1a6eacfa66ef26"),
    ("dbl-sha2-256", b"", "56205df6e0e2761359d30a8275058e299fcc0381534545f55cf43e41983f5d4c9456"),
    ("blake3", b"", "1e20af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"),
    ("blake2s-256", b"", "e0e4022069217a3079908094e11121d042354a7c1f55b6482ca1a51e1b250dfd1ed0eef9"),
    ("identity", b"abc", "0003616263"),
]


@pytest.mark.parametrize(("name", "data", "expected"), KNOWN)
def test_known_digests(name: str, data: bytes, expected: str) -> None:
    made = multihash.digest(name, data)
    assert made.hex() == expected
    assert multihash.matches(made, data)
    assert multihash.matches(made, memoryview(data))
    assert multihash.name(multihash.parse(made)[0]) == name


def allowed() -> list[str]:
    return sorted(name for name in multihash._BY_NAME if not name.startswith("keccak"))


@pytest.mark.parametrize("name", allowed())
def test_every_allowed_function_tells_right_from_wrong(name: str) -> None:
    data = b"a block of bytes" * 20
    made = multihash.digest(name, data)
    code, digest = multihash.parse(made)
    assert multihash.digest(code, memoryview(data)) == made
    assert len(digest) >= multihash.MIN_DIGEST_BYTES
    assert multihash.matches(made, data)
    assert not multihash.matches(made, data + b".")
    assert not multihash.matches(made[:-1] + bytes((made[-1] ^ 1,)), data)


def test_the_allowlist_is_what_is_documented() -> None:
    families = {name.rsplit("-", 1)[0] for name in allowed()} | {name for name in allowed() if "-" not in name}
    expected = {"sha1", "sha2", "sha2-512", "sha3", "shake", "blake2b", "blake2s", "blake3", "dbl-sha2"}
    assert families == expected


def test_blake2b_agrees_with_hashlib() -> None:
    assert multihash.digest("blake2b-256", b"x") == b"\xa0\xe4\x02\x20" + hashlib.blake2b(b"x", digest_size=32).digest()


def test_keccak_says_what_it_needs() -> None:
    try:
        made = multihash.digest("keccak-256", b"")
    except CodecError as error:
        says(error, "needs the package pycryptodome")
    else:
        assert made.hex() == "1b20c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"


@given(st.binary(max_size=300), st.integers(0, 140))
def test_a_digest_may_be_cut_to_20_bytes(data: bytes, length: int) -> None:
    whole = hashlib.sha256(data).digest()
    cut = bytes((0x12,)) + varint.encode(length) + (whole + bytes(140))[:length]
    if 20 <= length <= 32:
        assert multihash.matches(cut, data)
    else:
        with pytest.raises(CodecError, match=f"{length} bytes"):
            multihash.matches(cut, data)


@pytest.mark.parametrize("name", ["blake3", "shake-256", "shake-128"])
def test_extendable_functions_go_to_128_bytes(name: str) -> None:
    code = multihash.parse(multihash.digest(name, b""))[0]
    function = multihash._BY_CODE[code]
    long = bytes((code, 0x80, 0x01)) + function.digest(b"data", 128)
    assert multihash.matches(long, b"data")
    assert not multihash.matches(long, b"other")


def test_identity_holds_up_to_128_bytes() -> None:
    data = bytes(range(128))
    made = multihash.digest("identity", data)
    assert multihash.matches(made, data)
    assert not multihash.matches(made, data + b"\0")
    assert not multihash.matches(made, data[:-1])
    with pytest.raises(CodecError, match="129 bytes; the limit is 128"):
        multihash.digest("identity", bytes(129))
    with pytest.raises(CodecError, match="claims a digest of 129 bytes"):
        multihash.matches(b"\x00\x81\x01" + bytes(129), bytes(129))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "cut"),
        (b"\x12\x20", "multihash at byte 0 is cut"),
        (b"\x12\x20" + bytes(31), "cut"),
        (b"\x12\x20" + bytes(33), "followed by 1 more, from byte 34"),
        (b"\x12\x10" + bytes(16), "sha2-256 digest of 16 bytes; 20 to 32 are allowed"),
        (b"\x12\x00", "digest of 0 bytes"),
        (b"\x12\x21" + bytes(33), "digest of 33 bytes"),
        (b"\xd5\x01\x10" + bytes(16), "hash function md5 is not on the allowlist"),
        (b"\x22\x08" + bytes(8), "murmur3-x64-64 is not on the allowlist"),
        (b"\x93\xe4\x02\x13" + bytes(19), "hash function 0xb213 is not on the allowlist"),  # blake2b of 152 bits
        (b"\xff\xff\x03\x20" + bytes(32), "hash function 0xffff is not on the allowlist"),
    ],
)
def test_what_is_no_multihash_or_not_allowed(data: bytes, message: str) -> None:
    with pytest.raises(CodecError, match=message):
        multihash.matches(data, b"")
