"""A root and its nodes: every form read alike, and nothing they say believed."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from torch_ipfs import unixfs
from torch_ipfs.blockstore.memory import MemoryBlockstore
from torch_ipfs.codec import encode
from torch_ipfs.codec.cid import CID
from torch_ipfs.dataset.leaves import sample_value
from torch_ipfs.errors import BlockNotFound, CodecError, ManifestError, OptionError
from torch_ipfs.manifest.naming import resolve_root
from torch_ipfs.manifest.shard_list import MAX_SAMPLES
from torch_ipfs.manifest.tree import MAX_DEPTH, Manifest
from torch_ipfs.unixfs.file_writer import put_node
from torch_ipfs.unixfs.node import Link, Node, Type


def put(store: MemoryBlockstore, value: Any, codec: str = "dag-cbor") -> CID:
    data = encode(codec, value)
    cid = CID.of(data, codec)
    store.put(cid, data)
    return cid


def entry(cid: CID, count: int, form: str = "manifest") -> dict[str, Any]:
    return {"cid": cid, "count": count, "format": form}


@pytest.fixture
def store() -> MemoryBlockstore:
    return MemoryBlockstore()


SAMPLES = [{"features": [0.1, 0.2, 0.3], "labels": i} for i in range(3)]
ABOUT = {"name": "example", "description": "an example", "version": "1.0.0", "created_at": 1648720000}
SHARD = CID.of(b"shard")


def manifest_of(store: MemoryBlockstore, value: Any, codec: str = "dag-cbor") -> Manifest:
    return Manifest(store, put(store, value, codec))


class TestForms:
    @pytest.mark.parametrize("codec", ["dag-cbor", "dag-json", "json"])
    def test_embedded_samples(self, store: MemoryBlockstore, codec: str) -> None:
        manifest = manifest_of(store, {**ABOUT, "data": SAMPLES}, codec)
        assert manifest.num_samples == 3
        assert manifest.metadata == ABOUT
        leaves, member, rows = manifest.locate(np.array([2, 0]))
        assert [leaf.format for leaf in leaves] == ["data"]
        assert leaves[0].values == SAMPLES
        assert (member.tolist(), rows.tolist()) == ([0, 0], [2, 0])

    @pytest.mark.parametrize("codec", ["dag-cbor", "dag-json", "json"])
    @pytest.mark.parametrize("as_text", [True, False])
    def test_linked_samples(self, store: MemoryBlockstore, codec: str, as_text: bool) -> None:
        links = [put(store, sample) for sample in SAMPLES]
        named: list[Any] = [str(link) for link in links] if as_text or codec == "json" else list(links)
        manifest = manifest_of(store, {**ABOUT, "samples": named}, codec)
        leaf = manifest.locate(np.array([0]))[0][0]
        assert leaf.format == "samples"
        assert [str(value) for value in leaf.values or ()] == [str(link) for link in links]

    def test_plain_json_may_write_links_as_dag_json_does(self, store: MemoryBlockstore) -> None:
        text = json.dumps({"samples": [{"/": str(SHARD)}]}, indent=2).encode()
        cid = CID.of(text)
        store.put(cid, text)
        assert str(Manifest(store, cid).locate(np.array([0]))[0][0].values[0]) == str(SHARD)  # type: ignore[index]

    @pytest.mark.parametrize("value", [SAMPLES, [str(SHARD)] * 3, [SHARD] * 3, [1, 2, 3], ["one", "two", "three"]])
    def test_bare_lists(self, store: MemoryBlockstore, value: list[Any]) -> None:
        manifest = manifest_of(store, value)
        assert manifest.num_samples == 3
        leaf = manifest.locate(np.array([0]))[0][0]
        assert leaf.format == ("samples" if str(value[0]) == str(SHARD) else "data")

    def test_json_in_a_raw_block_and_in_files(self, store: MemoryBlockstore) -> None:
        text = json.dumps({**ABOUT, "data": SAMPLES}, indent=1).encode()
        raw = CID.of(text)
        store.put(raw, text)
        file = unixfs.write(text, store.put)
        large = json.dumps({"data": [{"labels": i, "text": "x" * 1000} for i in range(2000)]}).encode()
        parts = unixfs.write(large, store.put)
        assert parts.codec_name == "dag-pb"
        assert [Manifest(store, cid).num_samples for cid in (raw, file, parts)] == [3, 3, 2000]

    def test_nested_to_any_depth(self, store: MemoryBlockstore) -> None:
        leaf = put(store, {"data": SAMPLES})
        inner = put(store, {"shards": [entry(leaf, 3), entry(SHARD, 5, "arrow"), entry(put(store, {"data": []}), 0)]})
        deeper = put(store, {"shards": [entry(inner, 8), entry(SHARD, 2, "arrow")]})
        manifest = manifest_of(store, {"shards": [entry(deeper, 10), entry(inner, 8)]})
        assert manifest.num_samples == 18
        leaves, member, rows = manifest.locate(np.arange(18))
        assert [leaves[i].first for i in member.tolist()] == [0] * 3 + [3] * 5 + [8] * 2 + [10] * 3 + [13] * 5
        assert rows.tolist() == [0, 1, 2, 0, 1, 2, 3, 4, 0, 1, 0, 1, 2, 0, 1, 2, 3, 4]
        assert {leaf.format for leaf in leaves} == {"data", "arrow"}

    def test_samples_that_follow_each_other_are_where_they_are_singly(self, store: MemoryBlockstore) -> None:
        inner = put(store, {"shards": [entry(SHARD, 5, "arrow"), entry(SHARD, 1, "arrow"), entry(SHARD, 0, "arrow")]})
        manifest = manifest_of(store, {"shards": [entry(SHARD, 4, "arrow"), entry(inner, 6), entry(inner, 6)]})
        for start in range(16):
            for stop in range(start + 1, 17):
                leaves, member, rows = manifest.locate(np.arange(start, stop))
                singly = [manifest.locate(np.array([sample])) for sample in range(start, stop)]
                assert [leaves[i] for i in member.tolist()] == [leaf for ((leaf,), _, _) in singly]
                assert rows.tolist() == [int(row) for (_, _, (row,)) in singly]
                assert [leaf.first for leaf in leaves] == sorted({leaf.first for ((leaf,), _, _) in singly})

    @pytest.mark.parametrize("known", [[], [7, 2], [3, 11]])
    def test_samples_beside_a_node_that_is_missing(self, known: list[int], store: MemoryBlockstore) -> None:
        """Also where some of its leaves were found before it went missing."""
        nodes = [
            put(store, {"shards": [entry(SHARD, 2, "arrow"), entry(SHARD, count, "arrow")]}) for count in (1, 2, 3)
        ]
        root = put(store, {"shards": [entry(node, 2 + count) for node, count in zip(nodes, (1, 2, 3), strict=True)]})
        partial = MemoryBlockstore()
        manifest = Manifest(store, root)
        if known:
            manifest.locate(np.array(known))
        partial.put_many((cid, bytes(store.get(cid))) for cid in store.cids() if cid != nodes[1])
        manifest._store = partial
        manifest._kept.clear()
        samples = np.array([11, 3, 0, 6, 4, 2, 8, 5, 1, 10, 7, 9])
        leaves, member, rows = manifest.locate_or_broken(samples)
        for sample, leaf, row in zip(
            samples.tolist(), (leaves[i] for i in member.tolist()), rows.tolist(), strict=True
        ):
            assert leaf.first + row == sample
            assert row < leaf.count
            assert (leaf.error is None) == (not 3 <= sample < 7 or leaf.count < 4)

    @pytest.mark.parametrize("key", ["samples", "data", "shards"])
    def test_empty(self, store: MemoryBlockstore, key: str) -> None:
        manifest = manifest_of(store, {key: []})
        assert manifest.num_samples == 0
        assert manifest.shard_rows == 1
        assert manifest.locate(np.array([], dtype=np.int64))[0] == []

    def test_only_nodes_on_the_way_are_read(self, store: MemoryBlockstore) -> None:
        here = put(store, {"data": SAMPLES})
        manifest = manifest_of(store, {"shards": [entry(SHARD, 7), entry(here, 3)]})
        assert manifest.locate(np.array([8]))[1].tolist() == [0]
        with pytest.raises(BlockNotFound):
            manifest.locate(np.array([0]))

    def test_rows_of_a_typical_shard(self, store: MemoryBlockstore) -> None:
        inner = put(store, {"shards": [entry(SHARD, 5, "arrow"), entry(SHARD, 4, "arrow")]})
        assert manifest_of(store, {"shards": [entry(inner, 9), entry(inner, 9)]}).shard_rows == 5
        assert manifest_of(store, {"data": SAMPLES}).shard_rows == 3


BAD: dict[str, tuple[Any, str]] = {
    "two at once": ({"samples": [], "data": []}, "exactly one of samples, data and shards, found samples and data"),
    "three at once": ({"samples": [], "data": [], "shards": []}, "found samples and data and shards"),
    "none": ({"name": "x", "rows": []}, "found none, but 'name', 'rows'"),
    "an empty map": ({}, "an empty map"),
    "a number": (7, "found int"),
    "text": ("bafy", "found text"),
    "a link": (SHARD, "found a link"),
    "data that is a map": ({"data": {}}, "data as a list, found a map"),
    "samples that are null": ({"samples": None}, "samples as a list, found null"),
    "embedded samples under samples": ({"samples": [SHARD, {"a": 1}]}, r"samples\[1\] is a map"),
    "a shard without a CID": ({"shards": [{"count": 1, "format": "arrow"}]}, r"shards\[0\] has no CID"),
    "a shard that is no map": ({"shards": [SHARD]}, r"shards\[0\] is a link"),
    "a count that is missing": ({"shards": [{"cid": SHARD}]}, r"shards\[0\] has the count None"),
    "a count below 0": ({"shards": [entry(SHARD, -1, "arrow")]}, "count -1"),
    "a count that is no number": ({"shards": [{"cid": SHARD, "count": True}]}, "count True"),
    "a count with a fraction": ({"shards": [{"cid": SHARD, "count": 1.5}]}, "count 1.5"),
    "an unknown format": ({"shards": [entry(SHARD, 1, "parquet")]}, "format 'parquet'"),
    "bytes below 0": ({"shards": [{**entry(SHARD, 1, "arrow"), "bytes": -5}]}, "-5 bytes"),
    "more than can be": ({"shards": [entry(SHARD, MAX_SAMPLES, "arrow"), entry(SHARD, 1, "arrow")]}, r"at shards\[1\]"),
    "2**60 samples": ({"shards": [entry(SHARD, 2**60, "arrow")]}, "claim more than"),
    "a schema that is none": ({"data": [], "schema": {"x": "int64"}}, "schema cannot be"),
    "a schema of an unknown dtype": ({"data": [], "schema": [{"name": "x", "dtype": "int7"}]}, "int7"),
}


class TestRefused:
    @pytest.mark.parametrize("case", BAD)
    def test_one_clear_error(self, store: MemoryBlockstore, case: str) -> None:
        value, message = BAD[case]
        cid = put(store, value)
        with pytest.raises(ManifestError, match=message) as caught:
            Manifest(store, cid)
        assert caught.value.cid == str(cid)

    @pytest.mark.parametrize("actual", [0, 2, 4, 10**9])
    def test_a_count_that_lies(self, store: MemoryBlockstore, actual: int) -> None:
        leaf = put(store, {"data": SAMPLES})
        manifest = manifest_of(store, {"shards": [entry(leaf, actual or 1)]})
        with pytest.raises(ManifestError, match=f"holds 3 samples where its parent claims {actual or 1}") as caught:
            manifest.locate(np.array([0]))
        assert caught.value.cid == str(leaf)

    def test_a_depth_bomb(self, store: MemoryBlockstore) -> None:
        node = put(store, {"data": SAMPLES})
        for _ in range(MAX_DEPTH):
            node = put(store, {"shards": [entry(node, 3)]})
        with pytest.raises(ManifestError, match="deep"):
            Manifest(store, node).locate(np.array([0]))

    @pytest.mark.parametrize("values", [b",{}" * (2**20 // 3), b",0" * 2**19])
    def test_a_small_block_that_makes_a_file_of_endless_json(self, store: MemoryBlockstore, values: bytes) -> None:
        parts = [CID.of(part) for part in (b"[0", values, b"]")]
        store.put_many(zip(parts, (b"[0", values, b"]"), strict=True))
        sizes = [2, *[len(values)] * 100, 1]
        links = [Link("", cid, 0) for cid in (parts[0], *[parts[1]] * 100, parts[2])]
        file = put_node(Node(Type.FILE, links=links, filesize=sum(sizes), blocksizes=sizes), store.put, "sha2-256")
        with pytest.raises(ManifestError, match=r"maps and lists or .* values in a JSON text"):
            Manifest(store, file.cid)
        content = unixfs.read(store, file.cid)
        assert sample_value(file.cid, store.get(file.cid), store) == content  # nor is it decoded where it is a sample

    def test_a_multiplying_bomb(self, store: MemoryBlockstore) -> None:
        """Each node has 1,000 times its child: a few hundred blocks' worth of bytes claim more than can be counted."""
        node, count = put(store, {"data": SAMPLES}), 3
        while count * 1000 <= MAX_SAMPLES:
            node, count = put(store, {"shards": [entry(node, count)] * 1000}), count * 1000
            assert Manifest(store, node).num_samples == count
        bomb = put(store, {"shards": [entry(node, count)] * 1000})
        with pytest.raises(ManifestError, match="claim more than"):
            Manifest(store, bomb)

    @pytest.mark.parametrize("data", [b"", b"not json", b'{"data": [}', b"\xff\xfe", b"[" * 100_000])
    @pytest.mark.parametrize("codec", ["raw", "dag-cbor", "dag-json", "json", "dag-pb"])
    def test_garbage(self, store: MemoryBlockstore, data: bytes, codec: str) -> None:
        cid = CID.of(data, codec)
        store.put(cid, data)
        with pytest.raises(ManifestError) as caught:
            Manifest(store, cid)
        assert caught.value.cid == str(cid)

    def test_a_codec_that_holds_no_dataset(self, store: MemoryBlockstore) -> None:
        with pytest.raises(ManifestError, match="libp2p-key"):
            Manifest(store, CID.of(b"x", "libp2p-key"))

    def test_a_directory(self, store: MemoryBlockstore) -> None:
        cid = unixfs.write_directory([unixfs.Link("a", unixfs.write(b"{}", store.put), 2)], store.put).cid
        with pytest.raises(ManifestError, match="DIRECTORY"):
            Manifest(store, cid)

    def test_a_root_that_nobody_has(self, store: MemoryBlockstore) -> None:
        with pytest.raises(BlockNotFound):
            Manifest(store, SHARD)


