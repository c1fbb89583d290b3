"""Inbound requests: parts that are repeated or cannot be decoded, URLs, digests, and the cost of reading."""

from time import process_time
from typing import Any

import pytest

from shared.contracts.errors import Malformed, Rejected
from shared.verification.request import InboundRequest
from shared.wire.bodies import MAX_FORM_FIELDS
from tests.verification.raw_requests import ADDRESS, read, request


def test_what_is_there_twice_is_not_there() -> None:
    """Of two values, a proxy and we might each read another one."""
    inbound = request(
        query=b"a=1&a=2", body=b"x=1&x=2&y=1", headers={b"h": [b"1", b"2"], b"one": [b"1"], b"none": []}
    )
    for source in ("query:a", "form:x", "header:h", "header:none"):
        assert read(source, inbound) is None, source
    assert (read("form:y", inbound), read("header:one", inbound)) == ("1", "1")


def test_bytes_of_a_header_stay_apart() -> None:
    """What cannot be told apart could be exchanged: nothing is decoded with replacement characters."""
    first, second = (request(headers={b"h": [value]}) for value in (b"caf\xe9", b"caf\xe8"))
    assert read("header:h", first) != read("header:h", second)


def test_a_query_or_form_that_cannot_be_read() -> None:
    for raw in (b"\xff", b"a=%ff", b"&".join(b"a=1" for _ in range(MAX_FORM_FIELDS + 1)), "ü=1".encode()):
        with pytest.raises(Malformed):
            read("query:a", request(query=raw))
        with pytest.raises(Malformed):
            read("form:a", request(body=raw))
    assert len(request(query=b"&".join(b"a=1" for _ in range(MAX_FORM_FIELDS))).query) == MAX_FORM_FIELDS


def test_a_body_that_cannot_be_read() -> None:
    inbound = request(body=b"no JSON")
    assert inbound.payload_or_none() is None
    for source in ("json:a", "item:a", "item_sha256", "key:a"):
        with pytest.raises(Malformed):
            read(source, inbound)


def test_the_payload_is_read_once() -> None:
    read_times = 0

    def reader(_: InboundRequest) -> Any:
        nonlocal read_times
        read_times += 1
        return {"a": "1"}

    inbound = InboundRequest("POST", ADDRESS, b"", {}, b"", {}, reader)
    assert [read("json:a", inbound), read("item:a", inbound), inbound.payload] == ["1", "1", {"a": "1"}]
    assert read_times == 1


@pytest.mark.parametrize(
    ("address", "with_port", "without"),
    [
        ("https://h.example/p", "https://h.example:443/p?q=1", "https://h.example/p?q=1"),
        ("http://h.example/p", "http://h.example:80/p?q=1", "http://h.example/p?q=1"),
        ("https://h.example:8443/p", "https://h.example:8443/p?q=1", "https://h.example/p?q=1"),
        ("https://[2001:db8::1]/p", "https://[2001:db8::1]:443/p?q=1", "https://[2001:db8::1]/p?q=1"),
        ("https://[2001:db8::1]:8443/p", "https://[2001:db8::1]:8443/p?q=1", "https://[2001:db8::1]/p?q=1"),
    ],
)
def test_the_address_with_and_without_its_port(address: str, with_port: str, without: str) -> None:
    """Twilio signs either, whatever the address says."""
    inbound = request(address=address, query=b"q=1")
    assert read("url_with_port", inbound) == with_port
    assert read("url_without_port", inbound) == without


def test_the_sorted_fields_of_a_form() -> None:
    inbound = request(body=b"b=2&a=1&B=3&c=&b=1&b=2&%C3%A4=%F0%9F%98%80")
    assert read("sorted_form", inbound) == "B3" + "a1" + "b1b2" + "c" + "ä😀"


def test_the_digest_of_an_item_does_not_change_with_the_order_of_its_keys() -> None:
    one, other, third = (
        request(body=body)
        for body in (b'{"a":1,"b":{"c":2,"d":3}}', b'{ "b":{"d":3,"c":2},"a":1}', b'{"a":2}')
    )
    assert read("item_sha256", one) == read("item_sha256", other) != read("item_sha256", third)
    batch = request(body=b'[{"a":1},{"a":2}]')
    first, second = (batch.for_event(batch.payload, item) for item in batch.payload)
    assert read("item_sha256", second) == read("item_sha256", third) != read("item_sha256", first)
    assert (read("json:0.a", second), read("item:a", second)) == ("1", "2")


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 1_000_000,
        b'{"a":' * 300_000,
        b"[" * 1000 + b"]" * 1000,
        b'{"a":' * 900 + b"1" + b"}" * 900,
        b"&".join(b"a[%d]=x" % number for number in range(100_000)),
        b"a=" + b"%41" * 340_000,
        b"a" * 1_048_576,
        b"1" * 1_048_576,
        b"\xf0\x9f\x98\x80" * 260_000,
        b'{"a":"' + b"\\u0000" * 170_000 + b'"}',
    ],
    ids=range(10),
)
def test_a_megabyte_takes_no_time(body: bytes) -> None:
    started = process_time()
    for source in ("sorted_form", "item_sha256", "json:a", "key:a", "sha256", "crc32"):
        try:
            read(source, request(body=body))
        except Rejected:
            continue
    assert process_time() - started < 1
