"""From what a caller has, an ``ipfs_client``, to the store that blocks are read from."""

from __future__ import annotations

import base64
import os
from typing import Any

from torch_ipfs.blockstore import open_blockstore
from torch_ipfs.blockstore.base import Blockstore, StrPath
from torch_ipfs.blockstore.cached import CachedBlockstore, without_caches
from torch_ipfs.blockstore.gateway import GatewayBlockstore
from torch_ipfs.blockstore.kubo import KuboBlockstore
from torch_ipfs.blockstore.open import is_remote
from torch_ipfs.errors import OptionError
from torch_ipfs.loader.dag_get import DagGetBlockstore

CLIENTS = (
    "an ipfs_client is a source that open_blockstore takes (a CAR file, a folder, kubo://host:port, http(s)://host, a list of "
    "these), a Blockstore, an ipfshttpclient Client, an ipfs_kit, or an object whose dag_get(cid) answers "
    "{'success': ..., 'object': ...}"
)

Cache = bool | StrPath | None


def store_of(client: Any, cache: Cache = None) -> tuple[Blockstore, bool]:
    """The store of a client, and whether it was made here, so that it is closed by whoever asked.

    :param cache: whether blocks that come over a network are kept on this machine's disk. ``None`` for those of gateways and
        IPFS nodes, ``False`` for none, ``True`` for those of any store, a path to keep these there.
    :raises OptionError: it is nothing that blocks can be had from; says what is.
    """
    # A mock has every attribute that it is asked for, and is a path as well: what is no mock's is looked up in the type.
    if isinstance(client, str | list | tuple) or (isinstance(client, os.PathLike) and not hasattr(client, "dag_get")):
        return _cached(open_blockstore(client), cache), True
    if isinstance(getattr(type(client), "blockstore", None), property):
        return _cached(client.blockstore, cache), False
    if hasattr(type(client), "get_many") and isinstance(client, Blockstore):
        return _cached(client, cache), False
    if any(base.__module__.partition(".")[0] == "ipfshttpclient" for base in type(client).__mro__):
        return _cached(_kubo_of(client), cache), True
    if callable(getattr(client, "dag_get", None)):
        return DagGetBlockstore(client), True
    found = "None" if client is None else f"a {type(client).__name__}"
    raise OptionError(f"no usable IPFS client, but {found}: {CLIENTS}")


def _cached(store: Blockstore, cache: Cache) -> Blockstore:
    if cache is None or (cache is True and isinstance(store, CachedBlockstore)):
        return CachedBlockstore(store) if isinstance(store, KuboBlockstore | GatewayBlockstore) else store
    bare = without_caches(store)
    if cache is False:  # which a dataset has to be told of a store of the network: it puts a cache before it
        return CachedBlockstore(bare, cache_bytes=0) if is_remote(bare) else bare
    return CachedBlockstore(bare, None if cache is True else cache)


def _kubo_of(client: Any) -> KuboBlockstore:
    """The node that an ipfshttpclient Client speaks to, with what it is shown to be let in.

    ipfshttpclient has no public way to ask; 0.7 and 0.8 keep both in these two attributes.
    """
    session = getattr(client, "_client", None)
    url, properties = getattr(session, "_base_url", None), getattr(session, "_session_props", None)
    if not isinstance(url, str) or not isinstance(properties, dict):
        raise OptionError("this ipfshttpclient does not tell the address of its node; give kubo://host:port instead")
    basic = properties.get("auth")
    bearer = None
    for name, value in dict(properties.get("headers") or {}).items():
        kind, _, secret = str(value).partition(" ")
        if name.lower() != "authorization" or kind.lower() not in ("bearer", "basic"):
            raise OptionError(f"the Client sends a header {name!r}; give KuboBlockstore(address, bearer=...) instead")
        if kind.lower() == "bearer":
            bearer = secret
        else:
            user, _, password = base64.b64decode(secret).decode().partition(":")
            basic = user, password
    return KuboBlockstore(url, bearer=bearer, basic=None if basic is None else (str(basic[0]), str(basic[1])))
