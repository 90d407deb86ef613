"""Gateways that a test stages, and stores before them with time-outs that a test can wait for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Unpack

from tests.network.staged import Asked, Connection, Service, StagedServer, serving
from torch_ipfs.blockstore.fetch_options import FetchOptionsDict
from torch_ipfs.blockstore.gateway import GatewayBlockstore
from torch_ipfs.codec.cid import CID

DEADLINE_S = 20.0
"""What no test of a fault may take, whatever the fault; see :func:`options`."""


def options(**more: Unpack[FetchOptionsDict]) -> FetchOptionsDict:
    """Options whose time-outs come soon."""
    quick: FetchOptionsDict = {"timeout_s": 5.0, "backoff_s": 0.002, "stall_s": 0.2, "connect_timeout_s": 1.0}
    quick.update(more)
    return quick


def block(number: int, size_bytes: int = 1000) -> tuple[CID, bytes]:
    """A block that starts with its number, and its CID."""
    data = number.to_bytes(8, "big") + bytes(size_bytes - 8)
    return CID.of(data), data


CID_0, DATA_0 = block(0)


@contextmanager
def gateway(
    service: Service,
    bearer: str | None = None,
    headers: Mapping[str, str] | None = None,
    **more: Unpack[FetchOptionsDict],
) -> Iterator[tuple[GatewayBlockstore, StagedServer]]:
    """A store before a staged gateway."""
    with serving(service) as server:
        store = GatewayBlockstore(server.url, bearer=bearer, headers=headers, **options(**more))
        try:
            yield store, server
        finally:
            store.close()


def holding(blocks: Mapping[CID, bytes]) -> Service:
    """A gateway that has these blocks and does as it should."""
    held = {str(cid): data for cid, data in blocks.items()}

    def service(asked: Asked, connection: Connection) -> None:
        data = held.get(asked.cid)
        connection.answer(b"", 404) if data is None else connection.answer(data)

    return service


def first(*answers: Callable[[Connection], object]) -> Service:
    """A gateway that answers so, one request after the other, and then with block 0."""
    left = list(answers)

    def service(_: Asked, connection: Connection) -> None:
        if left:
            left.pop(0)(connection)
        else:
            connection.answer(DATA_0)

    return service
