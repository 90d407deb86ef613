"""Unsigned varints of multiformats: LEB128, minimal, at most nine bytes (63 bits).

https://github.com/multiformats/unsigned-varint
"""

from __future__ import annotations

from torch_ipfs.errors import CodecError

MAX_VARINT_BYTES = 9
MAX_VARINT = 2 ** (7 * MAX_VARINT_BYTES) - 1


def read(data: bytes | memoryview, offset: int = 0, end: int | None = None) -> tuple[int, int]:
    """The varint that starts at ``offset`` and the offset after it.

    :param end: where the input ends; by default with ``data``.
    :raises CodecError: it is cut, longer than nine bytes or not minimal.
    """
    if end is None:
        end = len(data)
    value = shift = 0
    for position in range(offset, min(offset + MAX_VARINT_BYTES, end)):
        byte = data[position]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if not byte and shift:
                raise CodecError(f"varint at byte {offset} is not minimal: its last byte, at {position}, is zero")
            return value, position + 1
        shift += 7
    if offset + MAX_VARINT_BYTES <= end:
        raise CodecError(f"varint at byte {offset} is longer than {MAX_VARINT_BYTES} bytes")
    raise CodecError(f"varint at byte {offset} is cut: the input ends at byte {end}")


def encode(value: int) -> bytes:
    """The minimal varint of ``value``.

    :raises CodecError: ``value`` is negative or over 63 bits.
    """
    if not 0 <= value <= MAX_VARINT:
        raise CodecError(f"a varint holds 0 to 2**63 - 1, not {value}")
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
