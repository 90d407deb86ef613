"""What a store of blocks is: a CID goes in, verified bytes come out."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Protocol, TypeGuard, runtime_checkable

from torch_ipfs.codec import multihash
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import BlockTooLarge, CodecError, HashMismatch, OptionError, TorchIPFSError, TransportError

StrPath = str | os.PathLike[str]

Block = bytes | memoryview
"""A block's bytes, read-only. A ``memoryview`` looks into a mapped file (``view.obj`` is the map) and keeps it alive."""

MAX_BLOCK_BYTES = 2 * 2**20
"""Largest block that is read or put: what Kubo's bitswap and the trustless gateway spec allow."""


@runtime_checkable
class Blockstore(Protocol):
    """Blocks by CID, every byte of them verified.

    Stores key by multihash: CIDs that differ in version or codec alone name the same block. A block of an identity CID is
    the CID's own digest and is never looked up. All methods may be called from several threads. A store pickles (its
    connections, maps and locks do not travel: each process makes its own on first use) and works after a fork.
    """

    def get(self, cid: CID) -> Block:
        """The verified bytes of ``cid``.

        :raises BlockNotFound: the store has no such block.
        :raises HashMismatch: what the store has for it does not hash to ``cid``.
        :raises BlockTooLarge: it is over the limit in force.
        :raises TransportError: the store could not be reached or read.
        """
        ...

    def get_many(self, cids: Iterable[CID], *, return_exceptions: bool = False) -> Iterator[Block | TorchIPFSError]:
        """The blocks of ``cids`` in their order, one for one, fetched or hashed ahead in a window bounded in bytes.

        With ``return_exceptions`` a block that cannot be had is answered by its error, in its place, and the rest
        follows; without it the error is raised. Closing the iterator cancels what is in flight.
        """
        ...

    def has(self, cid: CID) -> bool:
        """Whether the store holds ``cid``. Nothing is fetched from elsewhere, and the bytes are not verified."""
        ...

    def put(self, cid: CID, data: Block) -> None:
        """Keep ``data`` as the block of ``cid``.

        :raises HashMismatch: ``data`` does not hash to ``cid``; nothing is kept.
        :raises BlockTooLarge: over the limit in force.
        :raises TransportError: the store is read-only, full or out of reach.
        """
        ...

    def put_many(self, blocks: Iterable[tuple[CID, Block]]) -> None:
        """``put`` for each pair, with what batching the store has."""
        ...

    def cids(self) -> Iterator[CID]:
        """What the store holds; a store that keeps multihashes alone answers with raw CIDv1."""
        ...

    def close(self) -> None:
        """Let go of files, maps, connections and threads. May be called twice. A later use opens anew."""
        ...


@runtime_checkable
class PinningBlockstore(Blockstore, Protocol):
    """A store that removes blocks, and keeps those that pins reach."""

    def pin(self, cid: CID, *, recursive: bool = True) -> None:
        """Keep the block of ``cid``, and with ``recursive`` all that its links reach, from garbage collection.

        :raises BlockNotFound: the store does not hold ``cid`` itself.
        :raises TransportError: the store could not be reached or written.
        """
        ...

    def unpin(self, cid: CID) -> None:
        """Take back :meth:`pin`. No block is removed by that.

        :raises OptionError: ``cid`` is not pinned.
        :raises TransportError: the store could not be reached or written.
        """
        ...

    def pins(self) -> dict[CID, str]:
        """What is pinned, each with its kind: ``"recursive"`` or ``"direct"``."""
        ...


@runtime_checkable
class LinkedBlockstore(Protocol):
    """A store that can give many blocks that one node links to faster than one by one."""

    def get_linked(self, node: CID, cids: Sequence[CID]) -> Generator[tuple[bytes, Block], None, None] | None:
        """Blocks of ``cids``, to which ``node`` links, each verified, by its multihash and in any order.

        What does not come is to be asked for one by one, also after an error.

        :returns: ``None`` where asking one by one is better. Closing it breaks off what is on its way.
        :raises TorchIPFSError: no more of them will come, and why.
        """
        ...


class AtHand(Protocol):
    """Verified blocks by multihash; of one that has gone bad ``get`` gives ``None``."""

    def __contains__(self, multihash: bytes, /) -> bool: ...

    def get(self, multihash: bytes, /) -> Block | None: ...


def linked_at_hand(store: Blockstore | LinkedBlockstore, node: CID) -> AtHand | None:
    """The blocks that ``node`` links to, where a cache of ``store`` has them together. Its ``get`` finds them too then."""
    at_hand = getattr(store, "linked_at_hand", None)
    found: AtHand | None = None if at_hand is None else at_hand(node)
    return found


def is_store(given: object) -> TypeGuard[Blockstore]:
    """Whether it has what datasets are read and written by, if only by ``__getattr__``, which ``isinstance`` does not see from
    Python 3.12 on.
    """
    return _has_methods(given, "get", "get_many", "put", "put_many")


