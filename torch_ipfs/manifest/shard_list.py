"""The ``shards`` list of a DAG-CBOR node, read column by column: no Python object is made for any of its entries.

A node of 2,048 entries is decoded in a tenth of a millisecond so, where an object for each value takes eight. What makes that
possible is that entries are nearly alike: the same keys, CIDs with the same prefix, the same format. Where they are not, or
where anything else is not as it is most of the time, :func:`read` gives up, and the strict decoder has its say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import CodecError
from torch_ipfs.manifest.cbor_columns import LEAST, PADDING, rows_at, unsigned_at, with_list

Int64s = npt.NDArray[np.int64]

MAX_SAMPLES = 2**48
"""Samples that a root may claim: far above any real dataset, far below where 64-bit arithmetic could overflow."""

_BYTES, _COUNT, _FORMAT = b"\x65bytes", b"\x65count", b"\x66format"
_ARROW, _MANIFEST = b"\x65arrow", b"\x68manifest"
_ENTRY_KEYS = {2: (_COUNT,), 3: (_COUNT, _FORMAT), 4: (_BYTES, _COUNT, _FORMAT)}
"""Of maps of so many entries, what may follow ``cid``; keys are sorted by length first. Without a format it is "manifest"."""
_LONGEST_REST = len(_BYTES + _COUNT + _FORMAT + _MANIFEST) + 2 * 9
"""Less than :data:`torch_ipfs.manifest.cbor_columns.PADDING`."""
_LINK = b"\x63cid\xd8\x2a\x58"
_DIGEST_BYTES = 32


@dataclass(frozen=True, slots=True)
class ShardList:
    """The children of a node.

    :param counts: samples below each, shape (n,); in no wider integers than they need.
    :param inner: which are nodes themselves, shape (n,).
    :param cids: their binary CIDs end to end.
    :param cid_ends: where each ends, shape (n,); ``None`` where all take the same number of bytes.
    """

    counts: npt.NDArray[np.unsignedinteger[Any]]
    inner: npt.NDArray[np.bool_]
    cids: bytes
    cid_ends: Int64s | None = None

    @classmethod
    def of(cls, entries: Sequence[Mapping[str, Any]]) -> ShardList:
        """That of entries whose ``cid``, ``count`` and ``format`` were checked."""
        cids = [bytes(entry["cid"]) for entry in entries]
        lengths = [len(cid) for cid in cids]
        return cls(
            _narrow(np.array([entry["count"] for entry in entries], dtype=np.int64)),
            np.array([entry["format"] == "manifest" for entry in entries], dtype=np.bool_),
            b"".join(cids),
            None if len(set(lengths)) <= 1 else np.cumsum(lengths, dtype=np.int64),
        )

    @property
    def kept_bytes(self) -> int:
        ends = 0 if self.cid_ends is None else self.cid_ends.nbytes
        return self.counts.nbytes + self.inner.nbytes + len(self.cids) + ends

    def cid(self, i: int) -> CID:
        """That of child ``i``."""
        if self.cid_ends is None:
            length = len(self.cids) // len(self.counts)
            return CID.from_bytes(self.cids[i * length : (i + 1) * length])
        return CID.from_bytes(self.cids[int(self.cid_ends[i - 1]) if i else 0 : int(self.cid_ends[i])])


def read(block: bytes) -> dict[str, Any] | None:
    """A node's fields with its ``shards`` as a :class:`ShardList`; ``None`` where it has to be decoded as any other block."""
    return with_list(block, "shards", _entries)


def _entries(block: bytes, number: int, start: int) -> tuple[ShardList, int] | None:
    """``number`` entries from ``start`` on, and where they end."""
    layout = _Layout.of(block, start)
    if layout is None:
        return None
    if (found := _of_one_size(block, number, start, layout)) is not None:
        return found
    ends = _ends(block, number, start, layout.prefix)
    if ends is None:
        return None
    digests = np.append(start, ends[:-1]) + len(layout.prefix)
    data = block + PADDING
    if int(digests[-1]) + _DIGEST_BYTES > len(block):
        return None
    rest = _rest(data, digests + _DIGEST_BYTES, layout)
    if rest is None:
        return None
    counts, at = rest
    if not np.array_equal(at[:-1], ends[:-1]) or int(at[-1]) > len(block) or _too_many(counts):
        return None
    cids = np.empty((number, len(layout.cid_prefix) + _DIGEST_BYTES), dtype=np.uint8)
    cids[:, : len(layout.cid_prefix)] = np.frombuffer(layout.cid_prefix, dtype=np.uint8)
    cids[:, len(layout.cid_prefix) :] = rows_at(data, digests, _DIGEST_BYTES)
    return ShardList(_narrow(counts), np.full(number, layout.format == _MANIFEST), cids.tobytes()), int(at[-1])


