"""Flatbuffers, the little of them that Arrow's messages need, read without trust and written in one way only.

Reading follows https://flatbuffers.dev/internals/ with every position checked against the buffer. Writing places each
table, and then what it refers to, in order: the same tree gives the same bytes, whoever runs it and with whichever
library, which the CIDs of shards rest on.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

from torch_ipfs.errors import ManifestError

_U16, _U32, _I32 = struct.Struct("<H"), struct.Struct("<I"), struct.Struct("<i")
_SCALARS = {code: struct.Struct("<" + code) for code in "?bBhHiIqQ"}


class Table:
    """A table at ``position`` of ``buffer``, read field by field by slot number.

    :raises ManifestError: (every method) for what lies outside of the buffer.
    """

    __slots__ = ("_buffer", "_position", "_vtable", "_vtable_bytes")

    def __init__(self, buffer: bytes, position: int) -> None:
        self._buffer, self._position = buffer, position
        self._vtable = position - _read(_I32, buffer, position)
        self._vtable_bytes = _read(_U16, buffer, self._vtable)

    @staticmethod
    def root(buffer: bytes) -> Table:
        return Table(buffer, _read(_U32, buffer, 0))

    def _at(self, slot: int) -> int:
        """Position of a field; 0, where no field can be, when it is absent."""
        entry = 4 + 2 * slot
        if entry + 2 > self._vtable_bytes:
            return 0
        offset: int = _read(_U16, self._buffer, self._vtable + entry)
        return self._position + offset if offset else 0

    def scalar(self, slot: int, code: str, default: int = 0) -> int:
        """``code`` is the ``struct`` module's letter of the type."""
        position = self._at(slot)
        return int(_read(_SCALARS[code], self._buffer, position)) if position else default

    def _target(self, slot: int) -> int:
        position = self._at(slot)
        return position + int(_read(_U32, self._buffer, position)) if position else 0

    def table(self, slot: int) -> Table | None:
        target = self._target(slot)
        return Table(self._buffer, target) if target else None

    def text(self, slot: int, max_bytes: int) -> str | None:
        """A string field; one over ``max_bytes`` is an error."""
        target = self._target(slot)
        if not target:
            return None
        size = int(_read(_U32, self._buffer, target))
        if size > max_bytes or target + 4 + size > len(self._buffer):
            raise ManifestError(f"a string of {size} bytes is over {max_bytes} bytes, or over the message's end")
        try:
            return self._buffer[target + 4 : target + 4 + size].decode()
        except UnicodeDecodeError:
            raise ManifestError("a string is not UTF-8") from None

    def tables(self, slot: int, max_count: int) -> list[Table]:
        """A vector of tables; more than ``max_count`` are an error."""
        target = self._target(slot)
        count = int(_read(_U32, self._buffer, target)) if target else 0
        if count > max_count:
            raise ManifestError(f"{count} entries where at most {max_count} are allowed")
        places = range(target + 4, target + 4 + 4 * count, 4)
        return [Table(self._buffer, place + int(_read(_U32, self._buffer, place))) for place in places]

    def structs(self, slot: int, size_bytes: int, max_count: int) -> bytes:
        """A vector of structs of ``size_bytes`` each, as its bytes; more than ``max_count`` are an error."""
        target = self._target(slot)
        count = int(_read(_U32, self._buffer, target)) if target else 0
        if count > max_count:
            raise ManifestError(f"{count} entries where at most {max_count} are allowed")
        if target + 4 + count * size_bytes > len(self._buffer) and count:
            raise ManifestError(f"a vector of {count} entries goes over the message's end")
        return self._buffer[target + 4 : target + 4 + count * size_bytes]


def _read(kind: struct.Struct, buffer: bytes, position: int) -> Any:
    if position < 0 or position + kind.size > len(buffer):
        raise ManifestError(f"an offset leads to {position} of a message of {len(buffer)} bytes")
    return kind.unpack_from(buffer, position)[0]


@dataclass(frozen=True, slots=True)
class Scalar:
    """A number in a table; ``code`` is the ``struct`` module's letter of its type."""

    code: str
    value: int


@dataclass(frozen=True, slots=True)
class Structs:
    """A vector of structs, given as their bytes; ``count`` of them, aligned to 8."""

    count: int
    data: bytes


@dataclass(frozen=True, slots=True)
class New:
    """A table to be written: slot number -> number, table, string, vector of tables or vector of structs."""

    slots: dict[int, Scalar | New | str | list[New] | Structs] = field(default_factory=dict)


def build(root: New) -> bytes:
    """The flatbuffer of ``root``, its size a multiple of 8."""
    builder = _Builder()
    _U32.pack_into(builder.buffer, 0, builder.table(root))
    builder.align(8)
    return bytes(builder.buffer)


class _Builder:
    """Places values one after the other, and each vtable where it is first needed."""

    def __init__(self) -> None:
        self.buffer = bytearray(4)
        self._vtables: dict[bytes, int] = {}

    def align(self, size_bytes: int, ahead_bytes: int = 0) -> None:
        """Fill up so that what comes after ``ahead_bytes`` more is aligned."""
        self.buffer += bytes(-(len(self.buffer) + ahead_bytes) % size_bytes)

    def table(self, table: New) -> int:
        """Append a table, then what it refers to. Fields lie in order of size, so that each is aligned."""
        sizes = {slot: _SCALARS[v.code].size if isinstance(v, Scalar) else 4 for slot, v in table.slots.items()}
        offsets, end = {}, 4
        for slot in sorted(sizes, key=lambda slot: (sizes[slot] != 4, -sizes[slot], slot)):
            end += -end % sizes[slot]
            offsets[slot] = end
            end += sizes[slot]
        count = max(offsets, default=-1) + 1
        vtable = self._vtable(
            struct.pack(f"<{2 + count}H", 4 + 2 * count, end, *map(offsets.get, range(count), [0] * count))
        )
        self.align(max([4, *sizes.values()]))
        position = len(self.buffer)
        self.buffer += _I32.pack(position - vtable) + bytes(end - 4)
        for slot, value in table.slots.items():
            place = position + offsets[slot]
            if isinstance(value, Scalar):
                _SCALARS[value.code].pack_into(self.buffer, place, value.value)
            else:
                _U32.pack_into(self.buffer, place, self._value(value) - place)
        return position

    def _vtable(self, vtable: bytes) -> int:
        if vtable not in self._vtables:
            self.align(2)
            self._vtables[vtable] = len(self.buffer)
            self.buffer += vtable
        return self._vtables[vtable]

    def _value(self, value: New | str | list[New] | Structs) -> int:
        """Append ``value`` and return its position."""
        if isinstance(value, New):
            return self.table(value)
        self.align(8 if isinstance(value, Structs) else 4, 4)
        position = len(self.buffer)
        if isinstance(value, str):
            text = value.encode()
            self.buffer += _U32.pack(len(text)) + text + b"\0"
        elif isinstance(value, Structs):
            self.buffer += _U32.pack(value.count) + value.data
        else:
            self.buffer += _U32.pack(len(value)) + bytes(4 * len(value))
            for place, table in zip(range(position + 4, len(self.buffer), 4), value, strict=True):
                _U32.pack_into(self.buffer, place, self.table(table) - place)
        return position
