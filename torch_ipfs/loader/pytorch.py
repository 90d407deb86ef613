"""What to_pytorch() gives: a DataLoader whose passes go on from epoch to epoch, in batches that a model can be trained on."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from operator import itemgetter
from typing import Any

import torch

from torch_ipfs.dataset.dataloader import IPFSStatefulDataLoader, Received, Receiving
from torch_ipfs.dataset.iterable import IPFSIterableDataset
from torch_ipfs.dataset.passes import Output
from torch_ipfs.errors import OptionError
from torch_ipfs.loader.epochs import Epochs
from torch_ipfs.manifest.schema import Field, Schema


def features_and_labels(batch: Any) -> Any:
    """A batch of ``features`` and ``labels`` alone as a pair of them, features float32 and labels int64 where they are
    numbers; but images in uint8 (two dimensions and more) and complex numbers stay, and labels that are no whole numbers
    are float32. Any other batch as it is.
    """
    if not isinstance(batch, dict) or len(batch) != 2 or "features" not in batch or "labels" not in batch:
        return batch
    features, labels = batch["features"], batch["labels"]
    # Mostly they are that already, and a small batch takes no longer to read than a few calls to torch.
    if getattr(features, "dtype", None) is not torch.float32:
        features = _converted(features, labels=False)
    if getattr(labels, "dtype", None) is not torch.int64:
        labels = _converted(labels, labels=True)
    return features, labels


def training_form(schema: Schema | None) -> Callable[[Any], Any] | None:
    """The quickest that does to batches of ``schema`` what :func:`features_and_labels` does; ``None`` for nothing.

    :param schema: ``None`` where it is yet to be seen what samples hold.
    """
    if schema is None or trained_schema(schema) != schema:
        return features_and_labels
    return itemgetter("features", "labels") if set(schema.names) == {"features", "labels"} else None


def _converted(column: Any, *, labels: bool) -> Any:
    if not isinstance(column, torch.Tensor) or column.is_complex():
        return column
    if labels and not column.is_floating_point():
        return column.to(torch.int64)
    if column.dtype == torch.uint8 and column.dim() > 2:
        return column
    return column.to(torch.float32)


def trained_schema(schema: Schema) -> Schema:
    """What :func:`features_and_labels` makes of batches of ``schema``."""
    if set(schema.names) != {"features", "labels"}:
        return schema
    return Schema(tuple((name, _converted_field(field, labels=name == "labels")) for name, field in schema.fields))


def _converted_field(field: Field, *, labels: bool) -> Field:
    if not field.fixed or field.dtype.startswith("complex"):
        return field
    if labels and field.dtype.startswith(("int", "uint", "bool")):
        return replace(field, dtype="int64")
    if field.dtype == "uint8" and len(field.shape) > 1:
        return field
    return replace(field, dtype="float32")


class EpochDataLoader(IPFSStatefulDataLoader):
    """A DataLoader over an IPFSDataLoader's dataset. Its passes count as that loader's.

    :param epochs: the loader's; ``set_epoch`` and ``load_state_dict`` here and there are the same.
    :param begun: is given each pass that begins.
    """

    def __init__(
        self, dataset: IPFSIterableDataset, epochs: Epochs, begun: Callable[[Receiving], None], **options: Any
    ) -> None:
        super().__init__(dataset, **options)
        self._epochs = epochs
        self._begun: Callable[[Receiving], None] | None = begun

    def __iter__(self) -> Receiving:
        receiving = super().__iter__()
        try:
            self._epochs.check_open()  # whoever closes them ends the passes and workers that are known by then
        except OptionError:
            self.close()
            raise
        return receiving

    def _begin(self) -> tuple[Iterator[Output], Received, bool]:
        epoch, state = self._epochs.begin()
        if state is None:
            self.dataset.set_epoch(epoch)
        else:
            super().load_state_dict(state)
        return super()._begin()

    def _remembered(self, receiving: Receiving) -> Receiving:
        if self._begun is not None:
            self._begun(receiving)
        return super()._remembered(receiving)

    def begin_no_more(self) -> None:
        """Begin no pass any more: the loader that this came from was closed."""
        self._epochs.close()

    def set_epoch(self, epoch: int) -> None:
        """Read epoch ``epoch`` in every pass from the next one on."""
        self._epochs.fix(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Where the training loop stands: after what it has received, whatever workers have prefetched. Under 1 KiB."""
        return self._epochs.state(self.dataset, self.received)

    def load_state_dict(self, state_dict: Any) -> None:
        """As :meth:`torch_ipfs.loader.IPFSDataLoader.load_state_dict`."""
        super().load_state_dict(state_dict)
        self._epochs.resume(self.dataset.epoch, state_dict)

    # A copy has a run of its own: its passes are no loader's.

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_epochs": copy.copy(self._epochs), "_begun": None}
