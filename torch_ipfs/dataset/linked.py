"""Blocks that nodes of samples link to: in one stream a node where most of them are wanted, one by one where few are.

Requests are taken far ahead, so that it can be seen how many of a node's samples are wanted soon, and answered in their order.
A node's stream (a CAR, from stores that have them) is read by a thread of its own; what it does not bring, whatever the
reason, is asked of the store's ``get_many`` with what is asked for one by one.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from typing import Any, Protocol

from torch_ipfs.blockstore.base import Block, Blockstore, LinkedBlockstore
from torch_ipfs.codec.cid import DAG_CBOR, DAG_JSON, CID
from torch_ipfs.errors import TorchIPFSError, TransportError
from torch_ipfs.manifest.tree import Leaf

Answer = Block | TorchIPFSError
Wanted = tuple[CID, Leaf | None]
"""A block, and the node of samples that links to it, if one does."""

LOOKED_AHEAD = 16_384
"""Requests that are looked at to see how many of a node's samples are wanted: eight nodes of those that we write."""

DECIDED_AHEAD = 2048
"""Requests for which it is decided, before their turn, how their blocks are got: as many as a node's stream brings in 0.1 s."""

STREAMS = 4
"""Streams that are read at once."""

WINDOW_BYTES = 64 * 2**20
"""Bytes of blocks that have come in streams and are not yet asked for; above them no stream is begun or read on."""

MOST_NODES = 256
"""Nodes that are remembered; then those are forgotten of which nothing is wanted."""

MIN_STREAMED = 16
"""Samples of a node that are worth a stream."""

MAX_STREAMED_BYTES = 64 * 2**10
"""Mean size of the samples up to which they come faster in a stream (benchmarks/network.py): at 1 KiB it is four times as fast
as single requests, at 1 MiB half as fast."""

JUDGED_AFTER = 16
"""Blocks of a stream after which their mean size is looked at."""

RESTED_S = 30.0
"""How long no stream is begun after one has failed."""

FAREWELL_S = 1.0
_PAUSE_S = 0.002

log = logging.getLogger(__name__)


class Streaming:
    """What a reader of one dataset has learnt about its streams."""

    def __init__(self) -> None:
        self.mean_bytes = 0.0
        self._rests_until = 0.0

    def pays(self, wanted: int, count: int) -> bool:
        """Whether a node of ``count`` samples, of which ``wanted`` are wanted soon, is worth a stream."""
        return (
            wanted >= MIN_STREAMED
            and 2 * wanted > count
            and self.mean_bytes <= MAX_STREAMED_BYTES
            and time.monotonic() >= self._rests_until
        )

    def failed(self) -> None:
        """A stream has ended with an error."""
        self._rests_until = time.monotonic() + RESTED_S


class AtHand(Protocol):
    """Verified blocks by multihash; of one that has gone bad ``get`` gives ``None``."""

    def __contains__(self, multihash: bytes, /) -> bool: ...

    def get(self, multihash: bytes, /) -> Block | None: ...


class _Node:
    """A node of samples whose blocks are wanted.

    :param ahead: requests that were looked at and not decided.
    :param at_hand: where its blocks are that were kept together, if they are.
    :param blocks: what has come in its stream, by multihash.
    :param uses: how many requests are to get a block of the stream, by multihash.
    """

    __slots__ = ("ahead", "at_hand", "blocks", "is_read", "is_streamed", "leaf", "uses")

    def __init__(self, leaf: Leaf, at_hand: AtHand | None) -> None:
        self.leaf, self.at_hand = leaf, at_hand
        self.ahead = 0
        self.is_streamed = self.is_read = False
        self.uses: Counter[bytes] = Counter()
        self.blocks: dict[bytes, Block] = {}

    def gives(self, multihash: bytes) -> bool:
        """Whether a block is there, or may still come in the stream."""
        if self.at_hand is not None and multihash in self.at_hand:
            return True
        return self.is_streamed and (not self.is_read or multihash in self.blocks)


