"""The operations of ``kit.ipfs``. Each answers with a result dictionary and raises for nothing that may be expected."""

from __future__ import annotations

from typing import Any

from torch_ipfs import codec, unixfs
from torch_ipfs.blockstore.base import Block, Blockstore
from torch_ipfs.codec.cid import CID
from torch_ipfs.dataset.arguments import checked_count
from torch_ipfs.errors import BlockTooLarge, OptionError
from torch_ipfs.kit import pubsub
from torch_ipfs.kit.content import Content, write_content
from torch_ipfs.kit.node import Node
from torch_ipfs.kit.objects import to_ipld, value_at
from torch_ipfs.kit.tasks import pins_of, task_in
from torch_ipfs.loader.result import Result, answers

MAX_OBJECT_BYTES = 2**20
"""The largest block that every IPFS node takes from another."""


class IPFSOperations:
    """Objects, files, blocks, pins and messages.

    Every method answers ``{"success", "operation", "timestamp", ...}``, with ``error`` and ``error_type`` where it did not
    succeed. A leecher's puts, pins and messages do not succeed.

    :param node: the source in its role.
    """

    def __init__(self, node: Node) -> None:
        self._node = node

    @property
    def blockstore(self) -> Blockstore:
        """The store that is read from."""
        return self._node.store

    # Objects.

    @answers
    def dag_put(self, obj: Any) -> Result:
        """Put an object, in DAG-CBOR, under the CID that Kubo's ``dag put`` gives it.

        :param obj: None, bool, int, float, str, bytes, CID, and lists and maps of them; ``{"/": "CID"}`` is a link.
        :returns: ``cid``; of a master ``pinned``.
        """
        self._node.check_may_write("dag_put")
        return self._put_block(codec.dag_cbor.encode(to_ipld(obj), minus_zero=True), "dag-cbor")

    @answers
    def dag_get(self, cid: CID | str) -> Result:
        """The object of a CID, or at a path below it: ``CID/key/0/key``, through links and directories.

        :returns: ``object``; links in it are :class:`torch_ipfs.CID`.
        """
        return {"cid": str(cid), "object": value_at(self._node.asked, cid)}

    # Files.

    @answers
    def add(self, content: Content) -> Result:
        """Put a file in UnixFS (profile unixfs-v1-2025).

        :param content: bytes, the path of a file or folder, or a file that is open for reading bytes.
        :returns: ``cid``, ``size`` (bytes of its blocks); of a master ``pinned``.
        """
        self._node.check_may_write("add")
        dag = write_content(content, self._node.home)
        return {"cid": str(dag.cid), "size": dag.tsize, **self._published(dag.cid)}

    @answers
    def cat(self, cid: CID | str, offset: int = 0, length: int | None = None) -> Result:
        """The content of a file, or ``length`` bytes of it from ``offset`` on.

        :param cid: its CID, or a path through directories and objects.
        :returns: ``data``.
        """
        offset = checked_count("offset", offset)
        length = None if length is None else checked_count("length", length)
        found = unixfs.resolve(self._node.asked, _path(cid))
        if offset == 0 and length is None:
            return {"cid": str(found), "data": bytes(unixfs.read(self._node.asked, found))}
        return {"cid": str(found), "data": b"".join(unixfs.iter_read(self._node.asked, found, offset, length))}

    # Blocks.

    @answers
    def block_put(self, data: Block, codec_name: str = "raw") -> Result:
        """Put a block.

        :param codec_name: the multicodec name that its CID says.
        :returns: ``cid``; of a master ``pinned``.
        """
        self._node.check_may_write("block_put")
        if not isinstance(data, bytes | bytearray | memoryview):
            raise OptionError(f"a block is bytes, not a {type(data).__name__}")
        return self._put_block(bytes(data), codec_name)

    @answers
    def block_get(self, cid: CID | str) -> Result:
        """The bytes of a block.

        :param cid: its CID, or a path to it.
        :returns: ``data``.
        """
        found = unixfs.resolve(self._node.asked, _path(cid))
        return {"cid": str(found), "data": bytes(self._node.asked.get(found))}

    # Pins.

    @answers
    def pin_add(self, cid: CID | str, recursive: bool = True) -> Result:
        """Keep what a CID or path names, with ``recursive`` all that it links to."""
        self._node.check_may_write("pin_add")
        found = unixfs.resolve(self._node.asked, _path(cid))
        self._node.pinning.pin(found, recursive=recursive)
        return {"cid": str(found), "pins": [str(found)]}

    @answers
    def pin_ls(self) -> Result:
        """What is pinned.

        :returns: ``pins``: CID -> "recursive" or "direct".
        """
        return {"pins": {str(cid): kind for cid, kind in self._node.pinning.pins().items()}}

    @answers
    def pin_rm(self, cid: CID | str) -> Result:
        """Take the pin of what a CID or path names back. No block is removed by that."""
        self._node.check_may_write("pin_rm")
        found = unixfs.resolve(self._node.asked, _path(cid))
        self._node.pinning.unpin(found)
        return {"cid": str(found), "pins": [str(found)]}

    # Messages.

    @answers
    def pubsub_publish(self, topic: str, message: str | bytes) -> Result:
        """Send a message to whoever is subscribed to ``topic`` now. Of a task a master pins the dataset before."""
        self._node.check_may_write("pubsub_publish")
        if self._node.kubo is None:
            raise pubsub.no_pubsub(self._node.source)
        if self._node.role == "master" and (task := task_in(message)) is not None:
            for cid in pins_of(self._node, task):
                self._node.publish(cid)
        pubsub.publish(self._node.kubo, topic, message)
        return {"topic": topic}

    @answers
    def pubsub_peers(self, topic: str) -> Result:
        """Who is subscribed to ``topic``, of the nodes that this one is connected to: a message reaches those there are now.

        :returns: ``peers``: their peer ids.
        """
        if self._node.kubo is None:
            raise pubsub.no_pubsub(self._node.source)
        return {"topic": topic, "peers": pubsub.peers(self._node.kubo, topic)}

    def pubsub_subscribe(self, topic: str, *, timeout_s: float | None = None) -> pubsub.Subscription:
        """The messages of a topic from now on: an iterator of ``{"data", "from", "topic"}`` with ``stop()``, that answers
        ``["success"]`` and ``["error"]`` as the other operations' results do.

        :param timeout_s: how long to wait for each message; ``None`` for ever.
        """
        endpoint = None if self._node.kubo is None else self._node.kubo.endpoint
        return pubsub.Subscription(endpoint, topic, source=self._node.source, timeout_s=timeout_s)

    def _put_block(self, data: bytes, codec_name: str) -> Result:
        cid = CID.of(data, codec=codec_name)
        if len(data) > MAX_OBJECT_BYTES:
            raise BlockTooLarge(
                f"its block would be {len(data)} bytes, and blocks of over {MAX_OBJECT_BYTES} do not travel between nodes; "
                "torch_ipfs.write_dataset splits samples into shards, and add() splits files",
                cid=cid,
            )
        self._node.home.put(cid, data)
        return {"cid": str(cid), **self._published(cid)}

    def _published(self, cid: CID) -> dict[str, bool]:
        return {"pinned": self._node.publish(cid)} if self._node.role == "master" else {}


def _path(cid: CID | str) -> CID | str:
    if not isinstance(cid, CID | str):
        raise OptionError(f"a CID or a path is text, not a {type(cid).__name__}")
    return cid