def _of_one_size(block: bytes, number: int, start: int, layout: _Layout) -> tuple[ShardList, int] | None:
    """As :func:`_entries`, where entries take as many bytes as the first and differ from it in digest and numbers alone."""
    size = block.find(layout.prefix, start + len(layout.prefix)) - start
    if size <= 0 or start + number * size > len(block):
        return None

    def column(at: int, width: int) -> bytes:
        return np.ndarray((number,), f"V{width}", block, start + at, (size,)).tobytes()

    first, at = block[start : start + size], len(layout.prefix)
    cid_at, alike, counts = at - len(layout.cid_prefix), [(0, layout.prefix)], np.zeros(0, dtype=np.int64)
    at += _DIGEST_BYTES
    for key in layout.keys:
        expected = key + layout.format if key == _FORMAT else first[at : at + len(key) + 1]
        alike.append((at, expected))
        at += len(expected)
        if not expected.startswith(key) or at > size:
            return None
        if key != _FORMAT:
            head = expected[-1]
            width = 0 if head < 24 else 1 << (head - 24) if head < 28 else size
            if at + width > size:
                return None
            counts = np.full(number, head, dtype=np.int64)
            if width:
                read = np.frombuffer(column(at, width), dtype=f">u{width}")
                if int(read.min()) < LEAST[width] or int(read.max()) >= 2**63:
                    return None
                counts = read.astype(np.int64)
            at += width
    if at != size or any(column(at, len(same)) != same * number for at, same in alike) or _too_many(counts):
        return None
    cids = column(cid_at, len(layout.cid_prefix) + _DIGEST_BYTES)
    return ShardList(_narrow(counts), np.full(number, layout.format == _MANIFEST), cids), start + number * size


def _ends(block: bytes, number: int, start: int, prefix: bytes) -> Int64s | None:
    """Where entries end, shape (n,): a guess from what all begin with, for the caller to show that each ends there."""
    parts = block[start:].split(prefix, number)
    if len(parts) != number + 1 or parts[0]:
        return None
    lengths = np.fromiter(map(len, parts[1:]), dtype=np.int64, count=number) + len(prefix)
    return np.cumsum(lengths) + start


def _rest(data: bytes, at: Int64s, layout: _Layout) -> tuple[Int64s, Int64s] | None:
    """The counts of the entries whose CIDs end at ``at``, and where these entries end. Shapes (n,)."""
    counts = at
    for key in layout.keys:
        expected = key + layout.format if key == _FORMAT else key
        if not (rows_at(data, at, len(expected)) == np.frombuffer(expected, dtype=np.uint8)).all():
            return None
        at = at + len(expected)
        if key != _FORMAT:
            numbers = unsigned_at(data, at)
            if numbers is None:
                return None
            counts, at = numbers  # those of "count" come after those of "bytes"
    return counts, at


@dataclass(frozen=True, slots=True)
class _Layout:
    """What entries have in common, as the first of them shows it.

    :param prefix: all that comes before the digest of the CID.
    :param keys: what follows the CID, as text strings of CBOR.
    :param format: the value of "format".
    """

    prefix: bytes
    cid_prefix: bytes
    keys: tuple[bytes, ...]
    format: bytes

    @classmethod
    def of(cls, block: bytes, start: int) -> _Layout | None:
        head, link_at = block[start : start + 1], start + 1 + len(_LINK)
        keys = _ENTRY_KEYS.get(head[0] - 0xA0 if head else 0)
        if keys is None or block[start + 1 : link_at] != _LINK or link_at >= len(block):
            return None
        cid_at, cid_end = link_at + 2, link_at + 1 + block[link_at]
        if block[link_at] <= _DIGEST_BYTES + 1 or block[link_at + 1 : cid_at] != b"\0":
            return None
        try:
            cid = CID.from_bytes(block[cid_at:cid_end])
            if len(cid.digest) != _DIGEST_BYTES:
                return None
        except CodecError:
            return None
        if len(keys) == 2 and block[cid_end : cid_end + len(_BYTES)] == _BYTES:
            keys = (_BYTES, _COUNT)
        is_arrow = _FORMAT in keys and _FORMAT + _ARROW in block[cid_end : cid_end + _LONGEST_REST]
        prefix = block[start : cid_end - _DIGEST_BYTES]
        return cls(prefix, bytes(cid)[:-_DIGEST_BYTES], keys, _ARROW if is_arrow else _MANIFEST)


def _narrow(counts: Int64s) -> npt.NDArray[np.unsignedinteger[Any]]:
    return counts.astype(np.min_scalar_type(int(counts.max(initial=0))))


def _too_many(counts: Int64s) -> bool:
    return int(counts.max()) > MAX_SAMPLES or float(counts.sum(dtype=np.float64)) > MAX_SAMPLES
