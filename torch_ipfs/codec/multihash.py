"""Multihash: a digest that says which hash function made it, and the allowlist of those we trust.

https://github.com/multiformats/multihash. A CID may name any function, as links to data that is never fetched do. To make
or check a digest is for the functions below alone, with digests of 20 to 128 bytes, as Kubo's verifcid has it.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable

from blake3 import blake3

from torch_ipfs.codec import varint
from torch_ipfs.errors import CodecError

IDENTITY = 0x00
SHA2_256 = 0x12
BLAKE3 = 0x1E

MIN_DIGEST_BYTES = 20
MAX_DIGEST_BYTES = 128
"""Also the most that an identity multihash carries."""

Data = bytes | bytearray | memoryview
_Digest = Callable[[Data, int], bytes]
"""From data and a length in bytes to the digest; a length below the hash's own takes the start of it."""


def _hashlib(name: str) -> _Digest:
    def digest(data: Data, length: int) -> bytes:
        return hashlib.new(name, data, usedforsecurity=False).digest()[:length]

    return digest


def _sha2_256(data: Data, length: int) -> bytes:
    return hashlib.sha256(data).digest()[:length]


def _dbl_sha2_256(data: Data, length: int) -> bytes:
    return hashlib.sha256(hashlib.sha256(data).digest()).digest()[:length]


def _blake2(hash_function: type[hashlib.blake2b | hashlib.blake2s], digest_bytes: int) -> _Digest:
    def digest(data: Data, length: int) -> bytes:
        return hash_function(data, digest_size=digest_bytes).digest()[:length]

    return digest


def _shake_128(data: Data, length: int) -> bytes:
    return hashlib.shake_128(data).digest(length)


def _shake_256(data: Data, length: int) -> bytes:
    return hashlib.shake_256(data).digest(length)


def _blake3(data: Data, length: int) -> bytes:
    return blake3(data).digest(length)


def _keccak(bits: int) -> _Digest:
    """Ethereum's hash, which hashlib does not have."""

    def digest(data: Data, length: int) -> bytes:
        try:
            keccak = importlib.import_module("Crypto.Hash.keccak")
        except ImportError:
            raise CodecError(f"keccak-{bits} needs the package pycryptodome, which is not installed") from None
        whole: bytes = keccak.new(digest_bits=bits, data=data).digest()
        return whole[:length]

    return digest


class _Function:
    """One hash function: its multicodec name and code, how long its digests are, and how it is computed."""

    __slots__ = ("code", "digest", "digest_bytes", "max_bytes", "name")

    def __init__(self, name: str, code: int, digest_bytes: int, digest: _Digest, max_bytes: int = 0) -> None:
        self.name = name
        self.code = code
        self.digest_bytes = digest_bytes
        self.digest = digest
        self.max_bytes = max_bytes or digest_bytes


