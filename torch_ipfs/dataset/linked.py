"""Blocks that nodes of samples link to: in one stream a node where most of them are wanted, one by one where few are.

Requests are taken far ahead, so that it can be seen how many of a node's samples are wanted soon, and answered in their order.
What a stream does not bring, whatever the reason, is asked of the store's ``get_many`` with what is asked for one by one.

The workers of a loader share nodes: what one of them wants few of, another may want most of, and a stream brings all. Where
they share a cache too, they decide by what all of them want, so that all decide the same: one of them has the stream come into
the cache, and the others find it there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch_ipfs.blockstore.base import Block, Blockstore, close_iterator, source_of
from torch_ipfs.blockstore.open import is_uncached
from torch_ipfs.codec.cid import DAG_CBOR, DAG_JSON, CID
from torch_ipfs.dataset import streams
from torch_ipfs.dataset.streams import LinkedNode, Streaming, Streams
from torch_ipfs.errors import TorchIPFSError, TransportError
from torch_ipfs.manifest.leaf import Leaf

Answer = Block | TorchIPFSError
Wanted = tuple[CID, Leaf | None]
"""A block, and the node of samples that links to it, if one does."""

LOOKED_AHEAD = 16_384
"""Requests that are looked at to see how many of a node's samples are wanted: eight nodes of those that we write."""

DECIDED_AHEAD = 2048
"""Requests for which it is decided, before their turn, how their blocks are got: as many as a stream brings in 0.1 s."""

MOST_NODES = 256
"""Nodes that are remembered; then those are forgotten of which nothing is wanted."""


