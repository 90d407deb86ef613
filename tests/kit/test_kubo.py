"""The kit on a real Kubo node: the same CIDs, the same values, messages."""

from __future__ import annotations

import base64
import json
import math
import threading
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.network.nodes import KuboNode
from torch_ipfs import OptionError, TransportError
from torch_ipfs.blockstore.kubo import KuboBlockstore
from torch_ipfs.codec.cid import CID
from torch_ipfs.kit import ipfs_kit, pubsub

pytestmark = pytest.mark.kubo

NOWHERE = "bafyreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"
VALUES: list[Any] = [
    {"a": 1.5, "b": [1, 2, 3], "c": "x"},
    {"b": 1, "aa": 2, "a": 3, "é": None, "": False},
    {"features": [0.1, 0.2, 1e300, 5e-324], "labels": 1},
    [1, -1, 2**63 - 1, -(2**63), 0, 24, 255, 256, 65536],
    {"data": b"\0\xff", "link": CID.parse(NOWHERE), "deep": [[[{}]], []]},
    "text",
    True,
    {"rounded": [-0.0, 0.0]},
    {"x": {"/": 1}, "y": {"/": {"bytes": "AP8", "more": []}}},
]

_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)  # what Kubo reads in JSON
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.binary()
)
OBJECTS = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=12
).filter(lambda value: "'/':" not in repr(value))


@pytest.fixture
def kit(kubo_node: KuboNode) -> Iterator[ipfs_kit]:
    with ipfs_kit(source=KuboBlockstore(kubo_node.rpc, timeout_s=2)) as kit:
        yield kit


def _reserved(value: CID | bytes) -> Any:
    return {"/": str(value) if isinstance(value, CID) else {"bytes": base64.b64encode(value).decode().rstrip("=")}}


def dag_put(node: KuboNode, value: Any) -> str:
    """As the node's own command does it."""
    body = (
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
        + json.dumps(value, default=_reserved).encode()
        + b"\r\n--x--\r\n"
    )
    request = urllib.request.Request(
        f"http://127.0.0.1:{node.rpc_port}/api/v0/dag/put",
        data=body,
        headers={"Content-Type": "multipart/form-data; boundary=x"},
        method="POST",
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return str(json.load(answer)["Cid"]["/"])


@pytest.mark.parametrize("value", VALUES)
def test_objects_have_kubos_cids_and_come_back(kit: ipfs_kit, kubo_node: KuboNode, value: Any) -> None:
    theirs = dag_put(kubo_node, value)
    assert kit.ipfs.dag_put(value)["cid"] == theirs
    assert kit.ipfs.dag_get(theirs)["object"] == value


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=OBJECTS)
def test_so_has_any_other(kit: ipfs_kit, kubo_node: KuboNode, value: Any) -> None:
    theirs = dag_put(kubo_node, value)
    assert kit.ipfs.dag_put(value)["cid"] == theirs
    back = kit.ipfs.dag_get(theirs)["object"]
    assert back == value
    assert math.copysign(1, back) == math.copysign(1, value) if isinstance(value, float) else True


def test_files_blocks_and_pins(kit: ipfs_kit) -> None:
    content = bytes(range(256)) * 9000
    cid = kit.ipfs.add(content)["cid"]
    assert kit.ipfs.cat(cid)["data"] == content
    block = kit.ipfs.block_put(b"a block of the kit's")["cid"]
    assert kit.ipfs.block_get(block)["data"] == b"a block of the kit's"
    assert kit.ipfs.pin_add(cid)["success"]
    assert kit.ipfs.pin_ls()["pins"][cid] == "recursive"
    assert kit.ipfs.pin_rm(cid)["success"]
    assert cid not in kit.ipfs.pin_ls()["pins"]


def test_what_nobody_has_is_told_in_time(kit: ipfs_kit) -> None:
    assert kit.ipfs.dag_get(NOWHERE)["error_type"] == "BlockNotFound"
    task = {"operation": "training", "dataset_cid": NOWHERE}
    message = json.dumps({**task, "hyperparameters": {"learning_rate": 0.1, "batch_size": 1, "epochs": 1}})
    assert kit.accept_task(message)["error_type"] == "BlockNotFound"


