"""write_dataset: one CID for the same samples, however they are given; options; what does not fit."""

from __future__ import annotations

import collections
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import ChainDataset, DataLoader, Dataset, IterableDataset, TensorDataset

import torch_ipfs
from torch_ipfs.blockstore.memory import MemoryBlockstore
from torch_ipfs.codec import dag_cbor
from torch_ipfs.codec.cid import CID
from torch_ipfs.dataset.write import write_dataset
from torch_ipfs.errors import OptionError, SampleError
from torch_ipfs.manifest.build import MAX_BLOCK_BYTES
from torch_ipfs.manifest.schema import Field, Schema

N = 1000
X = (np.arange(4 * N, dtype=np.float32) / 8).reshape(N, 4)
Y = np.arange(N)
GOLDEN = "bafyreif5h7bf5xt3rp74a2fco5zmkd6e7d4m2mg7bfugyoj6u5e6cvpg2a"


OTHER_GOLDEN = [
    "bafyreigwadqi2hdnw7fkarwfuhdnhuzjwidggeoh26v753vozkr5pjugmm",
    "bafyreifbvbpdpii2elqtvj5ldjkvnq7q7nn7dhfxdhy5dlgepfvsohqlla",
    "bafyreiaalmrb4cauojkbeah4nufjsbliv6kokuvmfcofddudy2pxdoissy",
]
"""Of the rows below, packed, embedded and as samples."""


class MapStyle(Dataset[tuple[torch.Tensor, int]]):
    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return torch.from_numpy(X[i]), int(Y[i])


class Uncounted(Dataset[dict[str, Any]]):
    def __getitem__(self, i: int) -> dict[str, Any]:
        return {"x": X[i], "y": int(Y[i])}


class Iterable(IterableDataset[dict[str, Any]]):
    def __iter__(self) -> Iterator[dict[str, Any]]:
        return ({"x": x, "y": int(y)} for x, y in zip(X, Y, strict=True))


Sample = collections.namedtuple("Sample", "x y")  # noqa: PYI024 - what a dataset of others may give

FORMS: dict[str, Any] = {
    "numpy columns": lambda: {"x": X, "y": Y},
    "big endian": lambda: {"x": X.astype(">f4"), "y": Y.astype(">i8")},
    "fortran order": lambda: {"x": np.asfortranarray(X), "y": Y},
    "strided": lambda: {"x": np.repeat(X, 2, axis=0)[::2], "y": Y[::-1][::-1]},
    "tensor columns": lambda: {"x": torch.from_numpy(X), "y": torch.from_numpy(Y)},
    "list columns": lambda: {"x": X.tolist(), "y": Y.tolist()},
    "mixed columns": lambda: {"x": list(X), "y": range(N)},
    "rows of lists": lambda: [{"x": x, "y": y} for x, y in zip(X.tolist(), Y.tolist(), strict=True)],
    "rows of arrays": lambda: [{"x": x, "y": y} for x, y in zip(X, Y, strict=True)],
    "rows of tensors": lambda: ({"x": torch.from_numpy(x), "y": torch.tensor(y)} for x, y in zip(X, Y, strict=True)),
    "a generator": lambda: ({"x": x, "y": int(y)} for x, y in zip(X, Y, strict=True)),
    "named tuples": lambda: (Sample(x, int(y)) for x, y in zip(X, Y, strict=True)),
    "an iterable dataset": Iterable,
    "a DataLoader of samples": lambda: DataLoader(Iterable(), batch_size=None),
    "a DataLoader of what its sampler counts": lambda: DataLoader(Uncounted(), batch_size=None, sampler=range(N)),
    "user dicts": lambda: [collections.OrderedDict(x=x, y=int(y)) for x, y in zip(X, Y, strict=True)],
}


@pytest.mark.parametrize("form", FORMS)
def test_the_same_samples_have_the_same_cid(form: str) -> None:
    assert str(write_dataset(FORMS[form](), MemoryBlockstore(), shard_bytes=4096)) == GOLDEN


def test_tuples_take_the_names_they_are_given() -> None:
    store = MemoryBlockstore()
    tensors = TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
    bound: Any = np.int64(4096)  # a whole number of any type
    for samples in (MapStyle(), tensors):
        assert str(write_dataset(samples, store, shard_bytes=bound, columns=("x", "y"))) == GOLDEN
    assert write_dataset(MapStyle(), store) == write_dataset(tensors, store)
    assert torch_ipfs.IPFSMapDataset(write_dataset(MapStyle(), store), store)[7].keys() == {"0", "1"}


