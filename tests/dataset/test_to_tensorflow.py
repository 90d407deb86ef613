"""to_tensorflow(): whole epochs in tf.data, of a dataset and of an IPFSDataLoader."""

from __future__ import annotations

from collections import UserDict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

import torch_ipfs
from tests.dataset.conftest import Written
from tests.loader.datasets import N, embedded, labels, linked, loader_of, put
from torch_ipfs import IPFSIterableDataset, MemoryBlockstore, OptionError
from torch_ipfs.bridges.tensorflow import load_tensorflow

tf = load_tensorflow()


class Named(NamedTuple):
    index: Any
    one: Any


def order(dataset: Any) -> list[int]:
    return [int(i) for _, y in dataset for i in y]


class TestPasses:
    def test_each_is_a_whole_epoch_and_the_next(self) -> None:
        store, cid = embedded(N)
        plain = loader_of(store, cid)
        epochs = [labels(plain) for _ in range(3)]
        loader = loader_of(store, cid)
        dataset = loader.to_tensorflow()
        assert int(dataset.cardinality()) == len(loader)
        assert [order(dataset) for _ in range(3)] == epochs
        loader.set_epoch(1)
        assert [order(dataset) for _ in range(2)] == [epochs[1]] * 2

    def test_a_dataset_goes_on_too_until_its_epoch_is_set(self) -> None:
        store, cid = embedded(N)
        plain = IPFSIterableDataset(cid, store, batch_size=5, shuffle=True)
        epochs = []
        for epoch in range(3):
            plain.set_epoch(epoch)
            epochs.append([int(i) for batch in plain for i in batch["labels"]])
        dataset = IPFSIterableDataset(cid, store, batch_size=5, shuffle=True)
        converted = dataset.to_tensorflow()
        assert [order(converted) for _ in range(3)] == epochs
        dataset.set_epoch(2)
        assert [order(converted) for _ in range(2)] == [epochs[2]] * 2

    def test_two_at_once_are_whole(self) -> None:
        dataset = loader_of(*linked(N)).to_tensorflow()
        mixed = [(a[1].numpy().tolist(), b[1].numpy().tolist()) for a, b in zip(dataset, dataset, strict=True)]
        for side in zip(*mixed, strict=True):
            assert sorted(i for part in side for i in part) == list(range(N))

    def test_ranks_share(self) -> None:
        store, cid = embedded(N)
        shares = [loader_of(store, cid, rank=rank, world_size=2).to_tensorflow() for rank in range(2)]
        assert len({int(share.cardinality()) for share in shares}) == 1
        assert sorted({i for share in shares for i in order(share)}) == list(range(N))

    def test_a_state_in_the_middle_is_of_its_beginning(self) -> None:
        """How much of what tf.data keeps ahead has been had is not known."""
        loader = loader_of(*embedded(N))
        elements = iter(loader.to_tensorflow())
        next(elements)
        assert (loader.state_dict()["epoch"], loader.state_dict()["position"]) == (0, 0)
        list(elements)
        assert (loader.state_dict()["epoch"], loader.state_dict()["position"]) == (1, 0)

    def test_a_closed_loader_says_so(self) -> None:
        loader = loader_of(*embedded(N))
        dataset = loader.to_tensorflow()
        loader.close()
        with pytest.raises(tf.errors.OpError, match="closed"):
            list(dataset)

    def test_a_loader_closed_in_the_middle_ends_the_pass(self) -> None:
        loader = loader_of(*embedded(500), batch_size=1)
        running = iter(loader.to_tensorflow())
        next(running)
        loader.close()
        with pytest.raises(tf.errors.OpError, match="closed"):
            list(running)

    @pytest.mark.slow
    @pytest.mark.filterwarnings("ignore:.shuffle=True. was passed")
    def test_model_fit_for_several_epochs(self) -> None:
        rng = np.random.default_rng(0)
        rows = [{"features": f.tolist(), "labels": int(f[0] > 0.5)} for f in rng.random((200, 3))]
        store = MemoryBlockstore()
        loader = loader_of(store, put(store, {"data": rows}), batch_size=20)
        model = tf.keras.Sequential([tf.keras.Input((3,)), tf.keras.layers.Dense(2, activation="softmax")])
        model.compile(
            optimizer=tf.keras.optimizers.Adam(0.1), loss="sparse_categorical_crossentropy", metrics=["accuracy"]
        )
        fitted = model.fit(loader.to_tensorflow(), epochs=8, verbose=0)
        assert fitted.history["accuracy"][-1] > 0.85
        assert len(fitted.history["loss"]) == 8


