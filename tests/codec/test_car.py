"""CARs: the public fixtures, round trips, streams and mapped files alike, and what is damaged or lies."""

from __future__ import annotations

import io
import json as stdlib_json
import mmap
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.codec.strategies import cids, says
from torch_ipfs import codec
from torch_ipfs.codec import car, car_header, dag_cbor, varint
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import BlockTooLarge, CodecError, HashMismatch

ROOT = CID.of(b"root")
BLOCKS = [(CID.of(data), data) for data in (b"root", b"", b"x" * 300, b"y" * 70_000, b"root")]

Read = Callable[..., tuple[list[CID], list[tuple[CID, bytes]]]]


def read_streamed(data: bytes, **options: Any) -> tuple[list[CID], list[tuple[CID, bytes]]]:
    roots, blocks = car.read_blocks(io.BytesIO(data), **options)
    return roots, list(blocks)


def read_scanned(data: bytes, **options: Any) -> tuple[list[CID], list[tuple[CID, bytes]]]:
    options.pop("verify", None)
    roots, blocks = car.scan(memoryview(data), **options)
    return roots, [(cid, data[start:end]) for cid, start, end in blocks]


BOTH_WAYS = pytest.mark.parametrize("read", [read_streamed, read_scanned], ids=["streamed", "scanned"])


def written(roots: list[CID], blocks: list[tuple[CID, bytes]]) -> bytes:
    out = io.BytesIO()
    car.write(out, roots, blocks)
    return out.getvalue()


def section(body: bytes, length: int | None = None) -> bytes:
    return varint.encode(len(body) if length is None else length) + body


def version_2(
    payload: bytes, *, offset: int = 51, size: int | None = None, index: int = 0, after: bytes = b""
) -> bytes:
    numbers = (offset, len(payload) if size is None else size, index)
    header = bytes(16) + b"".join(number.to_bytes(8, "little") for number in numbers)
    return car_header.V2_PRAGMA + header + bytes(max(0, min(offset - 51, 10**6))) + payload + after


CAR = written([ROOT], BLOCKS)


@BOTH_WAYS
@pytest.mark.parametrize("name", ["carv1-basic", "carv2-basic"])
def test_fixtures_hold_what_their_json_says(fixtures_path: Path, name: str, read: Read) -> None:
    data = (fixtures_path / "car" / f"{name}.car").read_bytes()
    said = stdlib_json.loads((fixtures_path / "car" / f"{name}.json").read_bytes())
    roots, blocks = read(data)
    assert [{"/": str(root)} for root in roots] == said["header"]["roots"]
    assert [{"/": str(cid)} for cid, _ in blocks] == [block["cid"] for block in said["blocks"]]
    for (cid, block), expected in zip(blocks, said["blocks"], strict=True):
        assert len(block) == expected["blockLength"]
        value = codec.decode(cid, block)
        assert stdlib_json.loads(codec.encode("dag-json", value)) == expected["content"]


@pytest.mark.parametrize("name", ["carv1-basic", "carv2-basic"])
def test_scan_finds_blocks_where_their_json_says(fixtures_path: Path, name: str) -> None:
    data = (fixtures_path / "car" / f"{name}.car").read_bytes()
    said = stdlib_json.loads((fixtures_path / "car" / f"{name}.json").read_bytes())
    places = [(start, end - start) for _, start, end in car.scan(data)[1]]
    assert places == [(block["blockOffset"], block["blockLength"]) for block in said["blocks"]]


@BOTH_WAYS
@pytest.mark.parametrize(
    ("name", "count"),
    [("sample-v1", 1049), ("sample-wrapped-v2", 1049), ("sample-v2-indexless", 1049), ("sample-unixfs-v2", 3)],
)
def test_sample_fixtures(fixtures_path: Path, name: str, count: int, read: Read) -> None:
    roots, blocks = read((fixtures_path / "car" / f"{name}.car").read_bytes())
    assert len(blocks) == count
    assert roots[0] in {cid for cid, _ in blocks}


@BOTH_WAYS
def test_a_wrapped_car_holds_what_it_wraps(fixtures_path: Path, read: Read) -> None:
    v1, *v2 = (
        read((fixtures_path / "car" / name).read_bytes())
        for name in ("sample-v1.car", "sample-wrapped-v2.car", "sample-v2-indexless.car")
    )
    assert v2 == [v1, v1]


@BOTH_WAYS
def test_a_section_of_no_bytes_is_an_error_or_the_end(fixtures_path: Path, read: Read) -> None:
    data = (fixtures_path / "car" / "sample-v1-with-zero-len-section2.car").read_bytes()
    with pytest.raises(CodecError, match="a section of no bytes, at byte 20819"):
        read(data)
    assert len(read(data, zero_length_section_as_eof=True)[1]) == 20


