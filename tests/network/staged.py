"""HTTP services on 127.0.0.1 that fail as a test wants them to: servers of any bytes, and a proxy before a real service."""

from __future__ import annotations

import http.client
import os
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

PATIENCE_S = 30.0
"""How long a staged service waits for a client, so that a test that fails leaves no thread behind."""


@dataclass(frozen=True)
class Asked:
    """A request that came. Header names are in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def cid(self) -> str:
        """The CID that a gateway or a Kubo RPC was asked for."""
        parts = urlsplit(self.target)
        if parts.path.startswith("/ipfs/"):
            return parts.path.split("/")[2]
        return dict(pair.split("=", 1) for pair in parts.query.split("&") if "=" in pair).get("arg", "")


class Connection:
    """One client's connection; what a service answers with."""

    def __init__(self, client: socket.socket, stopping: threading.Event) -> None:
        self._client = client
        self._stopping = stopping

    def send(self, data: bytes) -> None:
        self._client.sendall(data)

    def answer(
        self,
        body: bytes = b"",
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        *,
        length: int | None = None,
    ) -> None:
        """A whole answer; ``length`` is what it claims instead of its body's own."""
        declared = {"Content-Length": str(len(body) if length is None else length)}
        self.send(_head(status, {**declared, **(headers or {})}) + body)

    def head(self, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        """Status line and headers alone."""
        self.send(_head(status, headers or {}))

    def chunk(self, data: bytes) -> None:
        """A chunk of a body whose head says ``Transfer-Encoding: chunked``; an empty one ends it."""
        self.send(b"%x\r\n%b\r\n" % (len(data), data))

    def cut(self) -> None:
        """End the connection in order, as a server does that says nothing more."""
        self._client.shutdown(socket.SHUT_RDWR)

    def reset(self) -> None:
        """End the connection with RST."""
        self._client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self._client.detach())

    def drip(self, data: bytes, every_s: float) -> None:
        """Send a byte now and then, until the client or the test has had enough."""
        for i in range(len(data)):
            if self._stopping.wait(every_s):
                return
            self.send(data[i : i + 1])

    def silence(self) -> None:
        """Say nothing until the client goes or the test ends."""
        self._client.settimeout(0.02)
        while not self._stopping.is_set():
            with suppress(TimeoutError):
                if not self._client.recv(1):
                    return


Service = Callable[[Asked, Connection], object]


class StagedServer:
    """Runs a service on a port of the system's choice, a thread a connection; keeps what it was asked."""

    def __init__(self, service: Service, *, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> None:
        self._service = service
        self._tls = tls
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family, backlog=256)
        self.port: int = self._listener.getsockname()[1]
        scheme = "http" if tls is None else "https"
        self.url = f"{scheme}://[{host}]:{self.port}" if ":" in host else f"{scheme}://{host}:{self.port}"
        self.asked: list[Asked] = []
        self.connections = 0
        self._stopping = threading.Event()
        self._clients: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept, name="staged")]
        self._threads[0].start()

    def close(self) -> None:
        self._stopping.set()
        with suppress(OSError):  # wakes accept()
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join()  # no client is accepted from here on
        for client in tuple(self._clients):
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._clients.add(client)
            thread = threading.Thread(target=self._serve, args=(client,), name="staged connection")
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        client.settimeout(PATIENCE_S)
        with suppress(OSError, ValueError), client:
            spoken = client if self._tls is None else self._tls.wrap_socket(client, server_side=True)
            with spoken, spoken.makefile("rb") as lines:
                while not self._stopping.is_set() and (asked := _read(lines)):
                    self.asked.append(asked)
                    self._service(asked, Connection(spoken, self._stopping))
        self._clients.discard(client)


def _head(status: int, headers: Mapping[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} Staged", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _read(lines) -> Asked | None:
    """The next request of a connection, None at its end."""
    start = lines.readline().decode("latin-1").split()
    if len(start) != 3:
        return None
    headers = {}
    while line := lines.readline().decode("latin-1").strip():
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    if headers.get("transfer-encoding") == "chunked":
        body = b""
        while size := int(lines.readline(), 16):
            body += lines.read(size)
            lines.readline()
        lines.readline()
    else:
        body = lines.read(int(headers.get("content-length", 0)))
    return Asked(start[0], start[1], headers, body)


@contextmanager
def serving(service: Service, *, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> Iterator[StagedServer]:
    """A running :class:`StagedServer`."""
    server = StagedServer(service, host=host, tls=tls)
    try:
        yield server
    finally:
        server.close()


def forward(to: str, asked: Asked) -> tuple[int, dict[str, str], bytes]:
    """Ask the real service at the URL ``to`` the same: its status, its headers (those that tell of the body) and body."""
    parts = urlsplit(to)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=PATIENCE_S)
    try:
        skipped = {"host", "connection", "content-length", "transfer-encoding"}
        headers = {name: value for name, value in asked.headers.items() if name not in skipped}
        connection.request(asked.method, asked.target, body=asked.body, headers=headers)
        answer = connection.getresponse()
        body = answer.read()
        kept = ("Content-Type", "Retry-After")
        return answer.status, {name: answer.headers[name] for name in kept if name in answer.headers}, body
    finally:
        connection.close()


def tampering(to: str, tamper: Callable[[Asked, bytes], bytes]) -> Service:
    """A proxy before the service at the URL ``to`` that changes the bodies of its good answers."""

    def service(asked: Asked, connection: Connection) -> None:
        status, headers, body = forward(to, asked)
        connection.answer(tamper(asked, body) if status == 200 else body, status, headers)

    return service
