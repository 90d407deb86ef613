"""Pins and garbage collection of the local store."""

from __future__ import annotations

import io
import os
import threading
import time
from pathlib import Path

import pytest

from tests.blockstore.conftest import path_of
from torch_ipfs import codec
from torch_ipfs.blockstore import local
from torch_ipfs.blockstore.base import PinningBlockstore
from torch_ipfs.blockstore.local import LocalBlockstore
from torch_ipfs.blockstore.pins import Collected
from torch_ipfs.codec import car
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import (
    BlockNotFound,
    CodecError,
    HashMismatch,
    OptionError,
    TransportError,
)

DEADLINE_S = 30.0


@pytest.fixture
def store(tmp_path: Path) -> LocalBlockstore:
    return LocalBlockstore(tmp_path / "store", fsync=False)


def put(store: LocalBlockstore, codec_name: str, value: object) -> CID:
    data = codec.encode(codec_name, value)
    cid = CID.of(data, codec_name)
    store.put(cid, data)
    return cid


def leaf(store: LocalBlockstore, text: str) -> CID:
    return put(store, "raw", text.encode())


def held(store: LocalBlockstore) -> set[bytes]:
    return {cid.multihash for cid in store.cids()}


def multihashes(*cids: CID) -> set[bytes]:
    return {cid.multihash for cid in cids}


def collect(store: LocalBlockstore) -> Collected:
    """A collection that takes blocks of this very moment for old ones."""
    return store.gc(grace_s=-DEADLINE_S)


def test_the_local_store_pins(store: LocalBlockstore) -> None:
    assert isinstance(store, PinningBlockstore)


def test_what_no_pin_reaches_is_removed(store: LocalBlockstore) -> None:
    garbage, kept = leaf(store, "garbage"), leaf(store, "kept")
    store.pin(kept)
    collected = collect(store)
    assert held(store) == multihashes(kept)
    assert (collected.removed_blocks, collected.removed_bytes, collected.kept_blocks) == (1, 7, 1)
    with pytest.raises(BlockNotFound):
        store.get(garbage)


def test_a_recursive_pin_keeps_what_links_reach_through_all_codecs(store: LocalBlockstore) -> None:
    leaves = [leaf(store, str(number)) for number in range(3)]
    json = put(store, "dag-json", {"x": [leaves[0], {"y": leaves[1]}]})
    pb = put(store, "dag-pb", {"Links": [{"Hash": leaves[2], "Name": "", "Tsize": 1}, {"Hash": json}]})
    root = put(store, "dag-cbor", {"deep": [[{"pb": pb}]]})
    store.pin(root)
    leaf(store, "garbage")
    collect(store)
    assert held(store) == multihashes(root, pb, json, *leaves)


def test_a_direct_pin_keeps_its_block_alone(store: LocalBlockstore) -> None:
    child = leaf(store, "child")
    root = put(store, "dag-cbor", [child])
    store.pin(root, recursive=False)
    collect(store)
    assert held(store) == multihashes(root)


def test_a_direct_pin_takes_nothing_from_a_recursive_one(store: LocalBlockstore) -> None:
    child = leaf(store, "child")
    root = put(store, "dag-cbor", [child])
    store.pin(root)
    store.pin(root, recursive=False)
    assert store.pins() == {root: "recursive"}
    collect(store)
    assert held(store) == multihashes(root, child)


def test_a_block_pinned_under_one_codec_is_kept_under_all(store: LocalBlockstore) -> None:
    child = leaf(store, "child")
    root = put(store, "dag-cbor", [child])
    store.pin(CID.from_multihash("raw", root.multihash))
    store.pin(root)
    collect(store)
    assert held(store) == multihashes(root, child)


def test_unpinned_blocks_go_with_the_next_collection(store: LocalBlockstore) -> None:
    child = leaf(store, "child")
    root = put(store, "dag-cbor", [child])
    other = put(store, "dag-cbor", {"shared": child})
    store.pin(root)
    store.pin(other)
    store.unpin(root)
    assert held(store) == multihashes(root, child, other)
    collect(store)
    assert held(store) == multihashes(child, other)


