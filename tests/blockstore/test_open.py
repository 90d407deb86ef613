"""From the name of a source to its store."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

import torch_ipfs
from torch_ipfs.blockstore import open_blockstore
from torch_ipfs.blockstore.car_file import CarBlockstore
from torch_ipfs.blockstore.local import LocalBlockstore
from torch_ipfs.blockstore.memory import MemoryBlockstore
from torch_ipfs.codec import car
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import BlockNotFound, OptionError, TransportError

FORMS = r"kubo://host:port .* multiaddr .* https://host"


@pytest.fixture
def car_path(tmp_path: Path) -> Path:
    path = tmp_path / "digits.car"
    with path.open("wb") as file:
        car.write(file, [], [(CID.of(b"in the car"), b"in the car")])
    return path


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("opening a source connects to nothing")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def below(store: object) -> Any:
    """The store under the cache that the network's stores come with."""
    from torch_ipfs.blockstore.cached import CachedBlockstore

    assert isinstance(store, CachedBlockstore)
    return store.store


def test_a_store_is_taken_as_it_is() -> None:
    store = MemoryBlockstore()
    assert open_blockstore(store) is store
    assert open_blockstore([store]) is store


@pytest.mark.parametrize("as_text", [True, False])
def test_a_file_is_a_car_and_a_folder_a_local_store(car_path: Path, *, as_text: bool) -> None:
    def form(path: Path) -> str | Path:
        return str(path) if as_text else path

    opened = open_blockstore(form(car_path))
    assert isinstance(opened, CarBlockstore)
    assert opened.get(CID.of(b"in the car")) == b"in the car"
    local = open_blockstore(form(car_path.parent))
    assert isinstance(local, LocalBlockstore)
    assert local.source == str(car_path.parent)


def test_a_car_needs_no_suffix(fixtures_path: Path, tmp_path: Path) -> None:
    for name in ("carv1-basic.car", "carv2-basic.car", "sample-v2-indexless.car", "sample-wrapped-v2.car"):
        path = tmp_path / "data"
        path.write_bytes((fixtures_path / "car" / name).read_bytes())
        assert isinstance(open_blockstore(path), CarBlockstore)


def test_home_is_expanded(monkeypatch: pytest.MonkeyPatch, car_path: Path) -> None:
    monkeypatch.setenv("HOME", str(car_path.parent))
    assert isinstance(open_blockstore("~/digits.car"), CarBlockstore)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    "address",
    ["kubo://127.0.0.1:5001", "/ip4/127.0.0.1/tcp/5001", "/dns4/node.example/tcp/5001", "KUBO://localhost:5001"],
)
def test_a_node_by_its_rpc(address: str) -> None:
    from torch_ipfs.blockstore.kubo import KuboBlockstore

    assert isinstance(below(open_blockstore(address)), KuboBlockstore)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("url", ["https://trustless-gateway.link", "http://127.0.0.1:8080", "HTTPS://gateway.example"])
def test_a_gateway(url: str) -> None:
    from torch_ipfs.blockstore.gateway import GatewayBlockstore

    assert isinstance(below(open_blockstore(url)), GatewayBlockstore)


@pytest.mark.parametrize("kind", [list, tuple])
def test_a_list_is_tried_in_order(car_path: Path, kind: type) -> None:
    memory = MemoryBlockstore([(CID.of(b"in memory"), b"in memory")])
    store = open_blockstore(kind([str(car_path), memory]))
    assert store.get(CID.of(b"in the car")) == b"in the car"
    assert store.get(CID.of(b"in memory")) == b"in memory"
    with pytest.raises(BlockNotFound):
        store.get(CID.of(b"nowhere"))


