"""How patient, how eager and how trusting a network store is."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import TypedDict

from torch_ipfs.blockstore.base import MAX_BLOCK_BYTES
from torch_ipfs.errors import OptionError


class FetchOptionsDict(TypedDict, total=False):
    """The options as keyword arguments; :class:`FetchOptions` tells what they are."""

    timeout_s: float
    connect_timeout_s: float
    stall_s: float
    retries: int
    backoff_s: float
    backoff_max_s: float
    retry_after_max_s: float
    max_redirects: int
    in_flight: int
    window_bytes: int
    max_block_bytes: int


@dataclass(frozen=True, slots=True)
class FetchOptions:
    """Options that all network stores have.

    :param timeout_s: the most that one block, or one other call, may take, retries and the waits between them included.
    :param connect_timeout_s: the most that connecting to a host may take, the lookup of its name included.
    :param stall_s: an answer of which no byte comes for so long has broken off (trustless gateway spec: 30 s).
    :param retries: how often is asked again for what may come later; 0 for never. While a server refuses some for
        there being too many (HTTP 429) and answers others, as often as there is time for.
    :param backoff_s: the wait before the first retry, doubled for each one after it; a random half of it is left out, so
        that many clients do not come back as one.
    :param backoff_max_s: the most that this wait grows to.
    :param retry_after_max_s: the most that a server can have us wait by ``Retry-After``.
    :param max_redirects: the most redirects that are followed for one request.
    :param in_flight: requests of one ``get_many`` that are on their way at once.
    :param window_bytes: the most bytes of blocks that one ``get_many`` holds or has asked for ahead of its caller.
    :param max_block_bytes: the largest block that is accepted.
    """

    timeout_s: float = 120.0
    connect_timeout_s: float = 10.0
    stall_s: float = 30.0
    retries: int = 6
    backoff_s: float = 0.5
    backoff_max_s: float = 15.0
    retry_after_max_s: float = 60.0
    max_redirects: int = 5
    in_flight: int = 32
    window_bytes: int = 64 * 2**20
    max_block_bytes: int = MAX_BLOCK_BYTES

    def __post_init__(self) -> None:
        may_be_zero = ("retries", "max_redirects", "backoff_s", "backoff_max_s", "retry_after_max_s")
        for field in fields(self):
            value = getattr(self, field.name)
            is_number = isinstance(value, Integral if field.type == "int" else Real)
            if not is_number or not math.isfinite(value) or value < 0 or (value == 0 and field.name not in may_be_zero):
                kind = "whole number" if field.type == "int" else "number"
                raise OptionError(f"{field.name} is {value!r}; a positive {kind} is needed")
