from __future__ import annotations

import contextlib
import gc
import logging
import pickle
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme

from tests.network.gateways import CID_0, DATA_0, gateway, holding, options
from tests.network.staged import Asked, Connection, serving
from torch_ipfs import IPFSIterableDataset, IPFSMapDataset
from torch_ipfs.blockstore import transport
from torch_ipfs.blockstore.environment_proxy import environment_proxy
from torch_ipfs.blockstore.gateway import GatewayBlockstore
from torch_ipfs.blockstore.kubo import KuboBlockstore
from torch_ipfs.blockstore.tiered import TieredBlockstore
from torch_ipfs.errors import OptionError, TorchIPFSError, TransportError

TOKEN = "t0ps3cr3t"


def redirecting(to: Callable[[Asked], str], status: int = 302) -> Callable[[Asked, Connection], None]:
    return lambda asked, connection: connection.answer(b"", status, {"Location": to(asked)})


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed_and_secrets_stay_behind(status: int):
    with (
        serving(holding({CID_0: DATA_0})) as elsewhere,
        gateway(
            redirecting(lambda asked: elsewhere.url + asked.target.split("&")[0], status),
            bearer=TOKEN,
            headers={"X-Api-Key": "an-api-key", "Cookie": "session=1"},
        ) as (store, server),
    ):
        assert store.get(CID_0) == DATA_0
    assert server.asked[0].headers["authorization"] == f"Bearer {TOKEN}"
    (asked,) = elsewhere.asked
    assert asked.headers["accept"] == "application/vnd.ipld.raw"
    assert asked.headers.keys().isdisjoint({"authorization", "x-api-key", "cookie"})


def test_a_redirect_to_the_same_host_keeps_the_token():
    def service(asked: Asked, connection: Connection) -> None:
        if asked.target.startswith("/moved"):
            connection.answer(DATA_0)
        else:
            connection.answer(b"", 307, {"Location": f"/moved{asked.target}"})

    with gateway(service, bearer=TOKEN) as (store, server):
        assert store.get(CID_0) == DATA_0
    assert [asked.headers["authorization"] for asked in server.asked] == [f"Bearer {TOKEN}"] * 2


def test_a_token_does_not_come_back_after_a_detour():
    with serving(lambda asked, c: c.answer(b"", 302, {"Location": back[0]})) as detour:

        def service(asked: Asked, connection: Connection) -> None:
            if asked.target == "/back":
                connection.answer(DATA_0)
            else:
                connection.answer(b"", 302, {"Location": detour.url})

        with gateway(service, bearer=TOKEN) as (store, server):
            back = [f"{server.url}/back"]
            assert store.get(CID_0) == DATA_0
            assert "authorization" not in server.asked[1].headers


@pytest.mark.parametrize(
    "location",
    ["/ipfs/round", "", "//", "http://", "ftp://host/", "http://[::1", "http://a:b/", "http://[::]@/", "/\x01"],
)
def test_redirects_are_bounded_and_lead_somewhere(location: str):
    with gateway(redirecting(lambda _: location), max_redirects=3) as (store, server):
        with pytest.raises(TransportError, match="redirected"):
            store.get(CID_0)
        assert len(server.asked) <= 4


@pytest.mark.parametrize("host", ["a..b", "a" * 64 + ".invalid", "\xff.invalid"])
def test_a_redirect_to_a_host_that_can_have_no_such_name_is_one_error(host: str):
    with (
        serving(redirecting(lambda _: f"http://{host}/")) as server,
        serving(lambda _, connection: connection.answer(DATA_0)) as other,
    ):
        bad, good = (GatewayBlockstore(url, **options()) for url in (server.url, other.url))
        with pytest.raises(TransportError, match="no such name"):
            bad.get(CID_0)
        (answer,) = bad.get_many([CID_0], return_exceptions=True)
        assert isinstance(answer, TransportError)
        store = TieredBlockstore([bad, good])
        assert store.get(CID_0) == DATA_0
        assert list(store.get_many([CID_0])) == [DATA_0]
        store.close()


def test_an_address_without_its_scheme_is_refused_without_its_password():
    for address in (f"user:{TOKEN}@gateway.invalid", f"gateway.invalid?token={TOKEN}"):
        with pytest.raises(OptionError) as caught:
            GatewayBlockstore(address)
        assert TOKEN not in str(caught.value)
        assert "user" not in str(caught.value)


@pytest.mark.parametrize(
    "address",
    [
        "https://u:{}@h",
        "https://u:@{}@h",
        "https://u:/{}@h",
        "https://u:?{}@h",
        "https://h/x?k={}",
        "kubo://u:{}@h?k=@{}",
    ],
)
def test_datasets_show_no_secret_of_their_source(address: str):
    address = address.replace("{}", TOKEN)
    for source in (address, ["my@file.car", address]):
        for dataset in (IPFSIterableDataset("bafkqaaa", source), IPFSMapDataset("bafkqaaa", source)):
            assert TOKEN not in repr(dataset)
            assert address.partition("://")[0] in repr(dataset)
            assert isinstance(source, str) or "my@file.car" in repr(dataset)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls(authority: trustme.CA) -> Callable:
    """Servers that speak TLS with a certificate of the test's own authority."""

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return lambda service: serving(service, tls=context)


