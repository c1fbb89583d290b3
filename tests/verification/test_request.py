"""The language that names parts of a request: each source, templates, what is signed, and matches."""

import base64
import hashlib
import hmac
import zlib
from collections.abc import Callable, Mapping
from time import process_time
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.contracts.errors import Malformed, Rejected
from shared.manifests.registry import providers
from shared.verification.match import Match
from shared.verification.request import SECRET_SETTING, Headers, InboundRequest
from shared.verification.sources import SourceTemplateError, compile_path, compile_source, replace_source
from shared.verification.template import SignedContent, SourceTemplate
from shared.wire.bodies import MAX_FORM_FIELDS, decode_bytes, parse_json

ADDRESS = "https://hub.example.com/api/webhooks/x/ep_1"
BODY = b'{"a":{"b":[10,{"c":"deep"}]},"n":1.50,"t":true,"f":false,"z":null,"e":"","list":[],"k":"v"}'


def request(
    *,
    method: str = "POST",
    address: str = ADDRESS,
    query: bytes = b"",
    headers: Headers | None = None,
    body: bytes = BODY,
    settings: Mapping[str, str] | None = None,
) -> InboundRequest:
    return InboundRequest(
        method, address, query, headers or {}, body, settings or {}, lambda inbound: parse_json(inbound.body)
    )


def read(source: str, inbound: InboundRequest) -> str | None:
    return compile_source(source)(inbound)


# Sources


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("method", "POST"),
        ("url", ADDRESS + "?a=1&b=%20"),
        ("url_without_query", ADDRESS),
        ("path", "/api/webhooks/x/ep_1"),
        ("query:a", "1"),
        ("query:b", " "),
        ("query:c", None),
        ("header:x-one", "value"),
        ("header:X-One", "value"),
        ("header:x-two", None),
        ("header:x-none", None),
        ("json:a.b.0", "10"),
        ("json:a.b.1.c", "deep"),
        ("json:a.b.2", None),
        ("json:a.b.-1", None),
        ("json:a.b", None),
        ("json:a", None),
        ("json:n", "1.5"),
        ("json:t", "true"),
        ("json:f", "false"),
        ("json:z", None),
        ("json:e", ""),
        ("json:k.0", None),
        ("json:none.of.this", None),
        ("item:k", "v"),
        ("key:x|k|a", "k"),
        ("key:x|y", None),
        ("setting:team", "T1"),
        ("setting:none", None),
        ("crc32", str(zlib.crc32(BODY))),
        ("sha256", hashlib.sha256(BODY).hexdigest()),
    ],
)
def test_a_source(source: str, text: str | None) -> None:
    headers = {b"x-one": [b" value "], b"x-two": [b"1", b"2"]}
    inbound = request(query=b"a=1&b=%20", headers=headers, settings={"team": "T1"})
    assert read(source, inbound) == text


@pytest.mark.parametrize(
    "source",
    [
        "",
        "headers:x",
        "header:",
        "header",
        "body:x",
        "method:x",
        "json",
        "JSON:a",
        "hmac_sha256_hex:",
        "a:b:c",
    ],
)
def test_a_source_that_is_none(source: str) -> None:
    with pytest.raises(SourceTemplateError):
        compile_source(source)
    with pytest.raises(SourceTemplateError):
        SourceTemplate("{" + source + "}")


@pytest.mark.parametrize("source", ["hmac_sha256_hex:nothing", "hmac_sha256_base64:header:"])
def test_a_source_in_a_source_that_is_none(source: str) -> None:
    with pytest.raises(SourceTemplateError):
        compile_source(source)


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
    assert inbound.json() is None
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
    first, second = (batch.of(batch.payload, item) for item in batch.payload)
    assert read("item_sha256", second) == read("item_sha256", third) != read("item_sha256", first)
    assert (read("json:0.a", second), read("item:a", second)) == ("1", "2")


def test_numbers_are_as_json_writes_them_and_nothing_else() -> None:
    inbound = request(body=b'{"a":12345678901234567890123,"b":1e3,"c":-0,"d":0.1}')
    assert read("json:b", inbound) == "1000.0"
    assert [read(f"json:{name}", inbound) for name in "cd"] == ["0", "0.1"]


@given(st.text(max_size=30))
def test_a_path_of_anything_reads_anything(dotted: str) -> None:
    for value in ({"a": [1]}, [1], "x", 1, None, {dotted: 1}):
        compile_path(dotted)(value)


# Templates


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("plain", "plain"),
        ("{query:a}", "1"),
        ("v0:{query:a}:{method}", "v0:1:POST"),
        ("{query:a}{query:a}", "11"),
        ("{query:none}", None),
        ("x{query:none}", None),
        ("x{query:empty}", None),
        ("{query:empty}", None),
        ("", ""),
        ("$[0]", "$[0]"),
    ],
)
def test_a_template(template: str, text: str | None) -> None:
    assert SourceTemplate(template).text(request(query=b"a=1&empty=")) == text


