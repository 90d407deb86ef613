"""DataFrames of pandas and datasets of Hugging Face: the same CID as the same data in rows, and their types kept."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from tests.dataset.tables import N, X, Y, read, table
from torch_ipfs.blockstore.memory import MemoryBlockstore
from torch_ipfs.dataset.write import write_dataset
from torch_ipfs.dataset.write_adapters import open_source
from torch_ipfs.errors import OptionError, SampleError

pd = pytest.importorskip("pandas")
datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))


def hugging_face() -> Any:
    x = datasets.Sequence(datasets.Value("float32"), length=4)
    features = datasets.Features({"x": x, "y": datasets.Value("int64"), "s": datasets.Value("string")})
    return datasets.Dataset.from_dict(table().to_pydict(), features=features)


FORMS: dict[str, Any] = {
    "DataFrame": lambda: pd.DataFrame({"x": list(X), "y": Y, "s": table().column("s").to_pylist()}),
    "DataFrame of Arrow": lambda: table().to_pandas(types_mapper=pd.ArrowDtype),
    "Series": lambda: {"x": list(X), "y": pd.Series(Y), "s": pd.Series(table().column("s").to_pylist())},
    "Hugging Face": hugging_face,
    "Hugging Face, picked": lambda: hugging_face().select(range(N)).flatten_indices(),
    "Hugging Face stream": lambda: hugging_face().to_iterable_dataset(),
    "Hugging Face as torch": lambda: hugging_face().with_format("torch"),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_same_data_has_the_same_cid(form: str) -> None:
    store = MemoryBlockstore()
    rows = [{"x": X[i], "y": i, "s": f"row {i}"} for i in range(N)]
    assert write_dataset(FORMS[form](), store, shard_bytes=4096) == write_dataset(rows, store, shard_bytes=4096)


@pytest.mark.parametrize(
    ("early", "late"),
    [
        ({"t": None}, {"t": "x"}),
        ({"t": []}, {"t": ["x"]}),
        ({"t": 1}, {"t": 1.5}),
        ({"t": {"a": 1}}, {"t": {"a": 1, "b": "x"}}),
        ({"t": 1}, {"t": 1, "u": 2}),
    ],
)
def test_a_stream_without_features_is_what_its_rows_are(early: Any, late: Any) -> None:
    rows = [{"i": i} | (early if i < 3 else late) for i in range(6)]
    stream = datasets.IterableDataset.from_generator(lambda: iter(rows))
    store = MemoryBlockstore()
    assert write_dataset(stream, store) == write_dataset(rows, store)


def test_images_that_are_named_by_path_are_written_with_the_bytes_of_their_files(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (3, 2), (ord(name[0]), 0, 0)).save(tmp_path / name)
    paths = [str(tmp_path / name) for name in ("a.png", "b.png")]
    features = datasets.Features({"image": datasets.Image(), "several": [datasets.Image()]})
    dataset = datasets.Dataset.from_dict({"image": paths, "several": [paths, []]}, features=features)
    a, b = ({"bytes": Path(path).read_bytes(), "path": Path(path).name} for path in paths)
    assert read(dataset)[1] == [{"image": a, "several": [a, b]}, {"image": b, "several": []}]
    store = MemoryBlockstore()
    assert write_dataset(dataset.to_iterable_dataset(), store) == write_dataset(dataset, store)
    (tmp_path / "b.png").unlink()
    with pytest.raises(SampleError, match=r"sample 1, field 'image': its file cannot be read: .*b\.png"):
        write_dataset(dataset.select_columns("image"), store)
    image = datasets.Features(image=datasets.Image())
    within = datasets.Dataset.from_dict({"image": [f"zip://b.png::{paths[0]}"]}, features=image)
    with pytest.raises(SampleError, match="sample 0, field 'image': its file cannot be read: File is not a zip file"):
        write_dataset(within, store)


def test_columns_that_a_format_leaves_out_are_not_written() -> None:
    dataset = datasets.Dataset.from_dict({"a": [1, 2], "b": [3, 4], "t": ["x", "y"]})
    dataset.set_format("torch", columns=["b", "a"])
    store = MemoryBlockstore()
    assert write_dataset(dataset, store) == write_dataset({"a": [1, 2], "b": [3, 4]}, store)


def test_columns_that_a_format_only_dresses_otherwise_are_written() -> None:
    dataset = datasets.Dataset.from_dict({"a": [1, 2], "t": ["x", "y"]})
    store = MemoryBlockstore()
    dressed = dataset.with_format("torch", columns=["a"], output_all_columns=True)
    assert write_dataset(dressed, store) == write_dataset(dataset, store)


def test_a_module_of_that_name_may_be_somebody_else_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", ModuleType("datasets"))
    store = MemoryBlockstore()
    assert write_dataset([{"a": 1}], store) == write_dataset({"a": [1]}, store)


@pytest.mark.parametrize("column", [pd.Series([1, 2]), pa.chunked_array([[1, 2]])], ids=["Series", "ChunkedArray"])
def test_a_column_by_itself_has_no_name(column: Any) -> None:
    with pytest.raises(OptionError, match="if it is one column"):
        write_dataset(column, MemoryBlockstore())


def test_nothing_and_times_of_pandas_in_rows_say_what_to_do() -> None:
    for value, advice in ((pd.NA, "make it None"), (pd.NaT, "make it None"), (pd.Timestamp("2020"), "timestamp()")):
        with pytest.raises(SampleError, match=re.escape(advice)):
            write_dataset([{"a": value}], MemoryBlockstore())
    assert read(pd.DataFrame({"a": pd.Series(["x", np.float64("nan")], dtype=object)}))[1][1]["a"] is None


def test_periods_are_refused_as_other_times_are() -> None:
    frame = pd.DataFrame({"p": pd.period_range("2020-01", periods=2, freq="D")})
    with pytest.raises(SampleError, match="field 'p': pandas' periods"):
        write_dataset(frame, MemoryBlockstore())


def test_pandas_ways_to_say_nothing() -> None:
    frame = pd.DataFrame(
        {
            "text": ["x", None, "z"],
            "object": np.array([{"q": 1}, None, {"q": 3}], object),
            "mixed": np.array(["a", float("nan"), pd.NA], object),
            "Int": pd.array([1, None, 2], dtype="Int64"),
            "flag": pd.array([True, None, False], dtype="boolean"),
            "category": pd.Categorical(["u", "v", None]),
            "float": [1.0, float("nan"), 3.0],
        },
        index=["i", "j", "k"],
    )
    schema, rows = read(frame)
    assert schema == (
        "text: nullable text, object: nullable struct{q: int64}, mixed: nullable text, Int: nullable int64, "
        "flag: nullable bool, category: nullable text, float: float64"
    )
    assert [value for value in rows[1].values() if value is None or isinstance(value, str)] == [None] * 5 + ["v"]
    assert rows[1]["float"].isnan()


def test_hugging_face_features() -> None:
    features = datasets.Features(
        {
            "matrix": datasets.Array2D((2, 2), "float32"),
            "label": datasets.ClassLabel(names=["no", "yes"]),
            "tokens": datasets.Sequence(datasets.Value("int32")),
            "answers": {"text": datasets.Value("string")},
        }
    )
    columns = {
        "matrix": [[[1, 2], [3, 4]]] * 2,
        "label": ["no", "yes"],
        "tokens": [[1], [2, 3]],
        "answers": [{"text": "a"}, {"text": "b"}],
    }
    dataset = datasets.Dataset.from_dict(columns, features=features)
    schema, rows = read(dataset)
    assert schema == "matrix: float32[2, 2], label: int64, tokens: list of int32, answers: struct{text: text}"
    assert rows[1]["matrix"].tolist() == [[1, 2], [3, 4]]
    assert (rows[1]["label"], rows[1]["tokens"], rows[1]["answers"]) == (1, [2, 3], {"text": "b"})
    shuffled = dataset.select([1, 0])
    assert read(shuffled)[1][0]["tokens"] == [2, 3]
    doubled = dataset.with_transform(lambda batch: {"double": [2 * label for label in batch["label"]]})
    assert read(doubled)[1] == [{"double": torch.tensor(0)}, {"double": torch.tensor(2)}]
    with pytest.raises(OptionError, match="write one of them: train"):
        read(datasets.DatasetDict(train=dataset))


def test_columns_of_one_name() -> None:
    with pytest.raises(OptionError, match="two columns '1'"):
        write_dataset(pd.DataFrame([[1, 2]], columns=[1, "1"]), MemoryBlockstore())


def test_a_column_of_times_says_what_to_do() -> None:
    with pytest.raises(SampleError, match=r"field 't': Arrow's timestamp.* cast it to"):
        write_dataset(pd.DataFrame({"t": pd.to_datetime(["2020-01-01"])}), MemoryBlockstore())


def test_streams_are_taken_a_few_rows_at_a_time() -> None:
    """Rows may be videos, and all that are taken at once are in memory."""
    given = 0

    def rows() -> Iterator[dict[str, Any]]:
        nonlocal given
        for _ in range(200):
            given += 1
            yield {"x": bytes(10**6)}

    stream = datasets.IterableDataset.from_generator(rows, features=datasets.Features({"x": datasets.Value("binary")}))
    open_source(stream, None).schema(None)
    assert given < 50
