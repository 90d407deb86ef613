"""DAG-JSON and plain JSON: round trips, the reserved key "/", and the walls both share."""

from __future__ import annotations

import json as stdlib_json
import math
import sys
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.codec.strategies import json_values, nest, same, says, values
from torch_ipfs.codec import dag_json, json, json_parser, json_writer
from torch_ipfs.codec.cid import CID
from torch_ipfs.codec.nesting import MAX_DEPTH
from torch_ipfs.errors import CodecError

BOTH = pytest.mark.parametrize("codec", [dag_json, json], ids=["dag-json", "json"])
LINK = "bafkreifw7plhl6mofk6sfvhnfh64qmkq73oeqwl6sloru6rehaoujituke"
V0 = "QmRgutAxd8t7oGkSm4wmeuByG6M51wcTso6cubDdQtuEfL"


def slow_decode(codec: ModuleType, data: bytes) -> Any:
    """By the parser that is otherwise asked only where the quick one finds fault."""
    make_object = {dag_json: dag_json._value, json: json_parser.no_duplicates}[codec]
    return json_parser._Text(data.decode(), make_object).parse()


@given(values)
def test_dag_json_round_trip_or_a_map_that_it_reserves(value: Any) -> None:
    try:
        block = dag_json.encode(value)
    except CodecError as error:
        says(error, 'first key is "/"')
        return
    assert same(dag_json.decode(block), value)
    assert same(slow_decode(dag_json, block), value)
    assert dag_json.encode(dag_json.decode(memoryview(block))) == block


@given(json_values)
def test_json_round_trip(value: Any) -> None:
    block = json.encode(value)
    assert same(json.decode(block), value)
    assert same(slow_decode(json, block), value)
    assert same(stdlib_json.loads(block), value)


@given(json_values, st.sampled_from([None, 0, 3, "\t"]), st.booleans())
def test_reads_what_another_writer_writes(value: Any, indent: int | str | None, ensure_ascii: bool) -> None:
    text = stdlib_json.dumps(value, indent=indent, ensure_ascii=ensure_ascii).encode()
    assert same(json.decode(text), value)
    assert same(slow_decode(json, b" " + text + b"\n"), value)


@BOTH
@pytest.mark.parametrize(
    ("value", "text"),
    [
        ([None, True, False, 0, -1, 2**64 - 1, -(2**64)], "[null,true,false,0,-1,18446744073709551615,-18446744073709551616]"),
        ([1.0, -0.0, 0.1, 1e16, 123456789012345680000.0], "[1.0,-0.0,0.1,10000000000000000.0,123456789012345680000.0]"),
        ([1e21, 1.5e300, -1e-7, 1e-6, 1.5e-5, 5e-324], "[1e+21,1.5e+300,-1e-7,0.000001,0.000015,5e-324]"),
        ('"\\/\b\f\n\r\t\x00\x1f\x7f\u2028é𐅑', '"\\"\\\\/\\b\\f\\n\\r\\t\\u0000\\u001f\x7f\u2028é𐅑"'),
        ({"b": [], "a": {}, "aa": (1,), "𐅑": 1, "\uffff": 2}, '{"a":{},"aa":[1],"b":[],"\uffff":2,"𐅑":1}'),
    ],
)  # fmt: skip
def test_the_one_encoding(codec: ModuleType, value: Any, text: str) -> None:
    assert codec.encode(value) == text.encode()
    assert codec.decode(text.encode()) == (value if not isinstance(value, dict) else {**value, "aa": [1]})


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats_read_back_bit_for_bit(number: float) -> None:
    text = json_writer.float_text(number)
    back = json.decode(text.encode())
    assert type(back) is float
    assert (back, math.copysign(1, back)) == (number, math.copysign(1, number))


