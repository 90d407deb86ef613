"""Where an HTTP service is, what it is shown to let us in, and its name without any of that.

An address is a URL, ``kubo://host:port`` for Kubo's RPC, or a multiaddr (https://github.com/multiformats/multiaddr) of
the forms ``/ip4|ip6|dns|dns4|dns6/HOST/tcp/PORT[/http|/https|/tls/http]``.
"""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from torch_ipfs.errors import OptionError

RPC_PORT = 5001
_RPC_PATH = "/api/v0"
_MULTIADDR_SCHEMES = {"": "http", "http": "http", "https": "https", "tls/http": "https"}
_REDACTED = "***"
_SAFE = "/%:@!$&'()*+,;=-._~"
"""What stands for itself in a URL's path."""
_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]*://)?(.*)", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True, repr=False)
class Endpoint:
    """The address of one HTTP service.

    :param scheme: ``http`` or ``https``.
    :param netloc: host and port as a URL has them, without user information.
    :param path: the path below which the service answers, without a slash at its end.
    :param query: what its URL carried as a query (some gateways want their token there); sent with each request.
    :param headers: sent with each request to this host, and to no other.
    :param source: its name in errors and logs.
    :param secrets: what no error and no log may show.
    """

    scheme: str
    netloc: str
    path: str
    query: str
    headers: tuple[tuple[str, str], ...]
    source: str
    secrets: tuple[str, ...]

    def __repr__(self) -> str:
        return f"Endpoint({self.source!r})"

    @property
    def origin(self) -> str:
        """Scheme, host and port: what ``headers`` may be sent to."""
        return f"{self.scheme}://{self.netloc}"

    def url(self, path: str, query: str = "") -> str:
        """The URL of ``path`` below the service's own."""
        queries = "&".join(part for part in (query, self.query) if part)
        return f"{self.origin}{self.path}{path}" + (f"?{queries}" if queries else "")

    def redact(self, text: str) -> str:
        """``text`` without the endpoint's secrets; what a server says may hold what it was sent."""
        for secret in self.secrets:  # in whatever case: names of hosts and schemes are told in small letters
            text = re.sub(re.escape(secret), _REDACTED, text, flags=re.IGNORECASE)
        return text


def without_secrets(address: str) -> str:
    """An address as the user typed it, right or wrong, but for what may be secret in it: user information and a query."""
    scheme, rest = _ADDRESS.fullmatch(address).groups("")  # type: ignore[union-attr] # which takes any text
    before, _, query = rest.partition("?")
    return scheme + (_REDACTED if "@" in query else before.rpartition("@")[2])  # the "?" may be a password's


def gateway_endpoint(url: str, *, bearer: str | None = None, headers: Mapping[str, str] | None = None) -> Endpoint:
    """The endpoint of a gateway by its http or https URL.

    :raises OptionError: it is no such URL, or a token or a header cannot be sent.
    """
    _check_is_text(url)
    if not url.lower().startswith(("http://", "https://")):
        raise OptionError(
            f"a gateway's URL starts with http:// or https://, which {without_secrets(url)[:80]!r} does not"
        )
    endpoint = _from_url(url, url, bearer=bearer, basic=None, headers=headers or {})
    return replace(endpoint, path=endpoint.path.removesuffix("/ipfs"))  # as in https://ipfs.io/ipfs/, before a CID


def rpc_endpoint(address: str, *, bearer: str | None = None, basic: tuple[str, str] | None = None) -> Endpoint:
    """The endpoint of a Kubo RPC by its URL, ``kubo://host:port`` or multiaddr. Its path ends with ``/api/v0``.

    :raises OptionError: the address has none of these forms, or a token cannot be sent.
    """
    _check_is_text(address)
    url = address
    if address.startswith("/"):
        url = _url_of_multiaddr(address)
    elif address.lower().startswith("kubo://"):
        url = f"http://{address[len('kubo://') :]}"
    elif not address.lower().startswith(("http://", "https://")):
        raise OptionError(
            f"a Kubo RPC is kubo://host:port, a multiaddr or an http(s) URL, not {without_secrets(address)[:80]!r}"
        )
    endpoint = _from_url(url, address, bearer=bearer, basic=basic, headers={})
    if not endpoint.path.endswith(_RPC_PATH):
        endpoint = replace(endpoint, path=endpoint.path + _RPC_PATH)
    if address.lower().startswith("kubo://") and urlsplit(endpoint.origin).port is None:
        endpoint = replace(endpoint, netloc=f"{endpoint.netloc}:{RPC_PORT}")
    return endpoint


def multiaddr_of(endpoint: Endpoint) -> str:
    """The multiaddr of an endpoint's host and port, for clients that know no URL."""
    parts = urlsplit(endpoint.origin)
    host = parts.hostname or ""
    port = parts.port or (443 if endpoint.scheme == "https" else 80)
    return f"/{_host_protocol(host)}/{host}/tcp/{port}/{endpoint.scheme}"


