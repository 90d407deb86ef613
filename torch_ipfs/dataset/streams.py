"""Streams of what nodes of samples link to, read ahead by threads, and the blocks that have come in them.

The threads know :class:`Streams` alone, so that a reader who is left without being closed is collected, and ends them.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter, deque
from contextlib import closing

from torch_ipfs.blockstore.base import AtHand, Block, LinkedBlockstore, linked_at_hand
from torch_ipfs.blockstore.collecting import join
from torch_ipfs.codec.cid import CID
from torch_ipfs.manifest.leaf import Leaf

STREAMS = 4
"""Streams that are read at once."""

WINDOW_BYTES = 64 * 2**20
"""Bytes of blocks that have come and are not yet asked for; above them no stream is begun or read on."""

MIN_STREAMED = 16
"""Samples of a node that are worth a stream."""

MAX_STREAMED_BYTES = 32 * 2**10
"""Mean size of the samples up to which a stream is worth it. By benchmarks/network.py blocks of 1 KiB come nine times as fast
in it as in requests side by side (three times by RPC), of 16 KiB twice as fast, of 64 KiB 1.2 times, of 256 KiB half as fast.
"""

JUDGED_AFTER = 16
"""Blocks of a stream after which their mean size is looked at."""

RESTED_S, MOST_RESTED_S = 30.0, 600.0
"""How long no stream is begun after one has failed, twice as long each time: a source may have none at all."""

FAREWELL_S = 1.0
_PAUSE_S = 0.002

log = logging.getLogger(__name__)


class Streaming:
    """What a reader of one dataset has learnt about its streams."""

    def __init__(self) -> None:
        self.mean_bytes = 0.0
        self.is_cached = True
        """Whether what comes in a stream is found in a cache afterwards, as far as was seen."""
        self._rests_until = 0.0
        self._rested_s = RESTED_S
        self._has_failed = False

    def pays(self, wanted: int, count: int) -> bool:
        """Whether a node of ``count`` samples, of which ``wanted`` are wanted soon, is worth a stream."""
        return (
            wanted >= MIN_STREAMED
            and 2 * wanted > count
            and self.mean_bytes <= MAX_STREAMED_BYTES
            and time.monotonic() >= self._rests_until
        )

    def ended(self) -> None:
        """A stream has brought everything."""
        self._rested_s = RESTED_S

    def failed(self, node: CID, error: Exception) -> None:
        """A stream has ended with an error, of which the first is worth a warning."""
        self._rests_until = time.monotonic() + self._rested_s
        self._rested_s = min(2 * self._rested_s, MOST_RESTED_S)
        level = logging.INFO if self._has_failed else logging.WARNING
        self._has_failed = True
        log.log(level, "samples that %s links to are asked for one by one, their stream failed: %s", node, error)


class LinkedNode:
    """A node of samples whose blocks are wanted.

    :param ahead: requests that were looked at and not decided.
    :param at_hand: where its blocks are that were kept together, if they are.
    :param blocks: what has come in its stream, by multihash.
    :param uses: how many requests are to get a block of the stream, by multihash.
    """

    __slots__ = ("ahead", "at_hand", "blocks", "into_cache", "is_read", "is_streamed", "leaf", "uses")

    def __init__(self, leaf: Leaf, at_hand: AtHand | None) -> None:
        self.leaf, self.at_hand = leaf, at_hand
        self.ahead = 0
        self.is_streamed = self.is_read = self.into_cache = False
        self.uses: Counter[bytes] = Counter()
        self.blocks: dict[bytes, Block] = {}

    def gives(self, multihash: bytes) -> bool:
        """Whether a block is there, or may still come in the stream."""
        if self.at_hand is not None and multihash in self.at_hand:
            return True
        return self.is_streamed and (not self.is_read or multihash in self.blocks)

    @property
    def is_unused(self) -> bool:
        """Whether nothing of it is wanted at present, nor on its way."""
        return not self.ahead and not self.uses and (self.is_read or not self.is_streamed)


class Streams:
    """The streams of one iterator, and what they have brought."""

    def __init__(self, store: LinkedBlockstore, streaming: Streaming) -> None:
        self._store, self._streaming = store, streaming
        self._changed = threading.Condition()
        self._queue: deque[tuple[LinkedNode, list[CID]]] = deque()
        self._threads: list[threading.Thread] = []
        self._held_bytes = 0
        self._is_awaited = self._is_closed = False
        self._process = os.getpid()

    @property
    def held_bytes(self) -> int:
        """Bytes of the blocks that have come and were not dropped."""
        return self._held_bytes

    def at_hand(self, node: CID) -> AtHand | None:
        """The blocks that a node links to, where a cache has them together."""
        return linked_at_hand(self._store, node)

    def begin(self, node: LinkedNode, links: list[CID], *, into_cache: bool) -> None:
        """Have the blocks ``links`` come in a stream of ``node``, where there is room for them.

        :param into_cache: have them come into the cache, to be at hand there when all have come; nothing is held then.
        """
        with self._changed:
            if self._held_bytes > WINDOW_BYTES:
                return
            node.is_streamed, node.into_cache = True, into_cache
            self._queue.append((node, links))
            self._changed.notify_all()
        if len(self._threads) < STREAMS:
            thread = threading.Thread(target=self._run, name="torch_ipfs-linked", daemon=True)
            self._threads.append(thread)
            thread.start()

    def get(self, node: LinkedNode, multihash: bytes) -> Block | None:
        """A block of a node's stream, waited for; ``None`` where it has ended without it."""
        block = node.blocks.get(multihash)
        if block is not None or not node.is_streamed:
            return block
        with self._changed:
            self._is_awaited = True
            self._changed.notify_all()
            while (block := node.blocks.get(multihash)) is None and not node.is_read:
                # Not woken by each block: a switch of threads costs more than a small one.
                self._changed.wait(_PAUSE_S)
            self._is_awaited = False
        return block

    def drop(self, node: LinkedNode, multihash: bytes) -> None:
        """Let go of a block, if it is there."""
        with self._changed:
            block = node.blocks.pop(multihash, None)
            if block is not None:
                self._held_bytes -= len(block)

    def drop_all(self, node: LinkedNode) -> None:
        """Let go of what is there of a node's stream, which has been read."""
        with self._changed:
            self._held_bytes -= sum(map(len, node.blocks.values()))
            node.blocks.clear()

    def close(self) -> None:
        """Break off what is on its way. A thread that a server keeps waiting ends as soon as that has gone on for too long."""
        if os.getpid() != self._process:
            return  # a fork has no threads, and locks that may never be free
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        for thread in self._threads:
            join(thread, FAREWELL_S)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._queue and not self._is_closed:
                    self._changed.wait()
                if self._is_closed:
                    return
                node, links = self._queue.popleft()
            self._read(node, links)

    def _read(self, node: LinkedNode, links: list[CID]) -> None:
        """Read a node's stream to its end, or until it is clear that it does not pay."""
        blocks = read_bytes = 0
        try:
            stream = self._store.get_linked(node.leaf.cid, links)
            if stream is None:
                return
            with closing(stream):
                for multihash, block in stream:
                    blocks, read_bytes = blocks + 1, read_bytes + len(block)
                    if not self._take(node, multihash, block):
                        return
                    if node.into_cache and blocks == 1 and self.at_hand(node.leaf.cid) is not None:
                        return  # another process has read it
                    if blocks >= JUDGED_AFTER:
                        self._streaming.mean_bytes = read_bytes / blocks
                        if self._streaming.mean_bytes > MAX_STREAMED_BYTES:
                            return
            self._streaming.ended()
        except Exception as error:  # noqa: BLE001 - what is missing is asked for one by one; an error that stays is seen then
            self._streaming.failed(node.leaf.cid, error)
        finally:
            if node.into_cache:
                node.at_hand = self.at_hand(node.leaf.cid)
                self._streaming.is_cached = node.at_hand is not None or not blocks
            with self._changed:
                node.is_read = True
                self._changed.notify_all()

    def _take(self, node: LinkedNode, multihash: bytes, block: Block) -> bool:
        """Hold a block until it is wanted; ``False`` where nothing is wanted any more."""
        if node.into_cache:
            return not self._is_closed
        with self._changed:
            node.blocks[multihash] = block
            self._held_bytes += len(block)
            while self._held_bytes > WINDOW_BYTES and not self._is_awaited and not self._is_closed:
                self._changed.wait()
            return not self._is_closed
