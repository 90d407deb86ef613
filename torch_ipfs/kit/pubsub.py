"""Messages among IPFS nodes, by Kubo's pubsub: https://docs.ipfs.tech/reference/kubo/rpc/#api-v0-pubsub-pub.

Since Kubo 0.11 topics and messages travel as multibase text (base64url). Pubsub is off unless a node's configuration has
``Pubsub.Enabled``.
"""

from __future__ import annotations

import base64
import http.client
import queue
import socket
import threading
import weakref
from contextlib import suppress
from functools import partial
from typing import Any, Self
from urllib.parse import urlsplit

from torch_ipfs.blockstore.endpoint import Endpoint
from torch_ipfs.blockstore.forms import form_request, pieces_of
from torch_ipfs.blockstore.http_messages import Request
from torch_ipfs.blockstore.kubo import KuboBlockstore
from torch_ipfs.blockstore.kubo_answer import json_of
from torch_ipfs.blockstore.transport import NOBODY_LISTENS
from torch_ipfs.codec import multibase
from torch_ipfs.errors import OptionError, TransportError
from torch_ipfs.loader.result import Result, failed, succeeded

Message = dict[str, Any]
"""``data``: text, or bytes where they are no UTF-8; ``from``: the peer id of the node that published it; ``topic``."""

MAX_MESSAGE_BYTES = 2**20 - 2**10
"""What a message and its topic may have together: nodes silently drop what is over 1 MiB with sender, signature and key."""
WAITING_MESSAGES = 1024
"""How many messages wait here for a reader before more are left with the node."""

_ANSWER_TIMEOUT_S = 30.0
_OFF = "pubsub feature not enabled"
_OPTION = "Pubsub.Enabled"
_HOW = f"set {_OPTION} to true in its configuration (`ipfs config --json {_OPTION} true`) and start its daemon again"


def no_pubsub(source: str) -> OptionError:
    """The error for a kit that has no IPFS node to speak through."""
    return OptionError(
        "pubsub needs an IPFS node: give ipfs_kit a source such as kubo://127.0.0.1:5001, or name it in TORCH_IPFS_SOURCE, "
        f"and {_HOW}",
        source=source,
    )


def _pubsub_off(source: str) -> OptionError:
    return OptionError(f"the node has pubsub off: {_HOW}", source=source)


def publish(node: KuboBlockstore, topic: str, message: str | bytes) -> None:
    """Send ``message`` to whoever is subscribed to ``topic`` now. Nobody need be.

    :raises OptionError: topic or message cannot be sent, or the node has pubsub off; says which option to set.
    :raises TransportError: the node cannot be reached or refuses.
    """
    data = _utf8(message, "message") if isinstance(message, str) else message
    if not isinstance(data, bytes):
        raise OptionError(f"a message is text or bytes, not {type(message).__name__}")
    encoded = _topic(topic)
    if len(data) + len(topic.encode()) > MAX_MESSAGE_BYTES:
        raise OptionError(
            f"a message of {len(data)} bytes; at most {MAX_MESSAGE_BYTES} travel, the topic's among them. Add the data and "
            "publish its CID"
        )
    _call(node, form_request("/pubsub/pub", f"arg={encoded}", partial(pieces_of, data)))


def peers(node: KuboBlockstore, topic: str) -> list[str]:
    """Peer ids of the nodes, of those that this one is connected to, that are subscribed to ``topic``.

    :raises OptionError: it is no topic, or the node has pubsub off; says which option to set.
    :raises TransportError: the node cannot be reached or refuses.
    """
    answer = _call(node, Request("POST", "/pubsub/peers", f"arg={_topic(topic)}"))
    try:
        return sorted(map(str, json_of(answer)["Strings"] or ()))
    except (ValueError, LookupError, TypeError):
        raise TransportError("is this Kubo's RPC? Its answer names no peers", source=node.source) from None


def _call(node: KuboBlockstore, request: Request) -> bytes:
    try:
        return node.call(request)
    except TransportError as error:
        raise _pubsub_off(node.source) if _OFF in error.reason else error from None


