"""Signatures in the body: one for the request, or one in each element of a list."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from shared.contracts.errors import Malformed
from shared.verification.request import InboundRequest
from shared.verification.scheme import MAX_SIGNATURES, VerificationResult
from shared.verification.sources import compile_source
from shared.wire.template import TemplateError
from tests.verification.builders import (
    NOW,
    RSA,
    SECRET,
    check,
    hmac_hex,
    make_scheme,
    pem_of,
    public_pem,
    request,
)

IN_BODY: dict[str, Any] = {
    "scheme": "hmac",
    "signature": {"from": "{json:signature.signature}"},
    "signed": "{timestamp}{json:signature.token}",
    "covers_body": False,
    "timestamp": {"from": "{json:signature.timestamp}"},
}
ONE = make_scheme(**IN_BODY)
IN_EACH: dict[str, Any] = {
    "scheme": "hmac",
    "each": "items",
    "signature": {"from": "{item:sign}"},
    "signed": "{item:id}:{optional:item:original}:{item:amount}",
    "covers_body": False,
}
EACH = make_scheme(**IN_EACH)


def _one(signature: Any, *, nonce: str = "t1", at: float = NOW) -> InboundRequest:
    field = {"timestamp": str(int(at)), "token": nonce, "signature": signature}
    return request(body=json.dumps({"signature": field, "event": "delivered"}).encode())


def _hex(nonce: str = "t1", at: float = NOW, key: bytes = SECRET) -> str:
    return hmac_hex(key, f"{int(at)}{nonce}".encode())


@pytest.mark.parametrize(
    ("inbound", "verdict"),
    [
        (_one(_hex()), VerificationResult.VERIFIED),
        (_one(_hex("another token")), VerificationResult.MISMATCH),
        (_one(_hex(key=b"another secret")), VerificationResult.MISMATCH),
        (_one(_hex(at=NOW - 400), at=NOW - 400), VerificationResult.STALE),
        (_one(_hex()[:-1]), VerificationResult.UNREADABLE),
        (_one(""), VerificationResult.MISSING),
        (_one("not hex"), VerificationResult.UNREADABLE),
        (_one(None), VerificationResult.MISSING),
        (_one([_hex()]), VerificationResult.MISSING),
        (request(body=b'{"event":"delivered"}'), VerificationResult.MISSING),
    ],
)
def test_a_signature_in_the_body(inbound: InboundRequest, verdict: VerificationResult) -> None:
    assert check(ONE, inbound, SECRET) is verdict
    assert ONE.applies(inbound) is (verdict is not VerificationResult.MISSING)


def test_a_signature_in_the_body_is_written_into_it() -> None:
    signed = ONE.sign(_one("0" * 64, at=1), SECRET, NOW)
    assert signed.body == _one(_hex()).body
    assert ONE.proof_location == "the signature (json signature.signature)"


def test_a_public_key_signature_in_the_body() -> None:
    scheme = make_scheme(
        scheme="rsa", signature={"from": "{json:sign}", "encoding": "base64"}, signed="id\n{json:id}\n"
    )
    signed = scheme.sign(request(body=b'{"id":"1","sign":"AAAA"}'), pem_of(RSA), NOW)
    assert check(scheme, signed, public_pem(RSA)) is VerificationResult.VERIFIED
    forged = signed.with_body(signed.body.replace(b'"1"', b'"2"'))
    assert check(scheme, forged, public_pem(RSA)) is VerificationResult.MISMATCH


def _item(identity: str, *, key: bytes = SECRET, signed: str | None = None, **more: Any) -> dict[str, Any]:
    text = signed or f"{identity}:{more.get('original', '')}:5"
    return {"id": identity, "amount": 5, "sign": hmac_hex(key, text.encode()), **more}


def _items(*items: Any) -> InboundRequest:
    return request(body=json.dumps({"items": items}).encode())


@pytest.mark.parametrize(
    ("inbound", "verdict"),
    [
        (_items(_item("a")), VerificationResult.VERIFIED),
        (_items(_item("a"), _item("b", original="a")), VerificationResult.VERIFIED),
        (_items(_item("a"), _item("b", key=b"another secret")), VerificationResult.MISMATCH),
        (_items(_item("a", key=b"another secret"), _item("b")), VerificationResult.MISMATCH),
        # What was signed as missing cannot be added, and what was signed cannot be left out.
        (_items(_item("a", signed="a::5", original="x")), VerificationResult.MISMATCH),
        (_items(_item("a", signed="a:x:5")), VerificationResult.MISMATCH),
        # The signature of one element is none of another.
        (_items(_item("a"), {**_item("b"), "sign": _item("a")["sign"]}), VerificationResult.MISMATCH),
        (_items(_item("a"), {"id": "b", "amount": 5}), VerificationResult.MISSING),
        (_items(_item("a"), "text"), VerificationResult.MISSING),
        (_items(_item("a"), {**_item("b"), "sign": "x"}), VerificationResult.UNREADABLE),
        (_items(*[_item("a")] * MAX_SIGNATURES), VerificationResult.VERIFIED),
        (_items(*[_item("a")] * (MAX_SIGNATURES + 1)), VerificationResult.UNREADABLE),
    ],
)
def test_a_signature_in_each_element(inbound: InboundRequest, verdict: VerificationResult) -> None:
    assert EACH.applies(inbound)
    assert check(EACH, inbound, SECRET) is verdict
    assert check(EACH, inbound, b"an older secret", SECRET) is verdict
    assert check(EACH, inbound) in (VerificationResult.NO_SECRET, verdict)


@pytest.mark.parametrize("body", [b"{}", b'{"items":[]}', b'{"items":{}}', b'{"items":null}', b"[]"])
def test_without_elements_nothing_is_signed(body: bytes) -> None:
    assert not EACH.applies(request(body=body))
    assert check(EACH, request(body=body), SECRET) is VerificationResult.MISSING
    with pytest.raises(Malformed):
        EACH.sign(request(body=body), SECRET, NOW)


def test_the_elements_are_signed_each_in_its_place() -> None:
    plain = _items({**_item("a"), "sign": "00"}, {**_item("b", original="a"), "sign": "00"})
    assert EACH.sign(plain, SECRET, NOW).body == _items(_item("a"), _item("b", original="a")).body
    with pytest.raises(Malformed):
        EACH.sign(_items({"id": "a", "sign": "00"}), SECRET, NOW)


REFUSED: dict[str, Callable[[], Any]] = {
    "both": lambda: make_scheme(**{**IN_BODY, "signature": {"header": "x", "from": "{json:a}"}}),
    "neither": lambda: make_scheme(**{**IN_BODY, "signature": {"encoding": "hex"}}),
    "a text around the source": lambda: make_scheme(**{**IN_BODY, "signature": {"from": "v1={json:a}"}}),
    "a setting": lambda: make_scheme(**{**IN_BODY, "signature": {"from": "{setting:secret}"}}),
    "pairs": lambda: make_scheme(
        **{**IN_BODY, "signature": {"from": "{json:a}", "separator": ",", "field": "v1"}}
    ),
    "no body": lambda: make_scheme(**{**IN_BODY, "covers_body": True}),
    "one for each": lambda: make_scheme(**{**IN_EACH, "signature": {"from": "{json:sign}"}}),
    "a header for each": lambda: make_scheme(**{**IN_EACH, "signature": {"header": "x-sign"}}),
    "a time for each": lambda: make_scheme(**IN_EACH, timestamp={"from": "{item:at}"}),
}


@pytest.mark.parametrize("build", REFUSED.values(), ids=REFUSED)
def test_a_description_that_says_something_else(build: Callable[[], Any]) -> None:
    with pytest.raises(ValidationError):
        build()


@pytest.mark.parametrize(
    "name",
    [
        "optional:optional:json:a",
        "optional:hmac_sha256_hex:json:a",
        "hmac_sha256_hex:optional:json:a",
        "optional:nothing",
        "optional:",
    ],
)
def test_sources_are_not_nested(name: str) -> None:
    with pytest.raises(TemplateError):
        compile_source(name)


def test_an_optional_source_is_empty_where_the_source_is_missing() -> None:
    read = compile_source("optional:json:a")
    assert read(request(body=b'{"a":"x"}')) == "x"
    assert read(request(body=b'{"b":"x"}')) == ""
