"""The bridge to tf.data by itself: schemas to signatures, numpy columns to tensors."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import pytest

from torch_ipfs.bridges.tensorflow import load_tensorflow, signature_of, tensorflow_dataset
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import OptionError
from torch_ipfs.manifest.schema import STORAGE, Field, Schema

tf = pytest.importorskip("tensorflow") if "tensorflow" in sys.modules else load_tensorflow()

NUMPY = (
    "bool",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "int8",
    "int16",
    "int32",
    "int64",
    "float16",
    "float32",
    "float64",
)


def schema(**fields: Field) -> Schema:
    return Schema(tuple(fields.items()))


def passed(batch: dict[str, Any], fields: Schema, **options: Any) -> Any:
    """The one element of a dataset of one batch."""
    dataset = tensorflow_dataset(lambda: iter([batch]), fields, num_elements=1, **options)
    (element,) = list(dataset)
    return element


class TestSignatures:
    @pytest.mark.parametrize("dtype", NUMPY)
    def test_numbers_keep_their_dtype_and_shape(self, dtype: str) -> None:
        spec = signature_of(schema(x=Field(dtype, (3, 4))))["x"]
        assert spec == tf.TensorSpec((None, 3, 4), dtype)
        values = np.arange(24).reshape(2, 3, 4).astype(dtype)
        out = passed({"x": values}, schema(x=Field(dtype, (3, 4))))["x"]
        assert np.array_equal(out.numpy(), values)

    @pytest.mark.parametrize(
        ("dtype", "tensorflow"),
        [
            ("bfloat16", "bfloat16"),
            ("float8_e4m3fn", "float32"),
            ("float8_e5m2", "float32"),
            ("float8_e4m3fnuz", "float32"),
            ("complex32", "complex64"),
            ("complex64", "complex64"),
            ("complex128", "complex128"),
        ],
    )
    @pytest.mark.filterwarnings("ignore:ComplexHalf support:UserWarning")
    def test_what_numpy_lacks_is_exact(self, dtype: str, tensorflow: str) -> None:
        import torch

        fields = schema(x=Field(dtype, (2,)))
        assert signature_of(fields)["x"].dtype.name == tensorflow
        numbers = torch.tensor([[1.0, -2.0], [0.5, 0.0]]).to(getattr(torch, dtype))
        if dtype == "complex32":
            stored = torch.view_as_real(numbers).numpy()
        elif STORAGE[dtype].kind == "c":
            stored = numbers.numpy()
        else:
            stored = numbers.view(torch.uint16 if dtype == "bfloat16" else torch.uint8).numpy()
        out = passed({"x": stored}, fields)["x"]
        assert tf.cast(out, tf.complex128).numpy().tolist() == numbers.to(torch.complex128).tolist()

    def test_texts_bytes_and_links_are_strings(self) -> None:
        fields = schema(text=Field("text"), data=Field("bytes"), link=Field("link"))
        assert set(signature_of(fields).values()) == {tf.TensorSpec((None,), tf.string)}
        cid = CID.of(b"x")
        out = passed({"text": ["é", ""], "data": [b"\0a\0", b""], "link": [cid, cid]}, fields)
        assert out["text"].numpy().tolist() == ["é".encode(), b""]
        assert out["data"].numpy().tolist() == [b"\0a\0", b""]
        assert out["link"].numpy().tolist() == [str(cid).encode()] * 2

    @pytest.mark.parametrize(
        ("field", "values", "ragged_rank"),
        [
            (Field("float32", (None, 2)), [np.ones((0, 2), "f4"), np.ones((3, 2), "f4")], 1),
            (Field("int64", (2, None)), [np.ones((2, 0), "i8"), np.ones((2, 3), "i8")], 2),
            (Field("uint8", (None, None)), [np.ones((1, 2), "u1"), np.ones((2, 1), "u1")], 2),
            (Field("list", item=Field("int64")), [[1, 2], []], 1),
            (Field("list", item=Field("text")), [["a"], ["b", "é"]], 1),
            (Field("list", item=Field("list", item=Field("float64"))), [[[1.5], []], [[2.0, 3.0]]], 2),
            (Field("list", item=Field("float32", (2,))), [[np.ones(2, "f4")], []], 1),
        ],
    )
    def test_what_varies_is_ragged(self, field: Field, values: list[Any], ragged_rank: int) -> None:
        fields = schema(x=field)
        spec = signature_of(fields)["x"]
        assert isinstance(spec, tf.RaggedTensorSpec)
        assert spec.ragged_rank == ragged_rank
        assert spec.shape[0] is None
        out = passed({"x": values}, fields)["x"]
        assert out.dtype == spec.dtype
        assert out.to_list() == _plain(values)

    def test_a_batch_of_nothing_but_empty_lists(self) -> None:
        for item in (Field("int64"), Field("text"), Field("float32", (2,))):
            fields = schema(x=Field("list", item=item))
            assert passed({"x": [[], []]}, fields)["x"].to_list() == [[], []]

    def test_structs_are_maps(self) -> None:
        fields = schema(x=Field("struct", fields=(("a", Field("int64")), ("b", Field("list", item=Field("text"))))))
        out = passed({"x": {"a": np.arange(2), "b": [["p"], []]}}, fields)["x"]
        assert out["a"].numpy().tolist() == [0, 1]
        assert out["b"].to_list() == [[b"p"], []]

    def test_samples_have_no_batch_dimension(self) -> None:
        fields = schema(
            n=Field("int64"), x=Field("float32", (None, 2)), t=Field("text"), l=Field("list", item=Field("int64"))
        )
        specs = signature_of(fields, batched=False)
        assert [specs[name].shape.rank for name in "nxtl"] == [0, 2, 0, 1]
        sample = {"n": np.array(3), "x": np.ones((4, 2), "f4"), "t": "é", "l": [1, 2]}
        out = passed(sample, fields, batched=False)
        assert (int(out["n"]), out["x"].shape, out["t"].numpy(), out["l"].numpy().tolist()) == (
            3,
            (4, 2),
            "é".encode(),
            [1, 2],
        )

    def test_a_sample_of_no_tensors_has_the_shape_of_theirs(self) -> None:
        fields = schema(x=Field("list", item=Field("float32", (2, 3))))
        assert passed({"x": []}, fields, batched=False)["x"].shape == (0, 2, 3)

    def test_features_and_labels_are_a_pair(self) -> None:
        fields = schema(labels=Field("int64"), features=Field("float32", (2,)))
        assert signature_of(fields) == (tf.TensorSpec((None, 2), tf.float32), tf.TensorSpec((None,), tf.int64))
        x, y = passed({"labels": np.arange(3), "features": np.ones((3, 2), "f4")}, fields)
        assert (x.shape, y.shape) == ((3, 2), (3,))

    @pytest.mark.parametrize(
        "field",
        [
            Field("float32", nullable=True),
            Field("text", nullable=True),
            Field("null"),
            Field("any"),
            Field("list", item=Field("null")),
            Field("list", item=Field("int64", nullable=True)),
            Field("list", item=Field("struct", fields=(("a", Field("int64")),))),
        ],
    )
    def test_what_tensorflow_has_no_type_for_is_named(self, field: Field) -> None:
        with pytest.raises(OptionError, match=r"'outer\.x'"):
            signature_of(schema(outer=Field("struct", fields=(("x", field),))))

    def test_a_dataset_without_fields_is_told(self) -> None:
        with pytest.raises(OptionError, match="empty"):
            signature_of(Schema(()))


class TestGivenSignatures:
    FIELDS = schema(a=Field("float32", (2,)), b=Field("int64"), c=Field("text"))
    BATCH: ClassVar[dict[str, Any]] = {"a": np.array([[1.5, 2.0]], "f4"), "b": np.array([7]), "c": ["x"]}

    def test_a_map_chooses_and_converts(self) -> None:
        given = {"b": tf.TensorSpec((None,), tf.float64), "a": tf.TensorSpec((None, 2), tf.float16)}
        out = passed(self.BATCH, self.FIELDS, output_signature=given)
        assert set(out) == {"a", "b"}
        assert (out["a"].dtype, out["b"].dtype) == (tf.float16, tf.float64)

    @pytest.mark.parametrize("kind", [tuple, list])
    def test_a_sequence_is_in_the_fields_order(self, kind: type[Any]) -> None:
        given = (
            tf.TensorSpec((None, 2), tf.float32),
            tf.TensorSpec((None,), tf.int32),
            tf.TensorSpec((None,), tf.string),
        )
        out = passed(self.BATCH, self.FIELDS, output_signature=kind(given))
        assert [part.dtype for part in out] == [tf.float32, tf.int32, tf.string]

    def test_one_spec_is_the_only_fields(self) -> None:
        out = passed({"b": np.array([7])}, schema(b=Field("int64")), output_signature=tf.TensorSpec((None,), tf.int64))
        assert out.numpy().tolist() == [7]

    def test_whole_numbers_do_not_wrap(self) -> None:
        given = tf.TensorSpec((None,), tf.int32)
        with pytest.raises(tf.errors.UnknownError, match="int32 does not hold all of its values"):
            passed({"b": np.array([7, 2**32])}, schema(b=Field("int64")), output_signature=given)

    def test_a_signature_of_other_fields_is_refused(self) -> None:
        spec = tf.TensorSpec((None,), tf.int64)
        for given in ({"z": spec}, {}, (spec,), spec):
            with pytest.raises(OptionError, match="output_signature"):
                tensorflow_dataset(lambda: iter([]), self.FIELDS, num_elements=0, output_signature=given)

    @pytest.mark.parametrize(
        ("given", "values"),
        [
            (tf.TensorSpec((None, 3), tf.float32), np.ones((1, 2), "f4")),
            (tf.TensorSpec((None, 2), tf.int64), np.ones((1, 2), "f4")),
            (tf.TensorSpec((None, None), tf.float32), [[1.0], [1.0, 2.0]]),
            (tf.TensorSpec((None,), tf.float32), [1.0, None]),
            (tf.TensorSpec((None,), tf.string), ["a", None]),
            (tf.TensorSpec((None,), tf.string), np.ones(1, "f4")),
        ],
    )
    def test_values_that_do_not_fit_name_the_field(self, given: Any, values: Any) -> None:
        dataset = tensorflow_dataset(
            lambda: iter([{"a": values}]),
            schema(a=Field("float32", (2,))),
            num_elements=1,
            output_signature={"a": given},
        )
        with pytest.raises(tf.errors.OpError, match=r"SampleError.*'a'"):
            list(dataset)


class TestPasses:
    FIELDS = schema(x=Field("int64"))

    def batches(self, count: int) -> Iterator[dict[str, Any]]:
        return ({"x": np.array([i])} for i in range(count))

    def test_every_pass_is_a_new_one(self) -> None:
        dataset = tensorflow_dataset(lambda: self.batches(3), self.FIELDS, num_elements=3)
        assert int(dataset.cardinality()) == 3
        for _ in range(2):
            assert [int(batch["x"][0]) for batch in dataset] == [0, 1, 2]

    @pytest.mark.parametrize("count", [2, 4])
    def test_another_number_of_elements_is_an_error(self, count: int) -> None:
        dataset = tensorflow_dataset(lambda: self.batches(count), self.FIELDS, num_elements=3)
        with pytest.raises(tf.errors.FailedPreconditionError):
            list(dataset)

    def test_a_dropped_pass_ends_the_generator(self) -> None:
        ended = []

        def watched() -> Iterator[dict[str, Any]]:
            try:
                yield from self.batches(100)
            finally:
                ended.append(1)

        dataset = tensorflow_dataset(watched, self.FIELDS, num_elements=100)
        running = iter(dataset)
        next(running)
        del running
        assert ended == [1]


def _plain(values: Any) -> Any:
    if isinstance(values, np.ndarray):
        return values.tolist()
    if isinstance(values, list):
        return [_plain(value) for value in values]
    return values.encode() if isinstance(values, str) else values