def test_pins_are_listed_with_their_kinds_and_outlive_the_store(store: LocalBlockstore) -> None:
    one, two = leaf(store, "one"), put(store, "dag-pb", {"Links": []})
    v0 = CID.from_bytes(two.multihash)
    store.pin(one, recursive=False)
    store.pin(v0)
    assert LocalBlockstore(store.source).pins() == {one: "direct", v0: "recursive"}
    store.pin(one)
    store.unpin(v0)
    assert store.pins() == {one: "recursive"}


def test_only_what_is_held_is_pinned_and_only_what_is_pinned_unpinned(store: LocalBlockstore) -> None:
    with pytest.raises(BlockNotFound):
        store.pin(CID.of(b"never put"))
    with pytest.raises(OptionError, match="not pinned"):
        store.unpin(leaf(store, "held"))
    assert store.pins() == {}


def test_missing_and_damaged_blocks_under_a_pin_do_not_stop_a_collection(store: LocalBlockstore) -> None:
    kept = leaf(store, "kept")
    damaged = put(store, "dag-cbor", {"damaged": leaf(store, "below the damaged")})
    missing = CID.of(b"missing", "dag-cbor")
    root = put(store, "dag-cbor", [kept, damaged, missing])
    store.pin(root)
    path_of(store, damaged).write_bytes(b"rot")
    collected = collect(store)
    assert held(store) == multihashes(root, kept, damaged)
    assert set(collected.unread) == {damaged, missing}


def test_a_block_that_its_codec_cannot_read_is_kept(store: LocalBlockstore) -> None:
    nonsense = CID.of(b"\xff\xff", "dag-cbor")
    store.put(nonsense, b"\xff\xff")
    unknown = CID.of(b"something", 0x85)
    store.put(unknown, b"something")
    store.pin(nonsense)
    store.pin(unknown)
    assert set(collect(store).unread) == {nonsense, unknown}
    assert held(store) == multihashes(nonsense, unknown)


def test_a_long_chain_of_links_is_followed(store: LocalBlockstore) -> None:
    cid = leaf(store, "end")
    for _ in range(500):
        cid = put(store, "dag-cbor", [cid])
    store.pin(cid)
    assert collect(store).removed_blocks == 0


def test_blocks_just_put_stay(store: LocalBlockstore) -> None:
    old, young = leaf(store, "old"), leaf(store, "young")
    two_hours_ago_s = time.time() - 7200
    for cid in (old, young):
        os.utime(path_of(store, cid), times=(two_hours_ago_s, two_hours_ago_s))
    store.put(young, b"young")  # again: it is held already, and young by that
    fresh = leaf(store, "fresh")
    store.gc()
    assert held(store) == multihashes(young, fresh)


def test_what_killed_writers_left_is_removed_once_it_is_old(store: LocalBlockstore) -> None:
    store.pin(leaf(store, "kept"))
    left = Path(store.source) / "temporary" / "left"
    left.write_bytes(b"half a blo")
    store.gc()
    assert left.exists()
    collect(store)
    assert not left.exists()


def test_a_stray_file_among_the_pins_stops_a_collection(store: LocalBlockstore) -> None:
    kept = leaf(store, "kept")
    store.pin(kept)
    (Path(store.source) / "pins" / ".hidden").touch()
    collect(store)
    (Path(store.source) / "pins" / "no-cid").touch()
    with pytest.raises(TransportError, match="no CID"):
        collect(store)
    assert held(store) == multihashes(kept)


def test_a_pin_that_another_process_takes_back_meanwhile_is_none(store: LocalBlockstore) -> None:
    cid = put(store, "raw", b"kept")
    store.pin(cid)
    gone = Path(store.source, "pins", str(CID.of(b"gone")))
    gone.symlink_to("nowhere")  # is listed, and not there when it is read
    assert store.pins() == {cid: "recursive"}
    assert collect(store).kept_blocks == 1