def test_tls_is_verified(tls: Callable, authority: trustme.CA):
    with tls(holding({CID_0: DATA_0})) as server, authority.cert_pem.tempfile() as ca_file:
        store = GatewayBlockstore(server.url, **options())
        with pytest.raises(TransportError, match=r"(?i)certificate"):
            store.get(CID_0)
        store.close()
        assert server.asked == []
        store = pickle.loads(pickle.dumps(GatewayBlockstore(server.url, ca_file=ca_file)))
        assert store.get(CID_0) == DATA_0
        store.close()


def test_no_redirect_leads_from_https_to_http(tls: Callable, authority: trustme.CA):
    with (
        serving(holding({CID_0: DATA_0})) as plain,
        tls(redirecting(lambda asked: plain.url + asked.target)) as server,
        authority.cert_pem.tempfile() as ca_file,
    ):
        store = GatewayBlockstore(server.url, ca_file=ca_file, **options())
        with pytest.raises(TransportError, match="from https to http"):
            store.get(CID_0)
        store.close()
        assert plain.asked == []


def test_closing_leaves_no_tls_connection(tls: Callable, authority: trustme.CA, no_leaks: None):
    """A socket left to the garbage collector is a warning, and so an error here."""
    with authority.cert_pem.tempfile() as ca_file:
        for service in (holding({CID_0: DATA_0}), lambda _, c: c.silence()):
            for _ in range(5):
                with tls(service) as server:
                    store = GatewayBlockstore(server.url, ca_file=ca_file, **options(retries=0, stall_s=0.01))
                    with contextlib.suppress(TransportError):
                        assert store.get(CID_0) == DATA_0
                    store.close()
            gc.collect()


def test_certificates_that_cannot_be_read(tmp_path: Path):
    (tmp_path / "empty.pem").touch()
    for ca_file in (tmp_path / "absent.pem", tmp_path / "empty.pem"):
        store = GatewayBlockstore("https://127.0.0.1:1", ca_file=ca_file)
        with pytest.raises(OptionError, match="ca_file"):
            store.get(CID_0)


