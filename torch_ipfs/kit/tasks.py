"""Tasks for training: messages that name a dataset by its CID and say how to train on it, and the pins that go with them.

    {"operation": "training", "dataset_cid": CID, "hyperparameters": {"learning_rate": 0.001, "batch_size": 32, "epochs": 5}}

What arrives over pubsub may come from anybody. Nothing of it is executed: it is read, and refused unless it is such a task.
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np

from torch_ipfs import codec
from torch_ipfs.blockstore.base import Block, Blockstore
from torch_ipfs.blockstore.pins import links, put_links
from torch_ipfs.codec.cid import DAG_CBOR, DAG_JSON, CID
from torch_ipfs.dataset.leaves import dataset_schema, shard_of
from torch_ipfs.dataset.shard_links import links_of_shard, may_link
from torch_ipfs.errors import CodecError, ManifestError, OptionError
from torch_ipfs.kit.node import Node
from torch_ipfs.manifest.leaf import Leaf
from torch_ipfs.manifest.schema import Schema
from torch_ipfs.manifest.tree import Manifest

OPERATION = "training"


@dataclass(frozen=True, slots=True)
class TrainingTask:
    """A training on a dataset.

    :param dataset_cid: the CID of the dataset; given as a :class:`CID`, it is kept as its text.
    :param hyperparameters: ``learning_rate`` (a positive number), ``batch_size`` and ``epochs`` (whole numbers of at least 1),
        and whatever else the master says.
    """

    dataset_cid: str
    hyperparameters: dict[str, Any]
    operation: str = OPERATION

    def __post_init__(self) -> None:
        object.__setattr__(self, "dataset_cid", str(self.dataset_cid))

    def to_message(self) -> str:
        """The task as text to publish.

        :raises OptionError: workers would refuse it; names why.
        """
        try:
            message = json.dumps(asdict(self), default=_python_number, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise OptionError(f"the task is no JSON: {error}") from None
        read_task(message)
        return message


def _python_number(value: Any) -> Any:
    """What JSON has for a number of numpy's."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a {type(value).__name__} cannot be part of it")


def read_task(message: Any) -> TrainingTask:
    """The task in a message.

    :param message: as a subscription gives it, or its data: JSON in text or bytes.
    :raises OptionError: it is no JSON, lacks a field, or a field cannot be; names it.
    """
    data = message.get("data") if isinstance(message, Mapping) else message
    if not isinstance(data, str | bytes):
        raise OptionError(f"a task is JSON in text or bytes, not a {type(data).__name__}")
    try:
        value = codec.json.decode(data.encode() if isinstance(data, str) else data)
    except (CodecError, UnicodeEncodeError) as error:
        raise OptionError(f"the task is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise OptionError(f"a task is a map, not a {type(value).__name__}")
    for name, kind in (("operation", str), ("dataset_cid", str), ("hyperparameters", dict)):
        if not isinstance(value.get(name), kind):
            raise OptionError(f"the task's {name!r} is {value.get(name)!r:.80}; expected a {kind.__name__}")
    if value["operation"] != OPERATION:
        raise OptionError(f"the task's operation is {value['operation']!r:.80}; only {OPERATION!r} is known")
    try:
        CID.parse(value["dataset_cid"])
    except CodecError as error:
        raise OptionError(f"the task's 'dataset_cid' is {value['dataset_cid']!r:.80}, no CID: {error}") from None
    _check_hyperparameters(value["hyperparameters"])
    return TrainingTask(value["dataset_cid"], value["hyperparameters"])


def _check_hyperparameters(values: dict[str, Any]) -> None:
    for name in ("batch_size", "epochs"):
        if type(values.get(name)) is not int or values[name] < 1:
            raise OptionError(f"the task's {name!r} is {values.get(name)!r:.80}; expected a whole number of at least 1")
    rate: Any = values.get("learning_rate")
    if type(rate) not in (int, float) or not 0 < rate < math.inf:
        raise OptionError(f"the task's 'learning_rate' is {rate!r:.80}; expected a positive number")


def task_in(message: Any) -> TrainingTask | None:
    """The task in a message, if it is one."""
    try:
        return read_task(message)
    except OptionError:
        return None


def pins_of(node: Node, task: TrainingTask) -> list[CID]:
    """What to pin, recursively, to keep the task's dataset: its root; and where nodes of it name shards or samples by text and
    not by links, or packed samples link to blocks, blocks of links to these, which are put for that.

    :raises BlockError: nobody has a node of it, or a shard with links.
    :raises ManifestError: it is no dataset.
    """
    root = CID.parse(task.dataset_cid)
    named = list(dict.fromkeys(_named_without_link(Manifest(node.store, root), node.store)))
    return [root, *put_links(node.home, named)]


def _named_without_link(manifest: Manifest, store: Blockstore) -> Iterator[CID]:
    """What a recursive pin of a dataset's root does not reach: what its nodes name as text, as all do that are plain JSON, and
    what packed samples link to.
    """
    schema: Schema | None = None
    nodes = [(manifest.root, manifest.root_node)]
    while nodes:
        cid, node = nodes.pop()
        if node.leaf is not None:
            if node.leaf.format == "samples":
                yield from _parsed([link for link in node.leaf.values or () if isinstance(link, str)], cid)
            continue
        children = [node.cid(i) for i in range(len(node.counts))]
        linked = set(links(codec.decode(cid, store.get(cid)))) if cid.codec in (DAG_CBOR, DAG_JSON) else set()
        yield from (child for child in children if child not in linked)
        nodes += [(children[i], node.read_child(i)) for i in range(len(children)) if node.inner[i]]
        if packed := [node.leaf_of(i) for i in range(len(children)) if not node.inner[i]]:
            schema = schema or dataset_schema(manifest, store)
            if may_link(schema):
                yield from _links_of_shards(packed, store, schema)


def _links_of_shards(packed: list[Leaf], store: Blockstore, schema: Schema) -> Iterator[CID]:
    names = frozenset(schema.names)
    for leaf, block in zip(packed, store.get_many(leaf.cid for leaf in packed), strict=True):
        shard, _ = shard_of(leaf, cast(Block, block), store, schema, names)
        yield from links_of_shard(shard)


def _parsed(texts: list[str], cid: CID) -> list[CID]:
    try:
        return [CID.parse(text) for text in texts]
    except CodecError as error:
        raise ManifestError(f"the dataset names a sample that is no CID: {error}", cid=cid) from None


@contextmanager
def pinned(node: Node, task: TrainingTask) -> Iterator[None]:
    """Keep the task's dataset from garbage collection; what was pinned before stays so afterwards.

    Beside the dataset a block of this training alone is pinned, which links to it: pins are not counted, and who trains on
    the same dataset, at the same node, may end first and take back the dataset's.

    :raises OptionError: the source keeps no pins.
    :raises BlockError: somebody has its root, and nobody all of it.
    """
    before = node.pinning.pins()
    kept = pins_of(node, task)
    own = codec.dag_cbor.encode({"training": uuid.uuid4().bytes, "keeps": kept})
    own_cid = CID.of(own, codec="dag-cbor")
    node.home.put(own_cid, own)
    done: list[CID] = []
    try:
        for cid in [*(cid for cid in kept if cid not in before), own_cid]:
            node.pinning.pin(cid)
            done.append(cid)
        yield
    finally:
        for cid in done:
            with suppress(OptionError):  # another training, which had pinned it too, has taken it back
                node.pinning.unpin(cid)
