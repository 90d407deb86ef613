"""ipfs_kit, as the specification has it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

from torch_ipfs.blockstore.base import Blockstore
from torch_ipfs.blockstore.open import Source
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import OptionError
from torch_ipfs.kit.node import Node, Role
from torch_ipfs.kit.operations import IPFSOperations
from torch_ipfs.kit.tasks import TrainingTask, pinned, read_task
from torch_ipfs.loader import IPFSDataLoader
from torch_ipfs.loader.result import Result, answers
from torch_ipfs.manifest.tree import Manifest


class ipfs_kit:  # noqa: N801 - the specification's name
    """Datasets and objects in IPFS, on the local store, or on what ``source`` or TORCH_IPFS_SOURCE names.

    :param role: what it does beside reading. A "worker" writes, reads from a network through a cache on disk, and pins what a
        task names while it trains (:meth:`training`). A "master" pins what it publishes, and what its tasks name. A "leecher"
        only reads: it keeps nothing beyond the cache, and its puts, pins and messages do not succeed.
    :param metadata: kept as it is; ``{"enable_ai_ml": False}`` turns :meth:`get_data_loader` off.
    :param source: as :func:`torch_ipfs.open_blockstore` takes it.
    :raises OptionError: no such role, or no such source. Nothing is connected here.
    """

    def __init__(self, role: Role = "worker", metadata: Mapping[str, Any] | None = None, source: Source = None) -> None:
        self.role: Role = role
        if not isinstance(metadata, Mapping | None):
            raise OptionError(f"metadata is a map, not a {type(metadata).__name__}")
        self.metadata: dict[str, Any] = dict(metadata or {})
        self._node = Node(role, source)
        self.ipfs = IPFSOperations(self._node)

    @property
    def blockstore(self) -> Blockstore:
        """The store that is read from."""
        return self._node.store

    def get_data_loader(
        self, batch_size: int = 32, shuffle: bool = True, prefetch: int = 2, **options: Any
    ) -> IPFSDataLoader | None:
        """An :class:`IPFSDataLoader` that reads from here; ``None`` where the metadata turn machine learning off.

        :param options: its further keywords.
        """
        if self.metadata.get("enable_ai_ml", True) is False:
            return None
        return IPFSDataLoader(self, batch_size, shuffle, prefetch, **options)

    @answers
    def accept_task(self, message: Any) -> Result:
        """Whether a message is a task that can be done here: it reads as one, and its dataset can be opened.

        :param message: as a subscription gives it, or its data.
        :returns: ``dataset_cid``, ``hyperparameters``, ``total_samples``, and ``task``, a :class:`TrainingTask`.
        """
        task = read_task(message)
        manifest = Manifest(self._node.asked, CID.parse(task.dataset_cid))
        return {
            "dataset_cid": task.dataset_cid,
            "hyperparameters": task.hyperparameters,
            "total_samples": manifest.num_samples,
            "task": task,
        }

    @contextmanager
    def training(self, message: Any) -> Iterator[TrainingTask]:
        """Do the task of a message in this context: its dataset is pinned meanwhile. A leecher pins nothing.

        :raises OptionError: the message is no task, or the source keeps no pins.
        :raises BlockError: nobody has the dataset, or all of it.
        :raises ManifestError: it is no dataset.
        """
        task = read_task(message)
        if self.role == "leecher":
            Manifest(self._node.store, CID.parse(task.dataset_cid))
            yield task
            return
        with pinned(self._node, task):
            yield task

    def close(self) -> None:
        """Let go of files and connections. May be called twice; a later use opens anew."""
        self._node.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"ipfs_kit(role={self.role!r}, source={self._node.source!r})"
