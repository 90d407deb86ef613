"""What workers send arrives as it was, whether by value or in shared memory."""

from __future__ import annotations

from collections.abc import Iterator
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset
from torchdata.stateful_dataloader import StatefulDataLoader

import torch_ipfs
from torch_ipfs.dataset.sending import BY_VALUE_BYTES, send_small_tensors_by_value


def tensors() -> dict[str, torch.Tensor]:
    """One of each kind, the same in every process."""
    numbers = torch.arange(24)
    return {
        "float32": numbers.to(torch.float32).reshape(2, 3, 4),
        "bfloat16": numbers.to(torch.bfloat16),
        "float16": numbers.to(torch.float16),
        "float8": numbers.to(torch.float8_e4m3fn),
        "bool": numbers % 2 == 0,
        "uint16": numbers.to(torch.uint16),
        "complex32": torch.view_as_complex(numbers.to(torch.float16).reshape(12, 2)),
        "complex64": torch.complex(numbers.float(), -numbers.float()),
        "conjugate": torch.complex(numbers.float(), -numbers.float()).conj(),
        "scalar": torch.tensor(7),
        "no elements": torch.empty((0, 5), dtype=torch.int16),
        "no elements, no stride": torch.zeros(3, 1).expand(3, 0),
        "one element, no stride": torch.tensor(5.0).expand(1),
        "transposed": numbers.reshape(4, 6).T,
        "every second": numbers[::2],
        "part": numbers[3:5],
        "largest by value": torch.ones(BY_VALUE_BYTES, dtype=torch.uint8),
        "larger": torch.ones(BY_VALUE_BYTES + 1, dtype=torch.uint8),
        "sparse": torch.eye(3).to_sparse(),
        "shared": torch.full((4,), 9).share_memory_(),
    }


class Sender(IterableDataset[dict[str, torch.Tensor]]):
    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        send_small_tensors_by_value()
        yield tensors()


def _comparable(tensor: torch.Tensor) -> torch.Tensor:
    """As one of a dtype that torch compares."""
    return tensor.to_dense().to(torch.complex128)


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_every_kind_of_tensor_arrives_as_it_was(method: str) -> None:
    (received,) = DataLoader(Sender(), batch_size=None, num_workers=1, multiprocessing_context=method)
    for name, sent in tensors().items():
        assert received[name].dtype == sent.dtype, name
        assert received[name].shape == sent.shape, name
        assert torch.equal(_comparable(received[name]), _comparable(sent)), name


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_only_small_ones_of_their_own_go_by_value() -> None:
    (received,) = DataLoader(Sender(), batch_size=None, num_workers=1)
    by_handle = {name for name, tensor in received.items() if tensor.layout is torch.strided and tensor.is_shared()}
    assert by_handle == {"larger", "shared"}
    received["float32"] += 1  # memory of its own, to be written to


def test_nothing_changes_outside_of_workers() -> None:
    assert list(Sender())
    sent = torch.ones(3)
    ForkingPickler.dumps(sent)
    assert sent.is_shared()  # as torch does it: by handle


def _with_an_array(sample: dict[str, Any]) -> dict[str, Any]:
    return {**sample, "again": sample["x"].numpy()}


def test_batches_of_small_rows_need_no_shared_memory(tmp_path: Path) -> None:
    columns: dict[str, Any] = {"x": np.arange(60, dtype=np.float32).reshape(20, 3), "label": np.arange(20)}
    cid = torch_ipfs.write_dataset(columns, tmp_path / "a.car")
    dataset = torch_ipfs.IPFSIterableDataset(cid, tmp_path / "a.car", batch_size=8)
    transformed = torch_ipfs.IPFSIterableDataset(cid, tmp_path / "a.car", batch_size=8, transform=_with_an_array)
    for loader in (
        DataLoader(dataset, batch_size=None, num_workers=2),
        torch_ipfs.make_dataloader(dataset, num_workers=2),
        torch_ipfs.make_dataloader(transformed, num_workers=2),
    ):
        batches = list(loader)
        assert not any(tensor.is_shared() for batch in batches for tensor in batch.values())
        assert np.concatenate([batch["x"] for batch in batches]).tolist() == columns["x"].tolist()


def _with_a_lock(sample: dict[str, Any]) -> Any:
    return sample["label"] if sample["label"] < 8 else Lock()


@pytest.mark.parametrize(
    ("loader", "kind"),
    [
        (DataLoader, torch_ipfs.IPFSIterableDataset),
        (DataLoader, torch_ipfs.IPFSMapDataset),
        (StatefulDataLoader, torch_ipfs.IPFSIterableDataset),
        (StatefulDataLoader, torch_ipfs.IPFSMapDataset),
    ],
)
def test_what_cannot_be_sent_is_an_error_with_torchs_loaders_too(loader: Any, kind: Any, tmp_path: Path) -> None:
    """They printed it, and waited for ever."""
    cid = torch_ipfs.write_dataset({"label": np.arange(20)}, tmp_path / "a.car")
    dataset = kind(cid, tmp_path / "a.car", transform=_with_a_lock)
    running = iter(loader(dataset, batch_size=4, num_workers=1, collate_fn=list))
    assert [next(running), next(running)] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    with pytest.raises(TypeError, match=r"(?s)which must pickle.*cannot pickle"):
        next(running)
