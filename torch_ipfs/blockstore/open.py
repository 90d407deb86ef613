"""From the name of a source of blocks to its store."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from torch_ipfs.blockstore.base import Blockstore, is_store
from torch_ipfs.blockstore.car_file import CarBlockstore
from torch_ipfs.blockstore.directories import home_expanded
from torch_ipfs.blockstore.local import LocalBlockstore
from torch_ipfs.errors import OptionError, TransportError

Source = Blockstore | str | os.PathLike[str] | Sequence["Source"] | None

FORMS = (
    "a source is a CAR file, the folder of a local store, kubo://host:port or a multiaddr such as /ip4/127.0.0.1/tcp/5001 "
    "(the RPC of an IPFS node), http://host or https://host (a trustless gateway), a Blockstore, or a list of these"
)

_MULTIADDR = re.compile(r"/(?:ip4|ip6|dns|dns4|dns6|dnsaddr|unix)/.", re.IGNORECASE)
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_CAR_HEADER_KEYS = (b"\x65roots", b"\x67version")


def open_blockstore(source: Source = None) -> Blockstore:
    """The store that a source names. Nothing is read but what tells a folder from a CAR file, nothing is connected.

    A store of the network comes with the cache of this machine before it; a list is tried in its order.

    :param source: a Blockstore as it is; a path; ``kubo://host:port`` or a multiaddr; ``http(s)://host``; a list of these.
        ``None`` takes TORCH_IPFS_SOURCE, where commas separate sources (a path with a comma in it can be given in code),
        else the local store.
    :raises OptionError: the source is none of these, or a path where nothing is, or a file that is no CAR.
    :raises TransportError: the path cannot be looked at.
    """
    if source is None:
        return _open_default()
    if isinstance(source, str):
        return _open_text(source)
    if isinstance(source, os.PathLike):
        return _open_path(os.fspath(source))
    if is_store(source):
        return source
    if isinstance(source, list | tuple):
        return _open_all(source)
    raise OptionError(f"cannot open blocks from a {type(source).__name__}: {FORMS}")


def open_cached(source: Source = None) -> Blockstore:
    """As :func:`open_blockstore`, with the cache of this machine before stores of the network that come without one.

    A shuffled epoch needs a shard again when others have taken its place in memory. Who wants no cache says so:
    ``CachedBlockstore(store, cache_bytes=0)``, or TORCH_IPFS_CACHE_BYTES=0.
    """
    store = open_blockstore(source)
    if not is_remote(store):
        return store
    from torch_ipfs.blockstore.cached import CachedBlockstore

    return CachedBlockstore(store)


def is_remote(store: Blockstore | None) -> bool:
    """Whether it has its blocks from the network alone, and no cache."""
    return bool(getattr(store, "is_remote", False))


def is_uncached(store: Blockstore) -> bool:
    """Whether what is read twice is fetched twice: a store of the network whose cache is turned off."""
    return bool(getattr(store, "is_uncached", False))


def is_network(name: str) -> bool:
    """Whether that names a node, a gateway, or anything else that is no path."""
    return "://" in name or _MULTIADDR.match(name) is not None


def _open_default() -> Blockstore:
    text = os.environ.get("TORCH_IPFS_SOURCE", "").strip()
    if not text:
        return LocalBlockstore()
    named = [name.strip() for name in text.split(",")]
    return _open_all([name for name in named if name])


def _open_all(sources: Sequence[Source]) -> Blockstore:
    if not sources:
        raise OptionError(f"an empty list of sources: {FORMS}")
    if None in sources:
        raise OptionError(f"None in a list of sources: {FORMS}")
    if len(sources) == 1:
        return open_blockstore(sources[0])
    from torch_ipfs.blockstore.cached import CachedBlockstore
    from torch_ipfs.blockstore.tiered import TieredBlockstore

    stores: list[Blockstore] = []
    below: list[Blockstore] = []
    for source in [*sources, None]:
        store = None if source is None else open_blockstore(source)
        if isinstance(store, CachedBlockstore) and store is not source:
            store = store.store
        if is_remote(store):
            # One cache before all such neighbours: with caches of their own, one that is slow would hold a block's claim,
            # and the next one's cache would wait for it.
            below.append(cast(Blockstore, store))
            continue
        if below:
            stores.append(CachedBlockstore(below[0] if len(below) == 1 else TieredBlockstore(below)))
            below = []
        if store is not None:
            stores.append(store)
    return stores[0] if len(stores) == 1 else TieredBlockstore(stores)


def _open_text(source: str) -> Blockstore:
    scheme = _SCHEME.match(source)
    if scheme is None:
        return _open_network(source) if _MULTIADDR.match(source) else _open_path(source)
    if scheme[1].lower() not in ("kubo", "http", "https"):
        raise OptionError(f"a source of the unknown scheme {scheme[1]}://; {FORMS}")
    return _open_network(source)


def _open_network(source: str) -> Blockstore:
    from torch_ipfs.blockstore.cached import CachedBlockstore

    if source.lower().startswith("http"):
        from torch_ipfs.blockstore.gateway import GatewayBlockstore

        return CachedBlockstore(GatewayBlockstore(source))
    from torch_ipfs.blockstore.kubo import KuboBlockstore

    return CachedBlockstore(KuboBlockstore(source))


def _open_path(source: str) -> Blockstore:
    if not source:
        raise OptionError(f"an empty name of a source; {FORMS}")
    path = home_expanded(source)
    try:
        mode = path.stat().st_mode
        is_car = stat.S_ISREG(mode) and _starts_as_car(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        raise OptionError(f"there is no file or folder {source!r}; {FORMS}") from None
    except OSError as error:
        raise TransportError(f"the source cannot be looked at: {error.strerror}", source=source) from error
    if stat.S_ISDIR(mode):
        return LocalBlockstore(path)
    if is_car:
        return CarBlockstore(path)
    raise OptionError(f"{source!r} is no CAR file; {FORMS}")


def _starts_as_car(path: Path) -> bool:
    """Whether a file's first bytes hold a key of a CAR's header. What else it holds is seen when it is used."""
    with path.open("rb") as file:
        start = file.read(64)
    return any(key in start for key in _CAR_HEADER_KEYS)
