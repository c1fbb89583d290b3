"""Recorded requests with something wrong with them: what proxies, bugs and strangers make of a webhook."""

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from shared.verification.request import InboundRequest
from shared.wire.bodies import FORM_CONTENT_TYPE

ODD: Sequence[Any] = (
    "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59",
    None, True, 0, -1, 1e300, 2**63, "", "x" * 3000, "\0", "ä😀", [], {}, ["x"], {"x": [{}]}, [[[[1]]]],
)  # fmt: skip
BODIES: Sequence[bytes] = (
    b"", b"null", b"0", b'""', b"[]", b"{}", b"[{}]", b"[null]", b'{"":{}}', b"\xff\xfe", b"<a/>",
    b"[" * 100_000, b"[" * 400 + b"]" * 400, b'{"a":' * 300 + b"1" + b"}" * 300, b"1e999", b"1" * 5000,
    b'{"a":1' + b"0" * 400 + b"}", b'{"a":"\\ud800"}', b"a=1&a=2&a[b]=3", b"&".join([b"a=1"] * 1200),
    b"%ff=%ff", b"a[b][c][d][e][f][g][h][i][j][k][l]=1", b"payload=%7B%7D&payload=%7B%7D", b"=", b"&&&",
)  # fmt: skip
_TYPES: Sequence[bytes] = (
    b"application/json", FORM_CONTENT_TYPE.encode(), b"text/plain", b"application/xml",
    b"application/atom+xml",
    b"multipart/form-data; boundary=x", b"application/json; charset=utf-16", b"", b"\xff", b";", b"x" * 300,
)  # fmt: skip
_QUERIES: Sequence[bytes] = (
    b"", b"%", b"%ff=%ff", b"a=1&a=2", b"=", b"&".join([b"a=1"] * 1200), b"hub.mode=subscribe",
    b"challenge=%0d%0aset-cookie:%20a=b", b"validationToken=<script>alert(1)</script>", b"x" * 3000,
)  # fmt: skip


def changed(
    request: InboundRequest,
    *,
    method: str | None = None,
    query: bytes | None = None,
    headers: Mapping[bytes, Sequence[bytes]] | None = None,
    body: bytes | None = None,
) -> InboundRequest:
    """The same request with some parts exchanged."""
    return InboundRequest(
        method or request.method,
        request.address,
        request.query_string if query is None else query,
        request.headers if headers is None else headers,
        request.body if body is None else body,
        request.settings,
        request._reader,
    )


def mutants(request: InboundRequest, seed: str, count: int) -> Iterator[tuple[str, InboundRequest]]:
    """`count` changed requests, the same ones for the same seed, each with what was done to it."""
    rng = random.Random(seed)  # noqa: S311 -- repeatable
    for _ in range(count):
        kind = rng.choice(_KINDS)
        mutant = request
        for _ in range(rng.choice((1, 1, 2))):
            mutant = kind(mutant, rng)
        yield kind.__name__.strip("_"), mutant


def _truncated(request: InboundRequest, rng: random.Random) -> InboundRequest:
    return changed(request, body=request.body[: rng.randint(0, len(request.body))])


def _flipped(request: InboundRequest, rng: random.Random) -> InboundRequest:
    body = bytearray(request.body or b"{}")
    for _ in range(rng.randint(1, 4)):
        body[rng.randrange(len(body))] ^= 1 << rng.randrange(8)
    return changed(request, body=bytes(body))


def _with_another_body(request: InboundRequest, rng: random.Random) -> InboundRequest:
    return changed(request, body=rng.choice(BODIES))


def _with_another_value(request: InboundRequest, rng: random.Random) -> InboundRequest:
    """One value of the JSON, at any depth, is of another type or size."""
    try:
        value = orjson.loads(request.body)
        places = list(_places(value))
        holder, key = rng.choice(places)
    except (orjson.JSONDecodeError, IndexError):
        return _with_another_body(request, rng)
    holder[key] = rng.choice(ODD)
    return changed(request, body=orjson.dumps(value))


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield value, key
        yield from _places(inner)


def _with_a_text_replaced(request: InboundRequest, rng: random.Random) -> InboundRequest:
    """Numbers that are too large, fields that are there twice, nesting and broken escapes in the raw text."""
    old, new = rng.choice(
        (
            (b"{", b'{"type":"x","type":[],'),
            (b"{", b'{"id":1e999,'),
            (b":", b":" + b"[" * 500),
            (b'"', b"\xed\xa0\x80"),
            (b'"', b'\\ud800"'),
            (b"=", b"=1&x=%ff&="),
            (b"0", b"0" * 400),
            (b"}", b',"z":' + b"9" * 400 + b"}"),
            (b"<", b'<!DOCTYPE a [<!ENTITY b "x">]><'),
            (b">", b">&b;<![CDATA["),
        )
    )
    return changed(request, body=request.body.replace(old, new, 1))


def _with_another_type(request: InboundRequest, rng: random.Random) -> InboundRequest:
    return changed(request, headers={**request.headers, b"content-type": [rng.choice(_TYPES)]})


def _without_a_header(request: InboundRequest, rng: random.Random) -> InboundRequest:
    names = list(request.headers)
    gone = rng.choice(names) if names else b""
    return changed(
        request, headers={name: values for name, values in request.headers.items() if name != gone}
    )


def _with_a_header_of_garbage(request: InboundRequest, rng: random.Random) -> InboundRequest:
    names = [*request.headers, b"authorization", b"x-hub-signature-256"]
    values = rng.choice(
        ([b""], [b"\xff\xfe"], [b"a", b"b"], [b"x" * 6000], [b"t=,v1=,=,"], [b"Bearer a.b.c"])
    )
    return changed(request, headers={**request.headers, rng.choice(names): values})


def _with_many_headers(request: InboundRequest, rng: random.Random) -> InboundRequest:
    flood = {b"x-flood-%d" % number: [b"x" * 20] for number in range(rng.choice((50, 90)))}
    return changed(request, headers={**request.headers, **flood})


def _with_another_query(request: InboundRequest, rng: random.Random) -> InboundRequest:
    query = rng.choice((rng.choice(_QUERIES), request.query_string + b"&" + request.query_string))
    return changed(request, query=query)


def _with_another_method(request: InboundRequest, rng: random.Random) -> InboundRequest:
    return changed(request, method=rng.choice(("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")))


_KINDS = (
    _truncated, _flipped, _with_another_body, _with_another_body, _with_another_value, _with_another_value,
    _with_a_text_replaced, _with_a_text_replaced, _with_another_type, _without_a_header, _with_another_query,
    _with_a_header_of_garbage, _with_many_headers, _with_another_method,
)  # fmt: skip
