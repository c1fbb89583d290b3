"""Request bodies of strangers: bounded decompression, strict JSON and forms, encoded bytes."""

import contextlib
import gzip
import json
import tracemalloc
import zlib
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.contracts.errors import Malformed, TooLarge, UnsupportedMedia
from shared.wire.bodies import (
    decode_bytes,
    form_field,
    inflate,
    media_type,
    parse_json,
    parse_object,
    replace_lone_surrogates,
)

LIMIT = 1000


@pytest.mark.parametrize("encoding", ["", "identity"])
def test_a_plain_body_is_left_alone(encoding: str) -> None:
    body = b"x" * 2000
    assert inflate(body, encoding, LIMIT) is body


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip"])
@pytest.mark.parametrize("size", [0, 1, LIMIT - 1, LIMIT])
def test_gzip_up_to_the_limit(encoding: str, size: int) -> None:
    assert inflate(gzip.compress(b"x" * size), encoding, LIMIT) == b"x" * size


@pytest.mark.parametrize("size", [LIMIT + 1, LIMIT * 100])
def test_gzip_over_the_limit(size: int) -> None:
    with pytest.raises(TooLarge):
        inflate(gzip.compress(b"x" * size), "gzip", LIMIT)


def test_a_bomb_is_not_inflated() -> None:
    """64 MiB in 64 KiB: what is allocated stays near the limit, not near the bomb."""
    stream = zlib.compressobj(9, wbits=31)
    bomb = b"".join([stream.compress(bytes(2**20)) for _ in range(64)]) + stream.flush()
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge):
            inflate(bomb, "gzip", 1024 * 1024)
        assert tracemalloc.get_traced_memory()[1] < 4 * 1024 * 1024
    finally:
        tracemalloc.stop()


_WHOLE = gzip.compress(b'{"a":1}', mtime=0)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not gzip",
        _WHOLE[:-1],
        _WHOLE[: len(_WHOLE) // 2],
        _WHOLE[:10],
        _WHOLE[:12] + b"\xff" + _WHOLE[13:],
        _WHOLE[:-8] + b"\0\0\0\0" + _WHOLE[-4:],  # the checksum of another body
        _WHOLE + b"trailing",
        _WHOLE + _WHOLE,  # two members: two bodies in one
        zlib.compress(b"{}"),
    ],
)
def test_a_broken_stream(body: bytes) -> None:
    with pytest.raises(Malformed):
        inflate(body, "gzip", LIMIT)


@pytest.mark.parametrize(
    "encoding", ["deflate", "br", "zstd", "gzip, gzip", "gzip,", "GZIP", "\ufffd", "a" * 5000]
)
def test_other_encodings(encoding: str) -> None:
    """The caller lowers the case; the refusal repeats at most a part of what came."""
    with pytest.raises(UnsupportedMedia) as caught:
        inflate(_WHOLE, encoding, LIMIT)
    assert len(caught.value.detail) < 200


@given(st.binary(max_size=300), st.sampled_from(["gzip", "", "br"]))
def test_inflating_never_raises_anything_else(body: bytes, encoding: str) -> None:
    with contextlib.suppress(Malformed, TooLarge, UnsupportedMedia):
        inflate(body, encoding, LIMIT)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b"{}", {}),
        (b"[1]", [1]),
        (b"null", None),
        (b' {"a": "\\u00fc"} ', {"a": "ü"}),
        ('{"a":"\U0001f600"}'.encode(), {"a": "\U0001f600"}),
        (b'"\\ud83d\\ude00"', "\U0001f600"),
        (b'{"a":1,"a":2}', {"a": 2}),
    ],
)
def test_json(text: bytes, value: Any) -> None:
    assert parse_json(text) == value


NOT_JSON = (
    b"",
    b" ",
    b"{",
    b"{'a':1}",
    b"NaN",
    b"Infinity",
    b'{"a":1}x',
    b'{"a":1}{"b":2}',
    b'{"a":\xff}',
    b'"\xff\xfe"',
    b'"\xed\xa0\x80"',  # a surrogate in UTF-8
    b'"\\ud800"',  # half of a pair
    b'"\\udc00\\ud800"',
    b'"a\x00b"',
    b"\xef\xbb\xbf{}",  # byte order mark
    '{"a":1}'.encode("utf-16"),
    b"[" * 10_000 + b"]" * 10_000,
    b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    b"// comment\n{}",
    b"[1,]",
    b"01",
)


