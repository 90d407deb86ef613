"""The store in a mapped CAR file."""

from __future__ import annotations

import functools
import itertools
import json
import multiprocessing
import os
import pickle
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from torch_ipfs.blockstore import car_map, car_sidecar
from torch_ipfs.blockstore.base import MAX_BLOCK_BYTES
from torch_ipfs.blockstore.car_file import CarBlockstore
from torch_ipfs.codec import car, varint
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import (
    BlockNotFound,
    BlockTooLarge,
    CodecError,
    HashMismatch,
    TransportError,
)
from torch_ipfs.testing import BlockstoreConformance

DEADLINE_S = 30.0


def write_car(path: Path, blocks: Sequence[tuple[CID, bytes]], roots: Sequence[CID] = ()) -> Path:
    """As another writer would: to a new file, which takes the old one's place."""
    with path.with_suffix(".new").open("wb") as file:
        car.write(file, roots, [])
        for cid, data in blocks:
            file.write(varint.encode(len(bytes(cid)) + len(data)) + bytes(cid) + data)
    path.with_suffix(".new").replace(path)
    return path


def blocks_of(count: int, size_bytes: int = 100) -> list[tuple[CID, bytes]]:
    datas = [number.to_bytes(size_bytes, "little") for number in range(count)]
    return [(CID.of(data), data) for data in datas]


@pytest.mark.parametrize("seed", range(20))
def test_sections_of_any_lengths_are_found(tmp_path: Path, seed: int) -> None:
    """Also where many of one length, whose headers are asked for in advance, are followed by others, or by the file's end."""
    choose = random.Random(seed)
    lengths: list[int] = []
    while sum(lengths) < 100 * 2**20:
        length = choose.choice([1, 100, 128 * 2**10, choose.randrange(1, 2**21)])
        lengths += [length] * choose.choice([1, 2, 3, choose.randrange(1, 200)])
    path, cid = tmp_path / "sparse.car", CID.of(b"")
    expected = []
    with path.open("wb") as file:
        car.write(file, [cid], [])
        for length in lengths:
            file.write(varint.encode(len(bytes(cid)) + length) + bytes(cid))
            expected.append((cid, file.tell(), file.tell() + length))
            file.seek(length, os.SEEK_CUR)
        file.truncate()
    assert list(car_map.MappedFile(str(path)).entries()) == expected


class TestCarBlockstore(BlockstoreConformance):
    writable = False

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[CarBlockstore]:
        store = CarBlockstore(write_car(tmp_path / "x.car", self.blocks()))
        yield store
        store.close()

    def forge(self, store: CarBlockstore, cid: CID, data: bytes) -> None:
        others = [block for block in self.blocks() if block[0] != cid]
        write_car(Path(store.source), [(cid, data), *others])
        store.close()


class TestCarBlockstoreThatHashesAhead(TestCarBlockstore):
    window_bytes = 3 * 2**20

    @pytest.fixture
    def store(self, tmp_path: Path) -> CarBlockstore:
        path = write_car(tmp_path / "x.car", self.blocks()[::-1])
        return CarBlockstore(path, hash_threads=3, window_bytes=self.window_bytes)