class TestElements:
    def test_a_loaders_numbers_are_those_that_training_takes(self, tmp_path: Path) -> None:
        columns = {"features": np.ones((6, 3)), "labels": np.ones(6, np.uint8)}
        cid = torch_ipfs.write_dataset(columns, tmp_path / "a.car")
        spec = loader_of(str(tmp_path / "a.car"), cid).to_tensorflow().element_spec
        assert spec == (tf.TensorSpec((None, 3), tf.float32), tf.TensorSpec((None,), tf.int64))
        exact = IPFSIterableDataset(cid, str(tmp_path / "a.car"), batch_size=2).to_tensorflow().element_spec
        assert exact == (tf.TensorSpec((None, 3), tf.float64), tf.TensorSpec((None,), tf.uint8))

    def test_maps_of_all_fields_else(self, car: Written) -> None:
        dataset = IPFSIterableDataset(*car, batch_size=10).to_tensorflow()
        batch = next(iter(dataset))
        assert batch["index"].numpy().tolist() == list(range(10))
        assert batch["name"].numpy()[3] == b"sample 3"
        assert batch["features"].shape == (10, 4)

    def test_samples_where_there_is_no_batch_size(self, car: Written) -> None:
        dataset = IPFSIterableDataset(*car, columns=["index"]).to_tensorflow()
        assert int(dataset.cardinality()) == 103
        assert [int(sample["index"]) for sample in dataset.batch(10).unbatch()] == list(range(103))

    def test_a_given_signature(self) -> None:
        loader = loader_of(*embedded(N))
        given = {"labels": tf.TensorSpec((None,), tf.float32)}
        batch = next(iter(loader.to_tensorflow(output_signature=given)))
        assert list(batch) == ["labels"]
        assert batch["labels"].dtype == tf.float32

    def test_what_a_transform_makes(self, car: Written) -> None:
        def transform(sample: dict[str, Any]) -> dict[str, Any]:
            i = int(sample["index"])
            return {
                "i": i,
                "half": sample["features"].to(torch.bfloat16),
                "ragged": torch.arange(i % 3),
                "text": f"{i}!",
                "pair": (1, 2),
                "one": np.float32(0.5),
            }

        dataset = IPFSIterableDataset(*car, batch_size=10, transform=transform).to_tensorflow()
        batch = list(dataset)[-1]
        assert batch["i"].numpy().tolist() == [100, 101, 102]
        assert batch["half"].dtype == tf.bfloat16
        assert batch["ragged"].to_list() == [[0], [0, 1], []]
        assert batch["text"].numpy().tolist() == [b"100!", b"101!", b"102!"]
        assert batch["pair"].numpy().tolist() == [[1, 2]] * 3
        one = IPFSIterableDataset(*car, transform=transform).to_tensorflow()
        assert [int(sample["i"]) for sample in one.take(3)] == [0, 1, 2]

    @pytest.mark.parametrize("batch_size", [None, 2])
    def test_numbers_that_numpy_lacks(self, car: Written, batch_size: int | None) -> None:
        dataset = IPFSIterableDataset(
            *car, batch_size=batch_size, transform=lambda _: {"half": torch.tensor(1.5, dtype=torch.bfloat16)}
        )
        assert set(next(iter(dataset.to_tensorflow()))["half"].numpy().flatten().tolist()) == {1.5}

    @pytest.mark.parametrize(
        "transform",
        [
            lambda s: (s["features"] * 2, s["labels"] % 2),
            lambda s: (s["labels"].to(torch.int32), s["labels"]),
            lambda s: (s["features"], s["labels"], np.float16(0.5)),
            lambda s: ({"a": s["features"], "b": s["labels"]}, s["labels"]),
            lambda s: s["features"],
            lambda s: UserDict(features=s["labels"], labels=s["labels"].to(torch.uint8)),
            lambda s: UserDict(x=s["features"], y=s["labels"].to(torch.uint8)),
        ],
    )
    def test_what_a_transform_makes_has_the_form_and_types_that_torch_gets(self, transform: Any) -> None:
        loader = loader_of(*embedded(N), transform=transform, shuffle=False)
        element, expected = next(iter(loader.to_tensorflow())), next(iter(loader.to_pytorch()))
        if isinstance(expected, UserDict):
            expected = dict(expected)
        of_tensorflow = tf.nest.map_structure(lambda t: (t.dtype.name, t.numpy().tolist()), element)
        of_torch = tf.nest.map_structure(lambda t: (str(t.dtype).removeprefix("torch."), t.tolist()), expected)
        assert of_tensorflow == of_torch

    def test_a_batch_transform_needs_a_signature(self, car: Written) -> None:
        dataset = IPFSIterableDataset(*car, batch_size=10, batch_transform=lambda batch: batch["index"] + 1)
        with pytest.raises(OptionError, match="output_signature"):
            dataset.to_tensorflow()
        given = dataset.to_tensorflow(output_signature=tf.TensorSpec((None,), tf.int64))
        assert next(iter(given)).numpy().tolist() == list(range(1, 11))
        named = IPFSIterableDataset(*car, batch_size=10, batch_transform=lambda batch: Named(batch["index"], [1]))
        signature = tf.TensorSpec((None,), tf.int64), tf.TensorSpec((1,), tf.int64)
        assert next(iter(named.to_tensorflow(output_signature=signature)))[0].numpy().tolist() == list(range(10))

    def test_a_field_without_a_type_is_named(self) -> None:
        store = MemoryBlockstore()
        cid = put(store, {"data": [{"a": 1, "b": None}, {"a": 2, "b": "x"}]})
        with pytest.raises(OptionError, match="'b'"):
            loader_of(store, cid).to_tensorflow()