@dataclass(frozen=True, slots=True)
class Sharing:
    """How the workers of a loader share a dataset of which they want each sample.

    :param workers: how many there are.
    :param lanes: places of the dataset that are read side by side.
    """

    workers: int
    lanes: int

    def wanted_soon(self, count: int) -> int:
        """How many of a node's ``count`` samples all workers together can look ahead to."""
        return min(count, self.workers * LOOKED_AHEAD // self.lanes)


class _Request:
    __slots__ = ("answer", "cid", "is_asked", "multihash", "node")

    def __init__(self, cid: CID, node: LinkedNode | None) -> None:
        self.cid, self.node = cid, node
        self.multihash = cid.multihash
        self.answer: Answer | None = None
        self.is_asked = False
        """Asked for one by one."""


class LinkedReads:
    """The blocks that one iterator wants, in its order.

    :param store: one that can also give what a node links to (:class:`~torch_ipfs.blockstore.base.LinkedBlockstore`).
    :param next_wanted: the next request; ``None`` where there is none at present.
    :param links_of: what a leaf links to.
    :param sharing: with whom the nodes are shared, where that is known.
    """

    def __init__(
        self,
        store: Blockstore,
        next_wanted: Callable[[], Wanted | None],
        links_of: Callable[[Leaf], Sequence[Any]],
        streaming: Streaming,
        streams: Streams,
        *,
        sharing: Sharing | None = None,
    ) -> None:
        self._store, self._next_wanted, self._links_of = store, next_wanted, links_of
        self._streaming, self._streams = streaming, streams
        self._sharing = None if is_uncached(store) else sharing
        self._nodes: dict[CID, LinkedNode] = {}
        self._looked_at: deque[_Request] = deque()
        self._decided: deque[_Request] = deque()
        self._to_ask: deque[_Request] = deque()
        self._asked: deque[_Request] = deque()
        self._singles: Iterator[Answer] | None = None
        self._failure: Exception | None = None

    def answers(self) -> Iterator[Answer]:
        """The blocks, or why they could not be had. Closing it breaks off what is on its way."""
        try:
            while True:
                self._look_ahead()
                self._decide()
                if not self._decided:
                    if self._failure is not None:
                        raise self._failure
                    return
                yield self._answer(self._decided.popleft())
        finally:
            close_iterator(self._singles)
            self._streams.close()

    def _look_ahead(self) -> None:
        try:
            while self._failure is None and len(self._looked_at) < LOOKED_AHEAD:
                wanted = self._next_wanted()
                if wanted is None:
                    return
                cid, leaf = wanted
                node = None if leaf is None else self._nodes.get(leaf.cid) or self._new_node(leaf)
                if node is not None:
                    node.ahead += 1
                self._looked_at.append(_Request(cid, node))
        except Exception as failure:  # noqa: BLE001 - raised in its place: what was wanted before it is given out before it
            self._failure = failure

    def _new_node(self, leaf: Leaf) -> LinkedNode:
        if len(self._nodes) >= MOST_NODES or self._streams.held_bytes > streams.WINDOW_BYTES // 2:
            self._forget()
        node = self._nodes[leaf.cid] = LinkedNode(leaf, self._streams.at_hand(leaf.cid))
        return node

    def _forget(self) -> None:
        """Let go of nodes of which nothing is wanted at present; what was left of their streams may be wanted again."""
        for cid, node in list(self._nodes.items()):
            if node.is_unused:
                self._streams.drop_all(node)
                del self._nodes[cid]

    def _decide(self) -> None:
        """Decide for the next requests how their blocks are got, and begin to get them."""
        while self._looked_at and len(self._decided) < DECIDED_AHEAD:
            request = self._looked_at.popleft()
            self._decided.append(request)
            node = request.node
            if node is not None:
                if not node.is_streamed and node.at_hand is None:
                    self._stream(node)
                node.ahead -= 1
                if node.gives(request.multihash):
                    node.uses[request.multihash] += 1
                    continue
            self._ask(request)

    def _stream(self, node: LinkedNode) -> None:
        """Have a node's blocks come in a stream, if it has one and that pays."""
        sharing = self._sharing if self._streaming.is_cached else None
        wanted = node.ahead if sharing is None else sharing.wanted_soon(node.leaf.count)
        if not self._streaming.pays(wanted, node.leaf.count):
            return
        # Text names a block too, but is no link: no server follows it.
        links = [link for link in self._links_of(node.leaf) if isinstance(link, CID)]
        if node.leaf.cid.codec in (DAG_CBOR, DAG_JSON) and 2 * len(links) > node.leaf.count:
            self._streams.begin(node, links, into_cache=sharing is not None)

    def _ask(self, request: _Request) -> None:
        request.is_asked = True
        self._to_ask.append(request)

    def _answer(self, request: _Request) -> Answer:
        node = request.node
        if node is not None and not request.is_asked:
            block = None if node.at_hand is None else node.at_hand.get(request.multihash)
            if block is None:
                block = self._streams.get(node, request.multihash)
            if block is None and node.at_hand is not None:  # it came into the cache
                block = node.at_hand.get(request.multihash)
            self._use(node, request.multihash)
            if block is not None:
                return block
            self._ask_singly(request, node)
        while request.answer is None:
            self._receive()
        return request.answer

    def _use(self, node: LinkedNode, multihash: bytes) -> None:
        """Count that a request has had its block of a node, and let go of the block after the last one."""
        node.uses[multihash] -= 1
        if not node.uses[multihash]:
            del node.uses[multihash]
            self._streams.drop(node, multihash)

    def _ask_singly(self, request: _Request, node: LinkedNode) -> None:
        """Ask for what a node has not given after all, for all requests that were to get such."""
        self._ask(request)
        for other in self._decided:
            if other.node is node and not other.is_asked and not node.gives(other.multihash):
                self._use(node, other.multihash)
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
            raise ended_early(self._store, len(self._asked), self._asked[0].cid)

    def _next_singles(self) -> Iterator[CID]:
        while self._to_ask:
            request = self._to_ask.popleft()
            self._asked.append(request)
            yield request.cid


def ended_early(store: Blockstore, owing: int, cid: CID) -> TransportError:
    """The error for a ``get_many`` that has ended before it had answered for so many blocks, of which ``cid`` is the first."""
    return TransportError(f"the store's get_many ended with {owing} blocks owing", cid=cid, source=source_of(store))