class Subscription:
    """The messages of a topic from now on, as an iterator that waits for the next one until it is stopped.

    It answers as a result dictionary, too: ``subscription["success"]`` says whether it could be made; where not, iterating
    raises what ``subscription["error"]`` tells. Any thread may stop it. Dropping it stops it.

    :param endpoint: the node's RPC.
    :param timeout_s: how long to wait for a message; ``None`` for ever.
    """

    def __init__(self, endpoint: Endpoint | None, topic: str, *, source: str, timeout_s: float | None = None) -> None:
        self.topic = topic
        self._timeout_s = timeout_s
        self._waiting: queue.Queue[Message | Exception | None] = queue.Queue(WAITING_MESSAGES)
        self._stopped = threading.Event()
        self._error: OptionError | TransportError | None = None
        try:
            _check_timeout(timeout_s)
            self._listen(endpoint, source)
            self._result = succeeded("pubsub_subscribe", topic=topic)
        except (OptionError, TransportError) as error:
            self._error = error
            self._result = failed("pubsub_subscribe", error, topic=topic)

    def _listen(self, endpoint: Endpoint | None, source: str) -> None:
        if endpoint is None:
            raise no_pubsub(source)
        command = f"/pubsub/sub?arg={_topic(self.topic)}"
        connection = _connect(endpoint)
        try:
            response = _ask(connection, endpoint, command)
        except BaseException:
            connection.close()
            raise
        connected = connection.sock or _socket_of(response)
        connected.settimeout(None)
        arguments = (response, self.topic, self._waiting, self._stopped, endpoint.source)
        self._thread = threading.Thread(target=_receive, args=arguments, name=f"pubsub {self.topic}", daemon=True)
        self._end = weakref.finalize(self, _hang_up, connection, connected, self._stopped, self._waiting)
        self._thread.start()

    def __iter__(self) -> Subscription:
        return self

    def __next__(self) -> Message:
        """The next message.

        :raises StopIteration: it was stopped.
        :raises TransportError: the node broke off, or no message came within ``timeout_s``.
        :raises OptionError: there was no subscription to begin with.
        """
        if self._error is not None:
            raise self._error
        if self._stopped.is_set():
            raise StopIteration
        try:
            message = self._waiting.get(timeout=self._timeout_s)
        except queue.Empty:
            raise TransportError(f"no message on {self.topic!r} within {self._timeout_s:g} s") from None
        if message is None:
            self.stop()
            _offer(self._waiting, None)  # to another thread that waits
            raise StopIteration
        if isinstance(message, Exception):
            self.stop()
            raise message
        return message

    def stop(self) -> None:
        """End it; a thread that waits for a message gets none. May be called twice."""
        if self._error is None:
            self._end()
            if threading.current_thread() is not self._thread:
                self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __getitem__(self, key: str) -> Any:
        return self._result[key]

    def get(self, key: str, default: Any = None) -> Any:
        """As a dictionary's."""
        return self._result.get(key, default)

    def result(self) -> Result:
        """Whether it could be made, as a result dictionary."""
        return dict(self._result)


def _receive(
    response: http.client.HTTPResponse,
    topic: str,
    waiting: queue.Queue[Message | Exception | None],
    stopped: threading.Event,
    source: str,
) -> None:
    """What the thread of a subscription does until its connection ends."""
    end: Exception | None = None
    try:
        while line := response.readline(4 * MAX_MESSAGE_BYTES):
            _give(waiting, _message(line, topic), stopped)
        end = TransportError("the node ended the subscription", source=source)
    except (OSError, http.client.HTTPException, ValueError, AttributeError) as failure:
        # AttributeError: http.client's own, where its socket is shut while it reads.
        end = TransportError(f"the subscription broke off: {type(failure).__name__}: {failure}", source=source)
    finally:
        response.close()
        _give(waiting, end, stopped)


