"""Every kind of data, read back bit for bit through both datasets and from each layout."""

from __future__ import annotations

import datetime as dt
import decimal
import math
import pathlib
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image

import torch_ipfs
from torch_ipfs.blockstore.memory import MemoryBlockstore
from torch_ipfs.codec.cid import CID
from torch_ipfs.dataset.dtypes import WITHOUT_NUMPY
from torch_ipfs.dataset.write import write_dataset
from torch_ipfs.errors import SampleError
from torch_ipfs.manifest.schema import STORAGE

LAYOUTS: list[Any] = ["packed", "embedded", "samples"]


def read(samples: Any, layout: Any = "packed", **options: Any) -> list[dict[str, Any]]:
    """The samples as both datasets read them, which is alike."""
    store = MemoryBlockstore()
    root = write_dataset(samples, store, layout=layout, **options)
    mapped = torch_ipfs.IPFSMapDataset(root, store)
    one_by_one = [mapped[i] for i in range(len(mapped))]
    streamed = list(torch_ipfs.IPFSIterableDataset(root, store))
    assert list(map(repr, one_by_one)) == list(map(repr, streamed))
    return one_by_one


def bits(value: Any) -> Any:
    """A form that compares by bits, also of NaN."""
    if isinstance(value, torch.Tensor):
        plain = torch.view_as_real(value) if value.is_complex() else value
        integer = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[plain.element_size()]
        return value.dtype, value.shape, plain.contiguous().view(integer).tolist()
    if isinstance(value, dict):
        return {key: bits(item) for key, item in value.items()}
    if isinstance(value, list):
        return [bits(item) for item in value]
    return value


