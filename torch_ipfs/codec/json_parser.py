"""JSON (RFC 8259) read as data models of 64 bits need it: UTF-8, no key twice, no NaN, no number out of range, no bomb.

The standard library's parser does the work. Where it finds fault the text is parsed again by a parser without recursion that
names the offset.
"""

from __future__ import annotations

import gc
import json
import math
import re
from collections.abc import Callable
from typing import Any, NoReturn

from torch_ipfs.codec import nesting
from torch_ipfs.errors import CodecError

MakeObject = Callable[[list[tuple[str, Any]]], Any]
"""Makes a value of an object's members, in their order. Raises CodecError where they do not make one."""

_SPACE = re.compile(r"[ \t\n\r]*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?P<fraction>\.[0-9]+)?(?P<exponent>[eE][+-]?[0-9]+)?")
_STRINGS = json.JSONDecoder()
"""Reads a string where one begins."""
_LITERALS = {"t": ("true", True), "f": ("false", False), "n": ("null", None)}
_MAX_INTEGER_CHARS = len(str(-(2**64)))
_NUMBER_SHAPE = bytes.maketrans(b"123456789E", b"000000000e")
_WIDE = re.compile(rb"00000000000000000000(?<![.0]0{20})")
"""20 digits that no point goes before, spelled out: so it is searched for as fast as a literal."""
_ENDLESS = b"0" * 4000
"""So many digits that Python would take seconds for an integer of them, where it was told that it may."""
_MAX_LOCATED_BYTES = 2 * 2**20
"""Of a longer text, which is no single block, it is not found out by a second parse, a minute long, where the fault is."""