@pytest.mark.parametrize(
    "template", ["{", "}", "{method", "method}", "{{method}}", "{}", "{method}}", "a{b{c}}"]
)
def test_a_template_with_a_brace_too_many(template: str) -> None:
    for kind in (SourceTemplate, SignedContent):
        with pytest.raises(SourceTemplateError):
            kind(template)


def test_what_a_template_puts_in_is_not_read_again() -> None:
    """A sender that puts a source into its data gets the text of it, not what it names."""
    inbound = request(query=b"a=%7Bsetting%3Asecret%7D", settings={SECRET_SETTING: "hidden"})
    assert SourceTemplate("{query:a}").text(inbound) == "{setting:secret}"
    assert SignedContent("{query:a}").content(inbound) == b"{setting:secret}"


def test_constant_templates_say_so() -> None:
    assert SourceTemplate("https://example.com/keys").constant
    assert not SourceTemplate("https://example.com/{query:a}").constant


# What is signed


def test_what_is_signed() -> None:
    raw = b"\xff\xfe not text at all \x00"
    inbound = request(body=raw, query=b"a=%C3%A4", headers={b"h": [b"caf\xe9"]})
    inbound.timestamp = "17"
    assert SignedContent("{body}").content(inbound) == raw
    assert SignedContent("v0:{timestamp}:{body}").content(inbound) == b"v0:17:" + raw
    assert (
        SignedContent("{method}{url}{body}").content(inbound)
        == b"POST" + ADDRESS.encode() + b"?a=%C3%A4" + raw
    )
    assert SignedContent("{query:a}|{header:h}").content(inbound) == "ä".encode() + b"|caf\xe9"
    assert SignedContent("{body}{secret}").content(inbound, b"s3") == raw + b"s3"
    assert SignedContent("x{query:none}{body}").content(inbound) is None
    assert SignedContent("{timestamp}{body}").content(request()) is None


def test_the_empty_body_is_signed_too() -> None:
    assert SignedContent("{body}").content(request(body=b"")) == b""
    assert SignedContent("a{body}").content(request(body=b"")) == b"a"


@pytest.mark.parametrize("source", ["body", "secret"])
def test_body_and_secret_are_in_no_answer(source: str) -> None:
    """They are for signed texts only: an answer or a match cannot name them."""
    with pytest.raises(SourceTemplateError):
        SourceTemplate("{" + source + "}")
    with pytest.raises(SourceTemplateError):
        Match({source: "x"})


# Matches


@pytest.mark.parametrize(
    ("rules", "holds"),
    [
        ({}, True),
        ({"json:k": "v"}, True),
        ({"json:k": "V"}, False),
        ({"json:k": ["w", "v"]}, True),
        ({"json:k": ["w"]}, False),
        ({"json:a.b.0": 10}, True),
        ({"json:a.b.0": "10"}, True),
        ({"json:t": True}, True),
        ({"json:t": "true"}, True),
        ({"json:t": 1}, False),
        ({"json:f": False}, True),
        ({"json:k": "v", "json:t": False}, False),
        ({"json:k": "present"}, True),
        ({"json:a": "present"}, True),
        ({"json:list": "present"}, True),
        ({"json:e": "present"}, True),
        ({"json:z": "present"}, False),
        ({"json:z": "absent"}, True),
        ({"json:none": "absent"}, True),
        ({"json:a": "absent"}, False),
        ({"header:h": "present"}, True),
        ({"header:none": "absent"}, True),
        ({"method": ["POST", "GET"]}, True),
        ({"query:q": "{setting:q}"}, True),
        ({"query:q": "{setting:other}"}, False),
        ({"query:q": "{setting:none}"}, False),
        ({"query:none": "{setting:none}"}, False),
        ({"query:none": "{setting:q}"}, False),
        ({"query:q": "x{setting:q}"}, False),
        ({"json:a": "{setting:q}"}, False),
    ],
)
def test_a_match(rules: Mapping[str, Any], holds: bool) -> None:
    inbound = request(query=b"q=1", headers={b"h": [b"1"]}, settings={"q": "1", "other": "2"})
    assert Match(rules).holds(inbound) is holds


def test_a_setting_that_is_empty_matches_nothing() -> None:
    """Else an endpoint whose owner left a setting out would accept requests that leave it out too."""
    for query in (b"", b"q=", b"q=1"):
        inbound = request(query=query, settings={"q": ""})
        assert not Match({"query:q": "{setting:q}"}).holds(inbound)


def test_a_match_with_text_that_is_not_ascii() -> None:
    inbound = request(body='{"k":"ä😀"}'.encode(), settings={"k": "ä😀"})
    assert Match({"json:k": "{setting:k}"}).holds(inbound)


# Exchanging parts


@pytest.mark.parametrize(
    ("source", "inbound"),
    [
        ("{header:X-Time}", request()),
        ("{query:t}", request(query=b"t=old&other=1")),
        ("{json:k}", request()),
        ("{form:t}", request(body=b"a=1&t=old")),
    ],
)
def test_a_part_is_exchanged_and_the_rest_stays(source: str, inbound: InboundRequest) -> None:
    changed = replace_source(inbound, source, "new")
    assert SourceTemplate(source).text(changed) == "new"
    assert changed.method == inbound.method
    assert len(changed.body) <= len(inbound.body) + 3
    assert inbound.body == request(body=inbound.body).body