@BOTH_WAYS
def test_gateway_fixtures_decode(fixtures_path: Path, read: Read) -> None:
    files = sorted((fixtures_path / "gateway").glob("*.car"))
    assert len(files) == 12
    for file in files:
        data = file.read_bytes()
        roots, blocks = read(data)
        assert len(roots) == 1
        for cid, block in blocks:
            assert CID.from_multihash(cid.codec, cid.multihash).digest == cid.digest
            codec.decode(cid, block)
        assert written(roots, blocks) == data


@given(
    st.lists(cids, max_size=3),
    st.lists(st.binary(max_size=300), max_size=8),
    st.sampled_from(["raw", "dag-pb", "json"]),
)
def test_round_trip(roots: list[CID], payloads: list[bytes], codec_name: str) -> None:
    blocks = [
        (CID.of(payload, codec_name, "blake3" if len(payload) % 2 else "sha2-256"), payload) for payload in payloads
    ]
    data = written(roots, blocks)
    for read in (read_streamed, read_scanned):
        assert read(data) == (roots, blocks)
        assert read(version_2(data)) == (roots, blocks)
        assert read(version_2(data, offset=60, index=51, after=b"index")) == (roots, blocks)
    assert car.read_header(io.BytesIO(data)) == roots


def test_reads_from_a_pipe_as_it_is_written() -> None:
    reading, writing = os.pipe()

    def write() -> None:
        with os.fdopen(writing, "wb") as file:
            car.write(file, [ROOT], iter(BLOCKS))

    writer = threading.Thread(target=write)
    writer.start()
    with os.fdopen(reading, "rb") as file:
        assert not file.seekable()
        roots, blocks = car.read_blocks(file)
        assert (roots, list(blocks)) == ([ROOT], BLOCKS)
    writer.join()


