from __future__ import annotations

import io
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import torch_ipfs
from tests.network.staged import Asked, Connection, serving
from torch_ipfs import codec, unixfs
from torch_ipfs.blockstore.car_file import CarBlockstore
from torch_ipfs.blockstore.local import LocalBlockstore
from torch_ipfs.blockstore.memory import MemoryBlockstore
from torch_ipfs.cli.main import main
from torch_ipfs.codec import car, dag_json, json
from torch_ipfs.codec.cid import CID

N = 60
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Exit code, standard output and standard error of the command."""

    def command(*arguments: object) -> tuple[int, str, str]:
        status = main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return status, said.out, said.err

    return command


def write(path: Path, **options: Any) -> CID:
    rows = [{"index": i, "name": f"sample {i}", "x": np.arange(4, dtype=np.float32) + i} for i in range(N)]
    return torch_ipfs.write_dataset(rows, path, shard_bytes=1024, name="numbers", **options)


def damaged(source: Path, cid: CID, to: Path) -> Path:
    """A copy of a CAR in which one bit of a block is turned."""
    data = bytearray(source.read_bytes())
    block = CarBlockstore(source).get(cid)
    data[data.index(bytes(block)) + len(block) // 2] ^= 1
    to.write_bytes(data)
    return to


def without(source: Path, cid: CID, to: Path) -> Path:
    store = CarBlockstore(source)
    with to.open("wb") as file:
        car.write(file, store.roots, ((other, store.get(other)) for other in store.cids() if other != cid))
    return to


def test_show_tells_what_the_root_says(run: Run, tmp_path: Path) -> None:
    cid = write(tmp_path / "a.car", version="2", metadata={"license": "CC0", "odd": "\x1b[31mred\n"})
    status, out, err = run("show", cid, "--source", tmp_path / "a.car")
    assert (status, err) == (0, "")
    for line in (f"root: {cid}", "name: numbers", "version: 2", "samples: 60", "license: 'CC0'", "index: int64"):
        assert line in " ".join(out.split()), line
    assert "float32[4]" in out
    assert "\x1b" not in out


def test_show_of_a_dataset_with_nodes_below_the_root_reads_few_of_them(run: Run, tmp_path: Path) -> None:
    shard = {"cid": CID.of(b"a shard", "raw"), "count": 100, "format": "arrow"}
    node = dag_json.encode({"shards": [shard] * 30})
    entry = {"cid": CID.of(node, "dag-json"), "count": 3000, "format": "manifest"}
    root = dag_json.encode({"shards": [entry] * 10, "schema": [{"name": "x", "dtype": "int64"}]})
    cid = CID.of(root, "dag-json")
    LocalBlockstore(tmp_path / "store").put_many([(CID.of(node, "dag-json"), node), (cid, root)])
    status, out, _ = run("show", cid, "-s", tmp_path / "store")
    assert status == 0
    assert "about 300 below 10 nodes, of about 100 samples" in out


@pytest.mark.parametrize("layout", ["packed", "embedded", "samples"])
def test_head_prints_the_first_samples(run: Run, tmp_path: Path, layout: str) -> None:
    cid = write(tmp_path / "a.car", layout=layout)
    status, out, _ = run("head", cid, "-n", 2, "-s", tmp_path / "a.car")
    assert status == 0
    assert "sample 1:" in out
    assert "'sample 1'" in out
    assert "float32[4] 1, 2, 3, 4" in out
    assert "sample 2" not in out
    assert run("head", cid, "-n", 1000, "-s", tmp_path / "a.car")[1].count("index: int64") == N


@pytest.mark.parametrize("layout", ["packed", "embedded", "samples"])
def test_verify_reads_every_block_and_names_each_bad_one(run: Run, tmp_path: Path, layout: str) -> None:
    path = tmp_path / "a.car"
    cid = write(path, layout=layout)
    cids = list(CarBlockstore(path).cids())
    status, out, _ = run("verify", cid, "-s", path)
    assert status == 0
    assert f"{N} samples, {len(cids)} blocks" in out
    for bad in (cids[0], cids[len(cids) // 2], cid):
        for broken in (damaged(path, bad, tmp_path / "bad.car"), without(path, bad, tmp_path / "cut.car")):
            status, out, err = run("verify", cid, "-s", broken)
            assert status == 1
            assert str(bad) in err
            assert "is whole" not in out


def test_verify_goes_on_after_a_bad_block(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "a.car"
    cid = write(path)
    shards = [other for other in CarBlockstore(path).cids() if other != cid]
    for bad in shards[1:3]:
        path = damaged(path, bad, tmp_path / f"{bad}.car")
    status, _, err = run("verify", cid, "-s", path)
    assert status == 1
    assert [str(bad) in err for bad in shards] == [bad in shards[1:3] for bad in shards]
    assert "2 bad blocks" in err


def test_verify_checks_what_shards_say(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "a.car"
    write(path)
    store = CarBlockstore(path)
    shard = next(other for other in store.cids() if other.codec_name == "raw")
    root = dag_json.encode({"shards": [{"cid": shard, "count": 1_000_000, "format": "arrow"}]})
    lying = CID.of(root, "dag-json")
    LocalBlockstore(tmp_path / "store").put_many([(lying, root), (shard, store.get(shard))])
    status, _, err = run("verify", lying, "-s", tmp_path / "store")
    assert status == 1
    assert "claims 1000000" in err


def test_a_node_that_is_named_over_and_over_is_walked_once(run: Run, tmp_path: Path) -> None:
    store = LocalBlockstore(tmp_path / "store")
    node: dict[str, Any] = {"data": [{"x": 1}]}
    for count in (1, 50, 50**2, 50**3, 50**4, 50**5):
        block = dag_json.encode(node)
        cid = CID.of(block, "dag-json")
        store.put(cid, block)
        node = {"shards": [{"cid": cid, "count": count}] * 50}
    assert run("verify", cid, "-s", store.source)[1].startswith(f"{cid} is whole: {50**5:,} samples, 6 blocks")
    lying = dag_json.encode({"shards": [{"cid": cid, "count": count} for count in (50**5, 50**5, 7)]})
    store.put(CID.of(lying, "dag-json"), lying)
    status, _, err = run("verify", CID.of(lying, "dag-json"), "-s", store.source)
    assert status == 1
    assert "claims 7" in err


@pytest.mark.parametrize("layout", ["embedded", "samples"])
def test_verify_finds_samples_that_cannot_be_read(run: Run, tmp_path: Path, layout: str) -> None:
    store = LocalBlockstore(tmp_path / "store")
    rows: list[Any] = [{"x": 1}, {"x": "two"}, {"x": 3}, {"y": 4}]
    if layout == "samples":
        named = [CID.of(block, "dag-json") for block in map(dag_json.encode, rows)]
        store.put_many(zip(named, map(dag_json.encode, rows), strict=True))
        rows = list(named)
    block = dag_json.encode(
        {"samples" if layout == "samples" else "data": rows, "schema": [{"name": "x", "dtype": "int64"}]}
    )
    cid = CID.of(block, "dag-json")
    store.put(cid, block)
    status, _, err = run("verify", cid, "-s", tmp_path / "store")
    assert status == 1
    assert "sample 1, field 'x'" in err
    assert run("push", cid, tmp_path / "store", tmp_path / "a.car")[0] == 0  # a copy is of blocks


def linked_files(store: MemoryBlockstore, layout: Any) -> tuple[CID, list[CID]]:
    """A dataset whose samples link to files of several blocks each."""
    files = [unixfs.write(bytes([i]) * (2**20 + 5), store.put) for i in range(3)]
    rows = [{"clip": {"file": cid, "more": [cid]}, "plain": b"x"} for cid in files]
    return torch_ipfs.write_dataset(rows, store, layout=layout), files


@pytest.mark.parametrize("layout", ["packed", "embedded", "samples"])
def test_what_samples_link_to_belongs_to_the_dataset(run: Run, tmp_path: Path, layout: str) -> None:
    store = MemoryBlockstore()
    cid, files = linked_files(store, layout)
    for other in list(store.cids()):
        LocalBlockstore(tmp_path / "from").put(other, store.get(other))
    status, _, err = run("push", cid, tmp_path / "from", tmp_path / "to.car")
    assert (status, err) == (0, "")
    copied = CarBlockstore(tmp_path / "to.car")
    assert copied.roots == [cid]
    assert {other.multihash for other in copied.cids()} == {other.multihash for other in store.cids()}
    path = without(tmp_path / "to.car", files[1], tmp_path / "cut.car")
    status, _, err = run("verify", cid, "-s", path)
    assert status == 1
    assert str(files[1]) in err


def test_push_to_a_local_store_pins_the_root(run: Run, tmp_path: Path) -> None:
    cid = write(tmp_path / "a.car")
    status, out, _ = run("push", cid, tmp_path / "a.car", tmp_path / "store")
    assert status == 0
    assert "pinned" in out
    assert LocalBlockstore(tmp_path / "store").pins() == {cid: "recursive"}
    assert run("verify", cid, "-s", tmp_path / "store")[0] == 0


@pytest.mark.parametrize("form", ["packed", "text"])
def test_what_is_pushed_to_a_store_is_kept_there_though_nothing_links_to_it(
    run: Run, tmp_path: Path, form: str
) -> None:
    store = MemoryBlockstore()
    cid, files = linked_files(store, "packed" if form == "packed" else "samples")
    if form == "text":
        root = json.encode([str(link) for link in codec.decode(cid, store.get(cid))["samples"]])
        cid = CID.of(root, "json")
        store.put(cid, root)
    LocalBlockstore(tmp_path / "from").put_many([(other, store.get(other)) for other in store.cids()])
    status, out, err = run("push", cid, tmp_path / "from", tmp_path / "to")
    assert (status, err) == (0, "")
    assert f"which links to the {len(files)} blocks that it names without a link" in out
    assert len(LocalBlockstore(tmp_path / "to").pins()) == 2
    assert LocalBlockstore(tmp_path / "to").gc(grace_s=-60).removed_blocks == 0
    assert run("verify", cid, "-s", tmp_path / "to")[0] == 0


@pytest.mark.parametrize("codec_name", ["dag-json", "json"])
def test_push_takes_roots_of_any_length(run: Run, tmp_path: Path, codec_name: str) -> None:
    root = json.encode({"data": [{"x": 1}]})
    cid = CID.of(root, codec_name, "sha2-512")
    LocalBlockstore(tmp_path / "from").put(cid, root)
    assert run("push", cid, tmp_path / "from", tmp_path / "to.car")[0] == 0
    assert CarBlockstore(tmp_path / "to.car").roots == [cid]


def test_push_does_not_replace_the_file_that_it_reads(run: Run, tmp_path: Path) -> None:
    cid = write(tmp_path / "a.car")
    (tmp_path / "link.car").symlink_to("a.car")
    before = (tmp_path / "a.car").read_bytes()
    status, _, err = run("push", cid, tmp_path / "a.car", tmp_path / "link.car")
    assert (status, "would be replaced" in err) == (2, True)
    assert (tmp_path / "a.car").read_bytes() == before


def test_push_of_a_broken_dataset_leaves_no_file(run: Run, tmp_path: Path) -> None:
    cid = write(tmp_path / "a.car")
    last = [other for other in CarBlockstore(tmp_path / "a.car").cids() if other != cid][-1]
    path = damaged(tmp_path / "a.car", last, tmp_path / "bad.car")
    status, _, err = run("push", cid, path, tmp_path / "to.car")
    assert status == 1
    assert str(last) in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "to.car").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["show"],
        ["show", "no-cid"],
        ["show", "/ipns/example.org"],
        ["show", "bafkqaaa", "-s", "/no/such/file.car"],
        ["show", "bafkqaaa", "-s", "gopher://host"],
        ["head", "bafkqaaa", "-n", "-1"],
        ["push", "bafkqaaa", "/no/such/file.car"],
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(run: Run, arguments: list[str]) -> None:
    status, out, err = run(*arguments)
    assert status == 2
    assert out == ""
    assert len(err.splitlines()) == 1
    assert err.startswith("torch-ipfs")


def test_what_cannot_be_had_is_one_line_and_exit_code_1(run: Run, tmp_path: Path) -> None:
    cid = write(tmp_path / "a.car")
    absent = CID.of(b"absent", "dag-cbor")
    for command in (["show"], ["head"], ["verify"]):
        status, out, err = run(*command, absent, "-s", tmp_path / "a.car")
        assert (status, out) == (1, "")
        assert len(err.splitlines()) == 1
        assert str(absent) in err
    assert run("push", cid, tmp_path / "a.car", "http://127.0.0.1:9")[0] == 1


@pytest.mark.parametrize("arguments", [["show"], ["--help"]])
def test_a_full_device_is_one_line_and_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str]
) -> None:
    if arguments == ["show"]:
        arguments = ["show", str(write(tmp_path / "a.car")), "-s", str(tmp_path / "a.car")]
    with open("/dev/full", "w") as full:  # noqa: PTH123
        monkeypatch.setattr(sys, "stdout", full)
        assert main(arguments) == 1
    assert capsys.readouterr().err == "torch-ipfs: the system refused: [Errno 28] No space left on device\n"


def test_closed_output_does_not_matter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cid = write(tmp_path / "a.car")
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert main(["verify", str(cid), "-s", str(tmp_path / "a.car")]) == 0
    assert main(["verify", str(cid), "-s", str(tmp_path / "b.car")]) == 2
    sys.stdout.close()
    sys.stderr.close()


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_nothing_reaches_the_terminal_as_it_stands_there(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, errors: str
) -> None:
    cid = torch_ipfs.write_dataset([{"a\x1b[1m": {"b\x1b[2m": {"c\x1b[3m": "\x1b[4m"}}}], tmp_path / "a.car")
    written = io.BytesIO()
    text = io.TextIOWrapper(written, "ascii", errors)
    monkeypatch.setattr(sys, "stdout", text)
    status, _, err = run("show", cid, "-s", tmp_path / "a.car")
    assert (status, err) == (0, "")
    assert run("push", cid, tmp_path / "a.car", tmp_path / "caf\xe9\udcff.car")[0] == 0
    out = written.getvalue().decode()
    assert "\x1b" not in out
    assert r"b\x1b[2m: struct{c\x1b[3m: text}" in out
    assert r"caf\xe9\udcff.car" in out
    assert "\x1b" not in run("show", cid, "-s", tmp_path / "\x1b[5m.car")[2]


def test_a_push_that_is_told_to_end_leaves_no_file(tmp_path: Path) -> None:
    cid = write(tmp_path / "a.car")
    blocks = CarBlockstore(tmp_path / "a.car")
    begun = threading.Event()

    def service(asked: Asked, connection: Connection) -> None:
        if asked.cid == str(cid):
            connection.answer(bytes(blocks.get(cid)))
        else:
            begun.set()
            connection.silence()

    (tmp_path / "to").mkdir()
    with serving(service) as server:
        command = [sys.executable, "-m", "torch_ipfs", "push", str(cid), server.url, str(tmp_path / "to/b.car")]
        with subprocess.Popen(command) as process:
            assert begun.wait(60)
            assert list((tmp_path / "to").iterdir())
            process.terminate()
            assert process.wait(60) == 128 + signal.SIGTERM
    assert not list((tmp_path / "to").iterdir())


def test_the_installed_command_tells_its_version_and_ends_quietly_in_a_closed_pipe(tmp_path: Path) -> None:
    script, command = Path(sys.executable).with_name("torch-ipfs"), [sys.executable, "-m", "torch_ipfs"]
    for either in ([str(script)] if script.exists() else command, command):
        assert subprocess.check_output([*either, "--version"], text=True).startswith("torch-ipfs 0.")
    cid = torch_ipfs.write_dataset({"x": np.arange(20_000)}, tmp_path / "a.car")
    head = [*command, "head", str(cid), "-n", "20000", "-s", str(tmp_path / "a.car")]
    with subprocess.Popen(head, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "sample 0:\n"
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(timeout=60) == 1