@pytest.mark.parametrize("text", NOT_JSON)
def test_what_is_no_json(text: bytes) -> None:
    with pytest.raises(Malformed) as caught:
        parse_json(text)
    assert len(caught.value.detail) < 300


@pytest.mark.parametrize("text", [b"[]", b"1", b'"{}"', b"null", b"true", b"[{}]"])
def test_json_that_is_no_object(text: bytes) -> None:
    parse_json(text)
    with pytest.raises(Malformed):
        parse_object(text)


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_parsing_never_raises_anything_else(text: bytes) -> None:
    try:
        value = parse_object(text)
    except Malformed:
        return
    assert orjson.loads(orjson.dumps(value)) == value


def test_media_types() -> None:
    assert media_type("application/json") == "application/json"
    assert media_type(" Application/JSON ; charset=utf-8") == "application/json"
    assert media_type("") == ""


@pytest.mark.parametrize(
    ("form", "value"),
    [
        (b"payload=%7B%22a%22%3A1%7D", b'{"a":1}'),
        (b"a=1&payload=x+y&b=2", b"x y"),
        (b"payload=%C3%BC", "ü".encode()),
        (b"payload=", b""),
    ],
)
def test_a_forms_field(form: bytes, value: bytes) -> None:
    assert form_field(form, "payload") == value


@pytest.mark.parametrize(
    "form",
    [
        b"",
        b"other=1",
        b"payload=1&payload=2",
        b"payload=%FF",
        b"payload=\xff",
        b"PAYLOAD=1",
        b"&".join(b"a=1" for _ in range(200)) + b"&payload=1",
    ],
)
def test_a_form_without_the_field_once(form: bytes) -> None:
    with pytest.raises(Malformed):
        form_field(form, "payload")


# Bytes written as text


@pytest.mark.parametrize(
    ("text", "encoding", "raw"),
    [
        ("00ff", "hex", b"\x00\xff"),
        ("00FF", "hex", b"\x00\xff"),
        ("0", "hex", None),
        ("zz", "hex", None),
        ("00 ff", "hex", None),
        ("", "hex", b""),
        ("+/8=", "base64", b"\xfb\xff"),
        ("-_8=", "base64", b"\xfb\xff"),
        ("+/8", "base64", b"\xfb\xff"),
        ("a", "base64", None),
        ("a b=", "base64", None),
        ("a\nb=", "base64", None),
        ("ä", "base64", None),
        ("\ud800", "hex", None),
        ("aa=a", "base64", None),
    ],
)
def test_decoding(text: str, encoding: str, raw: bytes | None) -> None:
    assert decode_bytes(text, encoding) == raw


@given(st.binary(max_size=60), st.sampled_from(["hex", "base64"]))
def test_decoding_never_raises(raw: bytes, encoding: str) -> None:
    decode_bytes(raw, encoding)
    decode_bytes(raw.decode("latin-1"), encoding)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"\ud83d", "\ufffd"),
        (r"a\uDE00b", "a\ufffdb"),
        (r"\ud83d\ude00", "\U0001f600"),
        (r"\ud83d\ud83d\ude00", "\ufffd\U0001f600"),
        (r"\ud83d\u0041", "\ufffdA"),
        (r"\\ud83d", r"\ud83d"),
        (r"\\\ud83d", "\\\ufffd"),
        (r"\"\ud83d\"", '"\ufffd"'),
    ],
)
def test_half_of_a_surrogate_pair_is_replaced(text: str, expected: str) -> None:
    assert parse_json(replace_lone_surrogates(f'"{text}"'.encode())) == expected


@given(st.text(max_size=50))
def test_other_json_stays_as_it_is(text: str) -> None:
    body = json.dumps(text).encode()
    assert replace_lone_surrogates(body) == body
    assert parse_json(body) == text
