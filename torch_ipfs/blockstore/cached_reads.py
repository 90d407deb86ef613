"""``get_many`` of a cache: in order, what is there from the disk, what is not in one window of the store below.

Each block goes one of four ways, and only the reader ever waits:

- It is there and checked: answered at once.
- It is there, is large, and was not checked by this process yet: a thread hashes it, where a core is to spare.
- It is missing, and nobody fetches it: it is claimed, and fetched by the store's ``get_many`` in a thread of its own, which
  puts it into the cache and lets go of the claim as soon as it comes, however slow the reader is.
- It is missing, and somebody else fetches it: looked for when it is its turn.

A thread that holds claims waits for nobody's claim, so that lists that overlap in any order cannot lock each other out.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from functools import partial

from torch_ipfs.blockstore.base import MAX_BLOCK_BYTES, Block, identity_block, when_left
from torch_ipfs.blockstore.collecting import put_off
from torch_ipfs.blockstore.disk_cache import Unchecked
from torch_ipfs.blockstore.fetch_ahead import Ahead, Answer, FetchThread, Request
from torch_ipfs.blockstore.fetch_once import FetchOnce
from torch_ipfs.blockstore.hash_ahead import INLINE_BYTES, HashThreads, spare_threads
from torch_ipfs.blockstore.held_claims import Claim
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import TorchIPFSError


class _CachedRequest(Request):
    __slots__ = ("multihash",)

    def __init__(self, cid: CID) -> None:
        super().__init__(cid)
        self.multihash = cid.multihash


class CachedReads:
    """One ``get_many``: what was asked ahead, and the threads that answer it."""

    def __init__(self, blocks: FetchOnce, window_bytes: int) -> None:
        self._blocks = blocks
        self._disk = blocks.disk
        self._ahead: Ahead[_CachedRequest] = Ahead(window_bytes)
        self._fetcher = FetchThread(
            blocks.store, self._fetched, self._admit, lambda request: self._release(request.multihash)
        )
        hash_threads = spare_threads()
        self._most_inline_bytes = INLINE_BYTES if hash_threads else MAX_BLOCK_BYTES
        self._hash_threads = HashThreads(hash_threads)
        self._claimed: dict[bytes, Claim] = {}
        self._mutex = threading.Lock()

    def answers(self, cids: Iterable[CID], *, return_exceptions: bool) -> Iterator[Block | TorchIPFSError]:
        """What :meth:`torch_ipfs.blockstore.base.Blockstore.get_many` promises."""
        when_left(cids, self._ahead.leave)
        try:
            yield from self._ahead.in_order(map(self._ask, cids), self._finish, return_exceptions=return_exceptions)
        finally:
            self._close()

    def _ask(self, cid: CID) -> _CachedRequest:
        request = _CachedRequest(cid)
        try:
            block = self._disk.read(request.multihash, most_unchecked_bytes=self._most_inline_bytes)
        except TorchIPFSError as error:
            request.answer_now(error)
            return request
        if block is None:
            self._ask_below(request)
        elif isinstance(block, Unchecked):
            self._ahead.hold(request, block.size_bytes)
            self._hash_threads.submit(partial(self._hash, request))
        else:
            self._blocks.count_hit(len(block))
            request.answer_now(block)
        return request

    def _ask_below(self, request: _CachedRequest) -> None:
        identity = identity_block(request.cid)
        if identity is None:
            self._fetcher.ask(request)
        else:
            request.answer_now(identity)

    def _finish(self, request: _CachedRequest) -> Answer:
        while not request.settled and self._hash_threads.help():
            pass
        with self._ahead.changed:
            while not request.settled:
                self._ahead.check_wanted()
                self._ahead.changed.wait()
        if request.answer is not None:
            return request.answer
        try:
            return self._blocks.get(request.cid)
        except TorchIPFSError as error:
            return error

    def _hash(self, request: _CachedRequest) -> None:
        try:
            block = self._blocks.read(request.multihash)
        except Exception as error:  # noqa: BLE001 - whoever waits for the answer is told
            self._ahead.settle(request, error)
            return
        if block is not None:
            self._ahead.settle(request, block)
            return
        try:
            self._fetcher.ask(request)
        except TorchIPFSError as error:
            self._ahead.settle(request, error)

    def _admit(self, request: _CachedRequest) -> bool:
        """Claim a block before the store is asked for it."""
        if not self._disk.is_writable:
            return True
        claims = self._blocks.claims
        claim = claims.claim(request.multihash)
        if claim is None:
            self._ahead.settle(request, None)
            return False
        if self._disk.has(request.multihash):  # it came before it was claimed
            claims.release(claim)
            self._ahead.settle(request, None)
            return False
        with self._mutex:
            self._claimed[request.multihash] = claim
        return True

    def _fetched(self, request: _CachedRequest, answer: Answer) -> None:
        try:
            if not isinstance(answer, BaseException):
                answer = self._blocks.check(request.cid, answer)
        except TorchIPFSError as error:
            answer = error
        if isinstance(answer, BaseException):
            self._blocks.count_failure()
            self._release(request.multihash)
            self._ahead.settle(request, answer)
            return
        if self._blocks.keep(request.multihash, answer):
            # Given out as a map, which takes no memory of this process's own; what it came in is soon free for the next block.
            kept = self._disk.read(request.multihash)
            answer = answer if kept is None or isinstance(kept, Unchecked) else kept
        self._release(request.multihash)
        self._ahead.settle(request, answer)
        if self._ahead.is_full:
            self._release_all()
            self._ahead.keep_back(lambda awaited: not awaited.settled)

    def _release(self, multihash: bytes) -> None:
        """Let go of a claim, if it is ours still: once let go of, it may be another thread's."""
        with self._mutex:
            claim = self._claimed.pop(multihash, None)
        if claim is not None:
            self._blocks.claims.release(claim)

    def _release_all(self) -> None:
        with self._mutex:
            claimed = list(self._claimed)
        for multihash in claimed:
            self._release(multihash)

    def _close(self) -> None:
        if not self._ahead.is_ours:
            return
        self._ahead.close()
        self._fetcher.close()
        put_off(self._let_go)
        self._hash_threads.close()

    def _let_go(self) -> None:
        """Let others have what is not fetched here any more, and the room that was counted for it."""
        self._release_all()
        self._disk.give_back()