@pytest.mark.parametrize("seed", ["1", "4711"])
def test_another_process_and_hash_seed_change_nothing(seed: str) -> None:
    code = """
        import numpy as np
        from torch_ipfs.blockstore.memory import MemoryBlockstore
        from torch_ipfs.dataset.write import write_dataset
        x = (np.arange(4000, dtype=np.float32) / 8).reshape(1000, 4)
        rows = [{"x": x, "y": i, "tags": [str(i)] * (i % 3), "more": {"b": i, "a": None if i % 2 else "z"}} for i, x in enumerate(x)]
        for layout in ("packed", "embedded", "samples"):
            print(write_dataset(rows, MemoryBlockstore(), layout=layout, shard_bytes=4096, metadata={"b": 1, "a": 2}))
    """  # noqa: E501 - as a user would type it
    code = "\n".join(line[8:] for line in code.splitlines())
    printed = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": seed},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert printed == OTHER_GOLDEN


@pytest.mark.parametrize("layout", ["packed", "embedded", "samples"])
@pytest.mark.parametrize("hash_function", ["sha2-256", "blake3"])
def test_layouts_and_hashes(layout: Any, hash_function: Any) -> None:
    store = MemoryBlockstore()
    root = write_dataset({"x": X, "y": Y}, store, layout=layout, hash_function=hash_function, shard_bytes=4096)
    assert {cid.hash_code for cid in map(CID.from_bytes, [bytes(root)])} == {
        0x12 if hash_function == "sha2-256" else 0x1E
    }
    read = torch_ipfs.IPFSMapDataset(root, store)
    assert len(read) == N
    for i in (0, 1, N // 2, N - 1):
        assert torch.equal(read[i]["x"], torch.from_numpy(X[i]))
        assert read[i]["y"] == i
    assert str(read.manifest.schema) == "x: float32[4], y: int64"


def test_a_small_dataset_is_one_root_in_the_spec_s_own_form() -> None:
    store = MemoryBlockstore()
    rows = [{"features": [0.5, 0.25], "labels": 1}, {"features": [1, 2], "labels": 0}]
    node = dag_cbor.decode(store.get(write_dataset(rows, store, layout="embedded", name="example")))
    assert node["data"] == rows
    assert node["name"] == "example"
    node = dag_cbor.decode(store.get(write_dataset(rows, store, layout="samples")))
    assert [dag_cbor.decode(store.get(cid)) for cid in node["samples"]] == rows


@pytest.mark.parametrize("layout", ["packed", "embedded", "samples"])
def test_no_block_is_over_its_bound(layout: Any) -> None:
    store = MemoryBlockstore()
    rows = [{"x": "y" * (i * 37 % 1000), "z": i} for i in range(3000)]
    root = write_dataset(rows, store, layout=layout, shard_bytes=4096)
    sizes = {cid: len(store.get(cid)) for cid in store.cids() if cid.multihash != root.multihash}
    leaves = [size for size in sizes.values() if size <= 4096]
    assert max(sizes.values()) <= MAX_BLOCK_BYTES
    assert len(leaves) >= len(sizes) - 2  # but for nodes of links
    assert len(torch_ipfs.IPFSMapDataset(root, store)) == 3000


@pytest.mark.parametrize("samples", [[], iter([]), {}, (x for x in ())])  # type: ignore[var-annotated]
@pytest.mark.parametrize("layout", ["packed", "embedded", "samples"])
def test_nothing_is_written_and_reads_as_nothing(samples: Any, layout: Any) -> None:
    store = MemoryBlockstore()
    root = write_dataset(samples, store, layout=layout)
    assert len(torch_ipfs.IPFSMapDataset(root, store)) == 0
    assert list(torch_ipfs.IPFSIterableDataset(root, store, batch_size=2)) == []


def test_columns_without_rows_keep_their_types() -> None:
    store = MemoryBlockstore()
    root = write_dataset({"x": np.zeros((0, 3), np.float16), "y": torch.zeros(0, dtype=torch.bfloat16)}, store)
    assert str(torch_ipfs.IPFSMapDataset(root, store).manifest.schema) == "x: float16[3], y: bfloat16"


def test_metadata_is_what_is_given_and_never_the_clock() -> None:
    store = MemoryBlockstore()
    plain = dag_cbor.decode(store.get(write_dataset({"x": Y}, store)))
    assert plain.keys() == {"schema", "shards"}
    described = write_dataset(
        {"x": Y}, store, name="n", description="d", version="1", created_at=1648720000, metadata={"license": "CC0"}
    )
    expected = {"name": "n", "description": "d", "version": "1", "created_at": 1648720000, "license": "CC0"}
    assert dag_cbor.decode(store.get(described)) == {**plain, **expected}
    assert write_dataset({"x": Y}, store, metadata=expected) == described


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"layout": "flat"}, "layout is one of"),
        ({"hash_function": "md5"}, "hash_function is one of"),
        ({"shard_bytes": 10}, "shard_bytes is a whole number"),
        ({"shard_bytes": 2**31}, "shard_bytes is a whole number"),
        ({"shard_bytes": 1e6}, "shard_bytes is a whole number"),
        ({"metadata": {"shards": 1}}, "cannot say 'shards'"),
        ({"metadata": {"name": 1}, "name": "x"}, "given twice"),
        ({"metadata": {"x": object()}}, "cannot be written"),
        ({"created_at": float("nan")}, "cannot be written"),
        ({"schema": ["x"]}, "schema is a Schema or a map"),
        ({"schema": {"x": "float31"}}, "no dtype 'float31'"),
        ({"columns": ["x"]}, "names already"),
        ({"columns": "x"}, "list of names"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], match: str) -> None:
    with pytest.raises(OptionError, match=match):
        write_dataset({"x": Y}, MemoryBlockstore(), **options)


