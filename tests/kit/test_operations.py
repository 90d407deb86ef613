"""kit.ipfs on the local store: result dictionaries, and nothing raised that may be expected."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from torch_ipfs import CID, MemoryBlockstore
from torch_ipfs.kit import ipfs_kit

NOWHERE = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"


@pytest.fixture
def kit() -> ipfs_kit:
    return ipfs_kit()


def found(result: Any, key: str) -> Any:
    assert result["success"] is True, result
    assert isinstance(result["timestamp"], float)
    assert "error" not in result
    return result[key]


def refused(result: Any, error_type: str) -> str:
    assert result["success"] is False
    assert result["error_type"] == error_type
    assert isinstance(result["timestamp"], float)
    return str(result["error"])


VALUES: list[Any] = [
    {"a": 1.5, "b": [1, 2, 3], "c": "x"},
    {"nested": {"list": [[], {}, None, True]}, "é": "ü"},
    [1, -1, 2**63 - 1, -(2**63), 1e300, 0.1],
    {"data": b"\0\xff", "link": CID.parse(NOWHERE)},
    "text",
    None,
]


class TestObjects:
    @pytest.mark.parametrize("value", VALUES)
    def test_what_was_put_is_got(self, kit: ipfs_kit, value: Any) -> None:
        cid = found(kit.ipfs.dag_put(value), "cid")
        assert isinstance(cid, str)
        for name in (cid, CID.parse(cid), f"/ipfs/{cid}", f"ipfs://{cid}"):
            assert found(kit.ipfs.dag_get(name), "object") == value

    def test_the_cid_is_kubos(self, kit: ipfs_kit) -> None:
        """As `ipfs dag put` of the JSON gives it."""
        put = kit.ipfs.dag_put({"a": 1.5, "b": [1, 2, 3], "c": "x"})
        assert found(put, "cid") == "bafyreia52ih4wpnxhwvw6uutfwittyqu2vftibuwulssthlmvoycb5l3yi"

    def test_json_forms_of_links_and_bytes(self, kit: ipfs_kit) -> None:
        link, data = CID.parse(NOWHERE), b"\0\xff"
        for value, same in (({"/": NOWHERE}, link), ({"/": {"bytes": "AP8"}}, data), ({"/": {"bytes": "AP8="}}, data)):
            assert kit.ipfs.dag_put({"x": value})["cid"] == kit.ipfs.dag_put({"x": same})["cid"]
        for bad in ({"/": "no cid"}, {"/": {"bytes": "!"}}):
            refused(kit.ipfs.dag_put({"x": bad}), "CodecError")
        plain: Any
        for plain in ({"/": 5}, {"/": {"bytes": "AP8", "more": 1}}, {"/": {"deep": [{"/": {}}]}}):
            assert found(kit.ipfs.dag_get(kit.ipfs.dag_put(plain)["cid"]), "object") == plain
        assert found(kit.ipfs.dag_get(kit.ipfs.dag_put({"/": NOWHERE, "b": 1})["cid"]), "object") == {
            "/": NOWHERE,
            "b": 1,
        }

    def test_arrays_become_lists(self, kit: ipfs_kit) -> None:
        put = kit.ipfs.dag_put({"x": np.arange(3), "y": np.float64(0.5), "z": (1, 2), "n": np.int64(7)})
        assert found(kit.ipfs.dag_get(put["cid"]), "object") == {"x": [0, 1, 2], "y": 0.5, "z": [1, 2], "n": 7}

    def test_paths_lead_through_links(self, kit: ipfs_kit) -> None:
        leaf = kit.ipfs.dag_put({"deep": [10, {"k": "v"}]})["cid"]
        root = kit.ipfs.dag_put({"next": {"/": leaf}, "list": [{"/": leaf}]})["cid"]
        get = kit.ipfs.dag_get
        assert found(get(f"{root}/next/deep/1/k"), "object") == "v"
        assert found(get(f"/ipfs/{root}/list/0/deep/0"), "object") == 10
        assert found(get(f"{root}/next"), "object") == {"deep": [10, {"k": "v"}]}
        assert found(get(f"{root}/list"), "object") == [CID.parse(leaf)]
        for gone in ("nothing", "list/7", "list/x", "next/deep/0/below"):
            assert gone.rsplit("/", 1)[-1] in refused(get(f"{root}/{gone}"), "BlockNotFound")

    @pytest.mark.parametrize(
        "value",
        [object(), {1: 2}, float("nan"), float("inf"), {"x": {1, 2}}, 2**70, torch.ones(2, device="meta"), "\ud800"],
    )
    def test_what_is_no_object_is_refused(self, kit: ipfs_kit, value: Any) -> None:
        assert refused(kit.ipfs.dag_put(value), "CodecError")

    def test_one_that_holds_itself_is_refused(self, kit: ipfs_kit) -> None:
        value: list[Any] = []
        value.append(value)
        assert "deeper" in refused(kit.ipfs.dag_put(value), "CodecError")

    def test_a_block_that_would_not_travel_is_refused_with_advice(self, kit: ipfs_kit) -> None:
        assert found(kit.ipfs.dag_put("x" * (2**20 - 5)), "cid")
        assert "write_dataset" in refused(kit.ipfs.dag_put("x" * 2**20), "BlockTooLarge")
        refused(kit.ipfs.block_put(b"x" * (2**20 + 1)), "BlockTooLarge")


class TestNames:
    @pytest.mark.parametrize(
        "name", ["QmYourDatasetCID", "", "not a cid", None, 5, b"bytes", ["x"], "/ipns/example.org", "/ipfs/"]
    )
    def test_what_is_no_cid_is_told(self, kit: ipfs_kit, name: Any) -> None:
        ipfs = kit.ipfs
        for operation in (ipfs.dag_get, ipfs.cat, ipfs.block_get, ipfs.pin_add, ipfs.pin_rm):
            result = operation(name)
            assert result["operation"] == operation.__name__
            assert refused(result, result["error_type"])
            assert result["error_type"] in ("CodecError", "OptionError")

    def test_what_nobody_has_is_told_by_its_cid(self, kit: ipfs_kit) -> None:
        for operation in (kit.ipfs.dag_get, kit.ipfs.cat, kit.ipfs.block_get, kit.ipfs.pin_add):
            assert NOWHERE in refused(operation(NOWHERE), "BlockNotFound")


CLOSED = io.BytesIO()
CLOSED.close()


class TestFiles:
    @pytest.mark.parametrize("content", [b"", b"hello", bytes(range(256)) * 20_000])
    def test_content_comes_back(self, kit: ipfs_kit, content: bytes, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(content)
        forms: list[Any] = [content, bytearray(content), io.BytesIO(content), tmp_path / "file", str(tmp_path / "file")]
        cids = {found(kit.ipfs.add(form), "cid") for form in forms}
        assert len(cids) == 1
        cid = cids.pop()
        assert found(kit.ipfs.cat(cid), "data") == content
        assert found(kit.ipfs.cat(cid, offset=2, length=3), "data") == content[2:5]
        refused(kit.ipfs.cat(cid, offset=-1), "OptionError")
        refused(kit.ipfs.cat(cid, length="3"), "OptionError")  # type: ignore[arg-type]

    def test_folders_have_paths(self, kit: ipfs_kit, tmp_path: Path) -> None:
        (tmp_path / "a" / "b").mkdir(parents=True)
        (tmp_path / "a" / "b" / "c.txt").write_text("deep")
        (tmp_path / "a" / "top.txt").write_text("top")
        cid = found(kit.ipfs.add(tmp_path / "a"), "cid")
        assert found(kit.ipfs.cat(f"{cid}/b/c.txt"), "data") == b"deep"
        assert found(kit.ipfs.cat(f"/ipfs/{cid}/top.txt"), "data") == b"top"
        refused(kit.ipfs.cat(f"{cid}/b/none"), "BlockNotFound")
        refused(kit.ipfs.cat(cid), "CodecError")

    @pytest.mark.parametrize("content", [None, 5, "", "/nowhere/at/all", "with\0null", object(), CID.of(b""), CLOSED])
    def test_what_cannot_be_read_is_told(self, kit: ipfs_kit, content: Any) -> None:
        refused(kit.ipfs.add(content), "OptionError")

    def test_links_of_the_file_system_are_not_followed(self, kit: ipfs_kit, tmp_path: Path) -> None:
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "around").symlink_to(tmp_path)
        error = refused(kit.ipfs.add(tmp_path), "OptionError")
        assert error.startswith(f"'{tmp_path}/a/around' is a symbolic link")


class TestBlocksAndPins:
    def test_blocks(self, kit: ipfs_kit) -> None:
        cid = found(kit.ipfs.block_put(b"raw"), "cid")
        assert cid == str(CID.of(b"raw"))
        assert found(kit.ipfs.block_get(cid), "data") == b"raw"
        assert found(kit.ipfs.block_put(b"\xa0", "dag-cbor"), "cid") == str(CID.of(b"\xa0", codec="dag-cbor"))
        refused(kit.ipfs.block_put("text"), "OptionError")  # type: ignore[arg-type]
        refused(kit.ipfs.block_put(b"x", "no-such-codec"), "CodecError")

    def test_pins(self, kit: ipfs_kit) -> None:
        cid = kit.ipfs.dag_put({"a": 1})["cid"]
        assert found(kit.ipfs.pin_ls(), "pins") == {}
        assert found(kit.ipfs.pin_add(cid), "cid") == cid
        assert found(kit.ipfs.pin_ls(), "pins") == {cid: "recursive"}
        assert found(kit.ipfs.pin_rm(cid), "cid") == cid
        assert "not pinned" in refused(kit.ipfs.pin_rm(cid), "OptionError")
        found(kit.ipfs.pin_add(cid, recursive=False), "cid")
        assert found(kit.ipfs.pin_ls(), "pins") == {cid: "direct"}

    @pytest.mark.parametrize("form", ["{}/x", "/ipfs/{}/x", "ipfs://{}/x"])
    def test_of_what_a_path_names(self, kit: ipfs_kit, form: str) -> None:
        cid = kit.ipfs.dag_put({"a": 1})["cid"]
        path = form.format(kit.ipfs.dag_put({"x": {"/": cid}})["cid"])
        assert found(kit.ipfs.block_get(path), "data") == kit.ipfs.block_get(cid)["data"]
        assert found(kit.ipfs.pin_add(path), "cid") == found(kit.ipfs.pin_rm(path), "cid") == cid

    def test_a_source_without_pins_says_so(self) -> None:
        kit = ipfs_kit(source=MemoryBlockstore())
        cid = found(kit.ipfs.dag_put({"a": 1}), "cid")
        assert "keeps no pins" in refused(kit.ipfs.pin_add(cid), "OptionError")
        assert "keeps no pins" in refused(kit.ipfs.pin_ls(), "OptionError")


class TestMessagesWithoutANode:
    def test_the_error_says_what_is_needed(self, kit: ipfs_kit) -> None:
        for result in (kit.ipfs.pubsub_publish("topic", "message"), kit.ipfs.pubsub_peers("topic")):
            error = refused(result, "OptionError")
            assert "Pubsub.Enabled" in error
            assert "kubo://" in error

    def test_a_subscription_that_cannot_be_says_so_both_ways(self, kit: ipfs_kit) -> None:
        subscription = kit.ipfs.pubsub_subscribe("topic")
        assert subscription["success"] is False
        assert "Pubsub.Enabled" in subscription["error"]
        with pytest.raises(ValueError, match="Pubsub"):
            next(subscription)
        subscription.stop()

    @pytest.mark.parametrize("timeout_s", [-1, "5", math.nan, math.inf, True])
    def test_what_is_no_time_out_is_told(self, kit: ipfs_kit, timeout_s: Any) -> None:
        assert "timeout_s" in kit.ipfs.pubsub_subscribe("topic", timeout_s=timeout_s)["error"]
