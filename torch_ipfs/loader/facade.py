"""IPFSDataLoader, as the specification has it."""

from __future__ import annotations

import copy
import os
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Self

from torch_ipfs.blockstore.base import Blockstore
from torch_ipfs.blockstore.process_lock import ProcessLock
from torch_ipfs.bridges.load_order import settle
from torch_ipfs.codec.cid import CID
from torch_ipfs.dataset.arguments import check_function, checked_count
from torch_ipfs.dataset.dataloader import IPFSStatefulDataLoader, Received, Receiving
from torch_ipfs.dataset.epoch import OnError
from torch_ipfs.dataset.iterable import IPFSIterableDataset, checked_batch_size
from torch_ipfs.errors import OptionError
from torch_ipfs.loader.client import Cache, store_of
from torch_ipfs.loader.dag_get import DagGetBlockstore
from torch_ipfs.loader.epochs import Epochs, closed
from torch_ipfs.loader.passes import Counted, Current, Pass
from torch_ipfs.loader.pytorch import EpochDataLoader, trained_schema, training_form
from torch_ipfs.loader.result import Result, failed, succeeded
from torch_ipfs.loader.samples import lightened, pack
from torch_ipfs.manifest.schema import Schema

Sample = Any

_OF_WORKERS = ("num_workers", "prefetch_factor", "persistent_workers", "multiprocessing_context", "timeout")
"""Options of a DataLoader that has workers."""


@dataclass(slots=True)
class _Loaded:
    """A dataset that was loaded.

    :param name: as it was asked for.
    :param reading: held while this process reads, since its passes share what they have open.
    """

    name: str
    dataset: IPFSIterableDataset
    reading: ProcessLock = field(default_factory=ProcessLock)