def test_links_and_bytes() -> None:
    value = {"link": CID.parse(LINK), "old": CID.parse(V0), "bytes": b"\xa1", "none": b"", "like": b"\x01\x55\x00\x00"}
    block = (
        '{"bytes":{"/":{"bytes":"oQ"}},"like":{"/":{"bytes":"AVUAAA"}},'
        f'"link":{{"/":"{LINK}"}},"none":{{"/":{{"bytes":""}}}},"old":{{"/":"{V0}"}}}}'
    ).encode()
    assert dag_json.encode(value) == block
    assert same(dag_json.decode(block), value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"/":true}', {"/": True}),
        ('{"/":true,"bar":"baz"}', {"/": True, "bar": "baz"}),
        ('{"0bar":"baz","/":"foo"}', {"0bar": "baz", "/": "foo"}),
        ('{"!":1,"/":"foo"}', {"!": 1, "/": "foo"}),
        ('{"/":{"abar":"baz","bytes":"foo"}}', {"/": {"abar": "baz", "bytes": "foo"}}),
        ('{"/":{"bytes":true}}', {"/": {"bytes": True}}),
        ('{"/":{"bytes":true},"bar":"baz"}', {"/": {"bytes": True}, "bar": "baz"}),
        ('{"0bar":"baz","/":{"bytes":"foo"}}', {"0bar": "baz", "/": {"bytes": "foo"}}),
        ('{"/":{}}', {"/": {}}),
        ('{"/":{"/":{"bytes":""}}}', {"/": b""}),
        ('{"/":{"bytes":{"/":{"bytes":""}}}}', {"/": {"bytes": b""}}),
        (f'{{"/":["{LINK}"]}}', {"/": [LINK]}),
        (f' {{ "/" : "{LINK}" }} ', CID.parse(LINK)),
        ('{"/":{"bytes":"Y2NjYw"}}', b"cccc"),
    ],
)
def test_what_the_reserved_namespace_lets_through(text: str, value: Any) -> None:
    assert same(dag_json.decode(text.encode()), value)
    assert same(slow_decode(dag_json, text.encode()), value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"/":"foo","bar":"baz"}', "more keys.*at byte 0"),
        ('[{"/":{"bytes":"foo","bar":"baz"}}]', "more keys.*at byte 1"),
        ('{"/":{"bytes":"foo"},"bar":"baz"}', "more keys"),
        (f'{{"/":"{LINK}","/":"{LINK}"}}', "more keys"),
        ('{"/":"foo"}', "no CID|not the multibase text|no known multibase"),
        ('{"/":""}', "no known multibase prefix"),
        ('{"/":"zb2rhZfjRh2FHHB2RkHVEvL2vJnCTcu7kwRqgVsf9gpkLgteo"}', "a link is written 'bafkreibm6"),
        (f'{{"/":"{LINK.upper()}"}}', "a link is written"),
        ('{"/":{"bytes":"Y2NjYw=="}}', "not base64 without padding"),
        ('{"/":{"bytes":"Y2NjYx"}}', "not base64 without padding"),
        ('{"/":{"bytes":"Y2N jYw"}}', "not base64 without padding"),
        ('{"/":{"bytes":"-_"}}', "not base64 without padding"),
        ('{"a":{"/":{"bytes":"a","bytes":"b"}}}', "key 'bytes' twice.*at byte 10"),
    ],
)
def test_what_the_reserved_namespace_refuses(text: str, message: str) -> None:
    with pytest.raises(CodecError, match=message):
        dag_json.decode(text.encode())
    plain = stdlib_json.loads(text)
    if '"bytes":"a"' not in text and text.count('"/"') == 1:
        assert json.decode(text.encode()) == plain


@pytest.mark.parametrize(
    "value",
    [
        {"/": LINK},
        {"/": ""},
        {"/": "x", "0": 1},
        {"/": {"bytes": "x"}},
        {"/": {"bytes": "x", "c": 1}},
        {"/": {"bytes": "x"}, "0": 1},
    ],
)
def test_maps_that_would_read_as_links_or_bytes_are_not_written(value: Any) -> None:
    for held in (value, [value], {"a": value}):
        with pytest.raises(CodecError, match="reserves maps"):
            dag_json.encode(held)
        assert same(json.decode(json.encode(held)), held)


