"""What an HTTP service is asked for, and what an answer other than 200 means by itself."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING

from torch_ipfs.blockstore.retry import Later
from torch_ipfs.errors import TransportError

if TYPE_CHECKING:
    from torch_ipfs.codec.cid import CID

_COMES_LATER = frozenset((408, 425, 429))
_NEVER_COMES = frozenset((501, 505))


@dataclass(frozen=True, slots=True)
class Request:
    """One request; its parts are not secret.

    :param path: below the endpoint's own.
    :param cid: the block or DAG that it is about, for errors.
    :param body: makes what is sent, in pieces, for each attempt anew.
    """

    method: str
    path: str
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    cid: CID | None = None
    body: Callable[[], AsyncIterator[bytes]] | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer other than 200.

    :param text: how its body starts, without secrets; whatever the server likes.
    """

    status: int
    text: str
    retry_after_s: float | None

    @property
    def comes_later(self) -> bool:
        """Whether another attempt may do, by what the status says."""
        return self.status in _COMES_LATER or (self.status >= 500 and self.status not in _NEVER_COMES)

    @property
    def in_words(self) -> str:
        """What was expected, what came, and what to do."""
        hint = "; does it want a token, or another one?" if self.status in (401, 403) else ""
        return f"expected 200, came {self}{hint}"

    def later(self, message: str) -> Later:
        """What is raised where another attempt may do."""
        return Later(message, retry_after_s=self.retry_after_s, is_too_many=self.status == HTTPStatus.TOO_MANY_REQUESTS)

    def __str__(self) -> str:
        try:
            return f"HTTP {self.status} {HTTPStatus(self.status).phrase}"
        except ValueError:
            return f"HTTP {self.status}"


Judge = Callable[[Refusal, Request, str], Exception]
"""From an answer other than 200, what was asked and the name of the source to what is raised for it."""


def later_or_broken(refusal: Refusal, request: Request, source: str) -> Exception:
    """What an HTTP status says by itself: that another attempt may do, or that none will."""
    if refusal.comes_later:
        return refusal.later(str(refusal))
    return TransportError(refusal.in_words, cid=request.cid, source=source)
