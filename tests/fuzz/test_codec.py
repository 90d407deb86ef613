"""Mutated fixtures decode, or raise one of our errors: nothing else, and not for long."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.codec.strategies import check_dag_cbor, same, says
from tests.fuzz.mutation import MAX_INPUT_SECONDS, mutated, rounds
from torch_ipfs.codec import car, dag_json, dag_pb, json, json_parser, multihash
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import BlockTooLarge, CodecError, HashMismatch

pytestmark = pytest.mark.fuzz


def fuzz(name: str, corpus: list[bytes], check: Callable[[bytes], None]) -> None:
    assert corpus
    for data in corpus:
        check(data)
    for seed, rng in rounds(name):
        data = mutated(rng, corpus)
        started = time.monotonic()
        try:
            check(data)
        except BaseException as error:
            error.add_note(f"seed {seed!r}, input {data[:2000].hex()}{'...' if len(data) > 2000 else ''}")
            raise
        assert time.monotonic() - started < MAX_INPUT_SECONDS, seed


def files(folder: Path, pattern: str) -> list[bytes]:
    return [file.read_bytes() for file in sorted(folder.glob(pattern))]


def check_dag_json(data: bytes) -> None:
    try:
        value = dag_json.decode(data)
    except CodecError as error:
        says(error, "at byte")
        return
    assert same(json_parser._Text(data.decode(), dag_json._value).parse(), value)
    try:
        again = dag_json.encode(value)
    except CodecError as error:
        says(error, 'first key is "/"')
    else:
        assert same(dag_json.decode(again), value)


def check_json(data: bytes) -> None:
    try:
        value = json.decode(data)
    except CodecError as error:
        says(error, "at byte")
    else:
        assert same(json.decode(json.encode(value)), value)


def check_dag_pb(data: bytes) -> None:
    try:
        node = dag_pb.decode(data)
    except CodecError as error:
        says(error, "byte")
    else:
        assert same(
            dag_pb.decode(dag_pb.encode(dag_pb.decode(dag_pb.encode(node)))), dag_pb.decode(dag_pb.encode(node))
        )


def check_car(data: bytes) -> None:
    try:
        streamed = car.read_blocks(io.BytesIO(data), verify=False)
        blocks = list(streamed[1])
    except CodecError as error:
        says(error, "byte")
        with pytest.raises(CodecError):
            list(car.scan(data)[1])
        return
    except BlockTooLarge:
        return
    roots, found = car.scan(data)
    assert roots == streamed[0]
    assert [(cid, data[start:end]) for cid, start, end in found] == blocks


def check_verified_car(data: bytes) -> None:
    with contextlib.suppress(CodecError, HashMismatch, BlockTooLarge):
        for cid, block in car.iter_blocks(io.BytesIO(data)):
            assert multihash.matches(cid.multihash, block)


def check_cid(data: bytes) -> None:
    try:
        cid, end = CID.read(data)
    except CodecError:
        with pytest.raises(CodecError):
            CID.from_bytes(data)
        return
    assert bytes(cid) == data[:end]
    assert CID.parse(str(cid)) == cid
    assert CID.from_bytes(data[:end]) == cid
    with contextlib.suppress(CodecError):
        multihash.matches(cid.multihash, b"")


def check_cid_text(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    try:
        cid = CID.parse(text)
    except CodecError:
        return
    assert CID.parse(str(cid)) == cid
    assert CID.from_bytes(bytes(cid)) == cid


@pytest.mark.parametrize(
    ("pattern", "check"),
    [
        ("*.dag-cbor", check_dag_cbor),
        ("*.dag-json", check_dag_json),
        ("*.dag-json", check_json),
        ("*.dag-pb", check_dag_pb),
        ("cid-*/*.dag-cbor", check_dag_cbor),
    ],
    ids=["dag-cbor", "dag-json", "json", "dag-pb", "links"],
)
def test_codecs(fixtures_path: Path, pattern: str, check: Callable[[bytes], None]) -> None:
    fuzz(pattern + check.__name__, files(fixtures_path / "codec", pattern if "/" in pattern else f"*/{pattern}"), check)


@pytest.mark.parametrize("check", [check_car, check_verified_car])
def test_cars(fixtures_path: Path, check: Callable[[bytes], None]) -> None:
    corpus = [
        data for data in files(fixtures_path, "car/*.car") + files(fixtures_path, "gateway/*.car") if len(data) < 3000
    ]
    fuzz(check.__name__, corpus, check)


def test_cids(fixtures_path: Path) -> None:
    texts = [file.stem for file in sorted((fixtures_path / "codec").glob("*/*.*"))]
    texts += [folder.name[4:] for folder in (fixtures_path / "codec").glob("cid-*") if "of" not in folder.name[-2:]]
    cids = [CID.parse(text) for text in texts]
    fuzz("cid", [bytes(cid) for cid in cids], check_cid)
    bases = ["b", "z", "k", "f", "F", "m", "u", "B", "C", "M"]
    fuzz("cid text", [cid.to_string(base).encode() for cid in cids if cid.version for base in bases], check_cid_text)