class _Request:
    __slots__ = ("answer", "cid", "is_asked", "multihash", "node")

    def __init__(self, cid: CID, node: _Node | None) -> None:
        self.cid, self.node = cid, node
        self.multihash = cid.multihash
        self.answer: Answer | None = None
        self.is_asked = False


class LinkedReads:
    """The blocks that one iterator wants, in its order.

    :param next_wanted: the next request; ``None`` where there is none at present.
    :param links_of: what a leaf links to.
    """

    def __init__(
        self,
        store: Blockstore,
        next_wanted: Callable[[], Wanted | None],
        links_of: Callable[[Leaf], Sequence[Any]],
        streaming: Streaming,
    ) -> None:
        self._store, self._next_wanted, self._links_of, self._streaming = store, next_wanted, links_of, streaming
        self._nodes: dict[CID, _Node] = {}
        self._looked_at: deque[_Request] = deque()
        self._decided: deque[_Request] = deque()
        self._to_ask: deque[_Request] = deque()
        self._asked: deque[_Request] = deque()
        self._singles: Iterator[Answer] | None = None
        self._changed = threading.Condition()
        self._streams: deque[tuple[_Node, list[CID]]] = deque()
        self._threads: list[threading.Thread] = []
        self._held_bytes = 0
        self._awaits_stream = self._is_closed = False

    def answers(self) -> Iterator[Answer]:
        """The blocks, or why they could not be had. Closing it breaks off what is on its way."""
        try:
            while True:
                self._look_ahead()
                self._decide()
                if not self._decided:
                    return
                yield self._answer(self._decided.popleft())
        finally:
            self._close()

    def _look_ahead(self) -> None:
        while len(self._looked_at) < LOOKED_AHEAD and (wanted := self._next_wanted()) is not None:
            cid, leaf = wanted
            node = None
            if leaf is not None:
                node = self._nodes.get(leaf.cid) or self._new_node(leaf)
                node.ahead += 1
            self._looked_at.append(_Request(cid, node))

    def _new_node(self, leaf: Leaf) -> _Node:
        if len(self._nodes) >= MOST_NODES or self._held_bytes > WINDOW_BYTES // 2:
            self._forget()
        at_hand = getattr(self._store, "linked_at_hand", None)
        node = self._nodes[leaf.cid] = _Node(leaf, None if at_hand is None else at_hand(leaf.cid))
        return node

    def _forget(self) -> None:
        """Let go of nodes of which nothing is wanted at present; what was left of their streams may be wanted again."""
        with self._changed:
            for cid, node in list(self._nodes.items()):
                if not node.ahead and not node.uses and (node.is_read or not node.is_streamed):
                    self._held_bytes -= sum(map(len, node.blocks.values()))
                    del self._nodes[cid]

    def _decide(self) -> None:
        while self._looked_at and len(self._decided) < DECIDED_AHEAD:
            request = self._looked_at.popleft()
            self._decided.append(request)
            node = request.node
            if node is not None:
                if not node.is_streamed and node.at_hand is None and self._streaming.pays(node.ahead, node.leaf.count):
                    self._stream(node)
                node.ahead -= 1
                if node.gives(request.multihash):
                    node.uses[request.multihash] += 1
                    continue
            self._ask(request)

    def _ask(self, request: _Request) -> None:
        request.is_asked = True
        self._to_ask.append(request)

    def _answer(self, request: _Request) -> Answer:
        node = request.node
        if node is not None and not request.is_asked:
            block = self._given(node, request.multihash)
            node.uses[request.multihash] -= 1
            if not node.uses[request.multihash]:
                del node.uses[request.multihash]
                self._drop(node, request.multihash)
            if block is not None:
                return block
            self._ask_singly(request, node)
        while request.answer is None:
            self._receive()
        return request.answer

    def _given(self, node: _Node, multihash: bytes) -> Block | None:
        """A block of a node that is at hand or streamed, waited for; ``None`` where the stream has ended without it."""
        if node.at_hand is not None and (block := node.at_hand.get(multihash)) is not None:
            return block
        if (block := node.blocks.get(multihash)) is not None or not node.is_streamed:
            return block
        with self._changed:
            self._awaits_stream = True
            self._changed.notify_all()
            while (block := node.blocks.get(multihash)) is None and not node.is_read:
                # Not woken by each block: a switch of threads costs more than a small one.
                self._changed.wait(_PAUSE_S)
            self._awaits_stream = False
        return block

    def _drop(self, node: _Node, multihash: bytes) -> None:
        with self._changed:
            block = node.blocks.pop(multihash, None)
            if block is not None:
                self._held_bytes -= len(block)

    def _ask_singly(self, request: _Request, node: _Node) -> None:
        """Ask for what a node has not given after all, for all requests that were to get such."""
        self._ask(request)
        for other in self._decided:
            if other.node is node and not other.is_asked and not node.gives(other.multihash):
                node.uses[other.multihash] -= 1
                if not node.uses[other.multihash]:
                    del node.uses[other.multihash]
                self._ask(other)

    def _receive(self) -> None:
        """Take the next block that was asked for by itself."""
        if self._singles is None:
            self._singles = self._store.get_many(self._next_singles(), return_exceptions=True)
        answer = next(self._singles, None)
        if answer is not None:
            self._asked.popleft().answer = answer
            return
        self._singles = None
        if self._asked:
            raise TransportError(
                f"the store's get_many ended with {len(self._asked)} blocks owing",
                cid=self._asked[0].cid,
                source=getattr(self._store, "source", None),
            )

    def _next_singles(self) -> Iterator[CID]:
        while self._to_ask:
            request = self._to_ask.popleft()
            self._asked.append(request)
            yield request.cid

    def _stream(self, node: _Node) -> None:
        """Have a node's blocks come in a stream, where it has one and there is room for them."""
        # Text names a block too, but is no link: no server follows it.
        links = [link for link in self._links_of(node.leaf) if isinstance(link, CID)]
        if node.leaf.cid.codec not in (DAG_CBOR, DAG_JSON) or 2 * len(links) <= node.leaf.count:
            return
        with self._changed:
            if self._held_bytes > WINDOW_BYTES:
                return
            node.is_streamed = True
            self._streams.append((node, links))
            self._changed.notify_all()
        if len(self._threads) < STREAMS:
            thread = threading.Thread(target=self._read_streams, name="torch_ipfs-linked", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _read_streams(self) -> None:
        while True:
            with self._changed:
                while not self._streams and not self._is_closed:
                    self._changed.wait()
                if self._is_closed:
                    return
                node, links = self._streams.popleft()
            self._read_stream(node, links)

    def _read_stream(self, node: _Node, links: list[CID]) -> None:
        """Read a node's stream to its end, or until it is clear that it does not pay."""
        assert isinstance(self._store, LinkedBlockstore)
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
                    if blocks >= JUDGED_AFTER:
                        self._streaming.mean_bytes = read_bytes / blocks
                        if self._streaming.mean_bytes > MAX_STREAMED_BYTES:
                            return
        except Exception as error:  # noqa: BLE001 - asked for one by one, what it was is seen again if it stays
            self._streaming.failed()
            log.warning("the samples of %s are asked for one by one: their stream has ended: %s", node.leaf.cid, error)
        finally:
            with self._changed:
                node.is_read = True
                self._changed.notify_all()

    def _take(self, node: _Node, multihash: bytes, block: Block) -> bool:
        """Hold a block until it is wanted; ``False`` where nothing is wanted any more."""
        with self._changed:
            node.blocks[multihash] = block
            self._held_bytes += len(block)
            while self._held_bytes > WINDOW_BYTES and not self._awaits_stream and not self._is_closed:
                self._changed.wait()
            return not self._is_closed

    def _close(self) -> None:
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        close = getattr(self._singles, "close", None)
        if close is not None:
            with suppress(TorchIPFSError):
                close()
        for thread in self._threads:
            thread.join(FAREWELL_S)