@pytest.mark.usefixtures("offline")
def test_neighbours_of_the_network_share_one_cache(car_path: Path, tmp_path: Path) -> None:
    from torch_ipfs.blockstore.cached import CachedBlockstore
    from torch_ipfs.blockstore.gateway import GatewayBlockstore
    from torch_ipfs.blockstore.kubo import KuboBlockstore
    from torch_ipfs.blockstore.tiered import TieredBlockstore

    nodes: list[Any] = ["kubo://127.0.0.1:5001", "https://gateway.example"]
    tiers = below(open_blockstore(nodes))
    assert [type(store) for store in tiers.stores] == [KuboBlockstore, GatewayBlockstore]
    mixed = open_blockstore([car_path, *nodes, car_path, nodes[0]])
    assert isinstance(mixed, TieredBlockstore)
    assert [type(store) for store in mixed.stores] == [CarBlockstore, CachedBlockstore, CarBlockstore, CachedBlockstore]
    assert len(below(mixed.stores[1]).stores) == 2
    mine = CachedBlockstore(MemoryBlockstore(), tmp_path / "a cache of my own")
    kept = open_blockstore([mine, nodes[0]])
    assert isinstance(kept, TieredBlockstore)
    assert kept.stores[0] is mine


def test_the_default_is_the_environments_list_else_the_local_store(
    monkeypatch: pytest.MonkeyPatch, car_path: Path, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_IPFS_HOME", str(tmp_path / "home"))
    default = open_blockstore()
    assert isinstance(default, LocalBlockstore)
    assert default.source == str(tmp_path / "home")
    monkeypatch.setenv("TORCH_IPFS_SOURCE", str(car_path))
    assert isinstance(open_blockstore(), CarBlockstore)
    other = LocalBlockstore(tmp_path / "other store")
    other.put(CID.of(b"in the folder"), b"in the folder")
    monkeypatch.setenv("TORCH_IPFS_SOURCE", f"{car_path}, {other.source},")
    both = open_blockstore()
    assert [both.get(CID.of(data)) for data in (b"in the car", b"in the folder")] == [b"in the car", b"in the folder"]


def test_commas_alone_name_no_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_IPFS_SOURCE", " , ")
    with pytest.raises(OptionError, match="an empty list of sources"):
        open_blockstore()


@pytest.mark.parametrize("name", ["~no-such-user/x.car", "~no-such-user"])
def test_the_home_of_nobody_is_no_path(name: str) -> None:
    with pytest.raises(OptionError, match="is no path here"):
        open_blockstore(name)


@pytest.mark.parametrize(
    "source",
    ["no/such/file.car", "", "nul\0byte", "ftp://host/x.car", "file:///x.car", "ipfs://bafy", [], [None], 5, b"x.car"],
)
def test_what_names_no_source_is_told_what_does(source: Any) -> None:
    with pytest.raises(OptionError, match=FORMS):
        open_blockstore(source)


def test_a_file_that_is_no_car_is_told_so(tmp_path: Path) -> None:
    for content in (b"", b"PK\3\4 a zip file", b"\0" * 100):
        (tmp_path / "x.zip").write_bytes(content)
        with pytest.raises(OptionError, match=r"no CAR file; .*" + FORMS):
            open_blockstore(tmp_path / "x.zip")


def test_what_cannot_be_looked_at_is_a_transport_error(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(TransportError):
        open_blockstore(loop)


def test_an_unknown_schemes_secrets_are_not_repeated() -> None:
    with pytest.raises(OptionError) as caught:
        open_blockstore("sftp://user:password@host/x")
    assert "password" not in str(caught.value)


def test_a_store_may_have_its_methods_from_another() -> None:
    class Wrapped:
        def __init__(self, store: MemoryBlockstore) -> None:
            self._store = store

        def __getattr__(self, name: str) -> Any:
            return getattr(object.__getattribute__(self, "_store"), name)

    wrapped: Any = Wrapped(MemoryBlockstore())
    cid = torch_ipfs.write_dataset([{"x": i} for i in range(5)], wrapped)
    assert open_blockstore(wrapped) is wrapped
    for source in (wrapped, torch_ipfs.TieredBlockstore([wrapped])):
        assert len(list(torch_ipfs.IPFSIterableDataset(cid, source))) == 5
