"""Sources: what each one reads, replacing one, and what a handshake may have signed."""

import base64
import hashlib
import hmac
import zlib
from collections.abc import Callable, Mapping
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.contracts.errors import Malformed, Rejected
from shared.manifests.registry import registry
from shared.verification.request import SECRET_SETTING, InboundRequest
from shared.verification.sources import compile_path, compile_source, replace_source
from shared.verification.template import SourceTemplate
from shared.wire.template import TemplateError
from tests.verification.raw_requests import ADDRESS, BODY, read, request


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
    with pytest.raises(TemplateError):
        compile_source(source)
    with pytest.raises(TemplateError):
        SourceTemplate("{" + source + "}")


@pytest.mark.parametrize("source", ["hmac_sha256_hex:nothing", "hmac_sha256_base64:header:"])
def test_a_source_in_a_source_that_is_none(source: str) -> None:
    with pytest.raises(TemplateError):
        compile_source(source)


def test_numbers_are_as_json_writes_them_and_nothing_else() -> None:
    inbound = request(body=b'{"a":12345678901234567890123,"b":1e3,"c":-0,"d":0.1}')
    assert read("json:b", inbound) == "1000.0"
    assert [read(f"json:{name}", inbound) for name in "cd"] == ["0", "0.1"]


@given(st.text(max_size=30))
def test_a_path_of_anything_reads_anything(dotted: str) -> None:
    for value in ({"a": [1]}, [1], "x", 1, None, {dotted: 1}):
        compile_path(dotted)(value)


@pytest.mark.parametrize(
    ("source", "inbound"),
    [
        ("{header:X-Time}", request()),
        ("{query:t}", request(query=b"t=old&other=1")),
        ("{json:k}", request()),
        ("{form:t}", request(body=b"a=1&t=old")),
    ],
)
def test_a_source_is_replaced_and_the_rest_stays(source: str, inbound: InboundRequest) -> None:
    changed = replace_source(inbound, source, "new")
    assert SourceTemplate(source).text(changed) == "new"
    assert changed.method == inbound.method
    assert len(changed.body) <= len(inbound.body) + 3
    assert inbound.body == request(body=inbound.body).body


def test_a_missing_part_cannot_be_replaced() -> None:
    with pytest.raises(Malformed):
        replace_source(request(), "{json:none}", "new")


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
def test_no_caller_gets_a_signature_that_could_be_a_webhook(source: str, text: str) -> None:
    """A handshake signs with the key of webhooks: it must not sign a body, or any text around one."""
    query = urlencode({"token": text}).encode()
    inbound = InboundRequest("GET", ADDRESS, query, {}, b"", {SECRET_SETTING: "key"}, lambda _: None)
    assert read(source, inbound) is None
    assert SourceTemplate("sha256={" + source + "}").text(inbound) is None


def test_without_a_secret_nothing_is_signed() -> None:
    assert read("hmac_sha256_hex:query:t", request(query=b"t=abc")) is None


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
def test_a_source_of_anything_is_a_text_or_rejected(
    source: str, query: bytes, body: bytes, values: list[bytes]
) -> None:
    inbound = request(query=query, body=body, headers={b"a": values}, settings={SECRET_SETTING: "key"})
    try:
        value = read(source, inbound)
    except Rejected:
        return
    assert value is None or isinstance(value, str)


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
    definition = registry().providers["telegram"].definition
    assert definition
    for body, event in (
        (b'{"update_id":1,"message":{"date":1}}', "message"),
        (b'{"update_id":1,"story_posted":{}}', "story_posted"),
        (b'{"update_id":1,"one":{},"two":{}}', "update"),
        (b'{"update_id":1}', "update"),
    ):
        [received] = definition.events(definition.request("POST", ADDRESS, b"", {}, body, {}))
        assert (received.event, received.delivery_id) == (event, "1")
