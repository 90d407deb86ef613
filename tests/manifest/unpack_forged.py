"""Started by tests as a process of its own: unpacks forged shards, and takes every row of what unpacks.

An error that is not ours, a crash, or much memory ends it with an exit code that is not 0.
"""

from __future__ import annotations

import resource
import time

import numpy as np

from tests.fuzz.mutation import MAX_INPUT_SECONDS, rounds
from tests.manifest.shards import corpus, forged
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import ManifestError
from torch_ipfs.manifest.column import Column, FixedColumn, ObjectColumn
from torch_ipfs.manifest.unpack import unpack

MAX_TAKEN_ROWS = 1000
MORE_MEMORY_BYTES = 512 * 2**20

NOWHERE = CID.of(b"")


def take_all(column: Column) -> None:
    rows = np.arange(min(column.num_rows, MAX_TAKEN_ROWS))
    if isinstance(column, FixedColumn):
        assert column.array.flags.c_contiguous
        assert len(column.array[rows]) == len(rows)
    elif isinstance(column, ObjectColumn):
        assert len(column.take(rows)) == len(rows)
    else:
        for child in column.columns.values():
            take_all(child)


def read(data: bytes) -> bool:
    """Whether it is a shard that can be read."""
    try:
        shard = unpack(data, NOWHERE)
        for column in shard.columns.values():
            assert column.num_rows == shard.num_rows
            take_all(column)
    except ManifestError as error:
        if error.cid != str(NOWHERE):
            raise
        return False
    return True


def main() -> None:
    shards = corpus()
    assert all(map(read, shards))
    size_bytes = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()  # noqa: PTH123, SIM115
    resource.setrlimit(resource.RLIMIT_AS, (size_bytes + MORE_MEMORY_BYTES, resource.RLIM_INFINITY))
    readable = 0
    for seed, rng in rounds("arrow"):
        data = forged(rng, shards)
        started = time.monotonic()
        try:
            readable += read(data)
        except BaseException as error:
            error.add_note(f"seed {seed!r}, input {data[:4000].hex()}")
            raise
        assert time.monotonic() - started < MAX_INPUT_SECONDS, seed
    print(readable, "could be read")


if __name__ == "__main__":
    main()