def test_a_part_that_is_not_there_cannot_be_exchanged() -> None:
    with pytest.raises(Malformed):
        replace_source(request(), "{json:none}", "new")


# Answers that are signed

HMACS: Mapping[str, Callable[[bytes], str]] = {
    "hmac_sha256_hex:query:token": lambda digest: digest.hex(),
    "hmac_sha256_base64:query:token": lambda digest: base64.b64encode(digest).decode(),
}


@pytest.mark.parametrize("source", HMACS)
@pytest.mark.parametrize(
    "token",
    [
        "890e4665-4dfe-4ab1-b689-ed553bceeed0",  # LinkedIn's documented challengeCode
        "qgg8vlvZRS6UYooatFL8Aw",  # Zoom's documented plainToken
        "MDYxY2I4ZmItY2Q1OC00YTcwLTk4OGYtOTI0YTk3Y2NiMjEx",
        "a+b/c_d==",
        "x" * 200,
    ],
)
def test_a_token_is_signed(source: str, token: str) -> None:
    inbound = request(query=b"token=" + token.replace("+", "%2B").encode(), settings={SECRET_SETTING: "key"})
    digest = hmac.new(b"key", token.encode(), hashlib.sha256).digest()
    assert read(source, inbound) == HMACS[source](digest)


@pytest.mark.parametrize("source", HMACS)
@pytest.mark.parametrize(
    "text",
    [
        '{"for_user_id":"1","tweet_create_events":[]}',
        "[]",
        '"x"',
        "a=b",
        "a=1&b=2",
        "v0:1700000000:x",
        "1700000000.x",
        "eyJhbGciOiJIUzI1NiJ9.eyJleHAiOjF9",
        "<feed/>",
        "https://hub.example.com/",
        "two words",
        "line\nbreak",
        "ä",
        "x" * 201,
        "a=b=",
        "===",
        "",
    ],
)
def test_a_stranger_gets_nothing_signed_that_could_be_a_webhook(source: str, text: str) -> None:
    """A handshake signs with the key of webhooks: it must not sign a body, or any text around one."""
    query = urlencode({"token": text}).encode()
    inbound = InboundRequest("GET", ADDRESS, query, {}, b"", {SECRET_SETTING: "key"}, lambda _: None)
    assert read(source, inbound) is None
    assert SourceTemplate("sha256={" + source + "}").text(inbound) is None


def test_without_a_secret_nothing_is_signed() -> None:
    assert read("hmac_sha256_hex:query:t", request(query=b"t=abc")) is None


# Texts that stand for bytes


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


# Anything

_SOURCES = st.sampled_from(
    [
        "method",
        "url",
        "url_with_port",
        "url_without_port",
        "path",
        "sorted_form",
        "crc32",
        "sha256",
        "item_sha256",
        "query:a",
        "form:a",
        "json:a",
        "item:a.0",
        "key:a|b",
        "header:a",
        "timestamp",
        "setting:a",
        "hmac_sha256_hex:query:a",
        "hmac_sha256_base64:json:a",
    ]
)


@given(
    _SOURCES,
    st.binary(max_size=80),
    st.binary(max_size=80) | st.sampled_from([b"a=1&a=2", b'{"a":"x"}', b'{"a":[1]}', b"[1]", b"1"]),
    st.lists(st.binary(max_size=20), max_size=2),
)
def test_a_source_of_anything_is_a_text_or_a_refusal(
    source: str, query: bytes, body: bytes, values: list[bytes]
) -> None:
    inbound = request(query=query, body=body, headers={b"a": values}, settings={SECRET_SETTING: "key"})
    try:
        value = read(source, inbound)
    except Rejected:
        return
    assert value is None or isinstance(value, str)


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


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (b'{"update_id":1,"story_posted":{}}', "story_posted"),
        (b'{"story_posted":1}', "story_posted"),
        (b'{"update_id":1}', None),
        (b'{"update_id":1,"one":{},"two":{}}', None),
        (b'{"update_id":1,"with a blank":{}}', None),
        (b'{"update_id":1,"":{}}', None),
        (b'{"update_id":1,"%s":{}}' % (b"x" * 101), None),
        (b"[1]", None),
        (b"null", None),
    ],
)
def test_the_only_other_key(body: bytes, name: str | None) -> None:
    assert read("other_key:update_id", request(body=body)) == name
    assert read("other_key:x|update_id", request(body=body)) == name


def test_an_update_of_telegram_always_has_a_name() -> None:
    """Telegram holds back whatever comes after an update that is refused."""
    definition = providers()["telegram"].definition
    assert definition
    for body, event in (
        (b'{"update_id":1,"message":{"date":1}}', "message"),
        (b'{"update_id":1,"story_posted":{}}', "story_posted"),
        (b'{"update_id":1,"one":{},"two":{}}', "update"),
        (b'{"update_id":1}', "update"),
    ):
        [arrived] = definition.events(definition.request("POST", ADDRESS, b"", {}, body, {}))
        assert (arrived.event, arrived.delivery_id) == (event, "1")
