"""The cached index of CAR files: quick, and never believed."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from torch_ipfs.blockstore import car_index, car_map, car_sidecar
from torch_ipfs.blockstore.car_file import CarBlockstore
from torch_ipfs.blockstore.car_sidecar import FileState
from torch_ipfs.codec import car, varint
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import BlockNotFound, HashMismatch

COUNT = 2000


def blocks_of(count: int) -> list[tuple[CID, bytes]]:
    datas = [number.to_bytes(50, "little") for number in range(count)]
    return [(CID.of(data), data) for data in datas]


BLOCKS = blocks_of(COUNT)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(car_sidecar, "SETTLED_S", 0)
    path = tmp_path / "x.car"
    write(path, BLOCKS)
    return path


def write(path: Path, blocks: Sequence[tuple[CID, bytes]]) -> None:
    with path.open("wb") as file:
        car.write(file, [], blocks)


def sidecars() -> list[Path]:
    folder = Path(os.environ["TORCH_IPFS_CACHE_DIR"]) / "car-index"
    return list(folder.iterdir()) if folder.is_dir() else []


def state_of(path: Path) -> FileState:
    return FileState.of(str(path), path.stat())


def assert_all_there(store: CarBlockstore) -> None:
    assert [store.get(cid) for cid, _ in BLOCKS] == [data for _, data in BLOCKS]


def test_a_big_car_is_walked_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_all_there(CarBlockstore(path))
    assert len(sidecars()) == 1
    monkeypatch.setattr(car_map, "walk", None)
    assert_all_there(CarBlockstore(path))
    assert sorted(CarBlockstore(path).cids()) == sorted(cid for cid, _ in BLOCKS)


def test_a_small_car_leaves_nothing_behind(tmp_path: Path) -> None:
    write(tmp_path / "small.car", BLOCKS[: car_sidecar.MIN_BLOCKS - 1])
    assert CarBlockstore(tmp_path / "small.car").has(BLOCKS[0][0])
    assert sidecars() == []


def test_a_car_that_was_only_just_written_leaves_nothing_behind(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written to again at once, it may look as it did."""
    monkeypatch.setattr(car_sidecar, "SETTLED_S", 3600)
    assert_all_there(CarBlockstore(path))
    assert sidecars() == []
    os.utime(path, (0, 0))  # as copied from an older one: that it was changed is known all the same
    assert_all_there(CarBlockstore(path))
    assert sidecars() == []


def test_another_state_of_the_file_is_walked(path: Path) -> None:
    assert_all_there(CarBlockstore(path))
    write(path, BLOCKS[COUNT // 2 :])
    store = CarBlockstore(path)
    assert not store.has(BLOCKS[0][0])
    assert store.get(BLOCKS[-1][0]) == BLOCKS[-1][1]


@pytest.mark.parametrize("at", [0, 30, 200, 20_000, -1])
def test_a_damaged_sidecar_is_ignored(path: Path, at: int) -> None:
    assert_all_there(CarBlockstore(path))
    (sidecar,) = sidecars()
    content = bytearray(sidecar.read_bytes())
    content[at] ^= 0x40
    sidecar.write_bytes(content)
    assert_all_there(CarBlockstore(path))


@pytest.mark.parametrize("kept_bytes", [0, 10, 100, 30_000])
def test_a_cut_sidecar_is_ignored(path: Path, kept_bytes: int) -> None:
    assert_all_there(CarBlockstore(path))
    os.truncate(sidecars()[0], kept_bytes)
    assert_all_there(CarBlockstore(path))


def test_a_sidecar_that_lies_is_found_out(path: Path) -> None:
    """Whole, of this very state of the file, and wrong in what it says."""
    entries = list(car_map.MappedFile(str(path)).entries())
    wrong = [(cid, *entries[(number + 7) % COUNT][1:]) for number, (cid, _, _) in enumerate(entries)]
    car_sidecar.save(state_of(path), car_index.build(wrong))
    assert_all_there(CarBlockstore(path))
    assert_all_there(CarBlockstore(path))


def test_a_sidecar_that_points_out_of_the_file_is_ignored(path: Path) -> None:
    size_bytes = path.stat().st_size
    beyond = [(cid, size_bytes - 10, size_bytes + 10) for cid, _ in BLOCKS]
    car_sidecar.save(state_of(path), car_index.build(beyond))
    assert car_sidecar.load(state_of(path)) is None
    before = [(cid, 5, 10) for cid, _ in BLOCKS]
    car_sidecar.save(state_of(path), car_index.build(before))
    assert car_sidecar.load(state_of(path)) is None
    assert_all_there(CarBlockstore(path))


def test_a_forged_block_is_refused_though_the_sidecar_names_it(path: Path) -> None:
    assert_all_there(CarBlockstore(path))
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"x")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(HashMismatch):
        CarBlockstore(path).get(BLOCKS[-1][0])


@pytest.mark.parametrize("cache", ["/proc/no-such-folder", "/dev/null", "~no-such-user/cache"])
def test_a_cache_that_cannot_be_written_is_no_matter(path: Path, monkeypatch: pytest.MonkeyPatch, cache: str) -> None:
    monkeypatch.setenv("TORCH_IPFS_CACHE_DIR", cache)
    assert_all_there(CarBlockstore(path))
    assert_all_there(CarBlockstore(path))


def test_the_oldest_sidecars_make_room(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(car_sidecar, "MAX_SIDECARS", 3)
    for number in range(5):
        copy = path.with_name(f"{number}.car")
        copy.write_bytes(path.read_bytes())
        assert CarBlockstore(copy).has(BLOCKS[0][0])
        for age, sidecar in enumerate(sorted(sidecars(), key=lambda path: path.stat().st_mtime_ns)):
            os.utime(sidecar, (age, age))
    assert len(sidecars()) == 3


def test_ten_gigabytes_open_in_seconds_once_and_then_in_milliseconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sparse file: 10,000 sections of 1 MiB, of which the last one's bytes are really there."""
    monkeypatch.setattr(car_sidecar, "SETTLED_S", 0)
    path, count, size_bytes = tmp_path / "big.car", 10_000, 2**20
    real = os.urandom(size_bytes)
    with path.open("wb") as file:
        car.write(file, [], [])
        for number in range(count - 1):
            cid = CID.from_multihash("raw", b"\x12\x20" + number.to_bytes(32, "little")[::-1])
            file.write(varint.encode(len(bytes(cid)) + size_bytes) + bytes(cid))
            file.seek(size_bytes, os.SEEK_CUR)
        file.write(varint.encode(36 + size_bytes) + bytes(CID.of(real)) + real)
    assert path.stat().st_size > 10**10
    took_s = []
    for _ in range(2):
        begun_s = time.perf_counter()
        store = CarBlockstore(path)
        assert store.has(CID.of(real))
        took_s.append(time.perf_counter() - begun_s)
        assert store.get(CID.of(real)) == real
        with pytest.raises(HashMismatch):
            store.get(cid)
        with pytest.raises(BlockNotFound):
            store.get(CID.of(b"absent"))
    assert took_s[0] < 5
    assert took_s[1] < 0.2
