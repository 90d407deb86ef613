"""CID: the name of a block, made of how to read it (codec) and what it hashes to (multihash).

https://github.com/multiformats/cid
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn, Self, final

from torch_ipfs.codec import multibase, multihash, varint
from torch_ipfs.errors import CodecError

if TYPE_CHECKING:
    from collections.abc import Callable

RAW = 0x55
DAG_PB = 0x70
DAG_CBOR = 0x71
LIBP2P_KEY = 0x72
DAG_JSON = 0x0129
JSON = 0x0200

CODEC_NAMES = {
    0x51: "cbor",
    RAW: "raw",
    DAG_PB: "dag-pb",
    DAG_CBOR: "dag-cbor",
    LIBP2P_KEY: "libp2p-key",
    0x78: "git-raw",
    0x85: "dag-jose",
    DAG_JSON: "dag-json",
    JSON: "json",
    0x0202: "car",
}
CODEC_CODES = {name: code for code, name in CODEC_NAMES.items()}

MAX_CID_BYTES = 4 * varint.MAX_VARINT_BYTES + multihash.MAX_DIGEST_BYTES
_V0_PREFIX = b"\x12\x20"

_DIGEST_BYTES = 32
_prefixes = {_V0_PREFIX} | {
    bytes((1, codec, hash_code, _DIGEST_BYTES))
    for codec in (RAW, DAG_PB, DAG_CBOR)
    for hash_code in (multihash.SHA2_256, multihash.BLAKE3)
}
"""What was found to be a whole CID but for a digest of 32 bytes. To find it here is five times as quick as to parse it."""
_MAX_PREFIXES = 1000


@final
class CID:
    """Immutable, hashable, ordered by its binary form. Two CIDs are equal when that is: version and codec count.

    Everything but the binary form is worked out when it is asked for.
    """

    __slots__ = ("_binary",)
    _binary: bytes

    def __init__(self) -> None:
        raise TypeError("make a CID with CID.parse(text), CID.from_bytes(data) or CID.of(block)")

    @classmethod
    def from_bytes(cls, data: bytes | memoryview) -> Self:
        """The CID whose whole binary form is ``data``.

        :raises CodecError: it is none.
        """
        if data.__class__ is not bytes:
            if len(data) > MAX_CID_BYTES:
                raise CodecError(f"a CID takes at most {MAX_CID_BYTES} bytes, not {len(data)}")
            data = bytes(data)
        if data[:-_DIGEST_BYTES] not in _prefixes:
            _check_whole(data)
        self = _new(cls)
        _set_binary(self, data)
        return self

    @classmethod
    def read(cls, data: bytes | memoryview, offset: int = 0, *, expected_bytes: int = 36) -> tuple[Self, int]:
        """The CID that starts at ``offset`` and the offset after it.

        :param expected_bytes: how many it may well take; a wrong guess costs time alone.
        :raises CodecError: there is none.
        """
        end = offset + expected_bytes
        binary = bytes(data[offset:end])
        if len(binary) != expected_bytes or binary[:-_DIGEST_BYTES] not in _prefixes:
            start, end = _digest(data, offset)
            binary = bytes(data[offset:end])
            _remember(binary, start - offset)
        self = _new(cls)
        _set_binary(self, binary)
        return self, end

    @classmethod
    def parse(cls, text: str) -> Self:
        """The CID of its text form: base58btc without a prefix (v0), or any multibase that IPFS uses (v1).

        :raises CodecError: it is none. For ``/ipfs/CID/path`` see :mod:`torch_ipfs.unixfs`.
        """
        is_v0 = text.startswith("Qm")
        if is_v0 and len(text) != 46:
            raise CodecError(f"not a CID: one that begins with Qm has 46 characters, not {len(text)}: {text[:80]!r}")
        try:
            binary = multibase.decode_base58btc(text) if is_v0 else multibase.decode(text)
        except CodecError as error:
            raise CodecError(f"not a CID: {error.reason}") from None
        if is_v0:
            return cls.from_bytes(binary)
        if binary[:1] != b"\x01":
            raise CodecError(f"not a CIDv1, though written with a multibase prefix: {text[:80]!r}")
        return cls.from_bytes(binary)

    @classmethod
    def from_multihash(cls, codec: str | int, multihash: bytes) -> Self:
        """The CIDv1 of a codec (multicodec name or code) and a multihash.

        :raises CodecError: an unknown codec name, or no multihash.
        """
        return cls.from_bytes(b"\x01" + varint.encode(codec_code(codec)) + multihash)

    @classmethod
    def of(cls, data: multihash.Data, codec: str | int = "raw", hash_function: str | int = "sha2-256") -> Self:
        """The CIDv1 of a block's bytes.

        :raises CodecError: an unknown codec name, or a hash function that is not on the allowlist.
        """
        return cls.from_multihash(codec, multihash.digest(hash_function, data))

    @property
    def version(self) -> int:
        """0 or 1."""
        return 0 if self._is_v0 else 1

    @property
    def codec(self) -> int:
        """The multicodec code of the block's codec; dag-pb for v0."""
        return DAG_PB if self._is_v0 else varint.read(self._binary, 1)[0]

    @property
    def codec_name(self) -> str:
        """The multicodec name of the block's codec; of one that is not known here the code in hexadecimal."""
        code = self.codec
        return CODEC_NAMES.get(code) or f"0x{code:x}"

    @property
    def multihash(self) -> bytes:
        """The multihash: what stores key blocks by."""
        return self._binary if self._is_v0 else self._binary[varint.read(self._binary, 1)[1] :]

    @property
    def hash_code(self) -> int:
        """The multicodec code of the hash function."""
        return multihash.parse(self.multihash)[0]

    @property
    def digest(self) -> bytes:
        """The digest alone; for an identity CID this is the block."""
        return multihash.parse(self.multihash)[1]

    @property
    def _is_v0(self) -> bool:
        return self._binary[:1] == b"\x12"

    def to_string(self, base: str) -> str:
        """The text form in a base by its multibase name or prefix letter.

        :raises CodecError: an unknown base, or one other than base58btc for v0.
        """
        if not self._is_v0:
            return multibase.encode(base, self._binary)
        if base not in ("base58btc", "z"):
            raise CodecError(f"a CIDv0 is written in base58btc alone, not in {base!r}")
        return multibase.encode("z", self._binary)[1:]

    def __bytes__(self) -> bytes:
        return self._binary

    def __str__(self) -> str:
        return self.to_string("base58btc" if self._is_v0 else "base32")

    def __repr__(self) -> str:
        return f"CID.parse({str(self)!r})"

    def __hash__(self) -> int:
        return hash(self._binary)

    def __eq__(self, other: object) -> bool:
        return self._binary == other._binary if isinstance(other, CID) else NotImplemented

    def __lt__(self, other: object) -> bool:
        return self._binary < other._binary if isinstance(other, CID) else NotImplemented

    def __le__(self, other: object) -> bool:
        return self._binary <= other._binary if isinstance(other, CID) else NotImplemented

    def __gt__(self, other: object) -> bool:
        return self._binary > other._binary if isinstance(other, CID) else NotImplemented

    def __ge__(self, other: object) -> bool:
        return self._binary >= other._binary if isinstance(other, CID) else NotImplemented

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a CID does not change; {name} cannot be set")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"a CID does not change; {name} cannot be deleted")

    def __reduce__(self) -> tuple[Callable[[bytes], CID], tuple[bytes]]:
        return _unpickled, (self._binary,)


