"""Values that the IPLD data model holds, with what is apt to go wrong among them: bytes that look like CIDs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import strategies as st

from torch_ipfs.codec import cbor_decoder, dag_cbor
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import CodecError

digests = st.binary(min_size=32, max_size=32)

cids: st.SearchStrategy[CID] = st.one_of(
    st.builds(
        lambda codec, hash_code, digest: CID.from_multihash(codec, bytes((hash_code, 32)) + digest),
        st.sampled_from(["raw", "dag-pb", "dag-cbor", "dag-json", 0x1000]),
        st.sampled_from([0x12, 0x1E, 0x16]),
        digests,
    ),
    st.builds(lambda digest: CID.from_bytes(b"\x12\x20" + digest), digests),
    st.builds(lambda block: CID.of(block, hash_function="identity"), st.binary(max_size=128)),
    st.builds(lambda block: CID.of(block, "dag-cbor", "sha2-512"), st.binary(max_size=4)),
)

cid_like = st.builds(lambda cid, more: bytes(cid) + more, cids, st.sampled_from([b"", b"", b"\0", b"more"]))
"""Bytes that are a CID, or begin with one. They must stay bytes."""

binaries = st.one_of(st.binary(max_size=40), cid_like, st.builds(lambda cid: b"\xd8\x2a\x58\x25\0" + bytes(cid), cids))
integers = st.one_of(
    st.integers(-(2**64), 2**64 - 1),
    st.sampled_from([n for k in (0, 5, 8, 16, 32, 63, 64) for n in (2**k - 1, 23, 24, -(2**k), -24, -25)]),
)
floats = st.floats(allow_nan=False, allow_infinity=False).map(lambda number: number + 0.0)
"""Without -0.0, which DAG-CBOR writes as 0.0."""
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
keys = st.one_of(texts, st.sampled_from(["", "/", "bytes", "a", "b", "aa", "é", "𐅑", "\uffff"]))
json_scalars = st.one_of(st.none(), st.booleans(), integers, floats, texts)
scalars = st.one_of(json_scalars, binaries, cids)


def nested(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """``leaves`` in lists and maps."""
    return st.recursive(
        leaves,
        lambda inner: st.one_of(st.lists(inner, max_size=6), st.dictionaries(keys, inner, max_size=6)),
        max_leaves=30,
    )


values = nested(scalars)
json_values = nested(json_scalars)


def same(left: Any, right: Any) -> bool:
    """Equal in type too, all the way down: 1 is not 1.0, b"" is not a CID."""
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


def nest(depth: int, core: Any, *, maps: bool = False) -> Any:
    """``core`` in ``depth`` lists, or maps."""
    for _ in range(depth):
        core = {"a": core} if maps else [core]
    return core


def says(error: Exception, what: str) -> None:
    """Fail where the message of ``error`` does not say ``what``."""
    assert what in str(error)


def check_dag_cbor(data: bytes) -> None:
    """Any bytes decode to what encodes to them, whichever decoder has them, or both say that they are none."""
    try:
        value = dag_cbor.decode(data)
    except CodecError as error:
        says(error, "at byte")
        with pytest.raises(CodecError):
            cbor_decoder.decode(data)
    else:
        assert dag_cbor.encode(value) == data
        assert same(cbor_decoder.decode(data), value)
