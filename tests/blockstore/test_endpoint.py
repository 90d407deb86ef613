from __future__ import annotations

import base64
from pathlib import Path

import pytest

from torch_ipfs.blockstore.endpoint import Endpoint, gateway_endpoint, rpc_endpoint
from torch_ipfs.errors import OptionError


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("kubo://127.0.0.1:5001", "http://127.0.0.1:5001/api/v0"),
        ("kubo://node", "http://node:5001/api/v0"),
        ("kubo://[::1]", "http://[::1]:5001/api/v0"),
        ("kubo://[fe80::1%25eth0]", "http://[fe80::1%eth0]:5001/api/v0"),
        ("KUBO://node:80", "http://node:80/api/v0"),
        ("/ip4/127.0.0.1/tcp/5001", "http://127.0.0.1:5001/api/v0"),
        ("/ip4/10.0.0.1/tcp/5001/http", "http://10.0.0.1:5001/api/v0"),
        ("/ip6/::1/tcp/5001", "http://[::1]:5001/api/v0"),
        ("/dns4/node.example/tcp/443/https", "https://node.example:443/api/v0"),
        ("/dns/node.example/tcp/443/tls/http", "https://node.example:443/api/v0"),
        ("/dns6/node.example/tcp/5001/", "http://node.example:5001/api/v0"),
        ("http://node:5001", "http://node:5001/api/v0"),
        ("https://node/proxied/", "https://node/proxied/api/v0"),
        ("https://node/api/v0/", "https://node/api/v0"),
    ],
)
def test_an_rpc_is_named_by_kubo_multiaddr_or_url(address: str, url: str):
    assert rpc_endpoint(address).url("") == url


@pytest.mark.parametrize(
    "address",
    [
        "",
        "node:5001",
        "ftp://node",
        "kubo://",
        "kubo://node:port",
        "kubo://node:70000",
        "http://no de",
        "/ip4/127.0.0.1",
        "/ip4/127.0.0.1/udp/5001",
        "/ip4/127.0.0.1/tcp/5001/ws",
        "/ip4/::1/tcp/5001",
        "/ip6/127.0.0.1/tcp/5001",
        "/ip4/node/tcp/5001",
        "/unix/run/kubo.sock",
        "/ip4/127.0.0.1/tcp/port",
    ],
)
def test_what_is_no_address_of_an_rpc_is_an_option_error(address: str):
    with pytest.raises(OptionError):
        rpc_endpoint(address)


@pytest.mark.parametrize(
    "url", ["", "gateway.example", "ftp://gateway.example", "http://", "https://:80", "http://a:b:c"]
)
def test_what_is_no_url_of_a_gateway_is_an_option_error(url: str):
    with pytest.raises(OptionError):
        gateway_endpoint(url)


def test_user_information_is_basic_authorization():
    endpoint = gateway_endpoint("https://user:p%40ss@host/path")
    assert endpoint.url("/ipfs/x") == "https://host/path/ipfs/x"
    assert dict(endpoint.headers) == {"Authorization": "Basic " + base64.b64encode(b"user:p@ss").decode()}


@pytest.mark.parametrize("url", ["https://host/gw", "https://host/gw/ipfs", "https://host/gw/ipfs/"])
def test_a_gateway_may_be_named_as_far_as_a_cid_follows(url: str) -> None:
    assert gateway_endpoint(url).url("/ipfs/CID", "format=raw") == "https://host/gw/ipfs/CID?format=raw"


def test_a_query_goes_with_each_request():
    endpoint = gateway_endpoint("https://host?token=abc")
    assert endpoint.url("/ipfs/x", "format=raw") == "https://host/ipfs/x?format=raw&token=abc"
    assert endpoint.url("/ipfs/x") == "https://host/ipfs/x?token=abc"


def test_what_a_url_cannot_hold_is_quoted():
    endpoint = gateway_endpoint("https://bücher.example/a b/%20?k=a b")
    assert endpoint.url("/x") == "https://xn--bcher-kva.example/a%20b/%20/x?k=a%20b"
    for host in ("a..b", "a" * 64):
        with pytest.raises(OptionError):
            gateway_endpoint(f"https://{host}")


SECRET = "s3cr3t-t0k3n"


@pytest.mark.parametrize(
    "endpoint",
    [
        gateway_endpoint("https://host", bearer=SECRET),
        gateway_endpoint(f"https://user:{SECRET}@host"),
        gateway_endpoint(f"https://host?token={SECRET}"),
        gateway_endpoint("https://host", headers={"X-Api-Key": SECRET}),
        rpc_endpoint("kubo://host", basic=("user", SECRET)),
        rpc_endpoint(f"kubo://user:{SECRET}@host"),
        rpc_endpoint(f"kubo://{SECRET}@host"),
    ],
)
def test_secrets_are_in_no_name_and_are_blotted_out_of_texts(endpoint: Endpoint):
    shown = f"{endpoint} {endpoint!r} {endpoint.source} {endpoint.origin}"
    assert SECRET not in shown
    sent = " ".join(value for _, value in endpoint.headers) + endpoint.query
    told = endpoint.redact(f"you sent {sent} and {SECRET}")
    assert SECRET not in told
    assert base64.b64encode(f"user:{SECRET}".encode()).decode() not in told
    assert told.startswith("you sent ")


@pytest.mark.parametrize("address", [f"ftp://user:{SECRET}@host", f"user:{SECRET}@host", f"rpc?key={SECRET}"])
def test_an_address_of_no_use_is_told_without_secrets(address: str):
    with pytest.raises(OptionError) as raised:
        rpc_endpoint(address)
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize("token", ["a\r\nX-Evil: 1", "a\n", "naïve", "\x00"])
def test_a_token_cannot_leave_its_header(token: str):
    with pytest.raises(OptionError):
        gateway_endpoint("https://host", bearer=token)
    with pytest.raises(OptionError):
        gateway_endpoint("https://host", headers={"X-Key": token})


def test_authorization_of_other_types_is_refused():
    for basic in ("user:password", ("user",), ("user", 1), b"up"):
        with pytest.raises(OptionError, match="pair"):
            rpc_endpoint("kubo://host", basic=basic)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="text"):
        gateway_endpoint("https://host", bearer=5)  # type: ignore[arg-type]


def test_authorization_is_given_once():
    with pytest.raises(OptionError):
        rpc_endpoint("kubo://host", bearer="a", basic=("b", "c"))
    with pytest.raises(OptionError):
        rpc_endpoint("kubo://user:password@host", bearer="a")


@pytest.mark.parametrize("address", [None, 5, b"http://host", Path("http://host")])
def test_an_address_is_text(address):
    for endpoint in (gateway_endpoint, rpc_endpoint):
        with pytest.raises(OptionError, match="an address is text"):
            endpoint(address)