def _check_is_text(address: object) -> None:
    if not isinstance(address, str):
        raise OptionError(f"an address is text, as http://host, not a {type(address).__name__}")


def _from_url(
    url: str, shown: str, *, bearer: str | None, basic: tuple[str, str] | None, headers: Mapping[str, str]
) -> Endpoint:
    """The parts of ``url``; user information in it is basic authorization. ``shown`` is what the user typed."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise OptionError("not a URL: its host or port cannot be read") from None
    before, at, _ = parts.query.partition("@")
    if "@" in parts.path or "@" in parts.fragment or (at and "=" not in before):
        # Of a password that is not written as URLs have it the first part would be taken for the host, and the rest be shown.
        raise OptionError(
            "not a URL: a user name or password has '/', '?' and '#' in it as %2F, %3F and %23, and a path '@' as %40"
        )
    if not host or not host.isprintable() or " " in host:
        raise OptionError("not a URL: it names no host")
    if parts.username is not None:
        if basic is not None or bearer is not None:
            raise OptionError("authorization is given twice: in the URL and as an argument")
        basic = unquote(parts.username), unquote(parts.password or "")
    sent, secrets = _authorization(bearer, basic)
    for name, value in headers.items():
        _check_header(name, value)
        sent.append((name, value))
        if len(value) >= 8:  # a shorter one is a flag, and would blot out words of a message
            secrets.append(value)
    secrets += [value for _, value in parse_qsl(parts.query)] + ([parts.query] if parts.query else [])
    # A zone, as of fe80::1%25eth0 (RFC 6874), is looked up by its own name.
    netloc = f"[{host.replace('%25', '%')}]" if ":" in host else _ascii(host)
    source = shown.split("?", 1)[0].rstrip("/")
    if parts.username is not None:
        scheme, _, rest = source.partition("://")
        source = f"{scheme}://{rest.rpartition('@')[2]}"
    return Endpoint(
        scheme=parts.scheme.lower(),
        netloc=netloc if port is None else f"{netloc}:{port}",
        path=quote(parts.path.rstrip("/"), safe=_SAFE),
        query=quote(parts.query, safe=_SAFE + "?"),
        headers=tuple(sent),
        source=source,
        secrets=tuple(sorted({secret for secret in secrets if secret}, key=len, reverse=True)),
    )


def _ascii(host: str) -> str:
    try:
        return host.encode("idna").decode()
    except UnicodeError:
        raise OptionError("not a URL: its host cannot be looked up") from None


def _authorization(bearer: str | None, basic: tuple[str, str] | None) -> tuple[list[tuple[str, str]], list[str]]:
    """The header for either kind of authorization, and the secrets in it."""
    if bearer is not None and basic is not None:
        raise OptionError("either bearer or basic authorization, not both")
    if bearer is not None:
        _check_header("Authorization", bearer)
        return [("Authorization", f"Bearer {bearer}")], [bearer]
    if basic is not None:
        if not isinstance(basic, tuple | list) or [type(part) for part in basic] != [str, str]:
            raise OptionError("basic authorization is a pair of user name and password")
        user, password = basic
        encoded = base64.b64encode(f"{user}:{password}".encode()).decode()
        return [("Authorization", f"Basic {encoded}")], [encoded, password or user]  # a token may be sent as the name
    return [], []


def _check_header(name: str, value: str) -> None:
    """:raises OptionError: it would break out of its line, or is not text that HTTP can carry."""
    if not isinstance(name, str) or not isinstance(value, str):
        raise OptionError(f"header {name!r} cannot be sent: name and value are text")
    if not (name.isascii() and name.isprintable() and value.isascii() and value.isprintable()) or not name.strip():
        raise OptionError(f"header {name!r} cannot be sent: name and value are printable ASCII")


def _url_of_multiaddr(address: str) -> str:
    _, *parts = address.rstrip("/").split("/")
    scheme = _MULTIADDR_SCHEMES.get("/".join(parts[4:]))
    if len(parts) < 4 or parts[0] not in ("ip4", "ip6", "dns", "dns4", "dns6") or parts[2] != "tcp" or scheme is None:
        raise OptionError(
            "of multiaddrs /ip4|ip6|dns|dns4|dns6/HOST/tcp/PORT with nothing, /http, /https or /tls/http after it"
            f" can be reached, not {address[:80]!r}"
        )
    protocol, host, _, port = parts[:4]
    if protocol in ("ip4", "ip6") and _host_protocol(host) != protocol:
        raise OptionError(f"{host[:80]!r} is no address for /{protocol}")
    return f"{scheme}://[{host}]:{port}" if protocol == "ip6" else f"{scheme}://{host}:{port}"


def _host_protocol(host: str) -> str:
    """The multiaddr protocol of a host: ``ip4``, ``ip6`` or ``dns``."""
    try:
        return f"ip{ipaddress.ip_address(host).version}"
    except ValueError:
        return "dns"
