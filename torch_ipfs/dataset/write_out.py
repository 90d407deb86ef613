"""Where the blocks of a dataset go that is being written: a CAR file or a store.

Until :meth:`Sink.commit` nothing is at ``out`` that was not there before.
"""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, Self

from torch_ipfs.blockstore.base import Block, Blockstore, is_store
from torch_ipfs.blockstore.car_file import CarBlockstore
from torch_ipfs.blockstore.directories import absolute, home_expanded
from torch_ipfs.blockstore.local import LocalBlockstore
from torch_ipfs.blockstore.open import is_network, open_blockstore
from torch_ipfs.codec import car
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import OptionError, TransportError

Out = str | os.PathLike[str] | Blockstore

_BATCH_BYTES = 16 * 2**20
_BATCH_BLOCKS = 1024
_WRITTEN_AT_ONCE_BYTES = 2**22
"""The kernel keeps what is written at once in pages as large: a map of the file then costs half the page faults of 1 MiB."""


class Sink(Protocol):
    """Takes blocks while it is entered. Leaving it without a commit leaves ``out`` as it was."""

    @property
    def store(self) -> Blockstore | None:
        """The store that blocks go to; ``None`` for a CAR file."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def put(self, cid: CID, data: Block) -> None:
        """Take a block.

        :raises TransportError: it cannot be written.
        """
        ...

    def commit(self, root: CID) -> None:
        """All blocks are there: make the dataset of ``root`` visible.

        :raises TransportError: it cannot be written.
        """
        ...


def open_sink(out: Out, *, root: CID = car.PLACEHOLDER_ROOT) -> Sink:
    """The sink of a path that ends in ``.car``, of another path (the folder of a local store), of a URL or a store.

    :param root: what is committed in the end, or a CID as long.
    :raises OptionError: ``out`` cannot be written to, or is none of these.
    :raises TransportError: the path cannot be looked at.
    """
    if isinstance(out, str | os.PathLike):
        text = os.fspath(out)
        if not text or "\0" in text:
            raise OptionError(f"out is {text!r}: name a CAR file, or the folder of a local store")
        if is_network(text):
            return _StoreSink(open_blockstore(text))
        try:
            return _sink_of_path(Path(os.path.realpath(home_expanded(text))), text, root)
        except OSError as error:
            raise TransportError(f"the path cannot be looked at: {error.strerror}", source=text[:200]) from error
    if is_store(out):
        return _StoreSink(out)
    raise OptionError(f"out is a path or a Blockstore, not a {type(out).__name__}")


def check_not_replaced(store: Blockstore, out: Out | None) -> None:
    """:raises OptionError: ``out`` is a CAR file of ``store``: what is written alone would stand in its place."""
    if not isinstance(out, str | os.PathLike):
        return
    path = os.path.realpath(absolute(out))
    for source in getattr(store, "stores", [store]):
        if isinstance(source, CarBlockstore) and os.path.realpath(source.source) == path:
            raise OptionError(f"out is {str(out)!r}, which is read from and would be replaced: name another file")


def _sink_of_path(path: Path, text: str, root: CID) -> Sink:
    if path.is_dir():
        return _StoreSink(LocalBlockstore(path))
    if path.suffix == ".car":
        return _CarSink(path, root)
    if path.exists():
        raise OptionError(
            f"{text} is a file that does not end in .car: name a CAR file, or the folder of a local store"
        )
    return _StoreSink(LocalBlockstore(path))


class _CarSink:
    """A CARv1, written beside its place as ``name.car.*.tmp`` and renamed when it is whole and on disk."""

    store = None

    def __init__(self, path: Path, root: CID) -> None:
        if not path.parent.is_dir():
            raise OptionError(f"{path.parent} is no folder: make it before writing {path.name} in it")
        self._path, self._root = path, root

    def __enter__(self) -> Self:
        with self._refusals():
            number, name = tempfile.mkstemp(prefix=f"{self._path.name}.", suffix=".tmp", dir=self._path.parent)
            self._temporary = Path(name)
            self._file = os.fdopen(number, "wb", buffering=_WRITTEN_AT_ONCE_BYTES)
        self._car = car.CarWriter(self._file, [self._root])
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError, ValueError):
            # Closing writes what is left in the buffer, which may fail again; the file is closed nevertheless.
            self._file.close()
        with contextlib.suppress(OSError):
            self._temporary.unlink(missing_ok=True)

    def put(self, cid: CID, data: Block) -> None:
        with self._refusals():
            self._car.write_block(cid, data)

    def commit(self, root: CID) -> None:
        with self._refusals():
            self._car.finish()
            self._car.set_roots([root])
            self._file.flush()
            os.fchmod(self._file.fileno(), 0o666 & ~_umask())
            os.fsync(self._file.fileno())
            self._file.close()
            self._temporary.replace(self._path)
            _sync_folder(self._path.parent)

    @contextlib.contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else str(error)
            raise TransportError(f"the CAR cannot be written: {reason}", source=str(self._path)) from error


def _umask() -> int:
    """The process's mask, which can only be read by setting it; Linux tells it too, without that moment."""
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return int(next(line for line in lines if line.startswith("Umask:")).split()[1], 8)
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` last through a power cut, where the file system can."""
    with contextlib.suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


class _StoreSink:
    """A store, filled in batches. In a local store the root is pinned; without that pin nothing lasts there."""

    def __init__(self, store: Blockstore) -> None:
        self.store = store
        self._held = contextlib.ExitStack()
        self._batch: list[tuple[CID, Block]] = []
        self._batch_bytes = 0

    def __enter__(self) -> Self:
        if isinstance(self.store, LocalBlockstore):
            self._held.enter_context(self.store.writing())
        return self

    def __exit__(self, *_: object) -> None:
        self._batch.clear()
        self._held.close()

    def put(self, cid: CID, data: Block) -> None:
        self._batch.append((cid, data))
        self._batch_bytes += len(data)
        if self._batch_bytes >= _BATCH_BYTES or len(self._batch) >= _BATCH_BLOCKS:
            self._flush()

    def commit(self, root: CID) -> None:
        self._flush()
        if isinstance(self.store, LocalBlockstore):
            self.store.pin(root)

    def _flush(self) -> None:
        batch, self._batch, self._batch_bytes = self._batch, [], 0
        self.store.put_many(batch)