class IPFSDataLoader:
    """Batches of samples of a dataset named by its CID: lists of maps, or through :meth:`to_pytorch`, :meth:`to_tensorflow`.

    Every pass, whichever way it is read, is of the next epoch, until :meth:`set_epoch` is called. Methods may be called from
    several threads.

    :param ipfs_client: where blocks come from: what :func:`torch_ipfs.open_blockstore` takes, a Blockstore, an ipfshttpclient
        Client, an ipfs_kit, or an object with ``dag_get(cid)``.
    :param batch_size: samples in a batch.
    :param shuffle: whether to permute the samples, anew in each epoch.
    :param prefetch: batches that each worker process reads ahead; 0 reads in the process that iterates, without workers.
    :param num_workers: processes that read; by default one. A client that does not pickle is read without.
    :param seed: of the order.
    :param drop_last: leave out the last batch where it is not full.
    :param on_error: what becomes of samples that are missing or broken: "skip", counted in :attr:`skipped`; "raise";
        "substitute" another.
    :param transform: applied to each sample, in the workers.
    :param cache: whether blocks are kept on this machine's disk: ``None`` for those of gateways and IPFS nodes, ``True``,
        ``False``, or the folder to keep them in.
    :param rank: data-parallel rank, with ``world_size``; by default found from torch.distributed, RANK and WORLD_SIZE.
    :raises OptionError: (a ValueError) for arguments that cannot work. Nothing is read before :meth:`load_dataset`.
    """

    def __init__(
        self,
        ipfs_client: Any,
        batch_size: int = 32,
        shuffle: bool = True,
        prefetch: int = 2,
        *,
        num_workers: int | None = None,
        seed: int = 0,
        drop_last: bool = False,
        on_error: OnError = "skip",
        transform: Callable[[Any], Any] | None = None,
        cache: Cache = None,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        prefetch = checked_count("prefetch", prefetch)
        num_workers = None if num_workers is None else checked_count("num_workers", num_workers)
        if batch_size is None:
            raise OptionError("batch_size must be a whole number of at least 1, but is None")
        check_function("transform", transform, "a sample")
        if not isinstance(cache, bool | str | os.PathLike | None):
            raise OptionError(f"cache must be None, True, False or a folder, but is {cache!r}")
        self.ipfs_client = ipfs_client
        self._prefetch, self._num_workers = prefetch, num_workers
        self._cache = cache
        self._options: dict[str, Any] = {
            "batch_size": batch_size,
            "shuffle": shuffle,
            "seed": seed,
            "drop_last": drop_last,
            "on_error": on_error,
            "transform": transform,
            "rank": rank,
            "world_size": world_size,
        }
        IPFSIterableDataset("", None, **self._options)  # which knows what options can work
        self._store: tuple[Blockstore, bool] | None = None
        self._loaded: _Loaded | None = None
        self._epochs = Epochs()
        self._root: CID | None = None
        self._why_not = "call load_dataset(cid) first"
        self._lock = ProcessLock()
        self._forget_passes()

    def _forget_passes(self) -> None:
        self._passes: weakref.WeakSet[Pass] = weakref.WeakSet()
        self._pytorch: weakref.WeakSet[EpochDataLoader] = weakref.WeakSet()
        self._pytorch_passes: weakref.WeakSet[Receiving] = weakref.WeakSet()
        self._counted = Counted()
        self._current = Current()

    # Datasets.

    def load_dataset(self, dataset_cid: CID | str) -> Result:
        """Open the dataset of a CID, ``/ipfs/CID/path`` or ``ipfs://CID/path``, in place of the one that was.

        Passes over the one before go on to their end.

        :returns: ``success`` and ``dataset_cid``, with ``total_samples`` and ``metadata`` (what its root says beside the
            samples); or, where it cannot be loaded, ``error`` and ``error_type``, and nothing is loaded.
        """
        name = str(dataset_cid)
        with self._lock:
            self._unload(f"load_dataset({name!r}) has not succeeded")
        try:
            dataset = self._open(dataset_cid)
        except Exception as error:  # noqa: BLE001 - the store may be the caller's, and raise anything
            result = failed("load_dataset", error, dataset_cid=name)
            said = self._readable(result["error"])
            result["error"] = said if name and name in said else f"{name!r} cannot be loaded: {said}"
            with self._lock:
                self._unload(f"load_dataset({name!r}) failed: {result['error']}")
            return result
        with self._lock:
            self._unload("")
            root = dataset.manifest.root
            self._epochs, self._root = self._epochs.again(same=root == self._root), root
            self._loaded = _Loaded(name, dataset)
        found = {"total_samples": dataset.manifest.num_samples, "metadata": dataset.manifest.metadata}
        return succeeded("load_dataset", dataset_cid=name, **found)

    def _open(self, dataset_cid: CID | str) -> IPFSIterableDataset:
        if not isinstance(dataset_cid, CID | str):
            raise OptionError(f"a dataset is named by its CID as text, not by a {type(dataset_cid).__name__}")
        if self._store is None:
            self._store = store_of(self.ipfs_client, self._cache)
        store, _ = self._store
        root: CID | str = dataset_cid
        if isinstance(store, DagGetBlockstore):
            store.warn()
            root = store.cid_of(str(dataset_cid))
        dataset = IPFSIterableDataset(root, store, **self._options)
        _ = dataset.manifest
        return dataset

    def _readable(self, text: str) -> str:
        store = self._store[0] if self._store is not None else None
        return store.readable(text) if isinstance(store, DagGetBlockstore) else text

    def _unload(self, why_not: str) -> None:
        self._loaded, self._why_not, self._counted = None, why_not, Counted()
        self._current.set(None)

    def _here(self) -> _Loaded:
        if self._loaded is None:
            raise OptionError(f"no dataset is loaded: {self._why_not}")
        return self._loaded

    @property
    def batch_size(self) -> int:
        """Samples of a full batch, as this loader was made with; so for the two that follow."""
        batch_size: int = self._options["batch_size"]
        return batch_size

    @property
    def shuffle(self) -> bool:
        """Whether each epoch has an order of its own."""
        shuffle: bool = self._options["shuffle"]
        return shuffle

    @property
    def prefetch(self) -> int:
        """Batches that each worker process reads ahead."""
        return self._prefetch

    @property
    def total_samples(self) -> int:
        """Samples of the whole dataset, whichever rank reads them; 0 where none is loaded."""
        loaded = self._loaded
        return 0 if loaded is None else loaded.dataset.manifest.num_samples

    @property
    def dataset_metadata(self) -> dict[str, Any] | None:
        """What the dataset's root says beside the samples: name, description, version and so on."""
        loaded = self._loaded
        return None if loaded is None else loaded.dataset.manifest.metadata

    @property
    def dataset_cid(self) -> str | None:
        """The CID or path that was loaded."""
        loaded = self._loaded
        return None if loaded is None else loaded.name

    @property
    def skipped(self) -> int:
        """Samples of the latest pass, of whichever kind, that could not be had so far."""
        received = self._counted.received
        return 0 if received is None else received.skipped.count

    def __len__(self) -> int:
        """Batches of this rank in an epoch; 0 where no dataset is loaded."""
        loaded = self._loaded
        return 0 if loaded is None else len(loaded.dataset)

    def __bool__(self) -> bool:
        return True

    # Passes.

    def __iter__(self) -> Iterator[list[Sample]]:
        """A pass over the next epoch, as lists of samples. Several may go on at the same time.

        :raises OptionError: no dataset is loaded.
        """
        with self._lock:
            return self._new_pass()

    def __next__(self) -> list[Sample]:
        """The next batch of the pass that ``iter()`` began last and that still goes on, else of a new one.

        :raises StopIteration: that pass is over; ``iter()`` begins another.
        :raises OptionError: no dataset is loaded.
        """
        with self._lock:
            self._here()
            this = self._current.take() or self._new_pass()
        return this.draw()

    def _new_pass(self) -> Pass:
        loaded = self._here()
        epoch, state = self._epochs.begin()
        collate = pack if self._options["transform"] else None
        workers = self._worker_options()
        # Passes in this process share a reader, and what it has open from epoch to epoch.
        reading = loaded.dataset.beside(own_reader=bool(workers)).for_receiver(collate)
        if workers and collate is None:
            reading.batch_transform = lightened
        if state is None:
            reading.set_epoch(epoch)
        else:
            reading.load_state_dict(state)
        loader = IPFSStatefulDataLoader(reading, persistent_workers=False, **workers)
        this = Pass(loader, loaded.name, nullcontext() if workers else loaded.reading, self._current, self._counted)
        self._passes.add(this)
        self._current.set(this)
        return this

    def _worker_options(self) -> dict[str, Any]:
        """What a DataLoader is told of workers; nothing where this process reads."""
        num_workers = 1 if self._num_workers is None else self._num_workers
        if self._prefetch == 0 or num_workers == 0 or not self._goes_to_workers():
            return {}
        return {"num_workers": num_workers, "prefetch_factor": self._prefetch}

    def _goes_to_workers(self) -> bool:
        """Whether processes other than this one can read from the client."""
        store = self._store[0] if self._store is not None else None
        return not isinstance(store, DagGetBlockstore) or store.goes_to_workers()

    def to_pytorch(
        self, *, batch_size: int | None = None, collate_fn: Callable[[list[Any]], Any] | None = None, **options: Any
    ) -> EpochDataLoader:
        """A ``torch.utils.data.DataLoader`` of this dataset: batches of tensors, as pairs (features, labels) where samples have
        just these fields, as maps otherwise. Each of its passes is of the next epoch.

        :param batch_size: in place of this loader's.
        :param collate_fn: list of samples -> batch, in place of tensors.
        :param options: as DataLoader takes them, in place of what this loader was made with. Of a client that does not pickle
            this process reads, whatever they say of workers.
        :raises OptionError: no dataset is loaded, or an option cannot work.
        """
        settle()
        with self._lock:
            loaded = self._here()
            dataset = loaded.dataset.beside().for_receiver(collate_fn)
            if collate_fn is None:
                dataset.batch_transform = training_form(self._known_schema(loaded.dataset))
            if batch_size is not None:
                dataset.batch_size = checked_batch_size(batch_size)
            if not self._goes_to_workers():
                options = {name: value for name, value in options.items() if name not in _OF_WORKERS}
            elif options.get("num_workers") != 0:
                options = {**self._worker_options(), **options}
            lock, counted, passes = self._lock, self._counted, self._pytorch_passes

            def begun(receiving: Receiving) -> None:
                with lock:
                    passes.add(receiving)
                counted.received = receiving.received

            loader = EpochDataLoader(dataset, self._epochs, begun, **options)
            self._pytorch.add(loader)
            return loader

    def _known_schema(self, dataset: IPFSIterableDataset) -> Schema | None:
        """What samples hold, where that is known without reading any: the root says so, or has them in it."""
        manifest = dataset.manifest
        if self._options["transform"] is not None:
            return None
        embedded = manifest.root_node.leaf is not None and manifest.root_node.leaf.format == "data"
        return dataset.schema if embedded else manifest.schema

    def to_tensorflow(self, *, output_signature: Any = None) -> Any:
        """A ``tf.data.Dataset`` of this dataset: batches as :meth:`to_pytorch` gives them, every pass the next epoch, whole.

        :param output_signature: in place of what the schema says: a map of fields to specs, or a sequence of specs.
        :raises OptionError: no dataset is loaded, or TensorFlow has no type for a field; names it.
        :raises ImportError: TensorFlow is not installed; says how it is.
        """
        from torch_ipfs.dataset.to_tensorflow import to_tensorflow

        with self._lock:
            loaded, counted, epochs = self._here(), self._counted, self._epochs

        def begun(received: Received) -> None:
            counted.received = received

        return to_tensorflow(
            loaded.dataset,
            next_epoch=lambda: epochs.begin()[0],
            output_signature=output_signature,
            trained=trained_schema,
            begun=begun,
            going_on=epochs.check_open,
        )

    # Where the run stands.

    def set_epoch(self, epoch: int) -> None:
        """Have every pass from now on be of ``epoch``, until it is set anew. Before that each is of the next by itself.

        :raises OptionError: a negative number.
        """
        with self._lock:
            self._epochs.fix(epoch)
            self._current.set(None)

    def state_dict(self) -> dict[str, Any]:
        """Where the latest pass stands, of this loader or of what to_pytorch gave: after the last batch that was received.
        One of to_tensorflow counts when it has been read to its end: what tf.data keeps ahead may not have been had yet.

        :raises OptionError: no dataset is loaded.
        """
        with self._lock:
            loaded = self._here()
            return self._epochs.state(loaded.dataset, self._counted.received)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state`` in the next pass, and only in that one; at any batch size, prefetch and number of ranks.

        Passes of :meth:`to_tensorflow` are always whole.

        :raises OptionError: no dataset is loaded.
        :raises ResumeError: it is of another dataset, seed, shuffle or version, or no state at all; names the field.
        """
        with self._lock:
            loaded = self._here()
            loaded.dataset.load_state_dict(state)
            self._epochs.resume(loaded.dataset.epoch, state)
            self._counted.received = None
            self._current.set(None)

    # The end.

    def close(self) -> None:
        """End all passes, those of to_pytorch's loaders too, with their workers, and let go of the dataset.

        May be called twice; load_dataset may be called after it. A pass that is asked for more raises an OptionError.
        """
        with self._lock:
            loaders = list(self._pytorch)
            for loader in loaders:
                loader.begin_no_more()
            passes, of_loaders = list(self._passes), list(self._pytorch_passes)
            self._forget_passes()
            self._epochs.close()
            if self._loaded is not None:
                self._unload(str(closed()))
            store = self._store
        for this in passes:
            this.close()
        for receiving in of_loaders:
            if not receiving.closed:
                receiving.abort(closed())
        for loader in loaders:
            loader.close()
        if store is not None and store[1]:
            store[0].close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Pickling and copying: a copy has a run of its own, which stands where this one does. No pass travels.

    def __getstate__(self) -> dict[str, Any]:
        with self._lock:
            own: dict[str, Any] = {"_passes": None, "_pytorch": None, "_pytorch_passes": None, "_current": None}
            own |= {"_epochs": copy.copy(self._epochs), "_counted": copy.deepcopy(self._counted)}
            if self._loaded is not None:
                own["_loaded"] = replace(self._loaded, dataset=copy.copy(self._loaded.dataset))
            if self._store is not None and self._store[1]:
                own["_store"] = None
            return {**self.__dict__, **own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        counted = self._counted
        self._forget_passes()
        self._counted = counted

    def __repr__(self) -> str:
        return f"IPFSDataLoader({self.dataset_cid!r}, batch_size={self.batch_size}, total_samples={self.total_samples})"
