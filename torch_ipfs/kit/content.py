"""What ``add`` takes: bytes, files and folders, as UnixFS."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from torch_ipfs import unixfs
from torch_ipfs.blockstore.base import Blockstore, StrPath
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import OptionError

Content = bytes | bytearray | memoryview | StrPath | IO[bytes]

_PIECE_BYTES = 2**20


def write_content(content: Content, home: Blockstore) -> unixfs.Dag:
    """Write ``content`` (the profile unixfs-v1-2025), piece by piece.

    :param content: bytes, the path of a file or folder, or a file that is open for reading bytes.
    :raises OptionError: it is none of these, or cannot be read.
    """
    if isinstance(content, bytes | bytearray | memoryview):
        return unixfs.write_file(bytes(content), home.put)
    if isinstance(content, str | os.PathLike):
        if not os.fspath(content):  # which pathlib takes for the current folder
            raise OptionError("an empty text is no path; add takes bytes, a path or an open file")
        return _write_path(Path(content), home)
    file: Any = content
    if callable(getattr(file, "read", None)) and not isinstance(file, CID):  # whose read makes CIDs
        return unixfs.write_file(_pieces_of_any(file), home.put)
    raise OptionError(f"add takes bytes, a path or an open file, not a {type(content).__name__}")


def _write_path(path: Path, home: Blockstore) -> unixfs.Dag:
    try:
        if not path.is_dir():
            with path.open("rb") as file:
                return unixfs.write_file(_pieces(file), home.put)
        entries = sorted(path.iterdir())
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OptionError(f"{str(path)!r} cannot be read: {reason}; add takes bytes, a path or an open file") from error
    links = []
    for entry in entries:
        if entry.is_symlink():
            raise OptionError(f"{str(entry)!r} is a symbolic link, and may lead anywhere; add what it leads to")
        dag = _write_path(entry, home)
        links.append(unixfs.Link(entry.name, dag.cid, dag.tsize))
    return unixfs.write_directory(links, home.put)


def _pieces_of_any(file: Any) -> Iterator[bytes]:
    """As :func:`_pieces`, of a file that is the caller's, and may raise anything."""
    try:
        yield from _pieces(file)
    except Exception as error:
        raise OptionError(f"the file cannot be read: {type(error).__name__}: {error}") from error


def _pieces(file: Any) -> Iterator[bytes]:
    while piece := file.read(_PIECE_BYTES):
        yield piece
