"""Samples that cannot be had: raised by name, left out and counted, or replaced; and never in silence."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from torch.utils.data import DataLoader

import torch_ipfs
from tests.dataset.conftest import Written, columns, indices
from torch_ipfs import CarBlockstore, IPFSIterableDataset, MemoryBlockstore, TransportError
from torch_ipfs.blockstore.base import Block
from torch_ipfs.codec import dag_cbor
from torch_ipfs.codec.cid import CID

Write = Callable[..., Written]
N = 40


def store_without(written: Written, lost: set[int]) -> tuple[CID, MemoryBlockstore]:
    """The blocks of a dataset in layout samples, but for the samples ``lost``."""
    cid, path = written
    full = CarBlockstore(path)
    leaves = [cid]
    store = MemoryBlockstore()
    gone = set()
    at = 0
    for node in leaves:
        value: Any = dag_cbor.decode(full.get(node))
        leaves += [entry["cid"] for entry in value.get("shards", [])]
        for link in value.get("samples", []):
            gone |= {link} if at in lost else set()
            at += 1
    for block in full.cids():
        if block not in gone:
            store.put(block, bytes(full.get(block)))
    return cid, store


@pytest.fixture
def lossy(written: Write) -> tuple[CID, MemoryBlockstore]:
    """Samples 3, 4 and 39 of 40 are missing."""
    return store_without(written(n=N, layout="samples"), {3, 4, 39})


LEFT = [i for i in range(N) if i not in (3, 4, 39)]


def test_raise_names_the_block(lossy: tuple[CID, MemoryBlockstore]) -> None:
    running = iter(IPFSIterableDataset(*lossy))
    with pytest.raises(torch_ipfs.BlockNotFound) as caught:
        list(running)
    assert caught.value.cid is not None
    assert "sample 3" in "".join(caught.value.__notes__)


@pytest.mark.parametrize("batch_size", [None, 2])
def test_what_comes_before_it_is_given_out_first(lossy: tuple[CID, MemoryBlockstore], batch_size: int | None) -> None:
    running = iter(IPFSIterableDataset(*lossy, batch_size=batch_size))
    assert indices([next(running) for _ in range(3 // (batch_size or 1))]) == list(range(3 - 3 % (batch_size or 1)))
    with pytest.raises(torch_ipfs.BlockNotFound):
        next(running)


@pytest.mark.parametrize("batch_size", [None, 1, 8])
def test_skip_leaves_them_out_and_says_so_once(lossy: tuple[CID, MemoryBlockstore], batch_size: int | None) -> None:
    dataset = IPFSIterableDataset(*lossy, batch_size=batch_size, on_error="skip")
    with pytest.warns(UserWarning, match="3 samples .* first was sample 3: ") as caught:
        assert indices(dataset) == LEFT
    assert len(caught) == 1


def test_skip_keeps_the_batches_where_they_were(lossy: tuple[CID, MemoryBlockstore]) -> None:
    with pytest.warns(UserWarning, match="3 samples"):
        sizes = [len(batch["index"]) for batch in IPFSIterableDataset(*lossy, batch_size=8, on_error="skip")]
    assert sizes == [6, 8, 8, 8, 7]


@pytest.mark.parametrize("num_workers", [0, 2, 3])
@pytest.mark.parametrize("batch_size", [None, 2, 8])
def test_the_loader_keeps_order_and_counts_under_skip(
    lossy: tuple[CID, MemoryBlockstore], num_workers: int, batch_size: int | None
) -> None:
    dataset = IPFSIterableDataset(*lossy, batch_size=batch_size, on_error="skip")
    loader = torch_ipfs.make_dataloader(dataset, num_workers=num_workers, persistent_workers=False)
    seen: list[int] = []
    states = []

    def read() -> None:
        for item in loader:
            seen.extend(indices([item]))
            states.append((len(seen), loader.state_dict()))

    with pytest.warns(UserWarning, match="3 samples .* first was sample 3: "):
        read()
    assert seen == LEFT
    assert loader.skipped == 3
    for taken, state in states:
        resumed = IPFSIterableDataset(*lossy, batch_size=batch_size, on_error="skip")
        resumed.load_state_dict(state)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            assert indices(resumed) == LEFT[taken:] if taken < len(LEFT) else True


@pytest.mark.parametrize("batch_size", [None, 8])
def test_substitute_takes_the_next_readable(lossy: tuple[CID, MemoryBlockstore], batch_size: int | None) -> None:
    dataset = IPFSIterableDataset(*lossy, batch_size=batch_size, on_error="substitute")
    with pytest.warns(UserWarning, match="3 samples"):
        got = indices(dataset)
    assert len(got) == N
    assert [i for at, i in enumerate(got) if at in LEFT] == LEFT
    assert (got[3], got[4]) == (5, 6)
    assert got[39] in LEFT


@pytest.mark.parametrize("batch_size", [None, 2, 7])
@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_substitutes_are_the_same_in_other_workers_and_in_a_run_that_was_resumed(
    written: Write, world_size: int, batch_size: int | None
) -> None:
    cid, store = store_without(written(n=N, layout="samples"), {0, 3, 4, 5, 12, 13, 14, 15, 16, N - 1})
    options: dict[str, Any] = {"batch_size": batch_size, "rank": world_size - 1, "world_size": world_size}

    def make() -> IPFSIterableDataset:
        return IPFSIterableDataset(cid, store, on_error="substitute", **options)

    whole, states = [], []
    dataset = make()
    for item in dataset:
        whole.append(indices([item]))
        states.append(dataset.state_dict())
    for taken, state in enumerate(states, start=1):
        resumed = make()
        resumed.load_state_dict(state)
        assert [indices([item]) for item in resumed] == whole[taken:]
    loader = torch_ipfs.make_dataloader(make(), num_workers=2)
    loader.load_state_dict(states[0])
    assert [indices([item]) for item in loader] == whole[1:]
    loader.close()


def test_skip_is_substitute_where_ranks_must_stay_equal(lossy: tuple[CID, MemoryBlockstore]) -> None:
    shares = []
    for rank in range(2):
        dataset = IPFSIterableDataset(*lossy, batch_size=4, on_error="skip", rank=rank, world_size=2)
        with pytest.warns(UserWarning, match="skipped or replaced"):
            shares.append([len(batch["index"]) for batch in dataset])
    assert shares == [[4] * 5] * 2


@pytest.mark.parametrize("on_error", ["skip", "substitute"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_epoch_with_nothing_left_raises(written: Write, on_error: Any) -> None:
    cid, store = store_without(written(n=5, layout="samples"), set(range(5)))
    dataset = IPFSIterableDataset(cid, store, on_error=on_error, batch_size=2)
    with pytest.raises(torch_ipfs.TorchIPFSError):
        list(dataset)
    with pytest.raises(torch_ipfs.TorchIPFSError):
        list(torch_ipfs.make_dataloader(dataset, num_workers=2))


def test_a_broken_shard_is_all_of_its_samples(written: Write) -> None:
    """A packed shard with one bit changed: its rows are left out, the others come, and the error names block and source."""
    cid, path = written(n=N)
    full = CarBlockstore(path)
    shards = [entry["cid"] for entry in dag_cbor.decode(full.get(cid))["shards"]]

    class Forging(MemoryBlockstore):
        def get(self, cid: CID) -> Block:
            if cid == shards[1]:
                raise torch_ipfs.HashMismatch("forged", cid=cid, source="there")
            return super().get(cid)

    store = Forging()
    for block in full.cids():
        store.put(block, bytes(full.get(block)))
    with pytest.raises(torch_ipfs.HashMismatch) as caught:
        list(IPFSIterableDataset(cid, store))
    assert caught.value.cid == str(shards[1])
    with pytest.warns(UserWarning, match="could not be read"):
        left = indices(IPFSIterableDataset(cid, store, on_error="skip", batch_size=8))
    assert left == sorted(left)
    assert 0 < len(left) < N
    with pytest.warns(UserWarning, match="could not be read"):
        got = indices(IPFSIterableDataset(cid, store, on_error="substitute", batch_size=8))
    assert len(got) == N
    assert set(got) == set(left)


class Unreachable(MemoryBlockstore):
    """Has the root, and is out of reach for the rest."""

    root: CID

    def get(self, cid: CID) -> Block:
        if cid != self.root:
            raise TransportError("the source is down", cid=cid, source="there")
        return super().get(cid)

    def get_many(self, cids: Any, *, return_exceptions: bool = False) -> Iterator[Any]:
        for cid in cids:
            try:
                yield self.get(cid)
            except TransportError as error:
                if not return_exceptions:
                    raise
                yield error


@pytest.mark.parametrize("on_error", ["raise", "skip", "substitute"])
def test_a_source_that_is_down_raises_in_any_case(written: Write, on_error: Any) -> None:
    for layout in ("packed", "samples"):
        cid, path = written(n=N, layout=layout)
        full = CarBlockstore(path)
        store = Unreachable()
        store.root = cid
        store.put(cid, bytes(full.get(cid)))
        with pytest.raises(TransportError, match="down"):
            list(IPFSIterableDataset(cid, store, on_error=on_error, batch_size=4))


def test_a_source_that_is_down_is_not_waited_for_once_more_for_each_shard_of_the_batch(written: Write) -> None:
    cid, path = written(n=200, layout="packed")
    store, answered = Unreachable(), []

    def get_many(cids: Any, *, return_exceptions: bool = False) -> Iterator[Any]:
        for answer in Unreachable.get_many(store, cids, return_exceptions=return_exceptions):
            answered.append(answer)
            yield answer

    store.root = cid
    store.put(cid, bytes(CarBlockstore(path).get(cid)))
    store.get_many = get_many  # type: ignore[method-assign]
    dataset = IPFSIterableDataset(cid, store, batch_size=200)
    with pytest.raises(TransportError, match="down"):
        list(dataset)
    assert len(answered) == 1


def test_a_workers_error_arrives_as_ours(lossy: tuple[CID, MemoryBlockstore]) -> None:
    loader = DataLoader(IPFSIterableDataset(*lossy, batch_size=8), batch_size=None, num_workers=2)
    with pytest.raises(torch_ipfs.BlockNotFound) as caught:
        list(loader)
    assert caught.value.cid is not None
    assert str(CID.parse(caught.value.cid)) == caught.value.cid
    assert caught.value.source


def test_a_transforms_own_error_is_its_own(car: Written) -> None:
    def broken(_: Any) -> Any:
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        next(iter(IPFSIterableDataset(*car, transform=broken)))


def test_columns_of_the_conftest_agree() -> None:
    assert set(columns(1)) == {"index", "features", "name"}


def test_substitutes_do_not_close_the_shards_they_stand_beside(written: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """With next to no room for open shards, and one of them missing."""
    monkeypatch.setattr("torch_ipfs.dataset.shards.SHARD_BUDGET_BYTES", 1)
    cid, path = written(n=N)
    full = CarBlockstore(path)
    value: Any = dag_cbor.decode(full.get(cid))
    store = MemoryBlockstore({block: bytes(full.get(block)) for block in full.cids()})
    missing = MemoryBlockstore(
        {block: bytes(store.get(block)) for block in full.cids() if block != value["shards"][1]["cid"]}
    )
    dataset = IPFSIterableDataset(cid, missing, batch_size=16, on_error="substitute", shuffle=True)
    with pytest.warns(UserWarning, match="could not be read"):
        got = indices(dataset)
    assert len(got) == N


@pytest.mark.parametrize("loader_of", [lambda dataset: dataset, torch_ipfs.make_dataloader])
def test_a_resumed_run_goes_on_where_the_unbroken_one_does(lossy: tuple[CID, MemoryBlockstore], loader_of: Any) -> None:
    loader = loader_of(IPFSIterableDataset(*lossy, on_error="skip"))
    loader.load_state_dict({**loader.state_dict(), "position": 39})
    with pytest.warns(UserWarning, match="1 samples could not be read"):
        assert list(loader) == []


def test_a_batch_transform_cannot_end_the_epoch_in_silence(car: Written) -> None:
    nothing: Iterator[int] = iter(())
    with pytest.raises(RuntimeError, match="StopIteration"):
        list(IPFSIterableDataset(*car, batch_size=8, batch_transform=lambda batch: next(nothing)))


def test_a_loaded_start_is_kept_where_a_pass_cannot_begin(written: Write) -> None:
    cid, path = written(n=N)
    full = CarBlockstore(path)

    class Down(MemoryBlockstore):
        down = False

        def get(self, cid: CID) -> Block:
            if self.down:
                raise TransportError("the source is down", cid=cid, source="there")
            return super().get(cid)

    value: Any = dag_cbor.decode(full.get(cid))
    del value["schema"]
    root = CID.of(dag_cbor.encode(value), "dag-cbor")
    store = Down({block: bytes(full.get(block)) for block in full.cids()} | {root: dag_cbor.encode(value)})
    dataset = IPFSIterableDataset(root, store)
    dataset.load_state_dict({**dataset.state_dict(), "position": 5})
    store.down = True
    with pytest.raises(TransportError):
        iter(dataset)
    store.down = False
    assert dataset.state_dict()["position"] == 5
    assert indices(dataset) == list(range(5, N))


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("lost", [0, 1])
def test_a_node_that_cannot_be_had_is_all_of_its_samples(lost: int, shuffle: bool) -> None:
    """Samples of other nodes are read, in the order that they have anyhow; and all once it is back."""
    full, store = MemoryBlockstore(), MemoryBlockstore()
    root = torch_ipfs.write_dataset([{"x": i} for i in range(600)], full, layout="embedded", shard_bytes=1024)
    entries = dag_cbor.decode(full.get(root))["shards"]
    entry, first = entries[lost], sum(entry["count"] for entry in entries[:lost])
    store.put_many((cid, bytes(full.get(cid))) for cid in full.cids() if cid != entry["cid"])

    def read(store: MemoryBlockstore, on_error: Any = "skip") -> list[int]:
        return [int(sample["x"]) for sample in IPFSIterableDataset(root, store, shuffle=shuffle, on_error=on_error)]

    gone = range(first, first + entry["count"])
    everything = read(full)
    with pytest.warns(UserWarning, match=f"{entry['count']} samples could not be read"):
        assert read(store) == [x for x in everything if x not in gone]
    with pytest.warns(UserWarning, match="could not be read"):
        assert set(read(store, "substitute")) == set(range(600)) - set(gone)
    dataset = IPFSIterableDataset(root, store, shuffle=shuffle, on_error="skip")
    with pytest.warns(UserWarning, match="could not be read"):
        assert len(list(dataset)) == 600 - entry["count"]
    mapped = torch_ipfs.IPFSMapDataset(root, store)
    with pytest.raises(torch_ipfs.BlockNotFound, match=str(entry["cid"])):
        mapped[gone[0]]
    with pytest.raises(torch_ipfs.BlockNotFound) as again:
        mapped[gone[0]]
    assert len(again.value.__notes__) == 1
    store.put(entry["cid"], bytes(full.get(entry["cid"])))
    assert [int(sample["x"]) for sample in dataset] == everything
    assert int(mapped[gone[0]]["x"]) == gone[0]


@pytest.mark.parametrize("layout", ["packed", "embedded", "samples"])
def test_a_root_without_a_schema_is_opened_where_its_first_child_is_missing(layout: Any) -> None:
    """Its schema is that of the next; and no node on the way to the first sample is read twice for it."""
    reads: list[CID] = []

    class Counted(MemoryBlockstore):
        def get(self, cid: CID) -> Block:
            reads.append(cid)
            return super().get(cid)

    store = Counted()
    parts = [torch_ipfs.write_dataset([{"x": 3 * part + i} for i in range(3)], store, layout=layout) for part in (0, 1)]
    entries = [{"cid": part, "count": 3, "format": "manifest"} for part in parts]
    root_block = dag_cbor.encode({"shards": entries})
    root = CID.of(root_block, "dag-cbor")
    store.put(root, root_block)
    assert [int(sample["x"]) for sample in IPFSIterableDataset(root, store)] == [0, 1, 2, 3, 4, 5]
    assert reads.count(parts[0]) == 1

    lossy = MemoryBlockstore({cid: bytes(store.get(cid)) for cid in store.cids() if cid != parts[0]})
    with pytest.warns(UserWarning, match="3 samples could not be read"):
        assert [int(sample["x"]) for sample in IPFSIterableDataset(root, lossy, on_error="skip")] == [3, 4, 5]
    with pytest.raises(torch_ipfs.BlockNotFound, match=str(parts[0])):
        list(IPFSIterableDataset(root, lossy))
    with pytest.raises(torch_ipfs.BlockNotFound, match=str(parts[0])):
        list(IPFSIterableDataset(root, MemoryBlockstore({root: root_block}), on_error="substitute"))


@pytest.mark.parametrize("lost", [[0], [0, 1]])
def test_how_much_samples_take_is_told_by_a_later_node_where_the_first_is_missing(lost: list[int]) -> None:
    """Texts may be of any length: how many are read together follows from how many lie in a shard."""
    store = MemoryBlockstore()

    def put(value: Any) -> CID:
        block = dag_cbor.encode(value)
        store.put(cid := CID.of(block, "dag-cbor"), block)
        return cid

    def above(cids: list[CID], count: int) -> CID:
        return put({"shards": [{"cid": cid, "count": count} for cid in cids]})

    leaves = [put({"data": [{"x": str(i)}]}) for i in range(12)]
    inner = [above(leaves[i : i + 2], 1) for i in range(0, 12, 2)]
    middle = [above(inner[i : i + 2], 2) for i in range(0, 6, 2)]
    root = above(middle, 4)
    store = MemoryBlockstore(
        {cid: bytes(store.get(cid)) for cid in store.cids() if cid not in [inner[i] for i in lost]}
    )
    with pytest.warns(UserWarning, match=f"{2 * len(lost)} samples could not be read"):
        read = [int(sample["x"]) for sample in IPFSIterableDataset(root, store, on_error="skip")]
    assert read == list(range(2 * len(lost), 12))
    with pytest.raises(torch_ipfs.BlockNotFound) as caught:
        list(IPFSIterableDataset(root, store, on_error="skip", shuffle=True))
    assert "shuffle=ShuffleOptions(...)" in caught.value.__notes__[0]
    options = torch_ipfs.ShuffleOptions(lanes=2, unit_rows=1, window_rows=4)
    with pytest.warns(UserWarning, match="could not be read"):
        shuffled = list(IPFSIterableDataset(root, store, on_error="skip", shuffle=options))
    assert sorted(int(sample["x"]) for sample in shuffled) == read