def test_a_node_that_is_not_there_is_told() -> None:
    kit = ipfs_kit(source=KuboBlockstore("kubo://127.0.0.1:1", timeout_s=1, retries=0))
    assert kit.ipfs.dag_put({"a": 1})["error_type"] == "TransportError"
    assert kit.ipfs.pubsub_publish("t", "m")["error_type"] == "TransportError"
    assert kit.ipfs.pubsub_subscribe("t")["error_type"] == "TransportError"
    assert kit.ipfs.pubsub_peers("t")["error_type"] == "TransportError"


def test_without_pubsub_the_error_names_the_option(kit: ipfs_kit) -> None:
    published, subscription = kit.ipfs.pubsub_publish("topic", "m"), kit.ipfs.pubsub_subscribe("topic")
    for result in (published, subscription, kit.ipfs.pubsub_peers("topic")):
        assert (result["success"], result["error_type"]) == (False, "OptionError")
        assert "Pubsub.Enabled" in result["error"]
    with pytest.raises(OptionError, match=r"Pubsub\.Enabled"):
        next(subscription)


@pytest.fixture
def talking(own_kubo_node: KuboNode) -> Iterator[ipfs_kit]:
    own_kubo_node.configure("Pubsub.Enabled", True)
    own_kubo_node.start()
    with ipfs_kit(source=own_kubo_node.rpc) as kit:
        yield kit


def test_messages_arrive(talking: ipfs_kit) -> None:
    messages: list[str | bytes] = ["text", "é" * 5000, b"\xff\0bytes", ""]
    with talking.ipfs.pubsub_subscribe("a topic", timeout_s=20) as subscription:
        assert subscription["success"]
        for message in messages:
            assert talking.ipfs.pubsub_publish("a topic", message)["success"]
        assert talking.ipfs.pubsub_publish("another", "not here")["success"]
        got = [next(subscription) for _ in messages]
    assert [message["data"] for message in got] == messages
    assert {message["topic"] for message in got} == {"a topic"}
    assert len({message["from"] for message in got}) == 1
    assert list(subscription) == []


def test_stopping_from_another_thread_ends_the_wait(talking: ipfs_kit, no_leaks: None) -> None:
    subscription = talking.ipfs.pubsub_subscribe("quiet")
    got: list[Any] = []
    reader = threading.Thread(target=lambda: got.extend(subscription))
    reader.start()
    subscription.stop()
    subscription.stop()
    reader.join(20)
    assert (reader.is_alive(), got) == (False, [])


def test_dropping_a_subscription_stops_it(talking: ipfs_kit, no_leaks: None) -> None:
    subscription = talking.ipfs.pubsub_subscribe("quiet")
    assert subscription["success"]
    del subscription


def test_silence_and_a_lost_node_raise(talking: ipfs_kit, own_kubo_node: KuboNode) -> None:
    with pytest.raises(TransportError, match="no message"):
        next(talking.ipfs.pubsub_subscribe("quiet", timeout_s=0.05))
    subscription = talking.ipfs.pubsub_subscribe("quiet", timeout_s=20)
    own_kubo_node.stop()
    with pytest.raises(TransportError):
        next(subscription)


def test_a_reader_that_lags_behind_is_told_of_a_lost_node_too(
    talking: ipfs_kit, own_kubo_node: KuboNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pubsub, "WAITING_MESSAGES", 2)
    subscription = talking.ipfs.pubsub_subscribe("busy", timeout_s=20)
    for message in "ab":
        talking.ipfs.pubsub_publish("busy", message)
    deadline = time.monotonic() + 20
    while not subscription._waiting.full():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    own_kubo_node.stop()
    subscription._thread.join(1)  # where it drops the end, it is gone
    assert [next(subscription)["data"] for _ in "ab"] == ["a", "b"]
    with pytest.raises(TransportError, match=r"ended|broke off"):
        next(subscription)


def test_a_message_that_would_not_travel_is_refused_with_advice(kit: ipfs_kit) -> None:
    message = "x" * (pubsub.MAX_MESSAGE_BYTES - 1)
    assert "Add the data" in kit.ipfs.pubsub_publish("é", message)["error"]


@pytest.mark.parametrize("topic", ["", None, 5, "\ud800"])
def test_what_is_no_topic_is_told(talking: ipfs_kit, topic: Any) -> None:
    assert talking.ipfs.pubsub_publish(topic, "m")["error_type"] == "OptionError"
    assert talking.ipfs.pubsub_subscribe(topic)["error_type"] == "OptionError"
    assert talking.ipfs.pubsub_peers(topic)["error_type"] == "OptionError"
    assert talking.ipfs.pubsub_publish("topic", "\ud800")["error_type"] == "OptionError"
