"""Pins, and the collection of the blocks that none of them reaches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch_ipfs import codec
from torch_ipfs.blockstore.base import Block, Blockstore, blaming
from torch_ipfs.blockstore.block_files import BlockFiles
from torch_ipfs.codec.cid import RAW, CID
from torch_ipfs.errors import BlockError, CodecError, OptionError, TransportError

RECURSIVE = "recursive"
DIRECT = "direct"

LINKS_A_BLOCK = 10_000
"""Links of a block that does nothing but link: some 41 bytes each."""


@dataclass(frozen=True, slots=True)
class Collected:
    """What a garbage collection did.

    :param unread: blocks that are pinned, or that pins reach, whose links could not be followed: missing, damaged, or of a
        codec that is not known here. What only they link to counts as not reached.
    """

    removed_blocks: int
    removed_bytes: int
    kept_blocks: int
    unread: tuple[CID, ...]


class Pins:
    """A file for each pin in a folder, named by the CID as it was pinned; it holds the kind."""

    __slots__ = ("_files", "_folder")

    def __init__(self, folder: str, files: BlockFiles) -> None:
        self._folder = folder
        self._files = files

    def add(self, cid: CID, kind: str) -> None:
        """Pin a CID. One that is pinned with all that it links to stays so.

        :raises TransportError: the file system refuses.
        """
        path = Path(self._folder, str(cid))
        with blaming(self._folder):
            if kind == DIRECT and self._kind(path) == RECURSIVE:
                return
        self._files.write_text(str(path), f"{kind}\n")

    def remove(self, cid: CID) -> None:
        """:raises OptionError: there is no such pin."""
        with blaming(self._folder):
            try:
                Path(self._folder, str(cid)).unlink()
            except FileNotFoundError:
                raise OptionError("this CID is not pinned, in this form", cid=cid, source=self._folder) from None

    def all(self) -> dict[CID, str]:
        """Each pin with its kind. One whose file does not say is recursive, which keeps more.

        :raises TransportError: the folder holds something else; to pass it over might remove blocks that are needed.
        """
        with blaming(self._folder):
            return {cid: kind for path, cid in self._paths() if (kind := self._kind(path)) is not None}

    def _paths(self) -> Iterator[tuple[Path, CID]]:
        if not Path(self._folder).exists():
            return
        for path in sorted(Path(self._folder).iterdir()):
            try:
                if not path.name.startswith("."):
                    yield path, CID.parse(path.name)
            except CodecError as error:
                raise TransportError(
                    f"a file in the folder of pins is named by no CID: {error}", source=str(path)
                ) from None

    @staticmethod
    def _kind(path: Path) -> str | None:
        """``None`` where the pin is not there, as when another process has just taken it back."""
        try:
            return DIRECT if path.read_bytes().strip() == DIRECT.encode() else RECURSIVE
        except FileNotFoundError:
            return None


def put_links(store: Blockstore, cids: Sequence[CID]) -> Iterator[CID]:
    """Put blocks that do nothing but link to ``cids``, to be pinned in their stead: a pin for each would take minutes."""
    for start in range(0, len(cids), LINKS_A_BLOCK):
        block = codec.dag_cbor.encode(list(cids[start : start + LINKS_A_BLOCK]))
        cid = CID.of(block, "dag-cbor")
        store.put(cid, block)
        yield cid


def reached(pins: dict[CID, str], get: Callable[[CID], Block]) -> tuple[set[bytes], tuple[CID, ...]]:
    """The multihashes of all blocks that pins keep, and the CIDs whose links could not be followed.

    :raises TransportError: a block could not be read for now, so that what it links to is not known.
    """
    kept = {cid.multihash for cid in pins}
    ahead = [cid for cid, kind in pins.items() if kind == RECURSIVE]
    followed = set(ahead)
    unread = []
    while ahead:
        cid = ahead.pop()
        try:
            found = links(codec.decode(cid, get(cid)))
        except (BlockError, CodecError):
            unread.append(cid)
            continue
        for link in found:
            kept.add(link.multihash)
            if link.codec != RAW and link not in followed:
                followed.add(link)
                ahead.append(link)
    return kept, tuple(unread)


def links(value: object) -> Iterator[CID]:
    """Each link in a decoded block, however deep."""
    ahead = [value]
    while ahead:
        value = ahead.pop()
        if isinstance(value, CID):
            yield value
        elif isinstance(value, dict):
            ahead.extend(value.values())
        elif isinstance(value, list):
            ahead.extend(value)


def sweep(files: BlockFiles, kept: set[bytes], unread: tuple[CID, ...], older_than_s: float) -> Collected:
    """Remove the blocks that are not kept and were last put before that time (seconds since the epoch)."""
    files.remove_temporaries(older_than_s)
    removed_blocks = removed_bytes = kept_blocks = 0
    for multihash, entry in files.files():
        try:
            status = entry.stat()
        except OSError:
            continue
        unneeded = multihash not in kept and status.st_mtime < older_than_s
        if unneeded and files.remove_older(entry.path, older_than_s):
            removed_blocks += 1
            removed_bytes += status.st_size
        else:
            kept_blocks += 1
    return Collected(removed_blocks, removed_bytes, kept_blocks, unread)
