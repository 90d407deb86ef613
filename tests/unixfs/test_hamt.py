from __future__ import annotations

import functools
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unixfs.dags import Recorder
from torch_ipfs import unixfs
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import BlockNotFound, CodecError
from torch_ipfs.unixfs import Link, murmur3
from torch_ipfs.unixfs.hamt import Fanout
from torch_ipfs.unixfs.node import Dag, Node, Type

FANOUTS = [8, 16, 32, 64, 128, 256, 512, 1024]
ENTRY = CID.of(b"entry")


def shard(store: Recorder, children: dict[int, Link], buckets: int = 256, **changes: Any) -> Dag:
    """A shard of these children by bucket, each named by what follows the prefix; ``changes`` make it wrong."""
    fanout = Fanout(buckets)
    bitfield = sum(1 << bucket for bucket in children).to_bytes(buckets // 8, "big")
    links = [Link(fanout.prefix(b) + child.name, child.cid, child.tsize) for b, child in sorted(children.items())]
    fields: dict[str, Any] = {"data": bitfield, "links": links, "hash_type": murmur3.CODE, "fanout": buckets} | changes
    return store.node(Node(Type.HAMT_SHARD, **fields))


def hamt_of(store: Recorder, names: list[str], buckets: int, depth: int = 0) -> Dag:
    """A HAMT written after the specification's text, by another way than the package's writer."""
    bits = int(math.log2(buckets))
    chosen: dict[int, list[str]] = {}
    for name in names:
        digits = f"{murmur3.hash64(name.encode()):064b}"
        chosen.setdefault(int(digits[depth * bits :][:bits], 2), []).append(name)
    children = {
        bucket: Link(inside[0], ENTRY, 5)
        if len(inside) == 1
        else Link("", hamt_of(store, inside, buckets, depth + 1).cid, 0)
        for bucket, inside in chosen.items()
    }
    return shard(store, children, buckets)


def bucket_of(name: str, depth: int = 0) -> int:
    return murmur3.hash64(name.encode()) >> 56 - 8 * depth & 255


@functools.cache
def names_in_one_bucket() -> list[str]:
    """Two names that part in the second shard."""
    first = next(f"{i}" for i in range(10_000) if bucket_of(f"{i}") == 7)
    return [
        first,
        next(
            f"n{i}" for i in range(10_000) if bucket_of(f"n{i}") == 7 and bucket_of(f"n{i}", 1) != bucket_of(first, 1)
        ),
    ]


@given(st.sets(st.integers(0, 5000), max_size=60), st.sampled_from(FANOUTS))
def test_every_fanout_is_listed_and_searched(numbers: set[int], buckets: int) -> None:
    store = Recorder()
    names = [f"file {number}.txt" for number in sorted(numbers)]
    root = hamt_of(store, names, buckets)
    assert sorted(link.name for link in unixfs.ls(store, root.cid)) == sorted(names)
    for name in names:
        assert unixfs.lookup(store, root.cid, name) == ENTRY
    with pytest.raises(BlockNotFound, match="no entry 'other'"):
        unixfs.lookup(store, root.cid, "other")


def test_a_bitfield_without_its_leading_zeros_is_read() -> None:
    store = Recorder()
    name = next(f"{i}" for i in range(10_000) if bucket_of(f"{i}") == 3)
    root = shard(store, {3: Link(name, ENTRY, 5)}, data=b"\x08")
    assert unixfs.lookup(store, root.cid, name) == ENTRY


@pytest.mark.parametrize("fanout", [0, 1, 4, 7, 12, 24, 255, 2048, 2**40, 2**62])
def test_other_fanouts_are_refused_before_anything_is_allotted(fanout: int) -> None:
    store = Recorder()
    root = shard(store, {7: Link("a", ENTRY, 5)}, fanout=fanout)
    with pytest.raises(CodecError, match=f"from 8 to 1024, not {fanout}"):
        list(unixfs.ls(store, root.cid))
    with pytest.raises(CodecError, match=f"from 8 to 1024, not {fanout}"):
        unixfs.lookup(store, root.cid, "a")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"hash_type": 0x12}, "sorts by hash 0x12"),
        ({"data": b""}, "names 0 buckets, and there are 1 links"),
        ({"data": b"\x03"}, "names 2 buckets, and there are 1 links"),
        ({"data": bytes(32) + b"\x80"}, "names 1 buckets, and there are 1 links"),
        ({"links": [Link("08a", ENTRY, 5)]}, "bucket 07 is named '08a'"),
        ({"links": [Link("7a", ENTRY, 5)]}, "bucket 07 is named '7a'"),
        ({"links": [Link("", ENTRY, 5)]}, "bucket 07 is named ''"),
        ({"links": []}, "names 1 buckets, and there are 0 links"),
    ],
)
def test_shards_that_lie_are_refused(changes: dict[str, Any], says: str) -> None:
    store = Recorder()
    root = shard(store, {7: Link("a", ENTRY, 5)}, **changes)
    with pytest.raises(CodecError, match=says) as caught:
        list(unixfs.ls(store, root.cid))
    assert caught.value.cid == str(root.cid)


