"""Several sources of blocks, tried in their order."""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from operator import methodcaller
from typing import Self

from torch_ipfs.blockstore.base import (
    AtHand,
    Block,
    Blockstore,
    check_store,
    identity_block,
    in_batches,
    linked_at_hand,
    source_of,
    unreachable_at,
)
from torch_ipfs.blockstore.source_health import SourceHealth
from torch_ipfs.blockstore.tier_source import TierSource, reason
from torch_ipfs.blockstore.tiered_reads import TierOptions, TierReads, TierRequest, TierRouter
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import OptionError, TorchIPFSError, TransportError

PUT_BATCH_BLOCKS = 256
PUT_BATCH_BYTES = 16 * 2**20
TIMEOUT_FACTOR = 30
"""``timeout_s`` as a multiple of ``slow_s``, which leaves a network store its own two minutes at the defaults."""


class TieredBlockstore:
    """A store that has its blocks from several others, from the first of them that gives a good one.

    - A source that has not got a block, or refuses it, is passed over for that block.
    - A source that cannot be reached, or gives bad bytes, is passed over and demoted: asked last for ``demote_s``. Then a
      single request is its trial: an answer puts it back in its place, anything else demotes it for twice as long, up to
      ``demote_max_s``.
    - A source that keeps a reader waiting for ``slow_s``, or for ``trial_s`` where nobody listens, is demoted too, and the next
      one is asked as well. The first good answer is taken, so that nothing is lost where the slow one is the only one that has
      the block.
    - Where no source gives a block, the error tells what each of them said. It is TransportError if any could not be reached
      (which may have the block), else HashMismatch or BlockTooLarge if any gave bad bytes, else BlockRefused if any refused
      it, else BlockNotFound.

    Who gave which block is in :meth:`stats`, and in the log ``torch_ipfs.blockstore.tiered`` (DEBUG); bad blocks, demotions and
    returns are warnings there. Each process learns for itself how its sources do.

    ``get_many`` asks each source by its own ``get_many``, in a thread that ends with the iterator. ``get`` asks local stores at
    once, others in threads that can be left waiting. What is put goes to the first source that takes it.

    :param stores: the sources, the one to be asked first first.
    :param slow_s: how long a reader waits for a source before the next one is asked too; ``math.inf`` for as long as it takes.
    :param trial_s: the same for a source on trial, whose answer counts however late it is, and for one that cannot be reached.
    :param timeout_s: how long the last source is waited for, when all others have been asked; ``None`` for 30 times
        ``slow_s``. Network stores give up by themselves before that.
    :param demote_s: how long a first failure demotes a source; 0 for never.
    :param demote_max_s: the longest time that a source is demoted.
    :param window_bytes: most bytes of blocks that one ``get_many`` has asked for or holds ahead of its reader.
    :raises OptionError: no stores, or what is none, or a number that cannot work.
    """

    def __init__(
        self,
        stores: Sequence[Blockstore],
        *,
        slow_s: float = 5.0,
        trial_s: float = 0.25,
        timeout_s: float | None = None,
        demote_s: float = 1.0,
        demote_max_s: float = 60.0,
        window_bytes: int = 64 * 2**20,
    ) -> None:
        self._stores = tuple(stores)
        if not self._stores:
            raise OptionError("a TieredBlockstore needs one store at least")
        for store in self._stores:
            check_store(store)
        timeout_s = TIMEOUT_FACTOR * slow_s if timeout_s is None else timeout_s
        for name, value in (("slow_s", slow_s), ("trial_s", trial_s), ("timeout_s", timeout_s)):
            if not value > 0:
                raise OptionError(f"{name} is {value}; more than 0 is needed")
        if not (0 <= demote_s < math.inf and 0 <= demote_max_s < math.inf and window_bytes > 0):
            raise OptionError(
                f"demote_s {demote_s}, demote_max_s {demote_max_s}, window_bytes {window_bytes}: none below 0 will do"
            )
        self._demote_s = demote_s
        self._demote_max_s = demote_max_s
        self._options = TierOptions(slow_s, min(slow_s, trial_s), timeout_s, window_bytes)
        self._by_process: dict[int, list[TierSource]] = {}

    def __repr__(self) -> str:
        return f"TieredBlockstore({list(self._stores)!r})"

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_by_process": {}}

    @property
    def stores(self) -> tuple[Blockstore, ...]:
        """The sources, in their order."""
        return self._stores

    def with_stores(self, stores: Iterable[Blockstore]) -> Self:
        """Other sources, with the options of this store."""
        other = copy.copy(self)
        other._stores = tuple(stores)  # noqa: SLF001 - of this class
        return other

    @property
    def is_remote(self) -> bool:
        """Whether all its sources are of the network."""
        return all(getattr(store, "is_remote", False) for store in self._stores)

    @property
    def unreachable_at(self) -> float | None:
        """Since when none of its sources could be reached."""
        moments = [moment for store in self._stores if (moment := unreachable_at(store)) is not None]
        return min(moments) if len(moments) == len(self._stores) else None

    @property
    def source(self) -> str:
        """The names of the sources, in their order."""
        return ", ".join(source_of(store) for store in self._stores)

    def get(self, cid: CID) -> Block:
        if (identity := identity_block(cid)) is not None:
            return identity
        sources = self._sources()
        request = TierRequest(cid)
        block = _at_once(sources, request)
        if block is not None:
            return block

        def send(source: TierSource, request: TierRequest) -> None:
            source.calls.submit(lambda: _call(router, source, request))

        router = TierRouter(sources, self._options, send)
        router.ask(request)
        answer = router.wait(request)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def get_many(self, cids: Iterable[CID], *, return_exceptions: bool = False) -> Iterator[Block | TorchIPFSError]:
        return TierReads(self._sources(), self._options).answers(cids, return_exceptions=return_exceptions)

    def linked_at_hand(self, node: CID) -> AtHand | None:
        """What a cache among the sources has of the blocks that a node links to, where they came together."""
        for store in self._stores:
            if (found := linked_at_hand(store, node)) is not None:
                return found
        return None

    def get_linked(self, node: CID, cids: Sequence[CID]) -> Generator[tuple[bytes, Block], None, None] | None:
        """As :class:`~torch_ipfs.blockstore.base.LinkedBlockstore` has it, from the first source that is up."""
        for source in self._sources():
            if source.is_local and source.has_any(cids):
                return None
            if source.is_up and (blocks := source.linked(node, cids)) is not None:
                return blocks
        return None

    def has(self, cid: CID) -> bool:
        """Whether any source holds ``cid``. Local ones are asked first, demoted ones last.

        :raises TransportError: none says so, and some could not be asked.
        """
        if identity_block(cid) is not None:
            return True
        errors = []
        for source in sorted(self._sources(), key=lambda source: (not source.is_local, not source.is_up)):
            try:
                if source.store.has(cid):
                    return True
            except TorchIPFSError as error:
                errors.append(f"{source.name}: {reason(error)}")
        if errors:
            raise TransportError(f"not all sources could be asked: {'; '.join(errors)}", cid=cid, source=self.source)
        return False

    def put(self, cid: CID, data: Block) -> None:
        """Keep a block in the first source that takes it."""
        self._first_writable(lambda store: store.put(cid, data), cid)

    def put_many(self, blocks: Iterable[tuple[CID, Block]]) -> None:
        # Lists, which may be put again elsewhere if they cannot be put here.
        for batch in in_batches(blocks, PUT_BATCH_BLOCKS, PUT_BATCH_BYTES):
            self._first_writable(methodcaller("put_many", batch), batch[0][0])

    def cids(self) -> Iterator[CID]:
        """What the sources hold, each block once."""
        seen: set[bytes] = set()
        for store in self._stores:
            for cid in store.cids():
                if cid.multihash not in seen:
                    seen.add(cid.multihash)
                    yield cid

    def stats(self) -> dict[str, list[dict[str, object]]]:
        """What each source did for this process: ``{"sources": [...]}``, in their order.

        Of each: its name (``source``), blocks and bytes that it gave and that were used (``served``, ``bytes``), how often it
        had not got a block (``not_found``), refused one (``refused``), could not be reached or broke off (``failed``), gave
        bad bytes (``bad_blocks``) and kept a reader waiting (``slow``), and whether it is demoted now (``demoted``).
        """
        return {"sources": [source.stats() for source in self._sources()]}

    def close(self) -> None:
        for source in self._by_process.get(os.getpid(), ()):
            source.calls.close()
        for store in self._stores:
            store.close()

    def _sources(self) -> list[TierSource]:
        pid = os.getpid()
        sources = self._by_process.get(pid)
        if sources is None:
            sources = [
                TierSource(place, store, SourceHealth(self._demote_s, self._demote_max_s))
                for place, store in enumerate(self._stores)
            ]
            # One step under the GIL: threads that are here at once get the same.
            sources = self._by_process.setdefault(pid, sources)
        return sources

    def _first_writable(self, write: Callable[[Blockstore], None], cid: CID) -> None:
        errors = []
        for store in self._stores:
            try:
                write(store)
            except TransportError as error:
                errors.append(f"{source_of(store)}: {reason(error)}")
            else:
                return
        raise TransportError(f"no source takes blocks: {'; '.join(errors)}", cid=cid, source=self.source)


def _at_once(sources: list[TierSource], request: TierRequest) -> Block | None:
    """The block from the local stores and caches that come first; what they say otherwise is noted."""
    for source in sources:
        asked_at = time.monotonic()
        block = source.at_hand(request.cid)
        if block is None:
            if not source.is_local or not source.is_up:
                return None
            request.asked_at[source.place] = asked_at
            try:
                block = source.get(request.cid)
            except TorchIPFSError as error:
                request.errors[source.place] = error
                source.failed(request.cid, error, asked_at)
                continue
        source.gave(request.cid, block, asked_at)
        return block
    return None


def _call(router: TierRouter, source: TierSource, request: TierRequest) -> None:
    if request.settled:
        return
    try:
        answer: Block | BaseException = source.get(request.cid)
    except BaseException as error:  # noqa: BLE001 - whoever waits for the answer is told
        answer = error
    router.answered(source, request, answer)
