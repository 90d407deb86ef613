"""JSON text in the one form that DAG-JSON asks for: keys sorted, no white space, UTF-8, without recursion.

Floats are written as ECMAScript and Go write them, with a decimal point where they would read as integers.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Iterator
from itertools import chain, repeat
from json.encoder import encode_basestring
from typing import Any

from torch_ipfs.codec.nesting import MAX_DEPTH
from torch_ipfs.errors import CodecError

WriteOther = Callable[[Any], str | None]
"""The text of a value that JSON has no kind for; ``None`` where there is none."""
CheckObject = Callable[[dict[str, Any], list[str]], None]
"""Looks at an object and its sorted keys before it is written; raises CodecError where it may not be."""


def encode(value: object, write_other: WriteOther, check_object: CheckObject) -> bytes:
    """The text of ``value`` in UTF-8.

    :raises CodecError: it holds what JSON does not: another type, NaN, an infinity, an integer over 64 bits, a key that is no
        str, a lone surrogate, or it nests deeper than :data:`torch_ipfs.codec.nesting.MAX_DEPTH`.
    """
    out: list[str] = []
    opened: list[tuple[Iterator[tuple[str, Any]], str]] = [(iter([("", value)]), "")]
    while opened:
        items, closing = opened[-1]
        for before, item in items:
            if len(opened) - 1 > MAX_DEPTH:
                raise CodecError(f"JSON: the value nests deeper than {MAX_DEPTH} arrays and objects")
            out.append(before)
            if isinstance(item, dict):
                out.append("{")
                opened.append((_members(item, check_object), "}"))
                break
            if isinstance(item, (list, tuple)):
                out.append("[")
                opened.append((zip(chain(("",), repeat(",")), item, strict=False), "]"))
                break
            out.append(_scalar(item, write_other))
        else:
            out.append(closing)
            opened.pop()
    try:
        return "".join(out).encode()
    except UnicodeEncodeError as error:
        raise CodecError(f"JSON: text that UTF-8 cannot hold ({error.reason})") from None


def _members(item: dict[Any, Any], check_object: CheckObject) -> Iterator[tuple[str, Any]]:
    for key in item:
        if not isinstance(key, str):
            raise CodecError(f"JSON: keys are str, not {type(key).__name__}: {reprlib.repr(key)}")
    keys = sorted(item)  # by code point, which is the order of their UTF-8 too
    check_object(item, keys)
    commas = chain(("",), repeat(","))
    return ((f"{next(commas)}{encode_basestring(key)}:", item[key]) for key in keys)


def _scalar(item: Any, write_other: WriteOther) -> str:
    if isinstance(item, str):
        return encode_basestring(item)
    if item is None or item is True or item is False:
        return {None: "null", True: "true", False: "false"}[item]
    if isinstance(item, int):
        if not -(2**64) <= item < 2**64:
            raise CodecError("JSON: integers lie between -(2**64) and 2**64 - 1")
        return int.__repr__(item)
    if isinstance(item, float):
        return float_text(item)
    text = write_other(item)
    if text is None:
        raise CodecError(f"JSON has no {type(item).__name__}: {reprlib.repr(item)}")
    return text


def float_text(value: float) -> str:
    """A float's shortest digits, with an exponent below 1e-6 and from 1e21 on.

    :raises CodecError: NaN or an infinity.
    """
    if not math.isfinite(value):
        raise CodecError(f"JSON has no {value}")
    text = float.__repr__(value)
    mantissa, _, exponent_text = text.partition("e")
    if not exponent_text:
        return text
    exponent = int(exponent_text)
    sign = "-" if mantissa.startswith("-") else ""
    digits = mantissa.lstrip("-").replace(".", "")
    if -7 < exponent < 0:
        return f"{sign}0.{'0' * (-exponent - 1)}{digits}"
    if 0 < exponent < 21:
        return f"{sign}{digits.ljust(exponent + 1, '0')}.0"
    return f"{mantissa}e{exponent:+d}"