_new = object.__new__
_set_binary: Callable[[CID, bytes], None] = CID.__dict__["_binary"].__set__  # past __setattr__, at a third of its cost


def _unpickled(binary: bytes) -> CID:
    """A function of the module, not a method of the class: a pickle of many CIDs names it once."""
    return CID.from_bytes(binary)


def codec_code(codec: str | int) -> int:
    """The multicodec code of an IPLD codec by its name, or the code itself.

    :raises CodecError: the name is not known here.
    """
    if isinstance(codec, int):
        return codec
    code = CODEC_CODES.get(codec)
    if code is None:
        raise CodecError(f"unknown codec {codec!r}; known are {', '.join(CODEC_CODES)}")
    return code


def _check_whole(data: bytes) -> None:
    """:raises CodecError: ``data`` is not just one CID."""
    start, end = _digest(data, 0)
    if end != len(data):
        raise CodecError(f"CID of {end} bytes is followed by {len(data) - end} more, from byte {end}")
    _remember(data, start)


def _remember(binary: bytes, digest_start: int) -> None:
    if len(binary) - digest_start == _DIGEST_BYTES and len(_prefixes) < _MAX_PREFIXES:
        _prefixes.add(binary[:digest_start])


def _digest(data: bytes | memoryview, offset: int) -> tuple[int, int]:
    """Where the digest of the CID that starts at ``offset`` begins and ends.

    :raises CodecError: there is no CID.
    """
    if bytes(data[offset : offset + 2]) == _V0_PREFIX and len(data) - offset >= 34:
        return offset + 2, offset + 34
    version, position = varint.read(data, offset)
    if version != 1:
        raise CodecError(f"CID at byte {offset} has version {version}; 0 and 1 are known")
    _, position = varint.read(data, position)
    return multihash.read(data, position)[1:]