REFUSED = {
    "nothing": ("", "expected a value, found ''.*at byte 0"),
    "space": ("  ", "expected a value.*at byte 2"),
    "two values": ("1 2", "1 characters follow the value, at byte 2"),
    "NaN": ("[NaN]", "expected a value, found 'N', at byte 1"),
    "Infinity": ("Infinity", "expected a value, found 'I'"),
    "-Infinity": ("[-Infinity]", "expected a value, found '-', at byte 1"),
    "a float over range": ("[1e999]", "out of the range of 64 bits .1e999., at byte 1"),
    "a float far over range": ("1e+99999999", "out of the range"),
    "a float by its digits": ("9" * 400 + ".0", "out of the range"),
    "an integer of 65 bits": ("[18446744073709551616]", "an integer over 64 bits .18446744073709551616., at byte 1"),
    "a negative integer of 65 bits": ("-18446744073709551617", "an integer over 64 bits"),
    "an integer of 5,000 digits": ("1" * 5000, "an integer over 64 bits"),
    "an integer of a million digits": ("1" * 10**6, "an integer over 64 bits"),
    "a leading zero": ("01", "follow the value, at byte 1"),
    "a plus": ("+1", "expected a value"),
    "a bare point": ("[.5]", "expected a value"),
    "a trailing point": ("[1.]", r"expected a comma or the end of the array, found '\.'"),
    "a bare exponent": ("[1e]", "expected a comma"),
    "a minus": ("-", "expected a value"),
    "hexadecimal": ("0x10", "follow the value"),
    "other digits": ("\u0663", "expected a value"),
    "a trailing comma": ("[1,]", "expected a value, found ']', at byte 3"),
    "a trailing comma in a map": ('{"a":1,}', "expected a key, found '}', at byte 7"),
    "no comma": ('["é" 1]', "expected a comma or the end of the array, found '1', at byte 6"),
    "no colon": ('{"a" 1}', "expected a colon, found '1'"),
    "no quotes": ("{a:1}", "expected a key, found 'a', at byte 1"),
    "single quotes": ("'a'", "expected a value"),
    "a comment": ("/**/1", "expected a value, found '/'"),
    "a number as key": ("{1:2}", "expected a key"),
    "a key twice": ('[{"a":1,"b":2,"a":1}]', "key 'a' twice in an object, at byte 1"),
    "a key twice by an escape": ('{"a":1,"\\u0061":2}', "key 'a' twice"),
    "the wrong end": ("[1}", "expected a comma or the end of the array, found '}'"),
    "the other wrong end": ('{"a":1]', "expected a comma or the end of the object, found ']'"),
    "no end": ("[[1]", "found ''"),
    "no end of a map": ('{"a":1', "found ''"),
    "a cut literal": ("[tru", "expected a value, found 't'"),
    "a literal in capitals": ("True", "expected a value"),
    "a cut string": ('["ab', "string .* without an end"),
    "a control character": ('"a\nb"', "a string with what strings may not hold"),
    "an unknown escape": ('"\\x41"', "a string with what strings may not hold"),
    "a cut escape": ('"\\u00"', "a string with what strings may not hold"),
    "half a surrogate pair": ('["\\ud800"]', "half of a surrogate pair, at byte 1"),
    "the other half": ('["a", "\\udfff"]', "half of a surrogate pair, at byte 6"),
    "a reversed pair": ('"\\ude00\\ud83d"', "half of a surrogate pair"),
    "half a pair as key": ('{"\\uD800":1}', "half of a surrogate pair"),
    "a byte order mark": ("\ufeff1", "expected a value"),
    "another space": ("\u00a01", "expected a value"),
    "a form feed": ("\f1", "expected a value"),
}  # fmt: skip