def test_a_block_whose_file_a_collection_takes_before_it_has_its_name_is_written_again(
    store: LocalBlockstore, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync
    collected: list[Collected] = []

    def collect_once(file: int) -> None:
        fsync(file)
        if not collected:
            collected.append(collect(store))

    monkeypatch.setattr(os, "fsync", collect_once)
    put_once = LocalBlockstore(store.source, fsync=True)
    put_once.put(CID.of(b"x"), b"x")
    assert collected
    assert put_once.get(CID.of(b"x")) == b"x"


def test_a_collection_waits_for_who_holds_writing(store: LocalBlockstore, monkeypatch: pytest.MonkeyPatch) -> None:
    written = leaf(store, "written")
    monkeypatch.setattr(local, "LOCK_TIMEOUT_S", 0.05)
    with store.writing(), store.writing():
        with pytest.raises(TransportError, match="try again"):
            collect(store)
        assert store.has(written)
    collect(store)
    assert not store.has(written)


def test_a_collection_beside_writers_keeps_what_they_put(store: LocalBlockstore) -> None:
    """Writers put the same few blocks over and over, so that most are there and old when a collection looks at them."""
    blocks = [(CID.of(data), data) for data in (b"%d" % number for number in range(30))]
    stop = threading.Event()
    failures: list[object] = []

    def write() -> None:
        while not stop.is_set():
            for cid, data in blocks:
                store.put(cid, data)

    def age_and_collect() -> None:
        for cid, _ in blocks[::2]:
            try:
                os.utime(path_of(store, cid), times=(0, 0))
            except FileNotFoundError:
                failures.append(cid)
        store.gc(grace_s=DEADLINE_S)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(50):
            age_and_collect()
    finally:
        stop.set()
        writer.join(DEADLINE_S)
    store.put_many(blocks)
    assert held(store) == multihashes(*(cid for cid, _ in blocks))


# CAR files


def car_of(roots: list[CID], blocks: list[tuple[CID, bytes]]) -> bytes:
    file = io.BytesIO()
    car.write(file, roots, blocks)
    return file.getvalue()


@pytest.mark.parametrize("opened", [False, True], ids=["path", "file"])
def test_import_car_puts_all_blocks_and_pins_the_roots(store: LocalBlockstore, tmp_path: Path, *, opened: bool) -> None:
    child = b"child"
    root = codec.encode("dag-cbor", [CID.of(child)])
    cid = CID.of(root, "dag-cbor")
    absent = CID.of(b"absent")
    content = car_of([cid, absent], [(CID.of(child), child), (cid, root), (CID.of(child), child)])
    (tmp_path / "x.car").write_bytes(content)
    assert store.import_car(io.BytesIO(content) if opened else tmp_path / "x.car") == [cid, absent]
    assert store.pins() == {cid: "recursive"}
    collect(store)
    assert store.get(CID.of(child)) == child
    assert store.get(cid) == root


def test_import_car_may_leave_roots_unpinned(store: LocalBlockstore) -> None:
    store.import_car(io.BytesIO(car_of([CID.of(b"a")], [(CID.of(b"a"), b"a")])), pin_roots=False)
    assert store.pins() == {}
    assert store.has(CID.of(b"a"))


def test_import_car_keeps_no_forged_block(store: LocalBlockstore) -> None:
    content = car_of([], [(CID.of(b"a"), b"a"), (CID.of(b"b"), b"x")])
    with pytest.raises(HashMismatch) as caught:
        store.import_car(io.BytesIO(content))
    assert caught.value.cid == str(CID.of(b"b"))
    assert held(store) == multihashes(CID.of(b"a"))


def test_import_car_of_something_else(store: LocalBlockstore, tmp_path: Path) -> None:
    with pytest.raises(CodecError):
        store.import_car(io.BytesIO(b"no car at all"))
    (tmp_path / "cut.car").write_bytes(car_of([], [(CID.of(b"a"), b"a"), (CID.of(b"b"), b"b")])[:-1])
    with pytest.raises(CodecError) as caught:
        store.import_car(tmp_path / "cut.car")
    assert caught.value.source == str(tmp_path / "cut.car")
    assert held(store) == multihashes(CID.of(b"a"))
    for path in (tmp_path / "missing.car", tmp_path):
        with pytest.raises(TransportError):
            store.import_car(path)
