"""One source of several: its store, how it does, and what it did."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from functools import partial

from torch_ipfs.blockstore.base import Block, Blockstore, LinkedBlockstore, is_unreachable, source_of
from torch_ipfs.blockstore.call_threads import CallThreads
from torch_ipfs.blockstore.car_file import CarBlockstore
from torch_ipfs.blockstore.collecting import put_off
from torch_ipfs.blockstore.local import LocalBlockstore
from torch_ipfs.blockstore.memory import MemoryBlockstore
from torch_ipfs.blockstore.source_health import SourceHealth
from torch_ipfs.blockstore.trust import Checked
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import (
    BlockNotFound,
    BlockRefused,
    BlockTooLarge,
    HashMismatch,
    StoreClosed,
    TorchIPFSError,
    TransportError,
)

logger = logging.getLogger("torch_ipfs.blockstore.tiered")

MOST_CALLS = 16
"""Single blocks that are asked of one source at once."""

_COUNTED = ("served", "bytes", "not_found", "refused", "failed", "bad_blocks", "slow")


class TierSource:
    """The source at ``place`` of a list of them, as one process sees it."""

    def __init__(self, place: int, store: Blockstore, health: SourceHealth) -> None:
        self.place = place
        self.store = store
        self.name = source_of(store)
        self._check = Checked(store, self.name)
        self.is_local = isinstance(store, MemoryBlockstore | CarBlockstore | LocalBlockstore)
        """Answers from memory or a file: nobody waits for it, and no thread is needed to stop waiting."""
        self.calls = CallThreads("torch_ipfs-source", MOST_CALLS)
        self._health = health
        self._counts = dict.fromkeys(_COUNTED, 0)
        self._mutex = threading.Lock()

    @property
    def is_up(self) -> bool:
        """Whether it is not demoted."""
        return self._health.is_up

    def is_unreachable(self, since: float) -> bool:
        """Whether its store has found nobody listening there since that moment: another attempt is for later."""
        return is_unreachable(self.store, since)

    def admit(self) -> bool:
        """Whether it is to be asked in its turn."""
        with self._mutex:
            return self._health.admit(time.monotonic())

    def get(self, cid: CID) -> Block:
        """The block, verified.

        :raises TorchIPFSError: what the store raises, and TransportError for an OSError of it.
        """
        try:
            return self._check(cid, self.store.get(cid))
        except OSError as error:
            raise TransportError(f"the store failed: {error}", cid=cid, source=self.name) from error

    def checked(self, cid: CID, answer: Block | BaseException) -> Block | BaseException:
        """What ``get_many`` of the store answered, verified; what is bad is an error."""
        if isinstance(answer, BaseException):
            return answer
        try:
            return self._check(cid, answer)
        except TorchIPFSError as error:
            return error

    def at_hand(self, cid: CID) -> Block | None:
        """The block, if the store is a cache that has it."""
        at_hand = getattr(self.store, "at_hand", None)
        return None if at_hand is None else at_hand(cid)

    def has_any(self, cids: Sequence[CID]) -> bool:
        """Whether it has the first or the last of these blocks, and so probably all of them."""
        try:
            return any(self.store.has(cid) for cid in (*cids[:1], *cids[-1:]))
        except (TorchIPFSError, OSError):
            return False

    def linked(self, node: CID, cids: Sequence[CID]) -> Generator[tuple[bytes, Block], None, None] | None:
        """What ``node`` links to, if the store gives that in one go. Only bad blocks count against it: not all have streams."""
        blocks = self.store.get_linked(node, cids) if isinstance(self.store, LinkedBlockstore) else None
        return None if blocks is None else self._counted(node, self._check.linked(blocks))

    def _counted(
        self, node: CID, blocks: Generator[tuple[bytes, Block], None, None]
    ) -> Generator[tuple[bytes, Block], None, None]:
        asked_at = time.monotonic()
        served = size_bytes = 0
        try:
            with closing(blocks):
                for multihash, block in blocks:
                    served, size_bytes = served + 1, size_bytes + len(block)
                    yield multihash, block
        except (HashMismatch, BlockTooLarge) as error:
            self.failed(node if error.cid is None else CID.parse(error.cid), error, asked_at)
            raise
        finally:
            if served:
                put_off(partial(self._answered, asked_at, served=served, bytes=size_bytes))
                logger.debug("%d blocks that %s links to from %s", served, node, self.name)

    def gave(self, cid: CID, block: Block, asked_at: float) -> None:
        """It gave the block that was then used."""
        self._answered(asked_at, served=1, bytes=len(block))
        logger.debug("block %s from %s", cid, self.name)

    def gave_late(self, asked_at: float) -> None:
        """It gave the block when another had."""
        self._answered(asked_at)

    def failed(self, cid: CID, error: TorchIPFSError, asked_at: float) -> bool:
        """It gave an error; whether that demotes it."""
        if isinstance(error, BlockNotFound):
            self._answered(asked_at, not_found=1)
            return False
        if isinstance(error, StoreClosed):
            return False
        if isinstance(error, BlockRefused):
            self._answered(asked_at, refused=1)
            return False
        if isinstance(error, HashMismatch | BlockTooLarge):
            logger.warning("a bad block from %s for %s: %s", self.name, cid, reason(error))
            return self._demote(asked_at, reason(error), bad_blocks=1)
        return self._demote(asked_at, reason(error), failed=1)

    def dawdled(self, cid: CID, asked_at: float, waited_s: float) -> None:
        """It has not answered for too long, which demotes it."""
        if self.is_unreachable(asked_at):
            self._demote(asked_at, "it cannot be reached", failed=1)
        else:
            self._demote(asked_at, f"no answer for {waited_s:.1f} s to {cid}", slow=1)

    def stats(self) -> dict[str, object]:
        """What it did, counted, and whether it is demoted now."""
        with self._mutex:
            return {"source": self.name, **self._counts, "demoted": not self._health.is_up}

    def _answered(self, asked_at: float, **counted: int) -> None:
        with self._mutex:
            self._count(counted)
            is_back = self._health.answered(asked_at, time.monotonic())
        if is_back:
            logger.warning("%s answers again", self.name)

    def _demote(self, asked_at: float, why: str, **counted: int) -> bool:
        with self._mutex:
            self._count(counted)
            is_demoted = self._health.failed(asked_at, time.monotonic())
            period_s = self._health.period_s
        if is_demoted:
            logger.warning("%s is asked last for %.1f s: %s", self.name, period_s, why)
        return is_demoted

    def _count(self, counted: dict[str, int]) -> None:
        for name, number in counted.items():
            self._counts[name] += number


def reason(error: TorchIPFSError) -> str:
    """An error's message without the CID and source that it carries, with its kind."""
    return f"{type(error).__name__}: {str(error).split(' [cid=', 1)[0]}"