class TestMisfits:
    """Where no schema is written, the first 1,024 samples say what there is."""

    def dataset(self, bad: int) -> tuple[MemoryBlockstore, Any]:
        rows: list[dict[str, Any]] = [{"features": [1.0, 2.0], "labels": 1} for _ in range(1500)]
        rows[bad] = {"features": [1.0, 2.0, 3.0], "labels": 1}
        store = MemoryBlockstore()
        return store, put(store, {"data": rows})

    def test_a_later_one_names_sample_and_field(self) -> None:
        loader = loader_of(*self.dataset(1200), on_error="raise", batch_size=100)
        assert loader.to_tensorflow().element_spec[0] == tf.TensorSpec((None, 2), tf.float32)
        with pytest.raises(tf.errors.OpError, match=r"sample 1200.*'features'"):
            list(loader.to_tensorflow())

    def test_an_earlier_one_is_part_of_the_signature(self) -> None:
        spec = loader_of(*self.dataset(900)).to_tensorflow().element_spec[0]
        assert isinstance(spec, tf.RaggedTensorSpec)

    @pytest.mark.filterwarnings("ignore:1 samples")
    def test_it_is_skipped_and_counted_by_default(self) -> None:
        loader = loader_of(*self.dataset(1200), batch_size=100)
        assert sum(len(y) for _, y in loader.to_tensorflow()) == 1499
        assert loader.skipped == 1

    def test_a_transform_that_changes_its_mind_is_named_too(self) -> None:
        store = MemoryBlockstore()
        cid = put(store, {"data": [{"x": i} for i in range(1100)]})
        loader = loader_of(store, cid, transform=lambda s: {"x": [0] * (1 + int(s["x"]) // 1050)}, shuffle=False)
        with pytest.raises(tf.errors.OpError, match=r"sample 1050.*'x'"):
            list(loader.to_tensorflow())


class TestSkipping:
    @pytest.mark.filterwarnings("ignore:. samples")
    @pytest.mark.parametrize(
        "lost", [(3,), (0, 1, 2, 3, 4), (5, 6, 7, 8, 9, 21), (20, 21, 22), (0, 1, 2, 3, 4, 20, 21, 22)]
    )
    def test_the_number_of_batches_stays(self, lost: tuple[int, ...]) -> None:
        loader = loader_of(*linked(N, lost), shuffle=False)
        dataset = loader.to_tensorflow()
        for _ in range(2):
            got = list(dataset)
            assert len(got) == len(loader)
            assert {int(i) for _, y in got for i in y} == set(range(N)) - set(lost)
            assert loader.skipped == len(lost)

    def test_what_was_skipped_is_told_at_the_end(self) -> None:
        with pytest.warns(UserWarning, match="1 samples"):
            list(loader_of(*linked(N, (3,)), shuffle=False).to_tensorflow())

    def test_raising_is_one_word_away(self) -> None:
        loader = loader_of(*linked(N, (3,)), shuffle=False, on_error="raise")
        with pytest.raises(tf.errors.OpError, match="BlockNotFound"):
            list(loader.to_tensorflow())