class TestRoots:
    def test_every_way_to_say_it(self, store: MemoryBlockstore) -> None:
        cid = put(store, {"data": SAMPLES})
        above = put(store, {"train": cid, "deep": {"er": [cid]}})
        directory = unixfs.write_directory(
            [unixfs.Link("set.json", unixfs.write(b'{"data": []}', store.put), 12)], store.put
        ).cid
        for root in (
            cid,
            str(cid),
            f"/ipfs/{cid}",
            f"ipfs://{cid}",
            f"/ipfs/{above}/train",
            f"ipfs://{above}/deep/er/0",
        ):
            assert resolve_root(store, root) == cid
        assert Manifest(store, resolve_root(store, f"/ipfs/{directory}/set.json")).num_samples == 0

    @pytest.mark.parametrize(
        "root", ["", "QmYourDatasetCID", "/ipfs/", "http://example.invalid/ipfs/x", "/ipfs/nonsense"]
    )
    def test_what_names_nothing(self, store: MemoryBlockstore, root: str) -> None:
        with pytest.raises(CodecError):
            resolve_root(store, root)

    def test_what_is_no_root_at_all(self, store: MemoryBlockstore) -> None:
        with pytest.raises(OptionError, match="int"):
            resolve_root(store, 7)  # type: ignore[arg-type]