@BOTH
@pytest.mark.parametrize(("text", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(codec: ModuleType, text: str, message: str) -> None:
    with pytest.raises(CodecError, match=message) as caught:
        codec.decode(text.encode())
    assert "at byte" in str(caught.value)
    assert len(str(caught.value)) < 300
    with pytest.raises(CodecError, match=message):
        slow_decode(codec, text.encode())


@BOTH
@pytest.mark.parametrize("data", [b'"\xff"', b'["\xc3"]', b"\xed\xa0\x80", '"a"'.encode("utf-16"), b"\x80" * 300])
def test_what_is_not_utf_8(codec: ModuleType, data: bytes) -> None:
    with pytest.raises(CodecError, match="not UTF-8, at byte"):
        codec.decode(data)


@BOTH
def test_numbers_in_range_that_look_as_if_they_were_not(codec: ModuleType) -> None:
    text = (
        b'[18446744073709551615, -18446744073709551616, 1e+100, 0.10000000000000000000000001, 1E-400, "1e999 %s", 0.%s]'
    )
    digits = b"7" * 5000
    decoded = codec.decode(text % (digits, digits))
    assert decoded == [2**64 - 1, -(2**64), 1e100, 0.1, 0.0, "1e999 " + "7" * 5000, 7 / 9]


@BOTH
def test_strings_that_look_like_wide_numbers_are_left_to_the_quick_parser(
    codec: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = [{"image0001.png": "bafkreife234"}, "1e999", "7" * 30, 1e100]
    monkeypatch.setattr(json_parser, "_Text", None)
    assert codec.decode(stdlib_json.dumps(value).encode()) == value


@BOTH
@pytest.mark.parametrize(
    ("last", "message"),
    [
        ("1e999]", "out of the range"),
        ("9" * 30 + "]", "over 64 bits"),
        ('{"a":1,"a":2}]', "twice"),
        ("[" * 300 + "]" * 301, "deep"),
        ("1", "char"),
    ],
)
def test_a_text_of_many_blocks_is_not_parsed_twice(
    codec: ModuleType, last: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_parser, "_Text", None)
    with pytest.raises(CodecError, match=message):
        codec.decode(b"[" + b"0," * 2**20 + last.encode())


@BOTH
def test_pairs_of_surrogates_are_characters(codec: ModuleType) -> None:
    assert codec.decode(b'{"\\ud83d\\ude00":"\\uD83D\\uDE00 \\u00e9"}') == {"😀": "😀 é"}


@BOTH
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (math.nan, "has no nan"),
        (math.inf, "has no inf"),
        (2**64, "integers lie between"),
        (-(2**64) - 1, "integers lie between"),
        (2**10000, "integers lie between"),
        ({1: 2}, "keys are str, not int"),
        ({None: 2}, "keys are str, not NoneType"),
        ({1, 2}, "has no set"),
        (object(), "has no object"),
        ("\ud800", "UTF-8 cannot hold"),
        ({"\ud800": 1}, "UTF-8 cannot hold"),
    ],
)
def test_values_that_it_does_not_hold(codec: ModuleType, value: Any, message: str) -> None:
    for held in (value, [[value]], {"a": value}):
        with pytest.raises(CodecError, match=message):
            codec.encode(held)


@pytest.mark.parametrize("value", [b"a", CID.of(b"")], ids=["bytes", "link"])
def test_plain_json_has_no_bytes_and_no_links(value: object) -> None:
    with pytest.raises(CodecError, match=r"JSON has no (bytes|CID)"):
        json.encode([value])


@BOTH
@pytest.mark.parametrize("maps", [False, True])
@pytest.mark.parametrize("core", [0, [], {}, "a"], ids=repr)
def test_nests_as_deep_as_the_limit_and_no_deeper(codec: ModuleType, core: Any, *, maps: bool) -> None:
    deepest = nest(MAX_DEPTH, core, maps=maps)
    assert codec.decode(codec.encode(deepest)) == deepest
    with pytest.raises(CodecError, match=f"nests deeper than {MAX_DEPTH}"):
        codec.encode([deepest])
    before, after = (b'{"a":', b"}") if maps else (b"[", b"]")
    for depth in (257, 258, 2000):
        with pytest.raises(CodecError, match=f"nesting deeper than {MAX_DEPTH} .*, at byte {257 * len(before)}"):
            codec.decode(before * depth + b"0" + after * depth)


@BOTH
def test_pythons_recursion_limit_changes_nothing(codec: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "getrecursionlimit", lambda: 10**6)
    assert codec.decode(b'{"a":[1,2.5,"x"]}') == {"a": [1, 2.5, "x"]}
    with pytest.raises(CodecError, match="nesting deeper"):
        codec.decode(b"[" * 500_000)


@given(st.text(alphabet='[]{}",:0123456789.eE+-truefalsn /\\u d8\ud83dbytes\n', max_size=40))
def test_any_text_decodes_or_raises_as_the_slow_parser_does(text: str) -> None:
    data = text.encode("utf-8", "replace")
    for codec in (json, dag_json):
        try:
            value = codec.decode(data)
        except CodecError as error:
            says(error, "at byte")
            with pytest.raises(CodecError):
                slow_decode(codec, data)
        else:
            assert same(slow_decode(codec, data), value)
            assert codec is dag_json or same(stdlib_json.loads(data), value)
