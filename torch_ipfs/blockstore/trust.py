"""Which stores a wrapper takes at their word."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing

from torch_ipfs.blockstore.base import Block, Blockstore, verify
from torch_ipfs.codec.cid import CID


class Checked:
    """Verifies what a store gives, unless the store is one of this package.

    Those hash every block themselves, which their tests prove; hashing it again would halve the speed of sha2-256. Somebody
    else's store, or a subclass of somebody else's, promises it as well, but a promise is not a check.
    """

    def __init__(self, store: Blockstore, source: str) -> None:
        self._source = source
        self.is_needless = type(store).__module__.startswith("torch_ipfs.blockstore.")
        """Whether nothing is left to verify."""

    def __call__(self, cid: CID, block: Block) -> Block:
        """``block``, if it is that of ``cid``.

        :raises HashMismatch: it is not.
        :raises BlockTooLarge: it is over the limit.
        """
        if not self.is_needless:
            verify(cid, block, self._source)
        return block

    def linked(self, blocks: Generator[tuple[bytes, Block], None, None]) -> Generator[tuple[bytes, Block], None, None]:
        """``blocks``, by their multihashes, each checked in the same way."""
        return blocks if self.is_needless else self._checked(blocks)

    def _checked(
        self, blocks: Generator[tuple[bytes, Block], None, None]
    ) -> Generator[tuple[bytes, Block], None, None]:
        with closing(blocks):
            for multihash, block in blocks:
                yield multihash, self(CID.from_multihash("raw", multihash), block)