def check_store(given: object) -> None:
    """:raises OptionError: blocks cannot be read from it, such as a source's name."""
    if not _has_methods(given, "get", "get_many"):
        raise OptionError(
            f"expected a Blockstore, not a {type(given).__name__}; torch_ipfs.open_blockstore opens what a name stands for"
        )


def _has_methods(given: object, *names: str) -> bool:
    return not isinstance(given, type) and all(callable(getattr(given, name, None)) for name in names)


def source_of(store: object) -> str:
    """The store's name in errors and logs."""
    return str(getattr(store, "source", None) or type(store).__name__)


def close_iterator(iterator: object) -> None:
    """Close an iterator that can be; that of a store's ``get_many`` cancels what is in flight then."""
    close = getattr(iterator, "close", None)
    if close is not None:
        with contextlib.suppress(Exception):
            close()


def when_left(cids: object, call: Callable[[], None]) -> None:
    """Have ``call`` made, in any thread, as soon as nobody wants the blocks of ``cids`` any more, if those tell.

    A wrapper has another thread wait in a store's iterator, which cannot be closed meanwhile.
    """
    tell = getattr(cids, "when_left", None)
    if tell is not None:
        tell(call)


def unreachable_at(store: Blockstore) -> float | None:
    """When ``store`` found nobody listening where it has its blocks from, if it tells, and has not been answered since."""
    found = getattr(store, "unreachable_at", None)
    return found if isinstance(found, float) else None


def is_unreachable(store: Blockstore, since: float) -> bool:
    """Whether a store has found, since that moment, nobody listening where its blocks are (``time.monotonic``)."""
    found_at = unreachable_at(store)
    return found_at is not None and found_at > since


def verify(cid: CID, data: Block, source: str | None, *, max_block_bytes: int = MAX_BLOCK_BYTES) -> None:
    """Check that ``data`` is the block of ``cid``. It is not copied; the GIL is released while it is hashed.

    :param source: the store, file or URL that ``data`` came from, for the message.
    :raises BlockTooLarge: it is over ``max_block_bytes``; it is not hashed then.
    :raises HashMismatch: it does not hash to ``cid``.
    :raises CodecError: the hash function of ``cid`` is not on the allowlist.
    """
    if len(data) > max_block_bytes:
        raise too_large(cid, len(data), source, max_block_bytes)
    try:
        matches = multihash.matches(cid.multihash, data)
    except CodecError as error:  # a hash function that is not on the allowlist
        raise CodecError(str(error), cid=cid, source=source) from None
    if not matches:
        raise HashMismatch(
            f"the {len(data)} bytes found for this block do not hash to its CID: they were damaged or forged",
            cid=cid,
            source=source,
        )


def too_large(cid: CID, size_bytes: int, source: str | None, max_block_bytes: int) -> BlockTooLarge:
    """The error for a block of ``size_bytes`` where at most ``max_block_bytes`` are allowed."""
    return BlockTooLarge(
        f"a block of {size_bytes} bytes; at most {max_block_bytes} are read or put", cid=cid, source=source
    )


def identity_block(cid: CID) -> bytes | None:
    """The block that an identity CID carries in itself; ``None`` where ``cid`` is the name of a hash."""
    return cid.digest if is_identity(cid.multihash) else None


def is_identity(multihash: bytes) -> bool:
    """Whether a multihash carries the block itself, as the digest of its CID; stores never look it up."""
    return multihash[0] == 0


@contextlib.contextmanager
def blaming(source: str) -> Iterator[None]:
    """Errors that name no source yet, as those of codecs, name ``source``; so do OSErrors, as TransportError."""
    try:
        yield
    except TorchIPFSError as error:
        if error.source is not None:
            raise
        raise type(error)(str(error), cid=error.cid, source=source) from None
    except OSError as error:
        raise TransportError(f"the file system refused: {error.strerror or error}", source=source) from error


def in_batches(
    blocks: Iterable[tuple[CID, Block]], most_blocks: int, most_bytes: int
) -> Iterator[list[tuple[CID, Block]]]:
    """``blocks`` in lists, each ended by the block that fills it. What comes before an error is a list, too."""
    batch: list[tuple[CID, Block]] = []
    size_bytes = 0
    try:
        for cid, data in blocks:
            batch.append((cid, data))
            size_bytes += len(data)
            if size_bytes >= most_bytes or len(batch) >= most_blocks:
                yield batch
                batch, size_bytes = [], 0
    except Exception:
        if batch:
            yield batch
        raise
    if batch:
        yield batch


def one_by_one(
    get: Callable[[CID], Block], cids: Iterable[CID], *, return_exceptions: bool
) -> Iterator[Block | TorchIPFSError]:
    """``get_many`` for a store where looking ahead gains nothing."""
    for cid in cids:
        try:
            block: Block | TorchIPFSError = get(cid)
        except TorchIPFSError as error:
            if not return_exceptions:
                raise
            block = error
        yield block
