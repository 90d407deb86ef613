"""Datasets as text on a terminal. Nothing a dataset says reaches the terminal as a control character."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from torch_ipfs.codec.cid import CID
from torch_ipfs.manifest.tree import Manifest

if TYPE_CHECKING:
    import torch

_MOST_CHARACTERS = 400
_MOST_ITEMS = 8


def printable(value: object) -> str:
    """``value`` on one line, cut where it is long, with control characters escaped."""
    text = str(value)
    shown = escaped(text[:_MOST_CHARACTERS])
    return shown if len(text) <= _MOST_CHARACTERS else f"{shown}... ({of_count(len(text))} characters)"


def escaped(text: str) -> str:
    """``text`` with control characters escaped."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def of_count(number: int) -> str:
    """A number with its thousands marked."""
    return f"{number:,}"


def of_shards(manifest: Manifest) -> str:
    """How many shards there are; where the root does not say it, about how many, from what is read for that anyhow."""
    node = manifest.root_node
    if node.leaf is not None:
        return f"none; the samples are {'linked from' if node.leaf.format == 'samples' else 'in'} the root"
    rows = of_count(manifest.shard_rows)
    if not node.inner.any():
        return f"{of_count(len(node.counts))}, of {rows} samples in the mean"
    about = -(-manifest.num_samples // manifest.shard_rows)
    return f"about {of_count(about)} below {of_count(len(node.counts))} nodes, of about {rows} samples"


def of_value(value: Any) -> str:
    """A value of a sample, in a line."""
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return _of_tensor(value)
    if isinstance(value, bytes):
        return f"{of_count(len(value))} bytes"
    if isinstance(value, str):
        return printable(repr(value))
    if isinstance(value, Mapping):
        shown = [f"{name}: {of_value(item)}" for name, item in itertools.islice(value.items(), _MOST_ITEMS)]
        return printable(f"{{{_joined(shown, len(value))}}}")
    if isinstance(value, list):
        return printable(f"[{_joined([of_value(item) for item in value[:_MOST_ITEMS]], len(value))}]")
    return printable(value if isinstance(value, CID) else repr(value))


def _of_tensor(tensor: torch.Tensor) -> str:
    flat = tensor.flatten()
    numbers = [f"{number:.6g}" if isinstance(number, float) else str(number) for number in flat[:_MOST_ITEMS].tolist()]
    shape = f"[{', '.join(map(str, tensor.shape))}]" if tensor.ndim else ""
    return f"{str(tensor.dtype).removeprefix('torch.')}{shape} {_joined(numbers, len(flat))}".rstrip()


def _joined(shown: list[str], count: int) -> str:
    return ", ".join(shown + ["..."] * (count > len(shown)))


def of_fields(values: Mapping[str, Any], indent: str = "  ") -> Iterator[str]:
    """A line for each of ``values``."""
    for name, value in values.items():
        yield f"{indent}{printable(name)}: {of_value(value)}"
