"""Where the blocks of a CAR file are, in 21 bytes a block.

A dict from multihash to offsets takes 266 bytes a block: 0.8 GB for 3 million of them, in each worker. Four arrays sorted by
the end of the digest take 63 MB, and a look-up in them 5 us, which is paid once for each block that is read.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from torch_ipfs.codec.cid import CID

KEY_BYTES = 8


@dataclass(frozen=True, slots=True)
class CarIndex:
    """The blocks of a CAR by the last 8 bytes of their CIDs, which are the digest's whatever the CID's version and codec.

    Only a hint where to look: the CID that stands before a block in the file says which block it is, its hash whether that
    is so. Blocks that occur twice have two rows, in the file's order.

    :param keys: uint64 (blocks,), ascending.
    :param starts: uint64 (blocks,): the file offset of the block's first byte; its CID ends there.
    :param lengths: uint32 (blocks,): the block's length in bytes.
    :param cid_lengths: uint8 (blocks,): the length in bytes of its CID's binary form.
    """

    keys: npt.NDArray[np.uint64]
    starts: npt.NDArray[np.uint64]
    lengths: npt.NDArray[np.uint32]
    cid_lengths: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.keys)

    def in_file_order(self) -> npt.NDArray[np.intp]:
        """The rows in the order of their blocks in the file."""
        return np.argsort(self.starts, kind="stable")

    def with_shared_keys(self) -> npt.NDArray[np.bool_]:
        """Whether another row has the same key, as copies of one block have; bool (blocks,)."""
        shared = np.zeros(len(self), np.bool_)
        same = self.keys[1:] == self.keys[:-1]
        shared[1:] |= same
        shared[:-1] |= same
        return shared

    def fits(self, size_bytes: int) -> bool:
        """Whether all that it says lies within a file of that size."""
        starts, lengths = self.starts, self.lengths
        return bool(
            np.all(starts >= self.cid_lengths)
            and np.all(starts <= size_bytes)
            and np.all(lengths <= size_bytes - starts)
        )


def build(entries: Iterable[tuple[CID, int, int]]) -> CarIndex:
    """The index of blocks given as CID, offset of the first byte and offset after the last, in any order."""
    keys, starts, lengths, cid_lengths = array("Q"), array("Q"), array("I"), array("B")
    for cid, start, end in entries:
        binary = bytes(cid)
        keys.append(key_of(binary))
        starts.append(start)
        lengths.append(end - start)
        cid_lengths.append(len(binary))
    order = np.argsort(np.frombuffer(keys, np.uint64), kind="stable")
    return CarIndex(
        np.frombuffer(keys, np.uint64)[order],
        np.frombuffer(starts, np.uint64)[order],
        np.frombuffer(lengths, np.uint32)[order],
        np.frombuffer(cid_lengths, np.uint8)[order],
    )


def key_of(multihash: bytes) -> int:
    """The key of a multihash, or of a CID, which ends with one."""
    return int.from_bytes(multihash[-KEY_BYTES:], "big")
