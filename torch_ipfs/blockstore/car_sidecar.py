"""The index of a CAR file, kept in the user's cache so that the file is walked once and not by each process.

Only a hint: blocks are hashed on first read, and one that does not match has the file walked again. A sidecar that is
damaged, of another state of the file, or that cannot be written is as good as none.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from torch_ipfs.blockstore.car_index import CarIndex
from torch_ipfs.blockstore.directories import cache_directory
from torch_ipfs.errors import OptionError

MIN_BLOCKS = 64
"""A CAR of fewer blocks is walked each time, which takes no longer than to look for its index."""
SETTLED_S = 2.0
"""What was written to more lately is not remembered: it may be written to again, and times of files are too coarse to tell."""
MAX_SIDECARS = 256

_MAGIC = b"torch_ipfs CAR index 1\n"
_ALIGNED_BYTES = 64
_CHECKSUM_BYTES = hashlib.sha256().digest_size
_COLUMNS = (("keys", "<u8"), ("starts", "<u8"), ("lengths", "<u4"), ("cid_lengths", "<u1"))
_ROW_BYTES = sum(np.dtype(dtype).itemsize for _, dtype in _COLUMNS)


@dataclass(frozen=True, slots=True)
class FileState:
    """What tells one state of a file from another."""

    path: str
    device: int
    inode: int
    size_bytes: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, path: str, stat: os.stat_result) -> FileState:
        return cls(path, stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)

    def header(self) -> bytes:
        """How a sidecar begins: a line of JSON, padded so that the columns after it are aligned, as fast look-ups need."""
        values = [self.path, self.device, self.inode, self.size_bytes, self.mtime_ns, self.ctime_ns]
        line = _MAGIC + json.dumps(values).encode()
        return line.ljust(len(line) // _ALIGNED_BYTES * _ALIGNED_BYTES + _ALIGNED_BYTES - 1) + b"\n"


def load(state: FileState) -> CarIndex | None:
    """The index that was saved for that state of the file, if there is one and it is whole."""
    try:
        content = _sidecar(state).read_bytes()
    except (OSError, OptionError):  # the latter where the folder is of a user who is not there
        return None
    header = state.header()
    body = memoryview(content)[:-_CHECKSUM_BYTES]
    if body[: len(header)] != header or hashlib.sha256(body).digest() != content[-_CHECKSUM_BYTES:]:
        return None
    index = _columns(body[len(header) :])
    return index if index is not None and index.fits(state.size_bytes) else None


def save(state: FileState, index: CarIndex) -> None:
    """Keep ``index`` for that state of the file. Does nothing where it has few blocks, where the file was only just written, or
    where the cache cannot be.
    """
    age_s = (time.time_ns() - max(state.mtime_ns, state.ctime_ns)) / 1e9
    if len(index) < MIN_BLOCKS or age_s < SETTLED_S:
        return
    content = bytearray(state.header())
    for name, dtype in _COLUMNS:
        content += getattr(index, name).astype(dtype).tobytes()
    content += hashlib.sha256(content).digest()
    with contextlib.suppress(OSError, OptionError):
        path = _sidecar(state)
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, content)
        _remove_oldest(path.parent)


def _sidecar(state: FileState) -> Path:
    name = hashlib.sha256(os.fsencode(state.path)).hexdigest()[:32]
    return cache_directory() / "car-index" / f"{name}.index"


def _columns(body: memoryview) -> CarIndex | None:
    blocks, rest = divmod(len(body), _ROW_BYTES)
    if rest or not blocks:
        return None
    columns: dict[str, Any] = {}
    offset = 0
    for name, dtype in _COLUMNS:
        columns[name] = np.frombuffer(body, dtype, blocks, offset)
        offset += columns[name].nbytes
    return CarIndex(**columns)


def _replace(path: Path, content: bytearray) -> None:
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _remove_oldest(directory: Path) -> None:
    sidecars = sorted(directory.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    for path in sidecars[:-MAX_SIDECARS]:
        path.unlink(missing_ok=True)
