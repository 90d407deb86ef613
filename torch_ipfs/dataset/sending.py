"""How DataLoader workers send tensors: small ones by value.

torch sends a tensor as a file descriptor of shared memory, which the receiver fetches over a connection of its own, with a
handshake: some 0.4 ms a tensor, of however few bytes. A batch of small rows, or the labels of one of large rows, takes a tenth
of that to be written into the pipe that tells of it.
"""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch
from torch.multiprocessing.reductions import reduce_tensor
from torch.utils.data import get_worker_info

BY_VALUE_BYTES = 64 * 2**10
"""What a pipe holds on Linux: its writer waits for nobody."""


def send_small_tensors_by_value() -> None:
    """In a DataLoader worker, from now on. Elsewhere nothing happens."""
    if get_worker_info() is not None:
        ForkingPickler.register(torch.Tensor, _reduced)


def _reduced(tensor: torch.Tensor) -> tuple[Callable[..., torch.Tensor], tuple[Any, ...]]:
    is_plain = tensor.layout is torch.strided and tensor.device.type == "cpu" and not tensor.requires_grad
    is_small = is_plain and tensor.nbytes <= BY_VALUE_BYTES and not tensor.is_quantized
    if not is_small or tensor.is_shared():  # type: ignore[no-untyped-call]
        return reduce_tensor(tensor)  # type: ignore[no-any-return, no-untyped-call]
    flat = tensor.resolve_conj().resolve_neg().contiguous().reshape(-1)
    if flat.stride(0) != 1:  # of none or one element, which are contiguous whatever their stride is
        flat = flat.as_strided(flat.shape, (1,))
    content = flat.view(torch.uint8).numpy().tobytes()
    return _received, (content, tensor.dtype, tensor.shape)


def _received(content: bytes, dtype: torch.dtype, shape: torch.Size) -> torch.Tensor:
    if not content:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(bytearray(content), dtype=dtype).reshape(shape)
