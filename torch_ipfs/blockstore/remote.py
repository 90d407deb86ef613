"""What stores have in common that speak to one service over the network."""

from __future__ import annotations

import copy
from typing import Self, Unpack

from torch_ipfs.blockstore.fetch_options import FetchOptions, FetchOptionsDict
from torch_ipfs.blockstore.transport import Transport


class RemoteBlockstore:
    """A store's transport, and what follows from it.

    :param transport: the connections to the service.
    """

    is_remote = True
    """Datasets put the node's cache before it."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    @property
    def source(self) -> str:
        """The service's address without what is secret in it."""
        return self._transport.endpoint.source

    @property
    def unreachable_at(self) -> float | None:
        """When this process could not even connect, if it could not since; of ``time.monotonic``, as all of that name."""
        return self._transport.retry.unreachable_at

    @property
    def options(self) -> FetchOptions:
        """The options in force."""
        return self._transport.options

    def with_options(self, **options: Unpack[FetchOptionsDict]) -> Self:
        """Another store of the same blocks, with these options in place of its own."""
        other = copy.copy(self)
        other._transport = self._transport.with_options(**options)  # noqa: SLF001 - of this class
        return other

    def stats(self) -> dict[str, int]:
        """What this process has counted; see :meth:`torch_ipfs.blockstore.transport.Transport.stats`."""
        return self._transport.stats()

    def close(self) -> None:
        """End the connections. A later call makes new ones."""
        self._transport.close()
