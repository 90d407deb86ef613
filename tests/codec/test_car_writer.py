"""CARs written: roots that are known last, blocks and files of all kinds."""

from __future__ import annotations

import array
import io
from typing import IO, Any, cast

import pytest

from tests.codec.test_car import BLOCKS, ROOT, written
from torch_ipfs.codec import car
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import BlockTooLarge, CodecError


class TestWriter:
    """CarWriter: roots that are known last, and files of all kinds."""

    def test_a_file_without_a_buffer_may_take_a_part_at_a_time(self) -> None:
        class Grudging(io.RawIOBase):
            taken = b""

            def writable(self) -> bool:
                return True

            def write(self, data: Any, /) -> int:
                part = bytes(data)[:7]
                self.taken += part
                return len(part)

        blocks = [(CID.of(data), memoryview(data)) for data in (b"a" * 100, b"b" * 70_000)]
        whole, file = io.BytesIO(), Grudging()
        car.write(whole, [], blocks)
        car.write(cast("IO[bytes]", file), [], blocks)
        assert file.taken == whole.getvalue()

    def test_arrays_are_written_whole(self) -> None:
        numbers = array.array("d", range(10))
        file = io.BytesIO()
        car.write(file, [], [(CID.of(numbers.tobytes()), numbers), (ROOT, b"root")])  # type: ignore[list-item]
        file.seek(0)
        assert list(car.iter_blocks(file)) == [(CID.of(numbers.tobytes()), numbers.tobytes()), (ROOT, b"root")]

    def test_roots_are_cids(self) -> None:
        with pytest.raises(CodecError, match="roots are CIDs, not str: 'bafkqaaa'"):
            car.write(io.BytesIO(), ["bafkqaaa"], [])  # type: ignore[list-item]

    @pytest.mark.parametrize("before", [b"", b"before"])
    def test_roots_that_are_known_last_are_put_in_place(self, before: bytes) -> None:
        file = io.BytesIO()
        file.write(before)
        writer = car.CarWriter(file)
        for cid, data in BLOCKS:
            writer.write_block(cid, memoryview(data))
        root = CID.of(b"known last", "dag-cbor", "blake3")
        writer.set_roots([root])
        writer.write_block(*BLOCKS[0])
        assert file.getvalue() == before + written([root], [*BLOCKS, BLOCKS[0]])
        assert writer.size_bytes == len(file.getvalue()) - len(before)

    def test_roots_that_are_known_before_the_first_block(self) -> None:
        file = io.BytesIO()
        writer = car.CarWriter(file)
        assert file.getvalue() == b""
        writer.set_roots([ROOT])
        writer.finish()
        writer.finish()
        assert file.getvalue() == written([ROOT], [])

    @pytest.mark.parametrize(
        "roots", [[], [ROOT, ROOT], [CID.of(b"", "dag-json")], [CID.of(b"", hash_function="sha1")]]
    )
    def test_roots_of_another_length_are_refused(self, roots: list[CID]) -> None:
        file = io.BytesIO()
        writer = car.CarWriter(file)
        writer.write_block(*BLOCKS[0])
        with pytest.raises(CodecError, match="has room for roots in 59 bytes, these take"):
            writer.set_roots(roots)
        assert file.getvalue() == written([car.PLACEHOLDER_ROOT], BLOCKS[:1])

    def test_a_block_that_readers_would_refuse_is_not_written(self) -> None:
        file = io.BytesIO()
        with pytest.raises(BlockTooLarge, match="a block of 2097153 bytes"):
            car.write(file, [], [(ROOT, bytes(2 * 2**20 + 1))])

    def test_a_view_of_other_items_is_written_by_its_bytes(self) -> None:
        data: Any = memoryview(bytes(80)).cast("d")
        out = io.BytesIO()
        car.write(out, [], [(CID.of(data), data)])
        assert list(car.iter_blocks(io.BytesIO(out.getvalue()))) == [(CID.of(bytes(80)), bytes(80))]
