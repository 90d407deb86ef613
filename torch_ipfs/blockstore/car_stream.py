"""The blocks of a DAG out of a CAR stream that a server sends, each verified, and all of them or an error.

A CAR that is cut between two blocks is a valid CAR, and HTTP does not tell reliably that a body was cut. So what is
complete is decided by the links: each block that a link names must have come. What the CAR calls its roots is not read.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from typing import IO, Literal, cast

from torch_ipfs import codec
from torch_ipfs.blockstore.base import identity_block, verify
from torch_ipfs.blockstore.body_file import BodyFile
from torch_ipfs.blockstore.pins import links
from torch_ipfs.blockstore.transport import Request, Transport
from torch_ipfs.codec import car
from torch_ipfs.codec.cid import DAG_CBOR, RAW, CID
from torch_ipfs.errors import CodecError, TransportError

DagScope = Literal["block", "entity", "all"]
"""How much of a DAG is sent: its root alone, the file or directory that the root is, or everything that links reach."""

MAX_UNASKED_BYTES = 64 * 2**20
"""Blocks that are sent twice, or before a block that links to them, are passed on; a server may not go on with it."""

_LINK_TAG = b"\xd8\x2a"


def verified_blocks(
    transport: Transport, request: Request, root: CID, scope: DagScope
) -> Generator[tuple[CID, bytes], None, None]:
    """The blocks that the answer holds, in its order, with the CIDs that it has for them.

    :param scope: what was asked for. With ``entity`` the root alone must have come, since where a file or directory ends
        is not looked into.
    :raises HashMismatch: a block does not hash to its CID.
    :raises BlockTooLarge: a block is over the limit in force.
    :raises TransportError: the stream broke off, is no CAR, lacks blocks, or has too many that nothing links to.
    """
    if identity_block(root) is not None:
        return
    source = transport.endpoint.source
    wanted = _Wanted(root, follow=scope == "all")
    unasked_bytes = 0
    with closing(BodyFile(transport, request)) as body:
        for cid, data in _parsed(body, root, source):
            verify(cid, data, source, max_block_bytes=transport.options.max_block_bytes)
            if not wanted.arrived(cid, data):
                unasked_bytes += len(data)
                if unasked_bytes > MAX_UNASKED_BYTES:
                    raise TransportError(
                        f"the CAR has over {MAX_UNASKED_BYTES} bytes of blocks twice or unasked",
                        cid=root,
                        source=source,
                    )
            yield cid, data
            body.allow_time()
    if wanted.missing:
        raise TransportError(
            f"the CAR ended without {len(wanted.missing)} of the blocks that it should hold", cid=root, source=source
        )


def _parsed(body: BodyFile, root: CID, source: str) -> Iterator[tuple[CID, bytes]]:
    try:
        yield from car.iter_blocks(cast(IO[bytes], body), verify=False)
    except CodecError as error:
        raise TransportError(f"the CAR that came is cut or damaged: {error}", cid=root, source=source) from None


class _Wanted:
    """Which blocks links have named, by multihash, and which of them came."""

    def __init__(self, root: CID, *, follow: bool) -> None:
        self.missing = {root.multihash}
        self._came: set[bytes] = set()
        self._follow = follow

    def arrived(self, cid: CID, data: bytes) -> bool:
        """Take note of a block; whether it was missing."""
        multihash = cid.multihash
        if multihash in self._came:
            return False
        self._came.add(multihash)
        asked = multihash in self.missing
        self.missing.discard(multihash)
        if self._follow:
            for link in _links(cid, data):
                if link.multihash not in self._came and identity_block(link) is None:
                    self.missing.add(link.multihash)
        return asked


def _links(cid: CID, data: bytes) -> Iterator[CID]:
    """The links of a block. One whose codec is not known, or which is not what its codec says, has none to follow."""
    if cid.codec == RAW or (cid.codec == DAG_CBOR and _LINK_TAG not in data):
        return iter(())
    try:
        return links(codec.decode(cid, data))
    except CodecError:
        return iter(())