def _hang_up(
    connection: http.client.HTTPConnection,
    connected: socket.socket,
    stopped: threading.Event,
    waiting: queue.Queue[Message | Exception | None],
) -> None:
    stopped.set()
    with suppress(OSError):  # the other end was first
        connected.shutdown(socket.SHUT_RDWR)
    connection.close()
    _offer(waiting, None)


def _give(
    waiting: queue.Queue[Message | Exception | None], item: Message | Exception | None, stopped: threading.Event
) -> None:
    """Have ``item`` read, however long the reader takes; not once it has stopped."""
    while not stopped.is_set():
        with suppress(queue.Full):
            waiting.put(item, timeout=0.1)
            return


def _offer(waiting: queue.Queue[Message | Exception | None], end: None) -> None:
    """Say that it was stopped; where the queue is full nobody waits, and who reads sees by himself."""
    with suppress(queue.Full):
        waiting.put_nowait(end)


def _message(line: bytes, topic: str) -> Message:
    """:raises ValueError: the line is not what Kubo sends."""
    try:
        value = json_of(line)
        data = _decoded(value["data"])
        sender = str(value["from"])
    except (LookupError, TypeError, ValueError) as error:
        raise ValueError(f"not a message as Kubo sends them: {error}") from None
    try:
        return {"data": data.decode(), "from": sender, "topic": topic}
    except UnicodeDecodeError:
        return {"data": data, "from": sender, "topic": topic}


def _decoded(text: str) -> bytes:
    """Bytes of any length in base64url with the prefix of multibase."""
    if text[:1] != "u":
        raise ValueError("its data is no base64url")
    return base64.urlsafe_b64decode(text[1:] + "=" * (-len(text[1:]) % 4))


def _check_timeout(timeout_s: float | None) -> None:
    if timeout_s is None:
        return
    is_number = isinstance(timeout_s, int | float) and not isinstance(timeout_s, bool)
    if not is_number or not 0 <= timeout_s <= threading.TIMEOUT_MAX:
        raise OptionError(f"timeout_s is a number of seconds, or None for ever, not {timeout_s!r:.80}")


def _topic(topic: str) -> str:
    if not isinstance(topic, str) or not topic:
        raise OptionError(f"a topic is a text that is not empty, not {topic!r:.80}")
    return multibase.encode("u", _utf8(topic, "topic"))


def _utf8(text: str, what: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise OptionError(f"a {what} that UTF-8 cannot hold: {text!r:.80} ({error.reason})") from None


def _connect(endpoint: Endpoint) -> http.client.HTTPConnection:
    kind = http.client.HTTPSConnection if endpoint.scheme == "https" else http.client.HTTPConnection
    return kind(endpoint.netloc, timeout=_ANSWER_TIMEOUT_S)


def _ask(connection: http.client.HTTPConnection, endpoint: Endpoint, command: str) -> http.client.HTTPResponse:
    """The answer to an RPC call, of which the headers have come.

    :raises OptionError: the node has pubsub off.
    :raises TransportError: the node cannot be reached, or refuses.
    """
    path, _, query = command.partition("?")
    url = urlsplit(endpoint.url(path, query))
    try:
        connection.request("POST", f"{url.path}?{url.query}", headers=dict(endpoint.headers))
        response = connection.getresponse()
        if response.status == 200:
            return response
        said = endpoint.redact(response.read(4096).decode("utf-8", "replace"))
    except (OSError, http.client.HTTPException) as failure:
        said = endpoint.redact(f"{type(failure).__name__}: {failure}")
        said += f"; {NOBODY_LISTENS}" if isinstance(failure, ConnectionRefusedError) else ""
        raise TransportError(f"the node cannot be reached: {said}", source=endpoint.source) from None
    if _OFF in said:
        raise _pubsub_off(endpoint.source)
    raise TransportError(f"the node refuses, HTTP {response.status}: {said[:300]}", source=endpoint.source)


def _socket_of(response: http.client.HTTPResponse) -> socket.socket:
    """The socket of an answer that ends its connection, which http.client then no longer keeps."""
    raw: Any = response.fp
    found: socket.socket = raw.raw._sock  # noqa: SLF001 - it has no other name
    return found
