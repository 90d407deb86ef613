"""Blocks and pins of an IPFS node, by Kubo's RPC: https://docs.ipfs.tech/reference/kubo/rpc/.

Blocks and CARs go over the transport that gateways use too; ipfshttpclient asks for pins and what the node
says of itself, over the same.
Not a byte of a block is believed. Of its pins a node is believed: they are its own.
"""

from __future__ import annotations

import io
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar, Unpack

from torch_ipfs.blockstore.base import Block, StrPath, identity_block
from torch_ipfs.blockstore.body_file import BodyFile
from torch_ipfs.blockstore.car_stream import linked_blocks, verified_blocks
from torch_ipfs.blockstore.endpoint import Endpoint, multiaddr_of, rpc_endpoint
from torch_ipfs.blockstore.fetch_options import FetchOptions, FetchOptionsDict
from torch_ipfs.blockstore.http_messages import Request
from torch_ipfs.blockstore.kubo_answer import json_of, judge, told, values
from torch_ipfs.blockstore.kubo_import import import_blocks, import_car
from torch_ipfs.blockstore.kubo_session import CALLS, NodeAdapter
from torch_ipfs.blockstore.remote import RemoteBlockstore
from torch_ipfs.blockstore.transport import Transport
from torch_ipfs.blockstore.window import in_order
from torch_ipfs.codec import car
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import BlockError, BlockNotFound, OptionError, TorchIPFSError, TransportError

if TYPE_CHECKING:
    import aiohttp

T = TypeVar("T")

TIMEOUT_S = 60.0

_PATIENCE_S = 5.0
"""A node is told when to give up a search, and has this much longer to say so."""

_MOST_BYTES = 2**22
"""Bytes of an answer that is no block."""

_PINNED_WITH_ALL = "already pinned recursively"
"""What a node says to a direct pin that would take nothing from what it has."""