@pytest.fixture
def proxies(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No proxy in the environment but those that the test sets."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    return monkeypatch


def test_the_environments_proxy_is_used_but_not_for_this_machine(proxies: pytest.MonkeyPatch):
    with serving(holding({CID_0: DATA_0})) as server:
        proxies.setenv("http_proxy", server.url)
        store = GatewayBlockstore("http://gateway.invalid", **options())
        assert store.get(CID_0) == DATA_0
        store.close()
        assert server.asked[0].target == f"http://gateway.invalid/ipfs/{CID_0}?format=raw"
        store = GatewayBlockstore(server.url, **options())
        assert store.get(CID_0) == DATA_0
        store.close()


@pytest.mark.parametrize("status", [407, 503])
def test_what_a_proxy_refuses_is_told_without_its_password(status: int, proxies: pytest.MonkeyPatch):
    with serving(lambda _, c: c.answer(b"", status)) as server:
        proxies.setenv("https_proxy", server.url.replace("://", f"://me:{TOKEN}@"))
        store = GatewayBlockstore("https://gateway.invalid", **options(retries=2))
        with pytest.raises(TransportError, match=f"proxy .* HTTP {status}") as caught:
            store.get(CID_0)
        store.close()
        assert TOKEN not in str(caught.value)
        assert len(server.asked) == (3 if status == 503 else 1)


def test_a_node_is_asked_for_pins_in_the_way_it_is_asked_for_blocks(
    proxies: pytest.MonkeyPatch, tls: Callable, authority: trustme.CA, tmp_path: Path
):
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    # aiohttp makes its context of the system's certificates but once.
    open_session, ca_file = transport._session, str(tmp_path / "authority.pem")
    proxies.setattr(transport, "_session", lambda silence_s, connect_s, _: open_session(silence_s, connect_s, ca_file))
    proxies.setenv("http_proxy", "http://127.0.0.1:1")
    proxies.setenv("https_proxy", "http://127.0.0.1:1")

    def service(_: Asked, connection: Connection) -> None:
        connection.answer(b'{"ID": "12D3KooW"}')

    for serve in (serving, tls):
        with serve(service) as server:
            node = KuboBlockstore(server.url, **options(retries=0))
            assert node.id() == "12D3KooW"
            node.close()


def test_hosts_without_proxy_and_proxies_of_another_kind(proxies: pytest.MonkeyPatch):
    proxies.setenv("http_proxy", "socks5://127.0.0.1:1")
    proxies.setenv("no_proxy", "gateway.invalid")
    for host, error in (("gateway.invalid", TransportError), ("other.invalid", OptionError)):
        store = GatewayBlockstore(f"http://{host}", **options())
        with pytest.raises(error):
            store.get(CID_0)
        store.close()


def test_a_proxy_that_is_named_after_a_first_attempt_counts(proxies: pytest.MonkeyPatch):
    assert environment_proxy("https", "node.invalid", None) is None
    proxies.setenv("HTTPS_PROXY", "http://proxy.invalid")
    assert environment_proxy("https", "node.invalid", None) == "http://proxy.invalid"


def test_the_proxy_for_all_is_that_of_schemes_that_have_none(proxies: pytest.MonkeyPatch):
    proxies.setenv("ALL_PROXY", "socks5h://proxy.invalid")
    proxies.setenv("https_proxy", "http://proxy.invalid")
    assert environment_proxy("https", "node.invalid", None) == "http://proxy.invalid"
    with pytest.raises(OptionError, match="ALL_PROXY"):
        environment_proxy("http", "node.invalid", None)


@pytest.mark.parametrize("sign", ["/", "?", "#"])
def test_a_proxys_password_that_is_not_written_as_urls_have_it_is_no_host(sign: str, proxies: pytest.MonkeyPatch):
    proxies.setenv("HTTP_PROXY", f"http://{TOKEN}{sign}x@proxy.invalid:3128")
    with pytest.raises(OptionError, match="HTTP_PROXY") as caught:
        environment_proxy("http", "node.invalid", None)
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize(("scheme", "port"), [("http", 80), ("https", 443)])
def test_a_host_without_proxy_may_be_named_with_the_port_that_its_url_leaves_out(
    scheme: str, port: int, proxies: pytest.MonkeyPatch
):
    proxies.setenv(f"{scheme}_proxy", "http://proxy.invalid")
    proxies.setenv("no_proxy", f"node.invalid:{port}")
    assert environment_proxy(scheme, "node.invalid", None) is None
    assert environment_proxy(scheme, "node.invalid", 5001) is not None


@pytest.mark.parametrize("status", [200, 500])
def test_what_is_asked_of_a_node_is_logged_without_secrets(status: int, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    with serving(lambda a, c: c.answer(str(a).encode(), status)) as server:
        node = KuboBlockstore(f"{server.url}?key={TOKEN}", **options(retries=0))
        for call in (node.id, node.pins, lambda: node.pin(CID_0)):
            with pytest.raises(TransportError) as caught:
                call()
            assert TOKEN not in str(caught.value)
        assert all(TOKEN in asked.target for asked in server.asked)
        assert TOKEN not in caplog.text
        node.close()


def _with_causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that led to it, also those that a traceback does not show: tools that report errors may."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _last_of(asked: Asked) -> str:
    """What follows the scheme of an authorization."""
    return asked.headers.get("authorization", "none").split()[-1]


@pytest.mark.parametrize(
    "fault",
    [
        lambda a, c: c.answer(str(a).encode(), 401),
        lambda a, c: c.answer(str(a).encode(), 503),
        lambda a, c: c.answer(str(a).encode(), 404),
        lambda a, c: c.answer(str(a).encode(), 200),
        lambda _, c: c.reset(),
        lambda _, c: c.silence(),
        lambda a, c: c.answer(b"", 302, {"Location": f"ftp://{a.headers.get('authorization')}/"}),
        lambda a, c: c.answer(b"", 302, {"Location": f"http://{_last_of(a)}.invalid/"}),
        lambda a, c: c.answer(b"", 302, {"Location": f"{_last_of(a)}://host/"}),
        lambda a, c: c.answer(b"x", 200, {"Content-Encoding": str(a.headers.get("authorization"))}),
        lambda a, c: c.send(f"{a}\r\n\r\n".encode()),
        lambda _, c: c.answer(b"", 302, {"Location": "http://127.0.0.1:1/"}),
    ],
)
@pytest.mark.parametrize("kind", ["bearer", "basic", "query", "header"])
def test_secrets_are_never_told(fault: Callable, kind: str, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    with serving(fault) as server:
        address = server.url.removeprefix("http://")
        store = {
            "bearer": lambda: GatewayBlockstore(server.url, bearer=TOKEN, **options(retries=0)),
            "basic": lambda: GatewayBlockstore(f"http://user:{TOKEN}@{address}", **options(retries=0)),
            "query": lambda: GatewayBlockstore(f"{server.url}?token={TOKEN}", **options(retries=0)),
            "header": lambda: GatewayBlockstore(server.url, headers={"Authorization": TOKEN}, **options(retries=0)),
        }[kind]()
        with pytest.raises(TorchIPFSError) as caught:
            store.get(CID_0)
        errors = list(_with_causes(caught.value))
        told = f"{caught.getrepr(chain=True)} {errors!r} {store!r} {store.source} {caplog.text}"
        assert TOKEN.lower() not in told.lower()
        assert "dXNlc" not in told  # the start of base64("user:...")
        assert TOKEN in str(server.asked[0]) or "dXNlc" in str(server.asked[0])
        assert pickle.loads(pickle.dumps(caught.value)).source == store.source
        store.close()
