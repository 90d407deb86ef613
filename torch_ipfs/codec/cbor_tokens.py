"""A look at DAG-CBOR before it is decoded: is every token in canonical form, are there links, do lengths add up?

libipld decodes quickly and checks structure, but takes heads that are longer than needed and 32-bit floats, and makes room
for as many items as a list or map claims before it has seen them: 900 nested claims, in 2 MiB, took all of the 3 GB that a
process was allowed. What passes here is canonical token by token, and claims no more items than it has bytes.

CBOR is a flat row of tokens, so a regular expression walks it at some 25 ns a token; only tokens of 24 bytes or items and
more are looked at one by one.
"""

from __future__ import annotations

import re

_ONE_BYTE = (
    rb"[\x00-\x17\x20-\x37\x40\x60\x80-\x97\xa0-\xb7\xf4-\xf6]++"  # small integers, empty strings, small containers
)
_FLOAT_64 = rb"\xfb........"
_INTEGERS = (
    rb"[\x18\x38][\x18-\xff]",
    rb"[\x19\x39][\x01-\xff].",
    rb"[\x1a\x3a](?!\0\0)....",
    rb"[\x1b\x3b](?!\0\0\0\0)........",
)
_SHORT_STRINGS = tuple(b"[\\x%02x\\x%02x]" % (0x40 + length, 0x60 + length) + b"." * length for length in range(1, 24))

# Dots, not repeats such as .{8}, and this order: each was measured to be the quickest.
_TOKENS = re.compile(b"(?:" + b"|".join((_FLOAT_64, _ONE_BYTE, *_INTEGERS, *_SHORT_STRINGS)) + b")*+", re.DOTALL)
_LINKS = re.compile(rb"(?:\xd8\x2a\x58\x25\0" + b"." * 36 + rb")++|\xd8\x2a(?=[\x40-\x5b])", re.DOTALL)
"""A row of links whose CIDs take 36 bytes, or the tag of another link, whose bytes are the next token."""

_LEAST_ARGUMENT = {24: 24, 25: 2**8, 26: 2**16, 27: 2**32}
"""By the low five bits of a head, which say how many bytes its argument takes: 1, 2, 4 or 8."""


_TAG_8 = 0xD8


def has_links(data: bytes) -> bool | None:
    """Whether canonical DAG-CBOR holds links; ``None`` where ``data`` is not canonical or claims more items than it can hold.

    What is left to check afterwards: that tokens nest to exactly one item, UTF-8, order of keys, values of floats and CIDs.
    """
    links = False
    claimed = position = 0
    end = len(data)
    while True:
        run = _TOKENS.match(data, position)
        assert run is not None  # it matches the empty row too
        position = run.end()
        if position >= end:
            return links if claimed <= end else None
        head = data[position]
        if head == _TAG_8 and (run := _LINKS.match(data, position)):
            links = True
            position = run.end()
            continue
        start = position + 1 + (1 << (head & 3))
        argument = int.from_bytes(data[position + 1 : start], "big")
        if not 0x40 <= head < 0xC0 or argument < _LEAST_ARGUMENT.get(head & 0x1F, 2**64):
            return None
        position = start
        if argument > end:
            return None
        if head < 0x80:
            position += argument
        else:
            claimed += argument if head < 0xA0 else 2 * argument