@pytest.mark.parametrize("name", [".", "..", "../up", "/etc/passwd", "nul\0"])
def test_names_that_lead_elsewhere_are_refused(name: str) -> None:
    store = Recorder()
    root = shard(store, {bucket_of(name): Link(name, ENTRY, 5)})
    with pytest.raises(CodecError, match="cannot name an entry"):
        list(unixfs.ls(store, root.cid))


def test_an_entry_in_another_place_than_its_hash_says_is_refused() -> None:
    store = Recorder()
    root = shard(store, {(bucket_of("a") + 1) % 256: Link("a", ENTRY, 5)})
    with pytest.raises(CodecError, match="not where its hash says"):
        list(unixfs.ls(store, root.cid))


def test_shards_that_name_each_other_many_times_are_refused_at_once() -> None:
    store = Recorder()
    (name, _) = names_in_one_bucket()
    dag = shard(store, {bucket_of(name, 7): Link(name, ENTRY, 5)})
    for _ in range(7):
        dag = shard(store, {bucket: Link("", dag.cid, 0) for bucket in range(256)})
    store.asked.clear()
    with pytest.raises(CodecError, match="not where its hash says"):
        list(unixfs.ls(store, dag.cid))
    assert len(store.asked) < 8 * 256 + 256


@pytest.mark.parametrize(
    "below",
    [
        lambda store: shard(store, {}),
        lambda store: store.node(Node(Type.DIRECTORY, links=[Link("a", ENTRY, 5)])),
        lambda store: shard(store, {1: Link("a", ENTRY, 5)}, 512),
    ],
    ids=["empty", "a basic directory", "another fanout"],
)
def test_below_a_shard_are_filled_shards_of_its_fanout(below) -> None:
    store = Recorder()
    child = below(store)
    root = shard(store, {bucket_of("a"): Link("", child.cid, 0)})
    for read in (lambda: list(unixfs.ls(store, root.cid)), lambda: unixfs.lookup(store, root.cid, "a")):
        with pytest.raises(CodecError, match="filled shards of that fanout") as caught:
            read()
        assert caught.value.cid == str(child.cid)


def test_below_a_shard_are_no_files() -> None:
    store = Recorder()
    root = shard(store, {bucket_of("a"): Link("", store.raw(b"").cid, 0)})
    for read in (lambda: list(unixfs.ls(store, root.cid)), lambda: unixfs.lookup(store, root.cid, "a")):
        with pytest.raises(CodecError, match="not raw"):
            read()


def test_depth_ends_with_the_hash() -> None:
    store = Recorder()
    dag = shard(store, {0: Link("a", ENTRY, 5)})
    for depth in range(7, -1, -1):
        dag = shard(store, {bucket_of("a", depth): Link("", dag.cid, 0)})
    for read in (lambda: list(unixfs.ls(store, dag.cid)), lambda: unixfs.lookup(store, dag.cid, "a")):
        with pytest.raises(CodecError, match="deeper than 8 shards"):
            read()
