"""A client that has nothing but ``dag_get``: values by name, taken as given.

There are no bytes to hash, so this is the one place where what comes is not verified. Names need be no CIDs: to the rest of
the library each becomes one, an identity CID (the multihash that holds its content itself) with the name in it, and the
block of that CID is the answer in DAG-CBOR. So everything that reads blocks reads these.
"""

from __future__ import annotations

import os
import pickle
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NoReturn

from torch_ipfs.blockstore.base import Block, one_by_one
from torch_ipfs.codec import dag_cbor
from torch_ipfs.codec.cid import CID
from torch_ipfs.codec.multihash import MAX_DIGEST_BYTES
from torch_ipfs.dataset.leaves import json_or_bytes
from torch_ipfs.errors import BlockNotFound, CodecError, ManifestError, OptionError, TorchIPFSError, TransportError

_NODE, _SAMPLE, _SHARD = b"n:", b"s:", b"p:"
"""What a name stands for, in front of it in the identity CID: only in nodes are names of others looked for."""
_CID_TEXT = re.compile(r"\bb[a-z2-7]{8,}")


class DagGetBlockstore:
    """What a client answers to ``dag_get(name)``, as blocks.

    In a process that was forked it uses a copy of the client, made by pickling, if :meth:`goes_to_workers`.

    :param client: its ``dag_get`` answers ``{"success": True, "object": value}``, or ``{"success": False, "error": ...}``.
    """

    def __init__(self, client: Any) -> None:
        self.source = f"dag_get of {type(client).__name__}"
        self._client: Any = client
        self._pid = os.getpid()
        self._pickled: bytes | None = None
        self._warned = False

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_client": None, "_pid": 0, "_pickled": self._pickled or pickle.dumps(self._client)}

    def warn(self) -> None:
        """Say once that values are not verified."""
        if self._warned:
            return
        self._warned = True
        warnings.warn(
            f"{self.source} gives values and no bytes: they are taken as given, not checked against their CIDs. A source such "
            "as kubo://host:port is checked",
            stacklevel=4,
        )

    def goes_to_workers(self) -> bool:
        """Whether other processes can have a copy of the client."""
        if self._pickled is None:
            try:
                self._pickled = pickle.dumps(self._client)
            except Exception:  # noqa: BLE001 - whatever its own __reduce__ raises: it does not pickle
                return False
        return True

    def cid_of(self, name: str) -> CID:
        """The CID that stands here for the dataset of that name.

        :raises OptionError: it is too long for a name.
        """
        return _identity(_NODE, name)

    def readable(self, text: str) -> str:
        """``text`` with names in place of the CIDs that stand for them here."""
        return _CID_TEXT.sub(lambda found: _name_in(found[0]) or found[0], text)

    def get(self, cid: CID) -> Block:
        digest = cid.digest
        kind, name = digest[:2], digest[2:].decode()
        value = self._ask(name)
        if kind == _SHARD and isinstance(value, bytes):
            return value
        value = _plain(json_or_bytes(value) if isinstance(value, bytes) else value)
        if kind == _NODE:
            value = self._with_cids(value)
        try:
            return dag_cbor.encode(value)
        except CodecError as error:
            raise CodecError(f"what {self.source} gives cannot be part of a dataset: {error}", cid=name) from None

    def get_many(self, cids: Iterable[CID], *, return_exceptions: bool = False) -> Iterator[Block | TorchIPFSError]:
        return one_by_one(self.get, cids, return_exceptions=return_exceptions)

    def has(self, cid: CID) -> bool:
        try:
            self.get(cid)
        except TorchIPFSError:
            return False
        return True

    def put(self, cid: CID, data: Block) -> None:  # noqa: ARG002 - the protocol's parameters
        self._refuse("nothing can be put there")

    def put_many(self, blocks: Iterable[tuple[CID, Block]]) -> None:  # noqa: ARG002 - as above
        self._refuse("nothing can be put there")

    def cids(self) -> Iterator[CID]:
        self._refuse("it does not list what there is")

    def close(self) -> None:
        """The client is the caller's."""

    def _refuse(self, why: str) -> NoReturn:
        raise TransportError(f"a client with dag_get alone is read-only: {why}", source=self.source)

    def _ask(self, name: str) -> Any:
        """
        :raises BlockNotFound: the client says that it has none, or fails: what it says about this one does not stop others.
        :raises ManifestError: it answers in another form.
        """
        try:
            answer = self._client_here().dag_get(name)
        except Exception as error:
            raise BlockNotFound(
                f"dag_get failed: {type(error).__name__}: {error}", cid=name, source=self.source
            ) from error
        if isinstance(answer, Mapping) and "object" in answer and answer.get("success", True):
            return answer["object"]
        if isinstance(answer, Mapping) and "success" in answer and not answer["success"]:
            said = answer.get("error", "it did not succeed")
            raise BlockNotFound(f"dag_get: {said}", cid=name, source=self.source)
        raise ManifestError(
            f"dag_get must answer with a map of 'success' and 'object', but answered {answer!r:.100}",
            cid=name,
            source=self.source,
        )

    def _client_here(self) -> Any:
        if self._pid != os.getpid():
            assert self._pickled is not None, "goes_to_workers() is asked before there are any"
            self._client, self._pid = pickle.loads(self._pickled), os.getpid()  # noqa: S301 - our own pickle of it
        return self._client

    def _with_cids(self, node: Any) -> Any:
        """A node of a dataset with CIDs in place of the names that it links to."""
        if isinstance(node, list):
            return {"samples": _links(node, _SAMPLE)} if self._are_names(node) else {"data": node}
        if not isinstance(node, dict):
            return node
        if isinstance(node.get("samples"), list):
            node = {**node, "samples": _links(node["samples"], _SAMPLE)}
        if isinstance(node.get("shards"), list):
            node = {**node, "shards": [_entry(entry) for entry in node["shards"]]}
        return node

    def _are_names(self, items: list[Any]) -> bool:
        """Whether the items of a bare list are links: all are CIDs, or texts of which the client knows the first."""
        names = [_name(item) for item in items]
        if not names or None in names:
            return False
        if all(map(_is_cid, names)):
            return True
        try:
            self._ask(str(names[0]))
        except TorchIPFSError:
            return False
        return True