def no_duplicates(members: list[tuple[str, Any]]) -> dict[str, Any]:
    """A dict of an object's members.

    :raises CodecError: a key is there twice.
    """
    made = dict(members)
    if len(made) != len(members):
        seen: set[str] = set()
        twice = next(key for key, _ in members if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise CodecError(f"key {twice[:80]!r} twice in an object")
    return made


class Parser:
    """Parses JSON; ``make_object`` makes the values of its objects."""

    __slots__ = ("_decoder", "_make_object")

    def __init__(self, make_object: MakeObject) -> None:
        self._make_object = make_object
        self._decoder = json.JSONDecoder(object_pairs_hook=make_object, parse_constant=_refuse_constant)

    def decode(self, data: bytes | bytearray | memoryview) -> Any:
        """The value of a JSON text in UTF-8.

        :raises CodecError: it is none, or has what the module's head excludes.
        """
        data = bytes(data)
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            raise CodecError(f"not JSON: not UTF-8, at byte {error.start}") from None
        shape = data.translate(_NUMBER_SHAPE, b"+")
        may_be_wide = b"e000" in shape or _WIDE.search(shape) is not None
        # The search for so long a string takes half as long as all else, and is seldom needed.
        if nesting.native_recursion_is_safe() and not (may_be_wide and _ENDLESS in shape):
            try:
                value = self._decoder.decode(text)
                if b"\\u" in data:
                    _refuse_surrogates(value)
                if may_be_wide:
                    _refuse_wide_numbers(value)
                if len(data) > nesting.MAX_DEPTH:
                    _refuse_deep(value)
            except (ValueError, RecursionError) as error:
                if len(data) > _MAX_LOCATED_BYTES:
                    raise CodecError(f"not JSON as it is read here: {error}") from None
            else:
                return value
        return _Text(text, self._make_object).parse()


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _refuse_wide_numbers(value: Any) -> None:
    """Raise ValueError where a number is out of range. A text shows that one may be, not that it stands outside of strings."""
    items = [value]
    while items:
        kinds = set(map(type, items))
        integers = [item for item in items if type(item) is int] if int in kinds else [0]
        if not -(2**64) <= min(integers) <= max(integers) < 2**64:
            raise ValueError("an integer over 64 bits")
        if float in kinds and any(math.isinf(item) for item in items if type(item) is float):
            raise ValueError("a number out of the range of 64 bits")
        items = gc.get_referents(*[item for item in items if isinstance(item, list | dict)])


def _refuse_deep(value: Any) -> None:
    if nesting.is_deep(value):
        raise ValueError(f"nesting deeper than {nesting.MAX_DEPTH} arrays and objects")


def _refuse_surrogates(value: Any) -> None:
    r"""Raise UnicodeEncodeError where a text holds half of a surrogate pair, which ``\ud800`` alone makes."""
    json.dumps(value, ensure_ascii=False, default=lambda _: None).encode()


class _Open:
    """An array or object that is not closed yet."""

    __slots__ = ("array", "key", "members", "start")

    def __init__(self, start: int, array: list[Any] | None) -> None:
        self.start = start
        self.array = array
        self.members: list[tuple[str, Any]] = []
        self.key = ""

    def add(self, value: Any) -> None:
        if self.array is None:
            self.members.append((self.key, value))
        else:
            self.array.append(value)


class _Text:
    """A JSON text and how far it is read. Positions are in characters, messages speak of bytes."""

    __slots__ = ("make_object", "position", "text")

    def __init__(self, text: str, make_object: MakeObject) -> None:
        self.text = text
        self.position = 0
        self.make_object = make_object

    def fail(self, position: int, what: str) -> NoReturn:
        raise CodecError(f"not JSON as it is read here: {what}, at byte {len(self.text[:position].encode())}")

    def parse(self) -> Any:
        opened: list[_Open] = []
        while True:
            self._skip_space()
            if len(opened) > nesting.MAX_DEPTH:
                self.fail(self.position, f"nesting deeper than {nesting.MAX_DEPTH} arrays and objects")
            value = self._start()
            if isinstance(value, _Open) and not self._closes(value):
                if value.array is None:
                    self._key(value)
                opened.append(value)
                continue
            while True:
                if isinstance(value, _Open):
                    value = self._made(value)
                if not opened:
                    self._end()
                    return value
                opened[-1].add(value)
                if not self._goes_on(opened[-1]):
                    value = opened.pop()
                    continue
                break

    def _next(self) -> str:
        return self.text[self.position : self.position + 1]

    def _skip_space(self) -> None:
        found = _SPACE.match(self.text, self.position)
        self.position = found.end() if found else self.position

    def _start(self) -> Any:
        """The value that comes next where it is whole by itself; of an array or object the beginning."""
        character, start = self._next(), self.position
        if character == '"':
            return self._string()
        if character in ("[", "{"):
            self.position += 1
            return _Open(start, [] if character == "[" else None)
        if character in _LITERALS:
            name, value = _LITERALS[character]
            if self.text.startswith(name, start):
                self.position += len(name)
                return value
        return self._number()

    def _closes(self, top: _Open) -> bool:
        """Whether ``top``, just opened, is empty."""
        self._skip_space()
        if self._next() != ("}" if top.array is None else "]"):
            return False
        self.position += 1
        return True

    def _goes_on(self, top: _Open) -> bool:
        """Read the comma and the key after a value, or the end of ``top``."""
        self._skip_space()
        character = self._next()
        self.position += 1
        if character == ",":
            self._skip_space()
            if top.array is None:
                self._key(top)
            return True
        if character != ("}" if top.array is None else "]"):
            self.fail(self.position - 1, f"expected a comma or the end of the {_kind(top)}, found {character!r}")
        return False

    def _key(self, top: _Open) -> None:
        if self._next() != '"':
            self.fail(self.position, f"expected a key, found {self._next()!r}")
        top.key = self._string()
        self._skip_space()
        if self._next() != ":":
            self.fail(self.position, f"expected a colon, found {self._next()!r}")
        self.position += 1

    def _made(self, top: _Open) -> Any:
        if top.array is not None:
            return top.array
        try:
            return self.make_object(top.members)
        except CodecError as error:
            self.fail(top.start, str(error))

    def _string(self) -> str:
        start = self.position
        value: str
        try:
            value, self.position = _STRINGS.raw_decode(self.text, start)
            value.encode()
        except json.JSONDecodeError as error:
            self.fail(error.pos, f"a string with what strings may not hold, or without an end ({error.msg})")
        except UnicodeEncodeError:
            self.fail(start, "a string with half of a surrogate pair")
        return value

    def _number(self) -> int | float:
        start = self.position
        found = _NUMBER.match(self.text, start)
        if found is None:
            self.fail(start, f"expected a value, found {self._next()!r}")
        self.position = found.end()
        text = found[0]
        if found["fraction"] is None and found["exponent"] is None:
            value = int(text) if len(text) <= _MAX_INTEGER_CHARS else 2**64
            if not -(2**64) <= value < 2**64:
                self.fail(start, f"an integer over 64 bits ({text[:40]})")
            return value
        number = float(text)
        if math.isinf(number):
            self.fail(start, f"a number out of the range of 64 bits ({text[:40]})")
        return number

    def _end(self) -> None:
        self._skip_space()
        if self.position < len(self.text):
            self.fail(self.position, f"{len(self.text) - self.position} characters follow the value")


def _kind(top: _Open) -> str:
    return "object" if top.array is None else "array"