@pytest.mark.parametrize(
    ("samples", "match"),
    [
        (7, "cannot write a int"),
        ("abc", "cannot write a str"),
        (None, "cannot write a NoneType"),
        ({"x": [1, 2], "y": [1]}, "'x' has 2, 'y' has 1"),
        ({"x": 1}, "write \\[sample\\] for one sample"),
        ({"x": "text"}, "not an array, tensor or list"),
        ({"x": np.array(1)}, "is a scalar"),
        ({"x": np.ma.masked_array([1, 2], [False, True])}, "masked array"),
        (DataLoader(MapStyle(), batch_size=4), "write its dataset"),
        (torch_ipfs.IPFSIterableDataset(CID.of(b"x"), batch_size=4), "gives batches"),
        (torch_ipfs.make_dataloader(torch_ipfs.IPFSIterableDataset(CID.of(b"x"), batch_size=4)), "gives batches"),
        (torch_ipfs.IPFSDataLoader(MemoryBlockstore()), "gives batches"),
        (ChainDataset([torch_ipfs.IPFSIterableDataset(CID.of(b"x"), batch_size=4)]), "gives batches"),
        ({"a", "b"}, "a set has no order"),
        (MapStyle, "cannot write a type"),
    ],
)
def test_samples_that_are_none(samples: Any, match: str) -> None:
    with pytest.raises(OptionError, match=match):
        write_dataset(samples, MemoryBlockstore())


def test_a_tuple_of_another_length_than_its_names() -> None:
    with pytest.raises(SampleError, match="sample 1 is a tuple of 3, and columns= names 2: a, b"):
        write_dataset([(1, 2), (1, 2, 3)], MemoryBlockstore(), columns=["a", "b"])
    with pytest.raises(OptionError, match="tuples of 1"):
        write_dataset(TensorDataset(torch.zeros(2)), MemoryBlockstore(), columns=["a", "b"])


