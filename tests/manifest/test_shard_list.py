"""A list of shards read by columns is what the strict decoder makes of it, or is left to that."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torch_ipfs.blockstore.memory import MemoryBlockstore
from torch_ipfs.codec import dag_cbor
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import ManifestError
from torch_ipfs.manifest import shard_list
from torch_ipfs.manifest.tree import Manifest

counts = st.integers(0, 300) | st.sampled_from([23, 24, 255, 256, 2**16 - 1, 2**16, 2**32 - 1, 2**32, 2**40])
kinds = st.sampled_from([("raw", "sha2-256"), ("dag-cbor", "sha2-256"), ("raw", "blake3")])


@st.composite
def nodes(draw: st.DrawFn) -> dict[str, Any]:
    """Nodes as they are written: entries with the same keys, CIDs of one kind."""
    numbers = draw(st.lists(counts, min_size=1, max_size=60))
    codec, hash_function = draw(kinds)
    extras = draw(st.sampled_from([{}, {"format": "arrow"}, {"format": "manifest"}]))
    sized = draw(st.booleans())
    entries = [
        {
            "cid": CID.of(b"%d" % i, codec, hash_function),
            "count": count,
            **extras,
            **({"bytes": 7 * count} if sized else {}),
        }
        for i, count in enumerate(numbers)
    ]
    about = draw(st.dictionaries(st.sampled_from(["name", "a", "description", "version"]), st.text(max_size=30)))
    return {**about, "shards": entries}


def as_told(value: dict[str, Any]) -> list[tuple[bytes, int, bool]]:
    return [(bytes(e["cid"]), e["count"], e.get("format", "manifest") == "manifest") for e in value["shards"]]


def as_read(shards: shard_list.ShardList) -> list[tuple[bytes, int, bool]]:
    cids = [bytes(shards.cid(i)) for i in range(len(shards.counts))]
    return list(zip(cids, shards.counts.tolist(), shards.inner.tolist(), strict=True))


@given(nodes())
def test_it_is_what_the_strict_decoder_makes_of_it(node: dict[str, Any]) -> None:
    fields = shard_list.read(dag_cbor.encode(node))
    assert (fields is not None) == (len(node["shards"]) >= 24)
    if fields is not None:
        assert as_read(fields.pop("shards")) == as_told(node)
        assert fields == {key: value for key, value in node.items() if key != "shards"}


@given(nodes(), st.data())
def test_what_is_changed_anywhere_is_read_as_strictly(node: dict[str, Any], data: st.DataObject) -> None:
    """A byte changed, taken out or put in: nothing is accepted that the decoder refuses or reads otherwise."""
    block = bytearray(dag_cbor.encode(node))
    at = data.draw(st.integers(0, len(block) - 1))
    block[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    fields = shard_list.read(bytes(block))
    if fields is not None:
        strictly = dag_cbor.decode(block)
        assert as_read(fields.pop("shards")) == as_told(strictly)
        assert fields == {key: value for key, value in strictly.items() if key != "shards"}


def entries(number: int, **changes: Any) -> list[dict[str, Any]]:
    return [{"cid": CID.of(b"%d" % i), "count": 5, "format": "arrow", **changes} for i in range(number)]


PREFIX = b"\xa3ccid\xd8\x2a\x58\x25\0\x01\x55\x12\x20"
"""What these entries begin with, up to the digest."""

NOT_ALIKE: dict[str, dict[str, Any]] = {
    "formats that differ": {"shards": [*entries(30), *entries(30, format="manifest")]},
    "keys that differ": {"shards": [*entries(30), *entries(30, bytes=5)]},
    "a key of somebody's own": {"shards": entries(40, note="x")},
    "CIDs of two kinds": {"shards": [*entries(30), *entries(30, cid=CID.of(b"x", "raw", "blake3"))]},
    "the list's key in a text before it": {"name": "fshards", "shards": entries(40)},
    "digests that look like an entry": {
        "shards": [*entries(30, cid=CID.from_bytes(PREFIX[-4:] + PREFIX + bytes(18))), *entries(30, count=500)],
    },
}


@pytest.mark.parametrize("case", NOT_ALIKE)
def test_what_is_not_alike_is_left_to_the_decoder(case: str) -> None:
    value = NOT_ALIKE[case]
    block = dag_cbor.encode(value)
    assert shard_list.read(block) is None
    store = MemoryBlockstore()
    root = CID.of(block, "dag-cbor")
    store.put(root, block)
    manifest = Manifest(store, root)
    node = manifest.root_node
    assert [(bytes(node.cid(i)), int(node.counts[i]), bool(node.inner[i])) for i in range(len(node.counts))] == as_told(
        value
    )
    assert manifest.metadata == {key: item for key, item in value.items() if key != "shards"}


def test_a_list_inside_a_text_is_no_list() -> None:
    """Bytes that are a whole list of shards, inside a byte string: what counts is the one that the map holds."""
    inside = dag_cbor.encode({"shards": entries(40)})
    block = dag_cbor.encode({"name": inside, "shards": entries(30)})
    assert shard_list.read(block) is None


def test_claims_beyond_what_can_be_counted() -> None:
    block = dag_cbor.encode({"shards": entries(40, count=2**47)})
    store = MemoryBlockstore()
    store.put(CID.of(block, "dag-cbor"), block)
    with pytest.raises(ManifestError, match="claim more than"):
        Manifest(store, CID.of(block, "dag-cbor"))