class TestCarBlockstoreFromItsSidecar(TestCarBlockstore):
    @pytest.fixture
    def store(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CarBlockstore:
        monkeypatch.setattr(car_sidecar, "MIN_BLOCKS", 1)
        monkeypatch.setattr(car_sidecar, "SETTLED_S", 0)
        path = write_car(tmp_path / "x.car", self.blocks())
        assert CarBlockstore(path).has(self.blocks()[0][0])
        monkeypatch.setattr(car_map, "walk", None)  # it is not walked again
        return CarBlockstore(path)

    def forge(self, store: CarBlockstore, cid: CID, data: bytes) -> None:
        pytest.skip("a changed file is walked")


# What real CARs hold


@pytest.mark.parametrize("name", ["carv1-basic", "carv2-basic"])
def test_real_cars(fixtures_path: Path, name: str) -> None:
    described: dict[str, Any] = json.loads((fixtures_path / "car" / f"{name}.json").read_text())
    store = CarBlockstore(fixtures_path / "car" / f"{name}.car")
    assert [str(root) for root in store.roots] == [root["/"] for root in described["header"]["roots"]]
    expected = [block["cid"]["/"] for block in described["blocks"]]
    assert [str(cid) for cid in store.cids()] == expected
    for cid in map(CID.parse, expected):
        assert CID.of(store.get(cid), cid.codec, cid.hash_code).multihash == cid.multihash


@pytest.mark.parametrize("name", ["sample-v1.car", "sample-v2-indexless.car", "sample-wrapped-v2.car"])
def test_versions_of_one_car_hold_the_same(fixtures_path: Path, name: str) -> None:
    one, other = CarBlockstore(fixtures_path / "car" / "sample-v1.car"), CarBlockstore(fixtures_path / "car" / name)
    assert one.roots == other.roots
    cids = list(one.cids())
    assert len(cids) > 500
    assert list(other.cids()) == cids
    assert list(one.get_many(cids)) == list(other.get_many(cids))


def test_blocks_are_found_whatever_their_order_and_number(tmp_path: Path) -> None:
    blocks = blocks_of(20)
    v0 = CID.from_bytes(blocks[3][0].multihash)
    identity = CID.of(b"inline", "raw", "identity")
    store = CarBlockstore(
        write_car(tmp_path / "x.car", [*blocks[::-1], (v0, blocks[3][1]), (identity, b"inline"), *blocks])
    )
    assert [store.get(cid) for cid, _ in blocks] == [data for _, data in blocks]
    assert list(store.cids()) == [cid for cid, _ in blocks[::-1]]


def test_of_two_copies_one_may_be_damaged(tmp_path: Path) -> None:
    cid, data = blocks_of(1)[0]
    for copies in itertools.permutations([(cid, data), (cid, b"rot"), (cid, b"")]):
        assert CarBlockstore(write_car(tmp_path / "x.car", copies)).get(cid) == data


def test_blocks_that_share_the_end_of_their_digests_are_told_apart(tmp_path: Path) -> None:
    cid, data = blocks_of(1)[0]
    lookalike = CID.from_bytes(bytes(cid)[:10] + bytes(18) + bytes(cid)[28:])
    store = CarBlockstore(write_car(tmp_path / "x.car", [(lookalike, b"other"), (cid, data)]))
    assert store.get(cid) == data
    with pytest.raises(HashMismatch):
        store.get(lookalike)
    assert len(list(store.cids())) == 2


def test_an_identity_cid_that_ends_like_another_is_not_that_other(tmp_path: Path) -> None:
    absent, _ = blocks_of(1)[0]
    inline = b"x" + absent.multihash
    store = CarBlockstore(write_car(tmp_path / "x.car", [(CID.of(inline, "raw", "identity"), inline)]))
    assert not store.has(absent)
    with pytest.raises(BlockNotFound):
        store.get(absent)


def test_a_block_is_a_view_of_the_file_and_hashed_once(tmp_path: Path) -> None:
    blocks = blocks_of(3, 50_000)
    store = CarBlockstore(write_car(tmp_path / "x.car", blocks))
    views = [store.get(cid) for cid, _ in blocks for _ in range(2)]
    assert isinstance(views[0], memoryview)
    assert len({id(view.obj) for view in views if isinstance(view, memoryview)}) == 1
    assert store.stats() == {"blocks_verified": 3, "bytes_verified": 150_000}


def test_a_car_without_blocks(tmp_path: Path) -> None:
    root = blocks_of(1)[0][0]
    store = CarBlockstore(write_car(tmp_path / "x.car", [], [root]))
    assert store.roots == [root]
    assert list(store.cids()) == []
    with pytest.raises(BlockNotFound):
        store.get(root)


def test_max_block_bytes_is_an_option(tmp_path: Path) -> None:
    cid, data = blocks_of(1, MAX_BLOCK_BYTES + 1)[0]
    path = write_car(tmp_path / "x.car", [(cid, data)])
    with pytest.raises(BlockTooLarge):
        CarBlockstore(path).get(cid)
    assert CarBlockstore(path, max_block_bytes=2 * MAX_BLOCK_BYTES).get(cid) == data


# Files that are not what they should be


@pytest.mark.parametrize(
    ("content", "error"),
    [(b"", CodecError), (b"not a CAR", CodecError), (b"\xff" * 100, CodecError), (None, TransportError)],
    ids=["empty", "text", "noise", "missing"],
)
def test_what_is_no_car_is_named(tmp_path: Path, content: bytes | None, error: type[Exception]) -> None:
    path = tmp_path / "x.car"
    if content is not None:
        path.write_bytes(content)
    store = CarBlockstore(path)
    cid = blocks_of(1)[0][0]
    for use in (lambda: store.get(cid), lambda: store.has(cid), lambda: list(store.cids()), lambda: store.roots):
        with pytest.raises(error) as caught:
            use()
        assert caught.value.source == str(path)  # type: ignore[attr-defined]


def test_the_roots_of_a_file_that_was_cut_since_are_an_error(tmp_path: Path) -> None:
    blocks = blocks_of(1)
    path = write_car(tmp_path / "x.car", blocks)
    store = CarBlockstore(path)
    store.get(blocks[0][0])
    os.truncate(path, 0)
    with pytest.raises(TransportError, match="something wrote into it"):
        _ = store.roots


def test_folders_and_pipes_are_no_cars(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(TransportError):
            list(CarBlockstore(path).cids())


def test_a_car_that_is_cut_inside_a_block_is_refused(tmp_path: Path) -> None:
    path = write_car(tmp_path / "x.car", blocks_of(100))
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(CodecError) as caught:
        CarBlockstore(path).get(blocks_of(1)[0][0])
    assert caught.value.source == str(path)


def test_a_broken_car_is_walked_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = blocks_of(10)
    path = write_car(tmp_path / "x.car", blocks)
    whole = path.read_bytes()
    os.truncate(path, len(whole) - 1)
    store = CarBlockstore(path)
    walked: list[object] = []

    def walk(file: car_map.MappedFile, walk: Callable[..., car_map.OpenCar] = car_map.walk) -> car_map.OpenCar:
        walked.append(file)
        return walk(file)

    with monkeypatch.context() as patch:
        patch.setattr(car_map, "walk", walk)
        refusals = list(store.get_many([cid for cid, _ in blocks], return_exceptions=True))
    assert all(isinstance(refusal, CodecError) and refusal.source == str(path) for refusal in refusals)
    assert len(walked) == 1
    path.write_bytes(whole)
    assert store.get(blocks[9][0]) == blocks[9][1]


def cut_and_read(path: str, held: bool) -> None:
    """Exit status 0 where every use of a file that was cut ends in a TransportError."""
    blocks = blocks_of(50, 20_000)
    store = CarBlockstore(path, hash_threads=2)
    for cid, _ in blocks[: 25 if held else 1]:
        store.get(cid)
    os.truncate(path, 4096)
    uses: list[Callable[[], object]] = [functools.partial(store.get, cid) for cid, _ in blocks]
    uses += [lambda: list(store.get_many(cid for cid, _ in blocks)), lambda: list(store.cids())]
    uses += [lambda: store.has(blocks[40][0])]
    for use in uses:
        with pytest.raises(TransportError, match="4096 bytes"):
            use()
    assert all(
        isinstance(error, TransportError)
        for error in store.get_many([cid for cid, _ in blocks], return_exceptions=True)
    )


@pytest.mark.parametrize("held", [False, True], ids=["unread", "verified"])
def test_a_file_cut_while_it_is_open_does_not_end_the_process(tmp_path: Path, *, held: bool) -> None:
    path = write_car(tmp_path / "x.car", blocks_of(50, 20_000))
    child = multiprocessing.get_context("fork").Process(target=cut_and_read, args=(str(path), held))
    child.start()
    child.join(DEADLINE_S)
    child.kill()
    assert child.exitcode == 0


def test_a_file_replaced_by_rename_stays_what_it_was_until_close(tmp_path: Path) -> None:
    old, new = blocks_of(10)[:5], blocks_of(10)[5:]
    path = write_car(tmp_path / "x.car", old)
    store = CarBlockstore(path)
    assert store.get(old[0][0]) == old[0][1]
    write_car(path, new)
    assert [store.get(cid) for cid, _ in old] == [data for _, data in old]
    path.unlink()
    assert store.get(old[4][0]) == old[4][1]
    write_car(path, new)
    store.close()
    assert [store.get(cid) for cid, _ in new] == [data for _, data in new]
    assert not store.has(old[0][0])


def test_bytes_altered_in_place_are_noticed_on_first_read(tmp_path: Path) -> None:
    blocks = blocks_of(2)
    path = write_car(tmp_path / "x.car", blocks)
    store = CarBlockstore(path)
    assert store.get(blocks[0][0]) == blocks[0][1]
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"x")
    with pytest.raises(HashMismatch) as caught:
        store.get(blocks[1][0])
    assert caught.value.source == str(path)


def test_a_pickle_is_small_and_holds_nothing_open(tmp_path: Path) -> None:
    store = CarBlockstore(write_car(tmp_path / "x.car", blocks_of(1000)))
    store.get(blocks_of(1)[0][0])
    assert len(pickle.dumps(store)) < 1000


@pytest.mark.usefixtures("no_leaks")
def test_the_map_goes_with_the_last_block(tmp_path: Path) -> None:
    cid, data = blocks_of(1)[0]
    store = CarBlockstore(write_car(tmp_path / "x.car", [(cid, data)]))
    block = store.get(cid)
    store.close()
    assert block == data
    del block, store
