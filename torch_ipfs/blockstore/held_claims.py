"""Claims on blocks that are being fetched from one store, for as long as that store may answer.

Who waits for a claimed block may have another source for it, and the store that it is fetched from may not be there: it tries
again for minutes. So claims are looked at while they are held, and let go of once their store has found nobody listening.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from torch_ipfs.blockstore.base import Blockstore, is_unreachable
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
        self._is_watched = not hasattr(store, "unreachable_at")
        self._mutex = threading.Lock()

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
        with self._mutex:
            if claim not in self._held:
                return
            self._held.remove(claim)
        self._claims.release(claim.multihash)

    def _hold(self, multihash: bytes) -> Claim:
        claim = Claim(multihash)
        with self._mutex:
            self._held.add(claim)
            if self._is_watched:
                return claim
            self._is_watched = True
        try:
            threading.Thread(target=self._watch, name="torch_ipfs-claims", daemon=True).start()
        except RuntimeError:  # no thread can be had: others wait as long as they will wait for anybody
            self._is_watched = False
        return claim

    def _watch(self) -> None:
        while True:
            time.sleep(LOOK_S)
            with self._mutex:
                if not self._held:
                    self._is_watched = False
                    return
                in_vain = [claim for claim in self._held if is_unreachable(self._store, claim.since)]
            for claim in in_vain:
                self.release(claim)
