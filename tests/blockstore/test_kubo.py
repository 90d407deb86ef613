from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest

from tests.network.dags import as_car, dag
from tests.network.gateways import DEADLINE_S, block
from tests.network.nodes import KuboNode
from tests.network.staged import Asked, Connection, forward, serving
from torch_ipfs.blockstore.base import PinningBlockstore
from torch_ipfs.blockstore.kubo import KuboBlockstore
from torch_ipfs.codec import car
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import BlockNotFound, HashMismatch, OptionError, TransportError
from torch_ipfs.testing import BlockstoreConformance

pytestmark = pytest.mark.kubo


EMPTY_DIRECTORY = (CID.parse("QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn"), b"\n\x02\x08\x01")


@pytest.fixture
def store(empty_node: KuboNode) -> Iterator[KuboBlockstore]:
    store = KuboBlockstore(empty_node.rpc)
    yield store
    store.close()


@pytest.fixture
def impatient(store: KuboBlockstore) -> Iterator[KuboBlockstore]:
    """The same node by a store that soon takes a block for missing; ``store`` is for what a busy machine makes slow."""
    impatient = KuboBlockstore(store.source, timeout_s=0.3)
    yield impatient
    impatient.close()


class TestKuboBlockstore(BlockstoreConformance):
    """Before a real node, with a proxy between that can forge."""

    window_bytes = 8 * 4 * 2**20  # CIDs are taken ahead; no more than the window is asked for

    @classmethod
    def blocks(cls) -> list[tuple[CID, bytes]]:
        """A node keeps an empty directory, the root of its MFS."""
        return [*super().blocks(), EMPTY_DIRECTORY]

    @pytest.fixture
    def store(self, filled_node: Callable) -> Iterator[KuboBlockstore]:
        node = filled_node(self.blocks())
        self.forged: dict[str, bytes] = {}

        def service(asked: Asked, connection: Connection) -> None:
            if "/dag/import" in asked.target:
                self.forged.clear()
            if "/block/get" in asked.target and asked.cid in self.forged:
                connection.answer(self.forged[asked.cid])
            else:
                status, headers, body = forward(f"http://127.0.0.1:{node.rpc_port}", asked)
                connection.answer(body, status, headers)

        with serving(service) as proxy:
            store = KuboBlockstore(proxy.url, timeout_s=0.5, in_flight=4)
            yield store
            store.close()

    def forge(self, store: KuboBlockstore, cid: CID, data: bytes) -> None:
        self.forged[str(cid)] = data


def test_it_pins_and_tells_of_its_node(store: KuboBlockstore, empty_node: KuboNode):
    assert isinstance(store, PinningBlockstore)
    assert store.version() == json.loads(empty_node.call("version"))["Version"]
    assert store.id() == json.loads(empty_node.call("id"))["ID"]


@pytest.mark.parametrize("form", ["kubo://127.0.0.1:{port}", "/ip4/127.0.0.1/tcp/{port}", "http://127.0.0.1:{port}"])
def test_every_form_of_address_reaches_blocks_and_control(empty_node: KuboNode, form: str):
    store = KuboBlockstore(form.format(port=empty_node.rpc_port))
    cid, data = block(1)
    store.put(cid, data)
    assert store.get(cid) == data
    assert store.version()
    store.close()


def test_a_block_that_nobody_has_ends_in_time(impatient: KuboBlockstore):
    start = time.monotonic()
    with pytest.raises(BlockNotFound) as caught:
        impatient.get(block(12345)[0])
    assert 0.2 < time.monotonic() - start < 5
    assert caught.value.cid == str(block(12345)[0])
    got = list(impatient.get_many([block(i)[0] for i in range(40)], return_exceptions=True))
    assert len(got) == 40
    assert all(isinstance(answer, BlockNotFound) for answer in got)
    assert time.monotonic() - start < 20


def test_has_does_not_search(empty_node: KuboNode):
    store = KuboBlockstore(empty_node.rpc, timeout_s=1000.0)
    start = time.monotonic()
    assert not store.has(block(12345)[0])
    assert time.monotonic() - start < 5
    store.close()


