"""IPFSIterableDataset: a dataset named by its CID, read in order or shuffled, shared out to ranks and workers."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch.utils.data import IterableDataset, get_worker_info

from torch_ipfs.blockstore.open import Source
from torch_ipfs.codec.cid import CID
from torch_ipfs.dataset.epoch import ON_ERROR, EpochShare, OnError
from torch_ipfs.dataset.opening import Opening, checked_columns
from torch_ipfs.dataset.passes import Given, Pass, Progress
from torch_ipfs.dataset.ranks import Ranks, checked_ranks, found_ranks, this_topology
from torch_ipfs.dataset.reader import Reader
from torch_ipfs.dataset.shared import SharedControl, SharedCounters
from torch_ipfs.errors import OptionError, ResumeError
from torch_ipfs.manifest.schema import Schema
from torch_ipfs.manifest.tree import Manifest
from torch_ipfs.plan.cursor import Cursor
from torch_ipfs.plan.partition import Partition
from torch_ipfs.plan.shuffle import Order, ShuffleOptions

Transform = Callable[[Any], Any]

_GROUP_ROWS = 4096
_GROUP_BYTES = 2**20
_LINKED_GROUP_ROWS = 32


class IPFSIterableDataset(IterableDataset[Any]):
    """The samples of a dataset, or its batches, verified block by block.

    Give it to ``torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=...)``, to :func:`make_dataloader`, or
    iterate it. Every rank and worker reads its own share; the order of all shares together is the same for any number of
    them. Without :meth:`set_epoch` every pass repeats the same order.

    :param root: CID of the dataset, ``/ipfs/CID/path`` or ``ipfs://CID/path``.
    :param source: a Blockstore, or what :func:`torch_ipfs.open_blockstore` takes.
    :param batch_size: ``None`` yields samples, a map of field to tensor or value; a number yields batches of so many,
        a map of field to tensor ``(batch_size, *shape)`` or list.
    :param shuffle: whether to permute, anew for each (seed, epoch); :class:`ShuffleOptions` to say how.
    :param drop_last: leave out the last step where not every rank would have a full batch.
    :param pad: with several ranks, fill up the last step with samples from the epoch's start so that all have equally many
        batches of one size; without it the last ranks may have fewer.
    :param columns: fields to read; only these are decoded.
    :param transform: applied to each sample, in both modes.
    :param batch_transform: applied to each batch.
    :param on_error: what becomes of samples that are missing or broken: "raise"; "skip" them, counted, with one warning;
        "substitute" the next readable of the same share. With several ranks skip acts as substitute, so that ranks stay
        equal. A source that is out of reach raises in any case.
    :param rank: data-parallel rank, with ``world_size``; by default found from torch.distributed, RANK and WORLD_SIZE.
    :raises OptionError: (a ValueError) for arguments that cannot work. Nothing is read before the first use.
    """

    def __init__(
        self,
        root: CID | str,
        source: Source = None,
        *,
        batch_size: int | None = None,
        shuffle: bool | ShuffleOptions = False,
        seed: int = 0,
        drop_last: bool = False,
        pad: bool = True,
        columns: Sequence[str] | None = None,
        transform: Transform | None = None,
        batch_transform: Transform | None = None,
        on_error: OnError = "raise",
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        super().__init__()
        if batch_size is not None and (
            not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1
        ):
            raise OptionError(f"batch_size must be None or a whole number of at least 1, but is {batch_size!r}")
        if on_error not in ON_ERROR:
            raise OptionError(f"on_error must be one of {', '.join(ON_ERROR)}, but is {on_error!r}")
        if not isinstance(seed, int) or not -(2**63) <= seed < 2**63:
            raise OptionError(f"seed must be an integer of 64 bits, but is {seed!r}")
        if not isinstance(shuffle, bool | ShuffleOptions):
            raise OptionError(f"shuffle must be True, False or ShuffleOptions, but is {shuffle!r}")
        if batch_transform is not None and batch_size is None:
            raise OptionError("batch_transform needs a batch_size: without one the dataset yields samples")
        self._opening = Opening(root, source, checked_columns(columns))
        self.batch_size = None if batch_size is None else _checked_batch_size(batch_size)
        self.drop_last, self.pad = drop_last, pad
        self.shuffle, self.seed = shuffle, seed
        self.transform, self.batch_transform = transform, batch_transform
        self.on_error: OnError = on_error
        self._ranks: Ranks | None = checked_ranks(rank, world_size)
        self._parents_ranks: Ranks | None = None
        self.collate_fn: Transform | None = None
        self.for_loader = False
        self._epoch = 0
        self._epoch_is_set = False
        self._start = 0
        self._resumed_shuffle: tuple[ShuffleOptions | None] | None = None
        self._control = SharedControl()
        self._counters = SharedCounters()
        self._progress: Progress | None = None

    # What the dataset is.

    @property
    def root(self) -> CID | str:
        return self._opening.root

    @property
    def manifest(self) -> Manifest:
        """The dataset's root, read on first use."""
        return self._opening.manifest

    @property
    def schema(self) -> Schema:
        """The fields that samples have; where the root does not say it, as the first of them show it."""
        return self._opening.selected_schema

    @property
    def epoch(self) -> int:
        return self._epoch

    def __len__(self) -> int:
        """Samples, or batches where there is a batch_size, that this rank reads in a whole epoch."""
        topology = this_topology(self._ranks, self._parents_ranks)
        return self._partition(topology.world_size, 0).num_steps(topology.rank)

    def __repr__(self) -> str:
        return f"IPFSIterableDataset({str(self.root)!r}, {self._opening.source_name!r}, batch_size={self.batch_size})"

    def stats(self) -> dict[str, int]:
        """What this process and its DataLoader workers have read since the dataset was made.

        :returns: ``blocks`` fetched and verified, ``shards`` opened, ``samples`` read.
        """
        return self._counters.totals()

    # Where the run stands.

    def set_epoch(self, epoch: int) -> None:
        """Read epoch ``epoch`` from the next pass on, in workers that live already too. The epoch that a loaded state
        stands in keeps its position; another one starts at its beginning.

        :raises OptionError: a negative number.
        """
        if not isinstance(epoch, int) or not 0 <= epoch < 2**63:
            raise OptionError(f"epoch must be a whole number of at least 0, but is {epoch!r}")
        self._epoch_is_set = True
        if epoch != self._epoch:
            self._epoch, self._start = epoch, 0
            self._control.publish(self._epoch, self._start)

    def state_dict(self) -> dict[str, Any]:
        """Where this process stands: after what the latest pass of it has given out. Under 1 KiB, JSON-able.

        What DataLoader workers have done is not known here; ``make_dataloader(...).state_dict()`` knows.
        """
        progress = self._progress
        if progress is None or progress.epoch != self._epoch:
            return self.state_at(self._epoch, self._start)
        return self.state_at(progress.epoch, progress.position)

    def state_at(self, epoch: int, position: int) -> dict[str, Any]:
        """The state of a run that stands at ``position`` of ``epoch``: positions that all ranks together have had."""
        return Cursor(str(self.manifest.root), self.seed, epoch, position, self._shuffle_options()).to_state()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state`` in the next pass, and only in that one.

        :raises ResumeError: it is of another dataset, seed, shuffle or version, or no state at all; names the field.
        """
        cursor = Cursor.from_state(state)
        root = str(self.manifest.root)
        if cursor.root != root:
            raise ResumeError(
                f"field 'root' of the state is {cursor.root}, but this dataset is {root}; load it with that"
            )
        if (cursor.shuffle is not None) != bool(self.shuffle):
            raise ResumeError(
                f"field 'shuffle' of the state is {cursor.shuffle}, but the dataset was made with shuffle={self.shuffle!r}; "
                f"make it with shuffle={cursor.shuffle is not None}"
            )
        if cursor.shuffle is not None and cursor.seed != self.seed:
            raise ResumeError(
                f"field 'seed' of the state is {cursor.seed}, but the dataset's is {self.seed}; make it with that"
            )
        if cursor.position > self.manifest.num_samples:
            raise ResumeError(
                f"field 'position' of the state is {cursor.position}, but the dataset has {self.manifest.num_samples} samples"
            )
        self._epoch, self._start, self._resumed_shuffle = cursor.epoch, cursor.position, (cursor.shuffle,)
        self._progress = None
        self._control.publish(self._epoch, self._start, resumed=True)

    def _shuffle_options(self) -> ShuffleOptions | None:
        if self._resumed_shuffle is not None:
            return self._resumed_shuffle[0]
        if isinstance(self.shuffle, ShuffleOptions):
            return self.shuffle
        if not self.shuffle:
            return None
        return ShuffleOptions.for_dataset(self.manifest.num_samples, self.manifest.shard_rows)

    # A pass.

    def __iter__(self) -> Iterator[Any]:
        """A pass over what this rank and worker read of the epoch, from where a loaded state stands."""
        topology = this_topology(self._ranks, self._parents_ranks)
        epoch, start = self._begin()
        partition = self._partition(topology.world_size, start)
        options = self._shuffle_options()
        reader = self._opening.reader
        reader.forget_broken()
        order = Order(reader.manifest.root_node, reader.manifest.num_samples, options, self.seed, epoch)
        reader.counters = self._counters.of_this_process()
        share = EpochShare(reader, partition, topology, order, on_error=self.on_error, group=self._group(reader))
        self._progress = Progress(epoch, partition, topology.num_workers)
        given = Given(self.batch_size, self.transform, self.batch_transform, self.collate_fn)
        return Pass(share, given, self._progress, outputs=self.for_loader)

    def _begin(self) -> tuple[int, int]:
        """Epoch and start of a pass that begins now; the start counts once."""
        info = get_worker_info()
        if info is None:
            start, self._start = self._start, 0
            return self._epoch, start
        self._epoch, start = self._control.begin_in_worker(self._epoch, self._start, pass_id=info.seed - info.id)
        self._start = 0
        return self._epoch, start

    def _partition(self, world_size: int, start: int) -> Partition:
        return Partition(
            self.manifest.num_samples, self.batch_size or 1, world_size, start, drop_last=self.drop_last, pad=self.pad
        )

    def _group(self, reader: Reader) -> int:
        """Steps read together: what is gathered at once is split up for less than gathering it piece by piece costs."""
        rows = min(_GROUP_ROWS, max(1, _GROUP_BYTES // reader.row_bytes))
        if reader.is_linked:
            # Nothing is given out before all of a group has come over the network.
            rows = min(rows, _LINKED_GROUP_ROWS)
        return max(1, rows // (self.batch_size or 1))

    def with_batch_size(self, batch_size: int) -> IPFSIterableDataset:
        """This dataset in batches of ``batch_size``. The two share epoch and position.

        :raises OptionError: it has a batch_size already.
        """
        if self.batch_size is not None:
            raise OptionError(
                f"the dataset has the batch_size {self.batch_size} already; {batch_size} was given beside it"
            )
        other = copy.copy(self)
        other.batch_size = _checked_batch_size(batch_size)
        return other

    def beside(self, schema: Schema | None = None) -> IPFSIterableDataset:
        """This dataset for a pass in another thread: with a reader and a position of its own, at the start of the same epoch.

        :param schema: to read samples by, in place of the dataset's own.
        """
        other = copy.copy(self)
        own = {"_opening": self._opening.beside(schema), "_control": SharedControl(), "_progress": None, "_start": 0}
        other.__dict__.update(own)
        return other

    def to_tensorflow(self, *, output_signature: Any = None) -> Any:
        """A ``tf.data.Dataset`` of the batches, or of the samples where there is no batch_size.

        Samples of ``features`` and ``labels`` alone come as pairs, as ``model.fit`` wants them, others as maps. Every pass is a
        whole epoch, the first the one this dataset stands in, each later one the next, until :meth:`set_epoch` is called;
        positions of loaded states do not count. Its cardinality is ``len()`` of this dataset.

        :param output_signature: in place of the schema's: a map of fields to specs, or a sequence of specs for the fields.
        :raises OptionError: TensorFlow has no type for a field; names it.
        :raises ImportError: TensorFlow is not installed; says how it is.
        """
        from torch_ipfs.dataset.to_tensorflow import to_tensorflow

        passes = itertools.count()

        def next_epoch() -> int:
            return self._epoch if self._epoch_is_set else self._epoch + next(passes)

        return to_tensorflow(self, next_epoch=next_epoch, signature=lambda _: output_signature)

    def for_receiver(self, collate_fn: Transform | None) -> IPFSIterableDataset:
        """This dataset for a loader that counts: every step gives an ``Output``, also where nothing could be read.

        :param collate_fn: list of samples -> batch, in place of the quick way.
        """
        other = copy.copy(self)
        other.collate_fn, other.for_loader = collate_fn, True
        return other

    def next_pass(self) -> tuple[int, Partition]:
        """Epoch and steps of the pass that begins next."""
        world_size = this_topology(self._ranks, self._parents_ranks).world_size
        return self._epoch, self._partition(world_size, self._start)

    def use_up_start(self) -> None:
        """Workers have begun a pass where a loaded state stands: the one after it begins at the beginning."""
        self._start = 0

    # Pickling and copying: no pass travels, and a spawned worker, which knows no process group, is told its ranks.

    def __getstate__(self) -> dict[str, Any]:
        ranks = self._parents_ranks if get_worker_info() else found_ranks()
        return {**self.__dict__, "_progress": None, "_parents_ranks": ranks}


def _checked_batch_size(batch_size: int) -> int:
    if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
        raise OptionError(f"batch_size must be None or a whole number of at least 1, but is {batch_size!r}")
    return batch_size
