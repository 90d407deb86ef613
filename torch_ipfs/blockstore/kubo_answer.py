"""What Kubo's RPC means by its answers: a command that fails does so with status 500 and tells why in words alone."""

from __future__ import annotations

import json
from typing import Any

from torch_ipfs.blockstore.http_messages import Refusal, Request, later_or_broken
from torch_ipfs.blockstore.retry import Later
from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import BlockNotFound, OptionError, TransportError

_MISSING = ("could not find", "not found", "context deadline exceeded")
_ENDING = ("context canceled", "shutting down", "closed")
"""What a node says that is about to end; another may be there soon."""
_MAX_WORDS = 300
"""Characters of what a node says that go into an error."""


def json_of(text: str | bytes) -> Any:
    """What a node says in JSON.

    :raises ValueError: it is none, or nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("JSON that is nested too deeply") from None


def judge(refusal: Refusal, request: Request, source: str) -> Exception:
    """What is raised for an answer other than 200."""
    try:
        words = json_of(refusal.text)["Message"]
    except (ValueError, LookupError, TypeError):
        return later_or_broken(refusal, request, source)
    words = str(words)
    if any(sign in words for sign in _ENDING):
        return Later(words[:_MAX_WORDS])
    return told(words, request.cid, source)


def told(words: str, cid: CID | None, source: str) -> Exception:
    """What is raised for a failure that the node tells of in these words."""
    words = words[:_MAX_WORDS]
    if "not pinned" in words:
        return OptionError("this CID is not pinned by itself", cid=cid, source=source)
    if cid is not None and any(sign in words for sign in _MISSING):
        return BlockNotFound(f"the node does not have it, and no peer gave it in time: {words}", cid=cid, source=source)
    return TransportError(f"the node cannot do that: {words}", cid=cid, source=source)


def values(answer: bytes, source: str) -> list[dict[str, Any]]:
    """The JSON objects of an answer, one a line.

    :raises TransportError: it has another form.
    """
    try:
        lines = [json_of(line) for line in answer.splitlines() if line.strip()]
    except ValueError:
        lines = [None]
    if not all(isinstance(line, dict) for line in lines):
        raise TransportError("is this Kubo's RPC? Lines of JSON objects were expected", source=source)
    return lines
