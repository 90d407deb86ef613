"""Blocks from a trustless gateway over HTTP: https://specs.ipfs.tech/http-gateways/trustless-gateway/.

Nothing that a gateway says is believed: not its status line, its headers or its order of blocks. A block is what hashes
to the CID that was asked for.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NoReturn, Unpack

from torch_ipfs.blockstore.base import Block, StrPath, identity_block
from torch_ipfs.blockstore.car_stream import DagScope, linked_blocks, verified_blocks
from torch_ipfs.blockstore.endpoint import gateway_endpoint
from torch_ipfs.blockstore.fetch_options import FetchOptions, FetchOptionsDict
from torch_ipfs.blockstore.http_messages import Refusal, Request, later_or_broken
from torch_ipfs.blockstore.remote import RemoteBlockstore
from torch_ipfs.blockstore.transport import Transport
from torch_ipfs.blockstore.window import in_order
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import BlockNotFound, BlockRefused, TorchIPFSError, TransportError

if TYPE_CHECKING:
    import aiohttp

_RAW = {"Accept": "application/vnd.ipld.raw"}
_CAR = {"Accept": "application/vnd.ipld.car; version=1; order=dfs; dups=n"}
_ONLY_IF_CACHED = {**_RAW, "Cache-Control": "only-if-cached"}


class GatewayBlockstore(RemoteBlockstore):
    """A store that reads from one trustless gateway, and trusts it with nothing.

    :param url: the gateway's http or https URL. User information in it is basic authorization; a query in it is sent with
        each request. Neither is shown in errors, nor sent to a host that the gateway redirects to.
    :param bearer: a token for the Authorization header.
    :param headers: further headers for this gateway, as secret as a token.
    :param ca_file: a file of certificates to trust instead of the system's.
    :param options: as :class:`~torch_ipfs.blockstore.fetch_options.FetchOptions` tells.
    :raises OptionError: an argument cannot work.
    """

    def __init__(
        self,
        url: str,
        *,
        bearer: str | None = None,
        headers: Mapping[str, str] | None = None,
        ca_file: StrPath | None = None,
        **options: Unpack[FetchOptionsDict],
    ) -> None:
        endpoint = gateway_endpoint(url, bearer=bearer, headers=headers)
        ca_path = None if ca_file is None else os.fspath(ca_file)
        super().__init__(Transport(endpoint, FetchOptions(**options), _judge, ca_file=ca_path))

    def __repr__(self) -> str:
        return f"GatewayBlockstore({self.source!r})"

    def get(self, cid: CID) -> Block:
        """The verified bytes of ``cid``.

        :raises BlockNotFound: the gateway answered 404.
        :raises BlockRefused: the gateway answered 410 or 451.
        :raises HashMismatch: what came with status 200 does not hash to ``cid``.
        :raises BlockTooLarge: more came than the options allow; the rest was not read.
        :raises TransportError: no attempt brought an answer, or one came that no retry betters.
        """
        return self._transport.run(lambda session: self._fetch(session, cid))

    def get_many(self, cids: Iterable[CID], *, return_exceptions: bool = False) -> Iterator[Block | TorchIPFSError]:
        return in_order(self._transport, self._fetch, cids, return_exceptions=return_exceptions)

    def get_car(self, cid: CID, dag_scope: DagScope = "all") -> Generator[tuple[CID, bytes], None, None]:
        """The blocks of the DAG below ``cid`` out of one CAR stream, each verified, in the gateway's order.

        Blocks of 1 KiB come six times as fast as by :meth:`get_many`, blocks of 1 MiB half as fast (benchmarks/network.py). It
        ends either with the whole DAG or with an error; what was yielded before that is right in any case.

        :raises BlockError: as :meth:`get`.
        :raises TransportError: as :meth:`get`; also where the stream broke off, is no CAR, or lacks blocks.
        """
        return verified_blocks(self._transport, _car_request(cid, dag_scope), cid, dag_scope)

    def get_linked(self, node: CID, cids: Sequence[CID]) -> Generator[tuple[bytes, Block], None, None]:
        """As :class:`~torch_ipfs.blockstore.base.LinkedBlockstore` has it, out of one CAR stream."""
        return linked_blocks(self._transport, _car_request(node, "all"), node, cids)

    def has(self, cid: CID) -> bool:
        """Whether the gateway says that it has ``cid`` at hand (``only-if-cached``: it is asked not to look elsewhere)."""
        if identity_block(cid) is not None:
            return True
        request = Request("HEAD", f"/ipfs/{cid}", "format=raw", _ONLY_IF_CACHED, cid)
        try:
            self._transport.run(lambda session: self._transport.done(session, request))
        except (BlockNotFound, BlockRefused):
            return False
        return True

    def put(self, cid: CID, data: Block) -> None:  # noqa: ARG002 - the protocol's parameters
        self._refuse("is read-only; put blocks into a local store or a Kubo node, as kubo://host:port", cid)

    def put_many(self, blocks: Iterable[tuple[CID, Block]]) -> None:
        for cid, data in blocks:
            self.put(cid, data)

    def cids(self) -> Iterator[CID]:
        """:raises TransportError: always: a gateway does not tell."""
        self._refuse("does not list what it holds", None)

    async def _fetch(self, session: aiohttp.ClientSession, cid: CID) -> Block:
        request = Request("GET", f"/ipfs/{cid}", "format=raw", _RAW, cid)
        return await self._transport.block(session, request, cid)

    def _refuse(self, what: str, cid: CID | None) -> NoReturn:
        raise TransportError(f"a gateway {what}", cid=cid, source=self.source)


def _car_request(cid: CID, dag_scope: DagScope) -> Request:
    return Request("GET", f"/ipfs/{cid}", f"format=car&dag-scope={dag_scope}", _CAR, cid)


def _judge(refusal: Refusal, request: Request, source: str) -> Exception:
    """What the trustless gateway spec has the statuses mean."""
    if refusal.status == 404 or (refusal.status == 412 and request.method == "HEAD"):
        return BlockNotFound(f"the gateway does not have it ({refusal})", cid=request.cid, source=source)
    if refusal.status in (410, 451):
        return BlockRefused(f"the gateway does not give it ({refusal})", cid=request.cid, source=source)
    return later_or_broken(refusal, request, source)
