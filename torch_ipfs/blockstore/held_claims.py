"""Claims on blocks that are being fetched from one store, for as long as that store may answer.

Who waits for a claimed block may have another source for it, and the store that it is fetched from may not be there: it tries
again for minutes. So claims are looked at while they are held, and let go of once their store has found nobody listening.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from torch_ipfs.blockstore.base import Blockstore, is_unreachable
from torch_ipfs.blockstore.collecting import join
from torch_ipfs.blockstore.single_flight import Claims

LOOK_S = 0.1
"""How often the store is asked whether it found nobody."""


class Claim:
    """A block that this process fetches and others wait for."""

    __slots__ = ("multihash", "since")

    def __init__(self, multihash: bytes) -> None:
        self.multihash = multihash
        self.since = time.monotonic()


class HeldClaims:
    """The claims of one process for the blocks of ``store``. A thread looks after them while there are any."""

    def __init__(self, store: Blockstore, claims: Claims) -> None:
        self._store = store
        self._claims = claims
        self._held: set[Claim] = set()
        self._may_be_unreachable = hasattr(store, "unreachable_at")
        self._watcher: threading.Thread | None = None
        self._changed = threading.Condition()

    def claim(self, multihash: bytes) -> Claim | None:
        """As :meth:`~torch_ipfs.blockstore.single_flight.Claims.claim`."""
        return self._hold(multihash) if self._claims.claim(multihash) else None

    def claim_within(
        self, multihash: bytes, wait_s: float, arrived: Callable[[], bool], progress: Callable[[], int] = int
    ) -> Claim | None:
        """As :meth:`~torch_ipfs.blockstore.single_flight.Claims.claim_within`."""
        return self._hold(multihash) if self._claims.claim_within(multihash, wait_s, arrived, progress) else None

    def release(self, claim: Claim) -> None:
        """Let others have the block, unless they have been let already."""
        with self._changed:
            if claim not in self._held:
                return
            self._held.remove(claim)
        self._claims.release(claim.multihash)

    def close(self) -> None:
        """End the thread. What is claimed later has another."""
        with self._changed:
            watcher, self._watcher = self._watcher, None
            self._changed.notify()
        if watcher is not None:
            join(watcher)

    def _hold(self, multihash: bytes) -> Claim:
        claim = Claim(multihash)
        with self._changed:
            self._held.add(claim)
            if self._may_be_unreachable and self._watcher is None:
                self._watch_on()
        return claim

    def _watch_on(self) -> None:
        watcher = threading.Thread(target=self._watch, name="torch_ipfs-claims", daemon=True)
        try:
            watcher.start()
        except RuntimeError:  # no thread can be had: others wait as long as they will wait for anybody
            return
        self._watcher = watcher

    def _watch(self) -> None:
        while True:
            with self._changed:
                self._changed.wait(LOOK_S)
                if self._watcher is not threading.current_thread():  # it was closed, or another has begun since
                    return
                if not self._held:
                    self._watcher = None
                    return
                held = tuple(self._held)
            for claim in held:
                if is_unreachable(self._store, claim.since):
                    self.release(claim)