class TestSchemas:
    @pytest.mark.parametrize(
        ("later", "match"),
        [
            ({"x": "text", "s": {"a": 1}}, "field 'x': expected int64, found text"),
            ({"x": 1.5, "s": {"a": 1}}, "field 'x': expected int64, found a float"),
            ({"x": None, "s": {"a": 1}}, "field 'x': it is missing or None"),
            ({"s": {"a": 1}}, "field 'x': it is missing or None"),
            ({"x": 1, "s": {"a": "b"}}, "field 's.a': expected int64, found text"),
            ({"x": 1, "s": {"a": 1, "c": 1}}, "field 's.c': the dataset's schema has no such field"),
            ({"x": 1, "s": {"a": 1}, "z": 0}, "field 'z': the dataset's schema has no such field"),
            (7, "field 'value': the dataset's schema has no such field"),
        ],
    )
    def test_a_sample_that_does_not_fit_is_named(self, later: Any, match: str) -> None:
        def drifting() -> Iterator[Any]:
            yield from ({"x": i, "s": {"a": i}} for i in range(40_000))
            yield later

        with pytest.raises(SampleError, match=f"sample 40000, {match}") as caught:
            write_dataset(drifting(), MemoryBlockstore())
        assert "give schema= where later ones differ" in str(caught.value)

    def test_within_the_first_samples_a_field_shows_all_its_sides(self) -> None:
        rows = [{"x": 1, "y": [1, 2]}, {"x": None, "y": [1]}, {"y": [1, 2, 3], "z": "late"}]
        store = MemoryBlockstore()
        read = torch_ipfs.IPFSMapDataset(write_dataset(rows, store), store)
        assert str(read.manifest.schema) == "x: nullable int64, y: list of int64, z: nullable text"
        assert read[2] == {"x": None, "y": [1, 2, 3], "z": "late"}

    def test_a_schema_that_is_given_decides(self) -> None:
        schema: dict[str, Field | str] = {
            "x": "float64",
            "y": Field("list", item=Field("int8")),
            "z": Field("text", nullable=True),
        }
        store = MemoryBlockstore()
        root = write_dataset([{"x": 1, "y": [1, 2]}, {"x": 0.1, "y": [], "z": "a"}], store, schema=schema)
        read = torch_ipfs.IPFSMapDataset(root, store)
        assert read.manifest.schema == Schema((("x", Field("float64")), *list(schema.items())[1:]))  # type: ignore[arg-type]
        assert read[0] == {"x": torch.tensor(1, dtype=torch.float64), "y": [1, 2], "z": None}
        assert read[1]["x"].item() == 0.1

    def test_columns_take_a_schema_too(self) -> None:
        store = MemoryBlockstore()
        root = write_dataset({"x": [1, 2], "y": Y[:2].astype(np.int8)}, store, schema={"x": "float32", "y": "int64"})
        rows = [{"x": 1.0, "y": 0}, {"x": 2.0, "y": 1}]
        assert root == write_dataset(rows, store)

    def test_a_given_schema_refuses_without_advice(self) -> None:
        with pytest.raises(SampleError, match="sample 1, field 'x': expected int8, found a float") as caught:
            write_dataset([{"x": 1}, {"x": 0.5}], MemoryBlockstore(), schema={"x": "int8"})
        assert "schema=" not in str(caught.value)

    def test_columns_that_the_schema_lacks(self) -> None:
        with pytest.raises(SampleError, match="field 'y': the schema has no such field"):
            write_dataset({"x": [1], "y": [2]}, MemoryBlockstore(), schema={"x": "int64"})


LOOP: list[Any] = []
LOOP.append(LOOP)
LATE_LOOP: list[Any] = [1]
LATE_LOOP.append(LATE_LOOP)


@pytest.mark.parametrize(
    ("samples", "options", "match"),
    [
        ([(1, 2)], {"columns": ("a", "a")}, "'a' is there twice"),
        (TensorDataset(torch.ones(2), torch.ones(2)), {"columns": ["a", "a"]}, "'a' is there twice"),
        ([{"x": 1}], {"columns": ["b"]}, "sample 0 is a map"),
        ([1, 2], {"columns": ["b"]}, "sample 0 is a int"),
        ([(1, 2)], {"columns": 5}, "list of names"),
        (np.array(5), {}, "one number"),
        (torch.tensor(5), {}, "one number"),
        ({"x": torch.eye(3).to_sparse()}, {}, "column 'x': .* make it dense"),
        ([{"x": 1}], {"schema": {"x": 5}}, "schema has a int for 'x'"),
        ([{"x": 1}], {"metadata": [1]}, "metadata is a map"),
        ([{"x": 1}], {"layout": ["packed"]}, "layout is one of"),
    ],
)
def test_what_cannot_be_written_as_it_is_asked(samples: Any, options: dict[str, Any], match: str) -> None:
    with pytest.raises(OptionError, match=match):
        write_dataset(samples, MemoryBlockstore(), **options)


@pytest.mark.parametrize(
    ("samples", "match"),
    [
        (iter([{"x": LOOP}]), "sample 0 has lists or maps in each other without end"),
        ([{"x": LOOP}], "lists or maps in each other without end"),
        ([{"x": LATE_LOOP}], "lists or maps in each other without end"),
        ({"x": [[1], LATE_LOOP]}, "lists or maps in each other without end"),
        ({"x": [1, "a"]}, "sample 1, field 'x': text, where an earlier sample has an int"),
        ({"x": [{"q": 1}, {"q": "a"}]}, "sample 1, field 'x.q': text"),
        ([{"x": 2**63}, {"x": -1}], "sample 0, field 'x': an int that no dtype has room for"),
        ([{"x": 1}, {"x": 2**64}], "sample 1, field 'x': an int that no dtype has room for"),
    ],
)
def test_samples_that_no_dataset_can_hold(samples: Any, match: str) -> None:
    with pytest.raises(SampleError, match=match):
        write_dataset(samples, MemoryBlockstore())


def test_progress_goes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    write_dataset({"x": Y}, MemoryBlockstore(), progress=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "1.00k/1.00k" in captured.err
    write_dataset({"x": Y}, MemoryBlockstore())
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("stream", [None, object()])
def test_a_process_may_have_no_standard_error(monkeypatch: pytest.MonkeyPatch, stream: object) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    write_dataset({"x": Y}, MemoryBlockstore())
