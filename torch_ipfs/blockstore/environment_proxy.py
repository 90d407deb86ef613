"""The proxy that the environment names for a host, by one rule for all clients in use here.

Theirs differ: aiohttp's ``trust_env`` asks a thread for each request, and reads ~/.netrc into requests that have a token
already; requests sends what is for this machine itself through the proxy, too.
"""

from __future__ import annotations

import ipaddress
import os
from functools import lru_cache
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from torch_ipfs.errors import OptionError

_VARIABLES = {
    scheme: tuple(variable for name in (scheme, "all", "no") for variable in (f"{name}_proxy", f"{name.upper()}_PROXY"))
    for scheme in ("http", "https")
}


def environment_proxy(scheme: str, host: str, port: int | None) -> str | None:
    """The proxy that HTTP_PROXY or HTTPS_PROXY, else ALL_PROXY, and NO_PROXY name for a host; none for this machine itself.

    :return: its URL, with user information where that is named. It is not to be shown.
    :raises OptionError: it is of a kind that cannot be used.
    """
    if _is_loopback(host):
        return None
    return _named_proxy(scheme, host, port, tuple(map(os.environ.get, _VARIABLES[scheme])))


@lru_cache(maxsize=64)
def _named_proxy(scheme: str, host: str, port: int | None, _: tuple[str | None, ...]) -> str | None:
    """As :func:`environment_proxy`, worked out once for what the environment's variables are."""
    proxies = getproxies()
    name = scheme if scheme in proxies else "all"
    proxy = proxies.get(name)
    port = port or (443 if scheme == "https" else 80)
    if proxy is None or proxy_bypass(host) or proxy_bypass(f"{host}:{port}"):
        return None
    if "://" not in proxy:
        proxy = f"http://{proxy}"
    if not _is_usable(proxy):
        raise OptionError(
            f"{name.upper()}_PROXY names a proxy that is not an http:// or https:// URL, and no other kind can be used; "
            f"{scheme.upper()}_PROXY may name another, and NO_PROXY the hosts that need none"
        )
    return proxy


def _is_usable(proxy: str) -> bool:
    try:
        parts = urlsplit(proxy)
        is_cut = "@" in parts.path + parts.query + parts.fragment  # by a sign in its password, and has no host
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and not is_cut
    except ValueError:  # of the port, too
        return False


@lru_cache(maxsize=64)
def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