class KuboBlockstore(RemoteBlockstore):
    """The blocks that an IPFS node holds, or gets from its peers.

    :param address: ``kubo://host:port``, a multiaddr such as ``/ip4/127.0.0.1/tcp/5001``, or the RPC's http or https URL. User
        information in it is basic authorization.
    :param bearer: a token, as in Kubo's ``API.Authorizations``.
    :param basic: user name and password, as in Kubo's ``API.Authorizations``.
    :param timeout_s: how long the node may look for a block among its peers, and the most that any call may take. A block
        that nobody has is not found after that time.
    :param options: as :class:`~torch_ipfs.blockstore.fetch_options.FetchOptions` tells.
    :raises OptionError: an argument cannot work.
    """

    def __init__(
        self,
        address: str,
        *,
        bearer: str | None = None,
        basic: tuple[str, str] | None = None,
        **options: Unpack[FetchOptionsDict],
    ) -> None:
        endpoint = rpc_endpoint(address, bearer=bearer, basic=basic)
        options.setdefault("timeout_s", TIMEOUT_S)
        super().__init__(Transport(endpoint, FetchOptions(**options), judge, patience_s=_PATIENCE_S))

    def __repr__(self) -> str:
        return f"KuboBlockstore({self.source!r})"

    @property
    def endpoint(self) -> Endpoint:
        """Where the node's RPC is."""
        return self._transport.endpoint

    def get(self, cid: CID) -> Block:
        """The verified bytes of ``cid``, which the node may have to get from its peers first.

        :raises BlockNotFound: neither the node nor, within ``timeout_s``, a peer has it.
        :raises HashMismatch: what came does not hash to ``cid``.
        :raises BlockTooLarge: more came than the options allow; the rest was not read.
        :raises TransportError: the node could not be reached, refused, or broke off.
        """
        return self._transport.run(lambda session: self._fetch(session, cid))

    def get_many(self, cids: Iterable[CID], *, return_exceptions: bool = False) -> Iterator[Block | TorchIPFSError]:
        return in_order(self._transport, self._fetch, cids, return_exceptions=return_exceptions)

    def get_car(self, cid: CID) -> Generator[tuple[CID, bytes], None, None]:
        """The blocks of the whole DAG below ``cid`` out of one CAR stream, each verified, depth first.

        It ends either with the whole DAG or with an error; what was yielded before that is right in any case.

        :raises BlockError: as :meth:`get`.
        :raises TransportError: as :meth:`get`; also where the stream broke off or lacks blocks.
        """
        return verified_blocks(self._transport, self._command("dag/export", cid), cid, "all")

    def get_linked(self, node: CID, cids: Sequence[CID]) -> Generator[tuple[bytes, Block], None, None]:
        """As :class:`~torch_ipfs.blockstore.base.LinkedBlockstore` has it, out of one CAR stream."""
        return linked_blocks(self._transport, self._command("dag/export", node), node, cids)

    def export(self, cid: CID, file: BinaryIO) -> None:
        """Write the whole DAG below ``cid`` as a CAR to ``file``, open for writing bytes.

        :raises BlockError: as :meth:`get_car`; ``file`` is not whole then.
        :raises TransportError: as :meth:`get_car`; ``file`` is not whole then.
        """
        with closing(self.get_car(cid)) as blocks:
            car.write(file, [cid], blocks)

    def has(self, cid: CID) -> bool:
        """Whether the node itself holds ``cid``. It asks no peer for that."""
        if identity_block(cid) is not None:
            return True
        request = self._command("block/stat", cid, "&offline=true")
        try:
            answer = self._transport.run(lambda session: self._transport.body(session, request, _MOST_BYTES))
        except BlockNotFound:
            return False
        if not any("Key" in value for value in values(answer, self.source)):
            raise self._transport.broken("is this Kubo's RPC? Its answer names no block", request)
        return True

    def put(self, cid: CID, data: Block) -> None:
        self.put_many([(cid, data)])

    def put_many(self, blocks: Iterable[tuple[CID, Block]]) -> None:
        """``put`` for each pair, in CARs of some megabytes. What was put before an error is kept, and nothing is pinned."""
        import_blocks(self._transport, blocks)

    def import_car(self, file: StrPath | BinaryIO, *, pin_roots: bool = True) -> list[CID]:
        """Put all blocks of a CAR file (v1, or v2 from Kubo 0.41 on), and pin those of its roots that the node then holds.

        :param file: a path, or a file that is open for reading bytes, which another thread then reads.
        :return: the roots that the CAR's header names.
        :raises CodecError: the file is no CAR.
        :raises TransportError: the node could not be reached, cannot read the CAR, or took no more of it for ``timeout_s``;
            blocks that came before that may be kept.
        :raises BlockNotFound: below a root a block is missing, which no peer gave either; the root is not pinned.
        """
        roots = import_car(self._transport, file, self.options.timeout_s)
        for root in roots:
            if pin_roots and self.has(root):
                self.pin(root)
        return roots

    def cids(self) -> Iterator[CID]:
        """Raw CIDs: the node keeps multihashes alone."""
        request = self._command("refs/local", None)
        with closing(BodyFile(self._transport, request)) as body:
            for line in iter(partial(io.BufferedReader(body).readline, _MOST_BYTES), b""):
                body.allow_time()
                with self._explained(None):
                    answer = json_of(line)
                    if answer.get("Err"):
                        raise self._transport.broken(f"the node cannot list its blocks: {answer['Err']}", request)
                    cid = CID.parse(answer["Ref"])
                yield cid

    def pin(self, cid: CID, *, recursive: bool = True) -> None:
        """Keep the block of ``cid``, and with ``recursive`` all that its links reach, which the node gets from its peers.

        What is pinned with all that it links to stays so.

        :raises BlockNotFound: for ``timeout_s`` the node has found no more of it.
        :raises TransportError: the node could not be reached, refused, or broke off.
        """
        for _ in self.pin_progress(cid, recursive=recursive):
            pass

    def pin_progress(self, cid: CID, *, recursive: bool = True) -> Iterator[int]:
        """:meth:`pin`, telling about twice a second how many blocks have been gone through. It is pinned when this ends."""
        try:
            yield from self._pinning(cid, recursive=recursive)
        except TransportError as error:
            if recursive or _PINNED_WITH_ALL not in error.reason:
                raise

    def _pinning(self, cid: CID, *, recursive: bool) -> Iterator[int]:
        reports = self._ask(
            cid, lambda node: node.pin.add(str(cid), recursive=recursive, opts={"progress": True}, stream=True)
        )
        found, found_s = 0, time.monotonic()
        with closing(reports), self._explained(cid):
            for report in reports:
                if "Pins" in report:
                    return
                progress = int(report.get("Progress") or 0)
                if progress > found:
                    found, found_s = progress, time.monotonic()
                elif time.monotonic() - found_s > self.options.timeout_s:
                    raise BlockNotFound(
                        f"{found} blocks were found to pin, and no more for {self.options.timeout_s:g} s",
                        cid=cid,
                        source=self.source,
                    )
                yield found
        raise TransportError("the node broke off before it had pinned everything", cid=cid, source=self.source)

    def unpin(self, cid: CID) -> None:
        self._ask(cid, lambda node: node.pin.rm(str(cid))["Pins"])

    def pins(self) -> dict[CID, str]:
        return self._pins("recursive") | self._pins("direct")

    def id(self) -> str:
        """The node's peer id."""
        return self._ask(None, lambda node: str(node.id()["ID"]))

    def version(self) -> str:
        """Kubo's version, as ``0.43.0``."""
        return self._ask(None, lambda node: str(node.version()["Version"]))

    def call(self, request: Request) -> bytes:
        """The whole answer to another call of the RPC, which is made once.

        :raises TransportError: the node could not be reached, refused, or broke off.
        """
        body = BodyFile(self._transport, request, once_within_s=self._transport.timeout_s, in_turn=True)
        with closing(body):
            return body.whole(_MOST_BYTES)

    async def _fetch(self, session: aiohttp.ClientSession, cid: CID) -> Block:
        return await self._transport.block(session, self._command("block/get", cid), cid)

    def _command(self, name: str, cid: CID | None, options: str = "") -> Request:
        """A call that the node itself gives up in time."""
        timeout_ms = max(1, round(self.options.timeout_s * 1000))
        argument = "" if cid is None else f"&arg={cid}"
        return Request("POST", f"/{name}", f"timeout={timeout_ms}ms{argument}{options}", cid=cid)

    def _pins(self, kind: str) -> dict[CID, str]:
        def read(node: Any) -> dict[CID, str]:
            keys = node.pin.ls(type=kind).as_json().get("Keys")  # left out where there are none
            return {CID.parse(text): kind for text in keys or ()}

        return self._ask(None, read)

    def _ask(self, cid: CID | None, command: Callable[[Any], T]) -> T:
        """The result of a call of ipfshttpclient's. Each call has a session of its own, so threads may call at once."""
        with self._explained(cid), warnings.catch_warnings():
            # urllib3's, once a session, about an argument that ipfshttpclient passes on
            warnings.filterwarnings("ignore", message=".*strict.*", category=FutureWarning)
            import ipfshttpclient

            # connect() would refuse every Kubo from 0.8 on
            node = ipfshttpclient.Client(multiaddr_of(self._transport.endpoint), CALLS)
            # It has no other way to tell requests how to send.
            node._client._session_props.update(  # noqa: SLF001
                trust_env=False, adapters={"": NodeAdapter(self._transport, cid)}
            )
            return command(node)

    @contextmanager
    def _explained(self, cid: CID | None) -> Iterator[None]:
        """Failures of ipfshttpclient's, and answers that are not what they should be, as errors of ours."""
        import ipfshttpclient.exceptions

        try:
            yield
        except (BlockError, OptionError, TransportError):
            raise
        except ipfshttpclient.exceptions.PartialErrorResponse as failure:
            raise told(self._transport.describe(failure), cid, self.source) from None
        except (ipfshttpclient.exceptions.Error, OSError) as failure:  # requests' own errors are OSErrors
            raise TransportError(
                f"the node did not answer: {self._transport.describe(failure)}", cid=cid, source=self.source
            ) from None
        except (AssertionError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as failure:
            # ipfshttpclient asserts how many values an answer has
            raise TransportError(
                f"is this Kubo's RPC? Its answer has another form: {self._transport.describe(failure)}",
                cid=cid,
                source=self.source,
            ) from None
