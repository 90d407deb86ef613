"""Large rows, large shards, and memory that does not grow with the dataset."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

import torch_ipfs
from torch_ipfs.blockstore.memory import MemoryBlockstore
from torch_ipfs.codec import dag_cbor
from torch_ipfs.codec.cid import CID
from torch_ipfs.dataset.write import write_dataset
from torch_ipfs.dataset.write_rows import RowSource
from torch_ipfs.dataset.write_source import CHUNK_BYTES
from torch_ipfs.errors import SampleError
from torch_ipfs.manifest.build import MAX_BLOCK_BYTES


class Pair(NamedTuple):
    label: int
    text: str


def blocks(store: MemoryBlockstore) -> dict[CID, int]:
    return {cid: len(store.get(cid)) for cid in store.cids()}


def test_a_row_larger_than_a_block_is_a_file_of_blocks() -> None:
    video = np.random.default_rng(0).integers(0, 256, 10 * 2**20, np.uint8)
    rows = [
        {"video": video[:100], "name": "short"},
        {"video": video, "name": "long"},
        {"video": video[:7], "name": "end"},
    ]
    for hash_function, code in (("sha2-256", 0x12), ("blake3", 0x1E)):
        store = MemoryBlockstore()
        root = write_dataset(rows, store, hash_function=hash_function)  # type: ignore[arg-type]
        assert max(blocks(store).values()) <= MAX_BLOCK_BYTES
        shards = dag_cbor.decode(store.get(root))["shards"]
        assert [(shard["count"], shard["cid"].codec_name, shard["cid"].hash_code) for shard in shards] == [
            (1, "raw", code),
            (1, "dag-pb", code),
            (1, "raw", code),
        ]
        assert shards[1]["bytes"] > len(video)
        for dataset in (torch_ipfs.IPFSMapDataset(root, store), torch_ipfs.IPFSIterableDataset(root, store)):
            samples = (
                [dataset[i] for i in range(3)] if isinstance(dataset, torch_ipfs.IPFSMapDataset) else list(dataset)
            )
            assert [sample["name"] for sample in samples] == ["short", "long", "end"]
            assert torch.equal(samples[1]["video"], torch.from_numpy(video))


def test_a_row_larger_than_is_read_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch_ipfs.dataset.write_layouts.MAX_READ_BYTES", 2**16)
    rows = [{"x": bytes(100)}, {"x": bytes(2**16)}]
    with pytest.raises(SampleError, match=r"sample 1 takes 65.* make several samples"):
        write_dataset(rows, MemoryBlockstore(), shard_bytes=2**15)


def test_large_shards_are_files_of_blocks() -> None:
    samples = {"x": np.arange(10**6)}
    store = MemoryBlockstore()
    root = write_dataset(samples, store, shard_bytes=4 * 2**20)
    assert max(blocks(store).values()) <= MAX_BLOCK_BYTES
    shards = dag_cbor.decode(store.get(root))["shards"]
    assert [shard["cid"].codec_name for shard in shards] == ["dag-pb", "dag-pb"]
    assert shards[0]["bytes"] <= 4 * 2**20
    dataset = torch_ipfs.IPFSMapDataset(root, store)
    assert [int(dataset[i]["x"]) for i in (0, 10**6 - 1)] == [0, 10**6 - 1]


@pytest.mark.parametrize("layout", ["embedded", "samples"])
def test_other_layouts_say_where_there_is_room(layout: Any) -> None:
    with pytest.raises(SampleError, match=r"sample 1 takes .* layout 'packed' has room for it"):
        write_dataset([{"x": b""}, {"x": bytes(MAX_BLOCK_BYTES)}], MemoryBlockstore(), layout=layout)


def test_a_tree_of_nodes_above_many_shards() -> None:
    samples = {"x": np.arange(600_000)}
    store = MemoryBlockstore()
    root = write_dataset(samples, store, shard_bytes=1024)
    assert {entry["format"] for entry in dag_cbor.decode(store.get(root))["shards"]} == {"manifest"}
    dataset = torch_ipfs.IPFSMapDataset(root, store)
    assert [int(dataset[i]["x"]) for i in (0, 123_456, 599_999)] == [0, 123_456, 599_999]


CHILD = """
import json, resource, sys
import numpy as np
import pyarrow as pa
import torch
from torch_ipfs.blockstore.memory import MemoryBlockstore
from torch_ipfs.dataset.write import write_dataset

class Sink(MemoryBlockstore):
    taken = 0
    def put_many(self, blocks):
        self.taken += sum(len(data) for _, data in blocks)

TOTAL = int(sys.argv[2])
block = np.random.default_rng(0).integers(0, 256, 10**7, np.uint8)

def arrays():
    for i in range(TOTAL // 100_000):
        yield {"x": block[i % 1000 :][:100_000].copy(), "label": i}

def skewed():
    for i in range(50_000):
        yield {"x": bytes(10), "label": i}
    for i in range(TOTAL // 10**7):
        yield {"x": block.tobytes(), "label": i}

def text():
    for i in range(TOTAL // 1000):
        yield {"text": str(i) * 150, "tags": ["a", "b"] * 20}

def batches():
    schema = pa.schema([("x", pa.list_(pa.uint8(), 1000)), ("y", pa.int64())])
    for i in range(TOTAL // 1_000_000):
        pixels = pa.FixedSizeListArray.from_arrays(pa.array(block[:1_000_000]), 1000)
        yield pa.record_batch([pixels, np.arange(1000)], schema=schema)

class Reader:
    def __arrow_c_stream__(self, requested_schema=None):
        first = next(batches())
        return pa.RecordBatchReader.from_batches(first.schema, batches()).__arrow_c_stream__(requested_schema)

samples = {"arrays": arrays, "skewed": skewed, "text": text, "batches": Reader}[sys.argv[1]]()
write_dataset([{"x": 1}], Sink(), hash_function="blake3")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
sink = Sink()
write_dataset(samples, sink, hash_function="blake3")
print(json.dumps([sink.taken, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("samples", "total_bytes"), [("arrays", 2 * 10**9), ("skewed", 4 * 10**8), ("text", 10**8), ("batches", 10**9)]
)
def test_memory_is_bounded_whatever_the_length(samples: str, total_bytes: int) -> None:
    command = [sys.executable, "-c", CHILD, samples, str(total_bytes)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]).stdout
    taken, more_bytes = json.loads(printed)
    assert taken > total_bytes * 0.5
    assert more_bytes < 300 * 2**20


@pytest.mark.parametrize(
    "value",
    [
        bytearray(2**20),
        [None, "x" * 2**20],
        (1, np.zeros(2**20, np.uint8)),
        Pair(1, "x" * 2**20),
        np.array([b"x" * 2**20, None], dtype=object),
    ],
    ids=["bytearray", "list that begins with None", "tuple", "named tuple", "array of objects"],
)
def test_rows_are_taken_by_what_they_hold(value: Any) -> None:
    rows = RowSource(({"x": value} for _ in range(40)), None, None)
    rows.schema(None)
    assert max(num_rows for _, num_rows in rows.chunks(None)) <= CHUNK_BYTES // 2**20