class Trickle(io.RawIOBase):
    """A file that gives a few bytes at a time, as sockets do."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        part = self._file.read(min(len(buffer), 7))
        buffer[: len(part)] = part
        return len(part)


@pytest.mark.parametrize("data", [CAR, version_2(CAR, offset=100, after=b"more")], ids=["v1", "v2"])
def test_short_reads_are_no_end(data: bytes) -> None:
    assert list(car.iter_blocks(Trickle(data))) == BLOCKS


def test_a_header_leaves_the_file_before_the_first_section() -> None:
    file = io.BytesIO(CAR)
    assert car.read_header(file) == [ROOT]
    assert file.tell() == len(car_header.encode([ROOT]))


def test_offsets_count_from_where_the_file_stood() -> None:
    file = io.BytesIO(b"before" + CAR[:-1])
    file.seek(6)
    with pytest.raises(CodecError, match=f"a section is cut.*at byte {len(CAR) - len(section(bytes(36) + b'root'))}"):
        list(car.iter_blocks(file))


def test_scan_copies_no_block(tmp_path: Path) -> None:
    path = tmp_path / "blocks.car"
    path.write_bytes(CAR)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        view = memoryview(mapped)
        found = [(cid, start, end) for cid, start, end in car.scan(view)[1]]
        assert [(cid, view[start:end] == data) for (cid, start, end), (_, data) in zip(found, BLOCKS, strict=True)] == [
            (cid, True) for cid, _ in BLOCKS
        ]
        view.release()


@BOTH_WAYS
def test_a_car_cut_between_sections_is_whole_and_one_cut_inside_is_not(read: Read) -> None:
    ends = {start_end[2] for start_end in car.scan(CAR)[1]} | {len(car_header.encode([ROOT]))}
    small = sorted(ends)[:4]
    for cut in range(small[-1] + 1):
        if cut in ends:
            assert read(CAR[:cut])[1] == BLOCKS[: len([end for end in small if end <= cut]) - 1]
        else:
            with pytest.raises(CodecError, match="at byte"):
                read(CAR[:cut])


@BOTH_WAYS
def test_version_2_cut_anywhere_is_an_error(read: Read) -> None:
    data = version_2(written([ROOT], BLOCKS[:2]), offset=55)
    for cut in range(len(data)):
        with pytest.raises(CodecError, match="at byte"):
            read(data[:cut])


def header_of(value: Any) -> bytes:
    return section(dag_cbor.encode(value))


LINK = bytes.fromhex("d82a582500") + bytes(ROOT)
REFUSED = {
    "nothing": (b"", "no header|varint at byte 0 is cut"),
    "a header of no bytes": (b"\0", "a header of no bytes, at byte 0"),
    "text": (
        b"<!DOCTYPE html><html>" + b" " * 100,
        "its header is of another form, .* or|its header is of another form",
    ),
    "a cut length": (b"\xff", "cut"),
    "a length that is not minimal": (b"\xba\0" + car_header.encode([ROOT])[1:], "not minimal"),
    "a length of ten bytes": (b"\xff" * 9 + b"\1", "longer than 9 bytes"),
    "a header over the limit": (varint.encode(32 * 2**20 + 1), "header of 33554433 bytes, the limit is 33554432"),
    "a header of 2**62": (varint.encode(2**62), "header of 4611686018427387904 bytes, the limit"),
    "a cut header": (CAR[:20], "a header is cut"),
    "a cut header that claims 32 MiB": (varint.encode(32 * 2**20) + b"\xa2", "a header is cut"),
    "version 3": (header_of({"roots": [ROOT], "version": 3}), "its version is 3"),
    "version 2 with roots": (header_of({"roots": [ROOT], "version": 2}), "its version is 2"),
    "no version": (header_of({"roots": [ROOT]}), "its header is of another form"),
    "no roots": (header_of({"version": 1}), "its header is of another form"),
    "roots that are null": (header_of({"roots": None, "version": 1}), "its header is of another form"),
    "roots that are no links": (header_of({"roots": [1], "version": 1}), "its header is of another form"),
    "roots that are bytes": (header_of({"roots": [bytes(ROOT)], "version": 1}), "its header is of another form"),
    "more keys": (header_of({"roots": [ROOT], "version": 1, "x": 1}), "its header is of another form"),
    "keys out of order": (section(b"\xa2\x67version\1\x65roots\x81" + LINK), "its header is of another form"),
    "more after it": (section(car_header.encode([ROOT])[1:] + b"\0"), "its header is of another form"),
    "a root that is no CID": (section(b"\xa2\x65roots\x81\xd8\x2a\x42\0\1\x67version\1"), "a root that is no CID"),
    "a list of roots that lies": (section(b"\xa2\x65roots\x82" + LINK + b"\x67version\1"), "of another form"),
    "a claimed list of 2**60": (section(b"\xa2\x65roots\x9b" + b"\x10" + bytes(7)), "of another form"),
    "a header of a bomb": (section(b"\x81" * 100_000), "of another form"),
    "a cut section": (CAR[:-1], "a section is cut"),
    "a section of no bytes": (written([], []) + b"\0", "a section of no bytes, at byte 18"),
    "a cut length of a section": (written([], []) + b"\x80", "cut"),
    "a section over the limit": (
        written([], []) + varint.encode(8 * 2**20 + 1),
        "section of 8388609 bytes, the limit is 8388608, at byte 18",
    ),
    "a section of 2**62": (written([], []) + varint.encode(2**62), "section of 4611686018427387904 bytes"),
    "a cut section that claims 8 MiB": (written([], []) + varint.encode(8 * 2**20) + bytes(ROOT), "a section is cut"),
    "a section without a CID": (written([], []) + section(b"\xff" * 20), "longer than 9 bytes"),
    "a section of a cut CID": (written([], []) + section(bytes(ROOT)[:-1]), "multihash .* is cut|past its section"),
    "a CID past its section": (
        written([], []) + section(bytes(ROOT)[:-1]) + section(bytes(ROOT)),
        "past its section|multihash .* is cut",
    ),
    "an identity CID over 128 bytes": (
        written([], []) + section(b"\x01\x55\x00\x81\x01" + bytes(129)),
        "claims a digest of 129 bytes",
    ),
    "a CARv2 header that is cut": (version_2(CAR)[:50], "CARv2 header is cut"),
    "data inside of the header": (version_2(CAR, offset=50), "data lies in .* bytes from byte 50"),
    "data at 0": (version_2(CAR, offset=0), "bytes from byte 0"),
    "data of no bytes": (version_2(CAR, size=0), "data lies in 0 bytes"),
    "data past the end": (version_2(CAR, size=len(CAR) + 1), "is cut|whose data ends at"),
    "data of 2**64 - 1": (version_2(CAR, size=2**64 - 1), "is cut|whose data ends at byte 18446744073709551666"),
    "data at 2**64 - 1": (version_2(CAR, offset=2**64 - 1), "padding of 18446744073709551564 bytes|whose data ends at"),
    "data that ends inside of a section": (version_2(CAR, size=len(CAR) - 3), "a section is cut"),
    "data that ends inside of its header": (version_2(CAR, size=10), "a header is cut"),
    "a CARv2 in a CARv2": (version_2(version_2(CAR)), "its version is 2"),
    "data that is no CAR": (version_2(b"\x05hello"), "its header is of another form"),
}


@BOTH_WAYS
@pytest.mark.parametrize(("data", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(read: Read, data: bytes, message: str) -> None:
    if data == REFUSED["data that ends inside of a section"][0]:
        # A stream only knows where the data ends, which is in the middle of the last section.
        message = "is cut"
    with pytest.raises(CodecError, match=message) as caught:
        read(data)
    assert "byte" in str(caught.value)


def test_damaged_blocks_are_found_when_their_turn_comes() -> None:
    forged = [*BLOCKS[:2], (CID.of(b"honest"), b"forged"), *BLOCKS]
    blocks = car.iter_blocks(io.BytesIO(written([ROOT], forged)))
    assert [next(blocks), next(blocks)] == BLOCKS[:2]
    with pytest.raises(HashMismatch, match="the block at byte 174 of a CAR, 6 bytes, does not") as caught:
        next(blocks)
    assert caught.value.cid == str(CID.of(b"honest"))
    assert list(car.iter_blocks(io.BytesIO(written([ROOT], forged)), verify=False)) == forged


def test_a_hash_that_is_not_allowed_is_an_error_that_names_the_block() -> None:
    cid = CID.from_multihash("raw", b"\xd5\x01\x10" + bytes(16))
    with pytest.raises(
        CodecError, match="a block at byte 40 of a CAR: hash function md5 is not on the allowlist"
    ) as caught:
        list(car.iter_blocks(io.BytesIO(written([], [(cid, b"block")]))))
    assert caught.value.cid == str(cid)


def test_limits() -> None:
    block = bytes(2 * 2**20)
    data = written([], [(CID.of(block), block)])
    assert len(list(car.iter_blocks(io.BytesIO(data)))) == 1
    over = block + b"\0"
    large = written([], []) + section(bytes(CID.of(over)) + over)
    with pytest.raises(
        BlockTooLarge, match="a block of 2097153 bytes, at byte 58 of a CAR; the limit is 2097152"
    ) as caught:
        list(car.iter_blocks(io.BytesIO(large)))
    assert caught.value.cid == str(CID.of(over))
    wider = car.Limits(block_bytes=3 * 2**20)
    assert list(car.iter_blocks(io.BytesIO(large), limits=wider)) == [(CID.of(over), over)]
    for read in (read_streamed, read_scanned):
        with pytest.raises(CodecError, match="a section of 70036 bytes, the limit is 70000"):
            read(CAR, limits=car.Limits(section_bytes=70_000))
        with pytest.raises(CodecError, match="a header of 58 bytes, the limit is 57"):
            read(CAR, limits=car.Limits(header_bytes=57))


def test_padding_is_skipped_up_to_a_limit() -> None:
    data = version_2(CAR, offset=5000)
    assert list(car.iter_blocks(io.BytesIO(data))) == BLOCKS
    with pytest.raises(CodecError, match="padding of 4949 bytes, the limit is 4948"):
        list(car.iter_blocks(io.BytesIO(data), limits=car.Limits(padding_bytes=4948)))


def test_a_lying_index_changes_nothing() -> None:
    lying = version_2(CAR, index=2**64 - 1, after=b"\x80\x08" + b"\xff" * 100)
    for read in (read_streamed, read_scanned):
        assert read(lying) == ([ROOT], BLOCKS)


def test_what_a_length_claims_is_not_read_at_once() -> None:
    class Asked(io.BytesIO):
        largest = 0

        def read(self, size: int | None = -1, /) -> bytes:
            assert size is not None
            self.largest = max(self.largest, size)
            return super().read(size)

    file = Asked(varint.encode(32 * 2**20) + b"\xa2")
    with pytest.raises(CodecError, match="a header is cut"):
        car.read_header(file)
    assert file.largest <= 2**20


@given(st.binary(max_size=200))
def test_both_ways_find_the_same_in_any_bytes(data: bytes) -> None:
    _both_agree(CAR[:59] + data)
    _both_agree(data)


@given(st.lists(st.tuples(st.integers(0, 10**4), st.integers(0, 255)), min_size=1, max_size=4))
def test_both_ways_find_the_same_in_a_damaged_car(changes: list[tuple[int, int]]) -> None:
    for original in (written([ROOT, ROOT], BLOCKS[:3]), version_2(written([ROOT], BLOCKS[:3]), offset=60)):
        data = bytearray(original)
        for place, byte in changes:
            data[place % len(data)] = byte
        _both_agree(bytes(data))


def _both_agree(data: bytes) -> None:
    streamed, scanned = (list(_outcome(read, data)) for read in (read_streamed, read_scanned))
    assert streamed == scanned


def _outcome(read: Read, data: bytes) -> Iterator[object]:
    try:
        yield read(data, verify=False)
    except CodecError as error:
        says(error, "byte")
        yield CodecError