def _entry(entry: Any) -> Any:
    name = _name(entry.get("cid")) if isinstance(entry, dict) else None
    if name is None:
        return entry
    kind = _SHARD if entry.get("format") == "arrow" else _NODE
    return {**entry, "cid": _identity(kind, name)}


def _links(items: list[Any], kind: bytes) -> list[Any]:
    names = [_name(item) for item in items]
    return [item if name is None else _identity(kind, name) for item, name in zip(items, names, strict=True)]


def _name(item: Any) -> str | None:
    """The name that an item of a node links by; ``None`` where it is no link."""
    if isinstance(item, dict) and list(item) == ["/"]:
        item = item["/"]
    return str(item) if isinstance(item, CID | str) else None


def _is_cid(name: str | None) -> bool:
    try:
        CID.parse(name or "")
    except CodecError:
        return False
    return True


def _identity(kind: bytes, name: str) -> CID:
    digest = kind + name.encode()
    if len(digest) > MAX_DIGEST_BYTES:
        raise OptionError(f"the name {name[:40]!r}... is over {MAX_DIGEST_BYTES - len(kind)} bytes: it is no CID")
    return CID.of(digest, codec="raw" if kind == _SHARD else "dag-cbor", hash_function="identity")


def _name_in(text: str) -> str | None:
    try:
        digest = CID.parse(text).digest
    except CodecError:
        return None
    return digest[2:].decode() if digest[:2] in (_NODE, _SAMPLE, _SHARD) else None


def _plain(value: Any) -> Any:
    """``value`` in what DAG-CBOR holds: arrays, tensors and tuples as lists."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.tolist() if hasattr(value, "tolist") else value
