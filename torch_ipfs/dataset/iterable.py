"""IPFSIterableDataset: a dataset named by its CID, read in order or shuffled, shared out to ranks and workers."""

from __future__ import annotations

import copy
import itertools
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch.utils.data import IterableDataset, get_worker_info

from torch_ipfs.blockstore.open import Source
from torch_ipfs.codec.cid import CID
from torch_ipfs.dataset.arguments import check_function, check_switch, checked_columns, checked_count, whole_number
from torch_ipfs.dataset.epoch import ON_ERROR, EpochShare, OnError
from torch_ipfs.dataset.leaves import BROKEN
from torch_ipfs.dataset.opening import Opening
from torch_ipfs.dataset.passes import Given, Pass, Progress
from torch_ipfs.dataset.ranks import Ranks, checked_ranks, found_ranks, this_topology
from torch_ipfs.dataset.reader import Reader
from torch_ipfs.dataset.receipt import GlobalBatch, global_batch
from torch_ipfs.dataset.second_share import check_shared_once
from torch_ipfs.dataset.sending import send_small_tensors_by_value
from torch_ipfs.dataset.shared import SharedCounters, Told, ToldPasses
from torch_ipfs.dataset.standing import Position, Standing, check_resumable
from torch_ipfs.errors import OptionError
from torch_ipfs.manifest.schema import Schema
from torch_ipfs.manifest.tree import Manifest
from torch_ipfs.plan.cursor import Cursor
from torch_ipfs.plan.partition import Partition
from torch_ipfs.plan.shuffle import Order, ShuffleOptions
from torch_ipfs.plan.topology import Topology

Transform = Callable[[Any], Any]

_GROUP_ROWS = 16_384
_GROUP_BYTES = 2**20
_GROUP_OF_BATCHES_BYTES = 2**23
_LINKED_GROUP_ROWS = 32


