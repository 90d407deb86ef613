"""What a role makes of a source: a store to read from, one to write to and pin in, a node to speak through."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

from torch_ipfs.blockstore import open_blockstore
from torch_ipfs.blockstore.base import Blockstore, PinningBlockstore, is_store, source_of
from torch_ipfs.blockstore.cached import CachedBlockstore
from torch_ipfs.blockstore.kubo import KuboBlockstore
from torch_ipfs.blockstore.open import Source
from torch_ipfs.blockstore.remote import RemoteBlockstore
from torch_ipfs.blockstore.tiered import TieredBlockstore
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import OptionError

Role = Literal["master", "worker", "leecher"]
ROLES: tuple[Role, ...] = get_args(Role)

RETRIES = 2
"""How often an operation of the kit asks again: it answers some 2 s after a connection was refused."""


class Node:
    """A source in a role.

    A master pins what it publishes. A worker reads through the cache, writes, and pins what it is told to. A leecher reads
    through the cache and does nothing else.

    ``store`` is what training reads from, which waits for a network that is down for a while; ``asked`` reads the same, and
    ``home`` is written to, for those who are told within seconds that it is.

    :param source: as :func:`torch_ipfs.open_blockstore` takes it; ``None`` for TORCH_IPFS_SOURCE, else the local store.
    :raises OptionError: no such role, or no such source.
    """

    def __init__(self, role: Role, source: Source) -> None:
        if role not in ROLES:
            raise OptionError(f"role must be one of {', '.join(ROLES)}, but is {role!r}")
        self.role = role
        store = open_blockstore(source)
        parts = list(_parts(store))
        self.store = CachedBlockstore(store) if isinstance(store, RemoteBlockstore) else store
        self.home: Blockstore = next((part for part in parts if isinstance(part, PinningBlockstore)), store)
        self.asked = self.store
        if not is_store(source):
            self.home = _impatient(self.home)
            self.asked = _impatient(self.store)
        self.kubo = next((part for part in parts if isinstance(part, KuboBlockstore)), None)
        """The IPFS node to speak through, if the source has one."""

    @property
    def source(self) -> str:
        """The source's name in errors."""
        return source_of(self.store)

    def close(self) -> None:
        """Let go of files and connections."""
        for store in (self.store, self.asked, self.home):
            store.close()

    def check_may_write(self, operation: str) -> None:
        """:raises OptionError: the role is leecher."""
        if self.role == "leecher":
            raise OptionError(
                f"{operation} is refused: a leecher only reads; make the kit with role='worker' or role='master'"
            )

    def publish(self, cid: CID) -> bool:
        """Say that ``cid``, whose blocks have been put, is published: a master pins it.

        :returns: whether it is pinned.
        :raises BlockError: it cannot be pinned, as something that it links to is nowhere to be had.
        """
        if self.role != "master" or not isinstance(self.home, PinningBlockstore):
            return False
        self.home.pin(cid)
        return True

    @property
    def pinning(self) -> PinningBlockstore:
        """The store that keeps pins.

        :raises OptionError: the source has none.
        """
        if not isinstance(self.home, PinningBlockstore):
            raise OptionError(
                "this source keeps no pins; a local store or an IPFS node (kubo://host:port) does", source=self.source
            )
        return self.home


def _impatient(store: Blockstore) -> Blockstore:
    """The same blocks, without retries for half a minute."""
    if isinstance(store, RemoteBlockstore):
        return store.with_options(retries=RETRIES)
    if isinstance(store, CachedBlockstore) and isinstance(store.store, RemoteBlockstore):
        return CachedBlockstore(_impatient(store.store), store.cache_dir)
    return store


def _parts(store: Blockstore) -> Iterator[Blockstore]:
    """The stores that a store is made of."""
    if isinstance(store, CachedBlockstore):
        yield from _parts(store.store)
    elif isinstance(store, TieredBlockstore):
        for part in store.stores:
            yield from _parts(part)
    else:
        yield store
