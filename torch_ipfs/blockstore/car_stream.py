"""The blocks of a DAG out of a CAR stream that a server sends, each verified, and all of them or an error.

A CAR that is cut between two blocks is a valid CAR, and HTTP does not tell reliably that a body was cut. So what is
complete is decided by the links: each block that a link names must have come. What the CAR calls its roots is not read.
"""

from __future__ import annotations

import io
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from typing import Literal

from torch_ipfs import codec
from torch_ipfs.blockstore.base import Block, identity_block, verify
from torch_ipfs.blockstore.body_file import BodyFile
from torch_ipfs.blockstore.http_messages import Request
from torch_ipfs.blockstore.pins import links
from torch_ipfs.blockstore.transport import Transport
from torch_ipfs.codec import car
from torch_ipfs.codec.cid import DAG_CBOR, RAW, CID
from torch_ipfs.errors import CodecError, TransportError

DagScope = Literal["block", "entity", "all"]
"""How much of a DAG is sent: its root alone, the file or directory that the root is, or everything that links reach."""

MAX_UNASKED_BYTES = 64 * 2**20
"""Blocks that are sent twice, or before a block that links to them, are passed on; a server may not go on with it."""

LINKED_WITHIN_S = 5.0

MAX_STRAY_BYTES = 4 * 2**20
"""Bytes of blocks that come with those that are wanted, and over theirs: the node, and what the blocks link to."""

_END_WITHIN_S = 0.25
_READ_BYTES = 256 * 2**10

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


def linked_blocks(
    transport: Transport, request: Request, node: CID, cids: Iterable[CID]
) -> Generator[tuple[bytes, Block], None, None]:
    """Those of the blocks ``cids``, to which ``node`` links, that come in a CAR of it, each verified, with its multihash.

    For whoever asks for the rest one by one: the CAR is asked for once, given up when none of them has come for
    ``LINKED_WITHIN_S``, and not read any further when too much else comes in it, as where the blocks link to large DAGs.

    :raises HashMismatch: one does not hash to its CID.
    :raises TorchIPFSError: what else ended the CAR before all of them had come.
    """
    source = transport.endpoint.source
    missing = {cid.multihash for cid in cids if identity_block(cid) is None}
    linked_bytes = stray_bytes = 0
    with closing(BodyFile(transport, request, once_within_s=LINKED_WITHIN_S)) as body:
        for cid, data in _parsed(body, node, source):
            multihash = cid.multihash
            if multihash not in missing:
                stray_bytes += len(data)
                if stray_bytes > linked_bytes + MAX_STRAY_BYTES:
                    raise TransportError(f"{stray_bytes} bytes of the CAR are of other blocks", cid=node, source=source)
                continue
            verify(cid, data, source, max_block_bytes=transport.options.max_block_bytes)
            missing.remove(multihash)
            linked_bytes += len(data)
            yield multihash, data
            if not missing:
                body.is_over(_END_WITHIN_S)
                return
            body.allow_time()
    raise TransportError(f"the CAR ended without {len(missing)} of the blocks asked for", cid=node, source=source)


def _parsed(body: BodyFile, root: CID, source: str) -> Iterator[tuple[CID, bytes]]:
    try:
        # The reader takes what a read of the body gives, and asks for no more than it needs.
        yield from car.iter_blocks(io.BufferedReader(body, _READ_BYTES), verify=False)
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
        asked = multihash in self.missing or not self._follow
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