def _functions() -> list[_Function]:
    available = hashlib.algorithms_available  # sha512_256 and sha512_224 are OpenSSL's, not every build has them
    functions = [
        _Function(name, code, digest_bytes, _hashlib(python_name))
        for name, code, digest_bytes, python_name in (
            ("sha1", 0x11, 20, "sha1"),
            ("sha2-512", 0x13, 64, "sha512"),
            ("sha3-512", 0x14, 64, "sha3_512"),
            ("sha3-384", 0x15, 48, "sha3_384"),
            ("sha3-256", 0x16, 32, "sha3_256"),
            ("sha3-224", 0x17, 28, "sha3_224"),
            ("sha2-384", 0x20, 48, "sha384"),
            ("sha2-224", 0x1013, 28, "sha224"),
            ("sha2-512-224", 0x1014, 28, "sha512_224"),
            ("sha2-512-256", 0x1015, 32, "sha512_256"),
        )
        if python_name in available
    ]
    functions += [
        _Function("sha2-256", SHA2_256, 32, _sha2_256),
        _Function("dbl-sha2-256", 0x56, 32, _dbl_sha2_256),
        _Function("shake-128", 0x18, 32, _shake_128, MAX_DIGEST_BYTES),
        _Function("shake-256", 0x19, 64, _shake_256, MAX_DIGEST_BYTES),
        _Function("blake3", BLAKE3, 32, _blake3, MAX_DIGEST_BYTES),
    ]
    functions += [
        _Function(f"keccak-{bits}", code, bits // 8, _keccak(bits))
        for code, bits in ((0x1A, 224), (0x1B, 256), (0x1C, 384), (0x1D, 512))
    ]
    functions += [
        _Function(f"blake2b-{8 * size}", 0xB200 + size, size, _blake2(hashlib.blake2b, size))
        for size in range(MIN_DIGEST_BYTES, 65)
    ]
    functions += [
        _Function(f"blake2s-{8 * size}", 0xB240 + size, size, _blake2(hashlib.blake2s, size))
        for size in range(MIN_DIGEST_BYTES, 33)
    ]
    return functions


_BY_CODE = {function.code: function for function in _functions()}
_BY_NAME = {function.name: function for function in _BY_CODE.values()}
_NAMES = {code: function.name for code, function in _BY_CODE.items()} | {
    IDENTITY: "identity",
    0x22: "murmur3-x64-64",
    0xD5: "md5",
}
_SHA2_256_PREFIX = bytes((SHA2_256, 32))
_BLAKE3_PREFIX = bytes((BLAKE3, 32))


def name(code: int) -> str:
    """The multicodec name of a hash function's code; for one that is not known here the code in hexadecimal."""
    return _NAMES.get(code) or f"0x{code:x}"


def parse(multihash: bytes | memoryview) -> tuple[int, bytes]:
    """The code and the digest of a multihash, allowed or not.

    :raises CodecError: it is cut, has trailing bytes, or a digest of over 128 bytes.
    """
    code, start, end = read(multihash, 0)
    if end != len(multihash):
        raise CodecError(f"multihash of {end} bytes is followed by {len(multihash) - end} more, from byte {end}")
    return code, bytes(multihash[start:end])


def read(data: bytes | memoryview, offset: int) -> tuple[int, int, int]:
    """The code of the multihash at ``offset``, where its digest starts, and where that ends.

    :raises CodecError: it is cut, or has a digest of over 128 bytes.
    """
    code, position = varint.read(data, offset)
    length, start = varint.read(data, position)
    if length > MAX_DIGEST_BYTES:
        raise CodecError(
            f"multihash at byte {offset} claims a digest of {length} bytes; the limit is {MAX_DIGEST_BYTES}"
        )
    if start + length > len(data):
        raise CodecError(
            f"multihash at byte {offset} is cut: a digest of {length} bytes from {start}, an input of {len(data)}"
        )
    return code, start, start + length


def digest(hash_function: str | int, data: Data) -> bytes:
    """The multihash of ``data``, by the multicodec name or code of a hash function.

    :raises CodecError: the function is not on the allowlist, or identity is asked for over 128 bytes.
    """
    if hash_function in ("identity", IDENTITY):
        block = bytes(data)
        if len(block) > MAX_DIGEST_BYTES:
            raise CodecError(f"identity multihash of {len(block)} bytes; the limit is {MAX_DIGEST_BYTES}")
        return varint.encode(IDENTITY) + varint.encode(len(block)) + block
    function = (_BY_NAME.get if isinstance(hash_function, str) else _BY_CODE.get)(hash_function)  # type: ignore[arg-type]
    if function is None:
        raise _not_allowed(hash_function if isinstance(hash_function, str) else name(hash_function))
    length = function.digest_bytes
    return varint.encode(function.code) + varint.encode(length) + function.digest(data, length)


def matches(multihash: bytes, data: Data) -> bool:
    """Whether ``data`` hashes to ``multihash``. ``data`` is not copied; hashing over 2 KiB releases the GIL.

    :raises CodecError: the function is not on the allowlist, or the digest is shorter or longer than allowed.
    """
    if len(multihash) == 34 and multihash.startswith(_SHA2_256_PREFIX):
        return hashlib.sha256(data).digest() == multihash[2:]
    if len(multihash) == 34 and multihash.startswith(_BLAKE3_PREFIX):
        return blake3(data).digest() == multihash[2:]
    code, expected = parse(multihash)
    if code == IDENTITY:
        return bytes(data[: len(expected) + 1]) == expected
    function = _BY_CODE.get(code)
    if function is None:
        raise _not_allowed(name(code))
    if not MIN_DIGEST_BYTES <= len(expected) <= function.max_bytes:
        raise CodecError(
            f"{function.name} digest of {len(expected)} bytes; {MIN_DIGEST_BYTES} to {function.max_bytes} are allowed"
        )
    return function.digest(data, len(expected)) == expected


def _not_allowed(hash_function: str) -> CodecError:
    return CodecError(
        f"hash function {hash_function} is not on the allowlist: sha1, sha2, dbl-sha2-256, sha3, shake, keccak, blake2b and "
        "blake2s from 160 bits on, blake3, identity"
    )