@pytest.mark.parametrize(
    "hash_function", ["sha2-256", "sha2-512", "sha3-256", "blake3", "blake2b-256", "blake2s-256", "sha1"]
)
@pytest.mark.parametrize("codec", ["raw", "dag-cbor", "dag-json", "json", "git-raw", "cbor"])
def test_blocks_of_any_codec_and_allowed_hash(store: KuboBlockstore, codec: str, hash_function: str):
    data = f"no valid {codec} at all".encode()
    cid = CID.of(data, codec, hash_function)
    store.put(cid, data)
    assert store.has(cid)
    assert store.get(cid) == data


def test_a_dag_goes_in_as_car_and_comes_out_as_car(store: KuboBlockstore):
    root, blocks = dag()
    assert store.import_car(io.BytesIO(as_car(root, blocks))) == [root]
    assert store.pins() == {root: "recursive"}
    assert list(store.get_car(root)) == blocks
    exported = io.BytesIO()
    store.export(root, exported)
    assert exported.getvalue() == as_car(root, blocks)


def test_a_car_file_goes_in_by_its_path_without_pins(store: KuboBlockstore, tmp_path: Path):
    root, blocks = dag()
    (tmp_path / "dag.car").write_bytes(as_car(root, blocks))
    assert store.import_car(tmp_path / "dag.car", pin_roots=False) == [root]
    assert store.pins() == {}
    assert store.get(blocks[-1][0]) == blocks[-1][1]


def test_a_carv2_goes_in(store: KuboBlockstore, fixtures_path: Path):
    roots = store.import_car(fixtures_path / "car" / "carv2-basic.car", pin_roots=False)
    assert [str(root) for root in roots] == ["QmfEoLyB5NndqeKieExd1rtJzTduQUPEV8TwAYcUiy3H5Z"]


def test_a_car_that_is_cut_or_damaged_is_refused(store: KuboBlockstore):
    root, blocks = dag()
    whole = as_car(root, blocks)
    for bad in (whole[:-10], whole[:-1] + bytes([whole[-1] ^ 1])):
        with pytest.raises(TransportError, match="cannot do that"):
            store.import_car(io.BytesIO(bad))
    with pytest.raises(ValueError, match=r".") as caught:
        store.import_car(io.BytesIO(b"not a CAR"))
    assert type(caught.value).__name__ == "CodecError"


def test_a_root_whose_dag_is_not_whole_cannot_be_pinned(store: KuboBlockstore, impatient: KuboBlockstore):
    root, blocks = dag()
    with pytest.raises(BlockNotFound) as caught:
        impatient.import_car(io.BytesIO(as_car(root, blocks[:-1])))
    assert caught.value.cid == str(root)
    assert store.has(root)
    assert store.pins() == {}


def test_pins(store: KuboBlockstore):
    root, blocks = dag()
    store.put_many(blocks)
    store.pin(root)
    leaf = blocks[-1][0]
    store.pin(leaf, recursive=False)
    store.pin(root, recursive=False)
    assert store.pins() == {root: "recursive", leaf: "direct"}
    store.unpin(root)
    assert store.pins() == {leaf: "direct"}
    with pytest.raises(OptionError) as caught:
        store.unpin(root)
    assert caught.value.cid == str(root)


def test_a_pin_of_what_nobody_has_ends_in_time(store: KuboBlockstore, impatient: KuboBlockstore):
    root, blocks = dag()
    store.put_many(blocks[:-1])
    start = time.monotonic()
    with pytest.raises(BlockNotFound) as caught:
        impatient.pin(root)
    assert time.monotonic() - start < 10
    assert caught.value.cid == str(root)
    assert store.pins() == {}


def test_an_export_that_lacks_blocks_is_no_export(store: KuboBlockstore, impatient: KuboBlockstore):
    root, blocks = dag()
    store.put_many(blocks[:-1])
    with pytest.raises((TransportError, BlockNotFound)):
        list(impatient.get_car(root))
    with pytest.raises(BlockNotFound):
        list(impatient.get_car(block(12345)[0]))