def tensor_of(dtype: str, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """Any bits whatever, NaN payloads and negative zeros among them."""
    if dtype.startswith("float8") and not hasattr(torch, dtype):
        pytest.skip(f"torch {torch.__version__} has no {dtype}")
    storage = STORAGE[dtype]
    size = math.prod(shape) * storage.itemsize
    data = np.random.Generator(np.random.PCG64(seed)).integers(0, 2 if dtype == "bool" else 256, size, np.uint8)
    array = data.view(storage.base).reshape((*shape, *storage.shape))
    tensor = torch.from_numpy(array)
    if dtype == "complex32":
        return torch.view_as_complex(tensor) if tensor.numel() else torch.zeros(shape, dtype=torch.complex32)
    return tensor.view(getattr(torch, dtype)) if storage.name != dtype else tensor


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", sorted(STORAGE))
def test_tensors_of_every_dtype(dtype: str, layout: Any) -> None:
    samples = [
        {
            "scalar": tensor_of(dtype, (), seed),
            "vector": tensor_of(dtype, (3,), seed + 1),
            "cube": tensor_of(dtype, (2, 1, 3), seed + 2),
            "empty": tensor_of(dtype, (2, 0), seed),
            "ragged": tensor_of(dtype, (seed % 3, 2), seed + 3),
            "maybe": tensor_of(dtype, (2,), seed + 4) if seed % 2 else None,
            "maybe scalar": None if seed % 2 else tensor_of(dtype, (), seed + 5),
            "several": [tensor_of(dtype, (2,), seed + i) for i in range(seed % 3)],
            "nested": {"deep": {"est": tensor_of(dtype, (1,), seed)}},
        }
        for seed in range(5)
    ]
    assert [bits(sample) for sample in read(samples, layout)] == [bits(sample) for sample in samples]


def test_a_dtype_that_torch_does_not_have_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    dtype = "float8_e5m2"
    samples = [{"x": tensor_of(dtype, (2,), seed)} for seed in range(3)]
    assert [bits(sample) for sample in read(samples)] == [bits(sample) for sample in samples]
    monkeypatch.delitem(WITHOUT_NUMPY, dtype)
    with pytest.raises(SampleError, match=rf"has no {dtype}"):
        read(samples)


NUMPY = [name for name in STORAGE if STORAGE[name].name == name]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", NUMPY)
def test_arrays_of_every_dtype_and_byte_order(dtype: str, order: Literal["<", ">"]) -> None:
    columns = {
        "column": tensor_of(dtype, (5, 2), 1).numpy(),
        "transposed": tensor_of(dtype, (2, 5), 2).numpy().T,
        "scalars": tensor_of(dtype, (5,), 3).numpy(),
    }
    swapped = {name: array.astype(np.dtype(dtype).newbyteorder(order)) for name, array in columns.items()}
    expected = [{name: bits(torch.from_numpy(array.copy())[i]) for name, array in columns.items()} for i in range(5)]
    assert [bits(sample) for sample in read(swapped)] == expected
    rows = [{name: array[i] for name, array in swapped.items()} for i in range(5)]
    assert [bits(sample) for sample in read(rows)] == expected


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
@pytest.mark.parametrize("dtype", sorted(set(STORAGE) - set(NUMPY)))
def test_arrays_of_dtypes_that_ml_dtypes_adds_to_numpy(dtype: str) -> None:
    added = getattr(pytest.importorskip("ml_dtypes"), dtype, None)
    if added is None:
        pytest.skip(f"this ml_dtypes has no {dtype}")
    tensor = tensor_of(dtype, (3, 2), 1)
    pairs = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    array = pairs.contiguous().view(torch.uint8).numpy().view(added).reshape(3, 2)
    expected = [bits({"x": row, "y": row[0]}) for row in tensor]
    assert [bits(sample) for sample in read({"x": array, "y": array[:, 0]})] == expected
    assert [bits(sample) for sample in read([{"x": row, "y": row[0]} for row in array])] == expected


@pytest.mark.parametrize("layout", LAYOUTS)
def test_everything_that_is_no_tensor(layout: Any) -> None:
    link = CID.of(b"x")
    samples = [
        {
            "text": "naïve \U0001f600\0",
            "bytes": bytes(range(256)),
            # Bytes that look like a link stay bytes.
            "bytes of a CID": b"\0" + bytes(link),
            "link": link,
            "links": [link, link],
            "maybe": None,
            "nothing": None,
            "words": ["a", None, "c"],
            "ragged": [[1, 2], [3], []],
            "floats": [[0.1], [math.inf, -0.0]],
            "flags": [True],
            "boxes": [{"box": [1.5, 2.5], "label": "x", "score": None}, {"box": [], "label": "y", "score": 0.5}],
            "tree": {"left": {"leaf": "l"}, "right": None},
        },
        {
            "text": "",
            "bytes": b"",
            "bytes of a CID": b"",
            "link": CID.of(b"y", "dag-cbor", "blake3"),
            "links": [],
            "maybe": {"here": "now"},
            "nothing": None,
            "words": [],
            "ragged": [],
            "floats": [],
            "flags": [False, True],
            "boxes": [],
            "tree": {"left": {"leaf": "m"}, "right": ["m"]},
        },
    ]
    got = read(samples, layout)
    assert list(map(repr, got)) == list(map(repr, samples))  # -0.0 is not 0.0 in a repr
    assert [type(value) for value in got[0].values()] == [type(value) for value in samples[0].values()]


def test_numbers_become_tensors_as_torch_makes_them() -> None:
    (sample,) = read([{"int": 7, "float": 0.1, "bool": True, "complex": 1j, "large": 2**64 - 1, "vector": [1, 2.5]}])
    assert {name: value.dtype for name, value in sample.items()} == {
        "int": torch.int64,
        "float": torch.float32,
        "bool": torch.bool,
        "complex": torch.complex64,
        "large": torch.uint64,
        "vector": torch.float32,
    }


def test_tensors_in_any_state() -> None:
    base = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    states = {
        "transposed": base.T,
        "strided": base[:, ::2],
        "expanded": torch.tensor([1.0]).expand(4),
        "needs grad": base.clone().requires_grad_(),
        "of a graph": (base.clone().requires_grad_() * 2),
        "conjugate": torch.tensor([1 + 2j]).conj(),
        "negative": torch.tensor([1 + 2j]).conj().imag,
        "parameter": torch.nn.Parameter(base),
    }
    for samples in ([states, states], {name: torch.stack([state, state]) for name, state in states.items()}):
        for sample in read(samples):
            assert {name: bits(value) for name, value in sample.items()} == {
                name: bits(value.detach().resolve_conj().resolve_neg().clone()) for name, value in states.items()
            }


def test_images_are_their_pixels() -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    rgba = np.dstack([pixels, pixels[..., :1]])
    sample = {
        "rgb": Image.fromarray(pixels),
        "rgba": Image.fromarray(rgba),
        "gray": Image.fromarray(pixels[..., 0].copy()),
        "deep": Image.fromarray(pixels[..., 0].astype(np.uint16) * 1000),
        "float": Image.fromarray(pixels[..., 0].astype(np.float32)),
    }
    first, second = read([sample, sample])
    assert {name: (value.dtype, value.tolist()) for name, value in first.items()} == {
        "rgb": (torch.uint8, pixels.tolist()),
        "rgba": (torch.uint8, rgba.tolist()),
        "gray": (torch.uint8, pixels[..., 0].tolist()),
        "deep": (torch.uint16, (pixels[..., 0].astype(np.uint16) * 1000).tolist()),
        "float": (torch.float32, pixels[..., 0].tolist()),
    }
    assert bits(first) == bits(second)


def test_images_of_several_sizes_are_ragged() -> None:
    images = [Image.new("RGB", (3, 2)), Image.new("RGB", (4, 5), (1, 2, 3))]
    first, second = read([{"image": image} for image in images])
    assert (first["image"].shape, second["image"].shape) == ((2, 3, 3), (5, 4, 3))
    assert second["image"][4, 3].tolist() == [1, 2, 3]


def test_arrays_of_objects_text_and_bytes() -> None:
    expected = [{"o": "a", "u": "x", "s": b"p", "n": [1, 2]}, {"o": "b", "u": "yy", "s": b"qq", "n": [3]}]
    objects = np.empty(2, object)
    objects[:] = [[1, 2], [3]]
    columns = {
        "o": np.array(["a", "b"], object),
        "u": np.array(["x", "yy"]),
        "s": np.array([b"p", b"qq"]),
        "n": objects,
    }
    assert read(columns) == expected
    assert read([{name: column[i] for name, column in columns.items()} for i in range(2)]) == expected


def test_records_are_maps() -> None:
    records = np.array([(1, 0.5), (2, 1.5)], dtype=[("a", "i4"), ("b", "f8")])
    expected = [{"r": {"a": torch.tensor(1, dtype=torch.int32), "b": torch.tensor(0.5, dtype=torch.float64)}}]
    assert bits(read({"r": records})[:1]) == bits(expected)


def test_nested_samples_of_a_dataloader_s_kind() -> None:
    """Tuples in samples: of numbers or text lists, of tensors or of several kinds maps."""
    sample = (torch.zeros(2), {"box": (1, 2), "names": ("a", "b"), "pair": (torch.ones(1), 3)}, (1.5, "x"))
    (got, _) = read([sample, sample], columns=("image", "target", "more"))
    assert bits(got) == bits(
        {
            "image": torch.zeros(2),
            "target": {
                "box": torch.tensor([1, 2]),
                "names": ["a", "b"],
                "pair": {"0": torch.ones(1), "1": torch.tensor(3)},
            },
            "more": {"0": torch.tensor(1.5), "1": "x"},
        }
    )


def test_values_that_are_no_maps() -> None:
    assert read(["a", "b"]) == [{"value": "a"}, {"value": "b"}]
    assert bits(read(torch.arange(4).reshape(2, 2))) == bits(
        [{"value": torch.tensor([0, 1])}, {"value": torch.tensor([2, 3])}]
    )


@pytest.mark.parametrize(
    ("value", "type_name", "advice"),
    [
        (object(), "object", "make it numbers"),
        ({1, 2}, "set", "sorted list"),
        (range(3), "range", "make it a list"),
        (dt.datetime(2020, 1, 1, tzinfo=dt.UTC), "datetime", "isoformat"),
        (dt.timedelta(1), "timedelta", "total_seconds"),
        (decimal.Decimal(1), "Decimal", "float or text"),
        (pathlib.Path("x"), "PosixPath", "read the file"),
        (lambda: 0, "function", "make it numbers"),
        (int, "type", "make it numbers"),
        (np.datetime64("2020"), "datetime64", "astype"),
        (np.zeros(2, "m8[s]"), "timedelta64", "astype('int64')"),
        (np.zeros(2, np.longdouble), "float128|longdouble|float96", "astype"),
        (np.ma.masked_array([1]), "masked", "filled"),
        (torch.zeros(2).to_sparse(), "sparse", "to_dense"),
        (torch.zeros(2, device="meta"), "meta", "dense"),
        (Image.new("P", (1, 1)), "mode P", "convert"),
        (Image.new("CMYK", (1, 1)), "mode CMYK", "convert"),
        (Image.new("1", (1, 1)), "mode 1", "convert"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_written_is_named_with_what_to_do(value: Any, type_name: str, advice: str) -> None:
    for sample, path in (({"x": value}, "x"), ({"x": {"y": [value]}}, "x.y.0")):
        with pytest.raises(SampleError, match=rf"sample 1, field '{path}'.*({type_name})") as caught:
            write_dataset([{"x": None}, sample], MemoryBlockstore())
        assert advice in str(caught.value)


def test_half_a_surrogate_pair_is_no_text() -> None:
    with pytest.raises(SampleError, match=r"sample 1, field 'x': text with half a surrogate pair .* cannot hold$"):
        write_dataset([{"x": "é"}, {"x": "\ud800"}], MemoryBlockstore())


def test_keys_are_text() -> None:
    with pytest.raises(SampleError, match="sample 1: its key '7' is not text"):
        write_dataset([{"a": 1}, {7: 1}], MemoryBlockstore())


def test_none_in_a_tuple_says_nothing_of_what_the_tuple_is() -> None:
    samples: list[dict[str, Any]] = [{"x": (1, 2), "y": ("a", None)}, {"x": (None, 3), "y": ("b", "c")}]
    assert read(samples) == [{name: list(value) for name, value in sample.items()} for sample in samples]