class IPFSIterableDataset(IterableDataset[Any]):
    """The samples of a dataset, or its batches, verified block by block.

    Give it to ``torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=...)``, to :func:`make_dataloader`, or
    iterate it. Every rank and worker reads its own share; the order of all shares together is the same for any number of
    them. Without :meth:`set_epoch` every pass repeats the same order.

    :param root: CID of the dataset, ``/ipfs/CID/path`` or ``ipfs://CID/path``.
    :param source: a Blockstore, or what :func:`torch_ipfs.open_blockstore` takes; one of the network that has no cache gets the
        node's (``CachedBlockstore(store, cache_bytes=0)`` for none).
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
        if on_error not in ON_ERROR:
            raise OptionError(f"on_error must be one of {', '.join(ON_ERROR)}, but is {on_error!r}")
        number = whole_number(seed)
        if number is None or not -(2**63) <= number < 2**63:
            raise OptionError(f"seed must be an integer of 64 bits, but is {seed!r}")
        if not isinstance(shuffle, bool | ShuffleOptions):
            raise OptionError(f"shuffle must be True, False or ShuffleOptions, but is {shuffle!r}")
        check_switch("drop_last", drop_last)
        check_switch("pad", pad)
        if batch_transform is not None and batch_size is None:
            raise OptionError("batch_transform needs a batch_size: without one the dataset yields samples")
        check_function("transform", transform, "a sample")
        check_function("batch_transform", batch_transform, "a batch")
        self._opening = Opening(root, source, checked_columns(columns), skips_broken=on_error != "raise")
        self.batch_size = None if batch_size is None else checked_batch_size(batch_size)
        self.drop_last, self.pad = drop_last, pad
        self.shuffle, self.seed = shuffle, number
        self.transform, self.batch_transform = transform, batch_transform
        self.on_error: OnError = on_error
        self._ranks: Ranks | None = checked_ranks(rank, world_size)
        self._parents_ranks: Ranks | None = None
        self._unpickled_in: int | None = None
        self.collate_fn: Transform | None = None
        self._followed: ToldPasses | None = None
        self._standing = Standing()
        self._counters = SharedCounters()

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
        return self._standing.epoch

    def __len__(self) -> int:
        """Samples, or batches where there is a batch_size, that this rank reads in a whole epoch."""
        topology = self._topology
        return self._partition(topology.world_size, 0).num_steps(topology.rank)

    def __repr__(self) -> str:
        return f"IPFSIterableDataset({str(self.root)!r}, {self._opening.source_name!r}, batch_size={self.batch_size})"

    def stats(self) -> dict[str, float]:
        """What this process and its DataLoader workers have read since the dataset was made.

        :returns: ``blocks`` fetched and verified; ``shards`` opened, nodes of embedded samples among them; ``samples`` read;
            ``read_amplification``, the share of the dataset's shards that was opened, as a multiple of the share of its
            samples that was read: 1 where readers open each shard once an epoch all together, below it where they kept
            some open from an earlier epoch. Of linked samples, each of which is a block, it is blocks by samples.
        """
        totals = self._counters.totals()
        if totals["samples"] == 0:
            return {**totals, "read_amplification": 0.0}
        if totals["shards"] == 0 and self._opening.reader.is_linked:
            return {**totals, "read_amplification": totals["blocks"] / totals["samples"]}
        of_shards = totals["shards"] / max(1, self.manifest.num_shards)
        return {**totals, "read_amplification": of_shards * self.manifest.num_samples / totals["samples"]}

    # Where the run stands.

    def set_epoch(self, epoch: int) -> None:
        """Read epoch ``epoch`` from the next pass on, in workers that live already too. The epoch that a loaded state
        stands in keeps its position; another one starts at its beginning.

        :raises OptionError: a negative number.
        """
        self._standing.set_epoch(checked_epoch(epoch))

    def state_dict(self) -> dict[str, Any]:
        """Where the run stands: after what the latest pass has given out in this process, or, of a loader of
        :func:`make_dataloader` over this dataset, after what has been received. Under 1 KiB, JSON-able.

        How far the workers of a plain ``DataLoader`` have come, and how much of that was received, is not known here. The
        state is then that of the pass's beginning, and a warning says so.
        """
        if not self._standing.is_known:
            warnings.warn(
                "DataLoader workers have read from this dataset, and how far the training loop has come is not known here: "
                "this state is of where their pass began. make_dataloader(...).state_dict() knows.",
                stacklevel=2,
            )
        return self.state_at(self._standing.epoch, self._standing.position)

    def state_at(self, epoch: int, position: int) -> dict[str, Any]:
        """The state of a run that stands at ``position`` of ``epoch``: positions that all ranks together have had."""
        return Cursor(str(self.manifest.root), self.seed, epoch, position, self._shuffle_options()).to_state()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state`` in the next pass, and only in that one: at any batch size, number of ranks and workers, from
        any source, on any machine. The order is the state's, from then on too, whatever the defaults of this version are.

        :raises ResumeError: it is of another dataset, seed, shuffle or version, or no state at all; names the field.
        """
        cursor = Cursor.from_state(state)
        check_resumable(cursor, self.manifest, shuffle=bool(self.shuffle), seed=self.seed)
        self._standing.resume(cursor)

    @property
    def resumes(self) -> int:
        """How many states have been loaded in this process."""
        return self._standing.resumes

    def _shuffle_options(self) -> ShuffleOptions | None:
        if not self.shuffle:
            return None
        if self._standing.shuffle is not None:
            return self._standing.shuffle
        if isinstance(self.shuffle, ShuffleOptions):
            return self.shuffle
        try:
            return ShuffleOptions.for_dataset(self.manifest.num_samples, self.manifest.shard_rows)
        except BROKEN as error:
            error.add_note(
                "the default shuffle follows from this node, so that all readers find the same order; "
                "shuffle=ShuffleOptions(...), and a state that was saved, need no node"
            )
            raise

    def samples_at(self, epoch: int, step: int, *, start: int = 0) -> GlobalBatch:
        """The receipt of a step: what all ranks together read, or are to read, at ``step`` of ``epoch``, each a batch (or a
        sample, where there is no batch_size). It follows from root, seed, epoch and order alone: only nodes of the manifest
        are read. Samples that ``on_error`` left out or replaced are named as if they had been there.

        :param step: counted from 0 at ``start``, with this dataset's batch_size and world_size.
        :param start: ``position`` of the state that the epoch was resumed from.
        :raises OptionError: the epoch has no such step.
        """
        order = Order(
            self.manifest.root_node, self.manifest.num_samples, self._shuffle_options(), self.seed, checked_epoch(epoch)
        )
        partition = self._partition(self._topology.world_size, checked_count("start", start))
        skips_broken = self.on_error != "raise"
        return global_batch(self.manifest, partition, order, epoch, step, skips_broken=skips_broken)

    # A pass.

    def __iter__(self) -> Iterator[Any]:
        """A pass over what this rank and worker read of the epoch, from where a loaded state stands."""
        send_small_tensors_by_value()
        told = None
        if self._followed is not None and get_worker_info():
            told = self._followed.next_in_worker()  # counted whatever comes of it, as the loader does
        topology = self._topology
        self._check_shared_once(topology.world_size)
        reader = self._opening.reader  # may fail, and then the start of a loaded state is not used up
        epoch, start = self._standing.begin(followed=self._followed is not None, told=told)
        partition = self._partition(topology.world_size, start)
        reader.forget_broken()
        order = Order(reader.manifest.root_node, reader.manifest.num_samples, self._shuffle_options(), self.seed, epoch)
        reader.counters = self._counters.of_this_process()
        # Samples are gathered by the step, batches of a step one by one.
        group, joins_open = self._group(reader), self.batch_size is not None
        share = EpochShare(
            reader, partition, topology, order, on_error=self.on_error, group=group, joins_open=joins_open
        )
        progress = Progress(epoch, partition, topology.num_workers)
        self._standing.follow(progress)
        given = Given(self.batch_size, self.transform, self.batch_transform, self.collate_fn)
        return Pass(share, given, progress, outputs=self._followed is not None)

    @property
    def _topology(self) -> Topology:
        # What the parent had found counts where it was pickled for this very process. A worker that was forked knows more.
        spawned = self._unpickled_in == os.getpid()
        return this_topology(self._ranks, self._parents_ranks if spawned else None)

    def _check_shared_once(self, world_size: int) -> None:
        check_shared_once(
            ranks_given=self._ranks is not None, world_size=world_size, for_loader=self._followed is not None
        )

    def _partition(self, world_size: int, start: int) -> Partition:
        return Partition(
            self.manifest.num_samples, self.batch_size or 1, world_size, start, drop_last=self.drop_last, pad=self.pad
        )

    def _group(self, reader: Reader) -> int:
        """Steps read together: what is gathered at once is split up for less than gathering it piece by piece costs."""
        if self.batch_size is not None and (self.transform is not None or self.collate_fn is not None):
            return 1
        group_bytes = _GROUP_BYTES if self.batch_size is None else _GROUP_OF_BATCHES_BYTES
        rows = min(_GROUP_ROWS, max(1, group_bytes // reader.row_bytes))
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
        return self._form(batch_size=checked_batch_size(batch_size))

    def beside(self, schema: Schema | None = None, *, own_reader: bool = True) -> IPFSIterableDataset:
        """This dataset for a pass of its own, with a position of its own, at the start of the same epoch.

        :param schema: to read samples by, in place of the dataset's own.
        :param own_reader: whether what is read is opened anew, so that another thread may read at the same time.
        """
        opening = self._opening.beside(schema) if own_reader else self._opening
        return self._form(_opening=opening, _standing=self._standing.beside())

    def to_tensorflow(self, *, output_signature: Any = None) -> Any:
        """A ``tf.data.Dataset`` of the batches, or of the samples where there is no batch_size.

        Samples of ``features`` and ``labels`` alone come as pairs, as ``model.fit`` wants them, others as maps; what a
        transform makes of them comes as the tuple or the value that it is, if it is no map. Every pass is a whole epoch, the
        first the one this dataset stands in, each later one the next, until :meth:`set_epoch` is called; positions of loaded
        states do not count. Its cardinality is ``len()`` of this dataset.

        :param output_signature: in place of the schema's: a map of fields to specs, or a sequence of specs for the fields.
        :raises OptionError: TensorFlow has no type for a field; names it.
        :raises ImportError: TensorFlow is not installed; says how it is.
        """
        from torch_ipfs.dataset.to_tensorflow import to_tensorflow

        passes = itertools.count()

        def next_epoch() -> int:
            return self.epoch if self._standing.epoch_is_set else self.epoch + next(passes)

        return to_tensorflow(self, next_epoch=next_epoch, output_signature=output_signature)

    def for_receiver(self, collate_fn: Transform | None, *, same_run: bool = False) -> IPFSIterableDataset:
        """This dataset for a loader that counts: every step gives an ``Output``, also where nothing could be read.

        :param collate_fn: list of samples -> batch, in place of the quick way.
        :param same_run: whether the two share epoch and position.
        """
        check_function("collate_fn", collate_fn, "a list of samples")
        standing = self._standing if same_run else copy.copy(self._standing)
        return self._form(collate_fn=collate_fn, _followed=ToldPasses(), _standing=standing)

    def _form(self, **changes: Any) -> IPFSIterableDataset:
        """This dataset but for ``changes``. What is not changed the two have in common: where the run stands, what is open."""
        other = type(self).__new__(type(self))
        other.__dict__.update(self.__dict__ | changes)
        return other

    def next_pass(self) -> tuple[int, Partition]:
        """Epoch and steps of the pass that begins now."""
        self._standing.settle_start()
        return self.epoch, self._partition(self._topology.world_size, self._standing.start)

    def tell_workers(self, *, alive: bool) -> None:
        """The workers of the loader that counts are to begin the next pass.

        :param alive: whether they have read passes before; others are started with what they need to know.
        """
        assert self._followed is not None
        if alive:
            self._followed.tell(Told(self.epoch, self._standing.start, self._shuffle_options()))
        else:
            self._followed.restart()

    def follow(self, latest: Position) -> None:
        """A pass has begun whose progress a loader counts. A loaded state counts for it, and not for the one after it."""
        self._standing.follow(latest)

    # Pickling and copying: no pass travels, and a spawned worker, which knows no process group, is told its ranks.

    def __copy__(self) -> IPFSIterableDataset:
        """As a deep copy, with workers and a run of its own, but for what is open: this process reads it for both."""
        own = ("_standing", "_followed", "_counters")
        return self._form(**{name: copy.deepcopy(self.__dict__[name]) for name in own})

    def __getstate__(self) -> dict[str, Any]:
        ranks = self._parents_ranks if get_worker_info() else found_ranks()
        self._check_shared_once(1 if ranks is None else ranks[1])
        return {**self.__dict__, "_standing": copy.copy(self._standing), "_parents_ranks": ranks}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._unpickled_in = os.getpid()


def checked_epoch(epoch: int) -> int:
    """``epoch`` as an int.

    :raises OptionError: it is no whole number of at least 0.
    """
    return checked_count("epoch", epoch, below=2**63)


def checked_batch_size(batch_size: int) -> int:
    """:raises OptionError: there are no batches of that size."""
    number = whole_number(batch_size)
    if number is None or number < 1:
        raise OptionError(f"batch_size must be None or a whole number of at least 1, but is {batch_size!r}")
    return number