def test_large_imports_stream(store: KuboBlockstore):
    """A file that is made while it is read, by a thread at the other end of a pipe."""
    root, blocks = dag(40, 2**20)
    reader, writer = os.pipe()

    def write() -> None:
        with open(writer, "wb") as file:  # noqa: PTH123 - a pipe's end
            car.write(file, [root], blocks)

    thread = threading.Thread(target=write)
    thread.start()
    with open(reader, "rb") as file:  # noqa: PTH123 - a pipe's end
        assert store.import_car(file) == [root]
    thread.join()
    assert store.pins() == {root: "recursive"}


def test_a_file_that_fails_is_told_by_its_own_error(store: KuboBlockstore):
    class Failing(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() > 1000:
                raise OSError(errno.EIO, "Input/output error")
            return super().read(min(size or 0, 600))

    with pytest.raises(TransportError, match="Input/output error") as caught:
        store.import_car(Failing(as_car(*dag())))
    assert caught.value.source == "Failing"


def test_a_file_may_read_what_stands_otherwise_in_the_one_below_it(store: KuboBlockstore):
    class Inverted(io.BufferedReader):
        def read(self, size: int | None = -1, /) -> bytes:
            return bytes(255 - byte for byte in super().read(size))

    root, blocks = dag()
    below = io.BytesIO(bytes(255 - byte for byte in as_car(root, blocks)))
    assert store.import_car(Inverted(cast(io.RawIOBase, below))) == [root]


def test_nobody_waits_for_a_pipe_that_says_no_more(impatient: KuboBlockstore):
    reader, writer = os.pipe()
    os.write(writer, as_car(*dag())[:1000])
    with open(reader, "rb", buffering=0) as file:  # noqa: PTH123 - a pipe's end
        try:
            with pytest.raises(TransportError, match="no more of the CAR"):
                impatient.import_car(file)
            closing = threading.Thread(target=impatient.close)
            closing.start()
            closing.join(DEADLINE_S)
            assert not closing.is_alive()
        finally:
            os.close(writer)


def test_nor_does_python_at_its_end(impatient: KuboBlockstore):
    """A read of the standard input would hold its buffer's lock."""
    code = (
        "import sys; from torch_ipfs import KuboBlockstore\n"
        "KuboBlockstore(sys.argv[1], timeout_s=0.5).import_car(sys.stdin.buffer)"
    )
    reader, writer = os.pipe()
    os.write(writer, as_car(*dag())[:1000])
    with open(reader, "rb") as stdin:  # noqa: PTH123 - a pipe's end
        ran = subprocess.run(
            [sys.executable, "-c", code, impatient.source],
            stdin=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    os.close(writer)
    assert ran.returncode == 1
    assert "no more of the CAR" in ran.stderr


def test_nor_for_one_that_is_named_by_a_path(impatient: KuboBlockstore, tmp_path: Path):
    path = tmp_path / "pipe.car"
    os.mkfifo(path)
    with path.open("r+b", buffering=0) as writer:  # for both, so that opening it does not wait
        writer.write(as_car(*dag())[:1000])
        importing = threading.Thread(target=lambda: failed(lambda: impatient.import_car(path)))
        importing.start()
        importing.join(DEADLINE_S)
        assert not importing.is_alive()


def failed(call: Callable[[], object]) -> None:
    with pytest.raises(TransportError, match="no more of the CAR"):
        call()


def test_put_many_stops_at_a_bad_block_and_keeps_those_before(store: KuboBlockstore):
    good = [block(i) for i in range(10)]
    with pytest.raises(HashMismatch):
        store.put_many([*good, (block(11)[0], b"forged")])
    assert all(store.has(cid) for cid, _ in good)


def test_blocks_cross_a_private_swarm(kubo_swarm: list[KuboNode]):
    """A publishes, B gets and pins, and serves C while A is stopped."""
    a, b, c = kubo_swarm
    root, blocks = dag(20, 50_000)
    stores = [KuboBlockstore(node.rpc, timeout_s=20.0) for node in (a, b, c)]
    stores[0].import_car(io.BytesIO(as_car(root, blocks)))
    assert not stores[1].has(root)
    progress = list(stores[1].pin_progress(root))
    assert progress == sorted(progress)
    assert stores[1].pins()[root] == "recursive"
    a.stop()
    assert list(stores[2].get_many([cid for cid, _ in blocks])) == [data for _, data in blocks]
    assert list(stores[2].get_car(root)) == blocks
    for store in stores:
        store.close()
