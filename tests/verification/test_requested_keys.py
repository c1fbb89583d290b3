"""Keys that a token names and that are requested from the provider with credentials, as from Plaid."""

import hashlib
import json
from typing import Any

import pytest
from joserfc import jws
from joserfc.jwk import ECKey, OctKey, import_key
from pydantic import ValidationError

from shared.verification.request import InboundRequest
from shared.verification.scheme import VerificationResult
from tests.verification.builders import BODY, CURVE, NOW, SECRET, check, make_scheme, pem_of, request

DECLARED: dict[str, Any] = {
    "scheme": "jwt",
    "header": "x-token",
    "prefix": "",
    "algorithms": ["ES256"],
    "expires": False,
    "max_age_s": 300,
    "body_hash": {"claim": "digest"},
    "keys": {
        "url": "https://{setting:environment}.example.com/key",
        "hosts": ["live.example.com"],
        "json": "data.key",
        "post": {"id": "{setting:id}", "secret": "{setting:password}"},
        "key_id": "key_id",
    },
}
SCHEME = make_scheme(**DECLARED)
SETTINGS = {"environment": "live", "id": "42", "password": "hunter2"}
KEY = {**ECKey.import_key(CURVE.public_key()).as_dict(), "kid": "k-1", "expired_at": None}
DOCUMENT = json.dumps({"data": {"key": KEY}, "request_id": "1"}).encode()


def _token(header: dict[str, Any] | None = None, **claims: Any) -> str:
    described = {"alg": "ES256", "kid": "k-1", **(header or {})}
    text = json.dumps({"iat": int(NOW), "digest": hashlib.sha256(BODY).hexdigest(), **claims})
    if described["alg"] == "HS256":
        return jws.serialize_compact(described, text, OctKey.import_key(SECRET), ["HS256"])
    return jws.serialize_compact(described, text, import_key(pem_of(CURVE), "EC"), ["ES256"])


def _with(token: str, **settings: str | None) -> InboundRequest:
    merged = {name: value for name, value in {**SETTINGS, **settings}.items() if value is not None}
    return request({"x-token": token}, settings=merged)


def test_the_key_that_a_token_names_is_requested_with_the_settings() -> None:
    inbound = _with(_token())
    assert SCHEME.key_url(inbound) == "https://live.example.com/key"
    assert json.loads(SCHEME.key_body(inbound) or b"") == {"id": "42", "secret": "hunter2", "key_id": "k-1"}
    assert check(SCHEME, inbound, document=DOCUMENT) is VerificationResult.VERIFIED


@pytest.mark.parametrize(
    "inbound",
    [
        _with(_token({"kid": "../secrets"})),
        _with(_token({"kid": "k" * 101})),
        _with(_token({"kid": ""})),
        _with(_token({"alg": "HS256"})),
        _with(_token(), password=None),
        _with(_token(), environment="evil"),
        _with(_token(), environment=None),
        _with("not a token"),
        _with("a.b.c"),
        request(settings=SETTINGS),
    ],
)
def test_what_no_key_could_verify_has_none_requested(inbound: InboundRequest) -> None:
    assert SCHEME.key_url(inbound) is None
    assert check(SCHEME, inbound) is not VerificationResult.VERIFIED


@pytest.mark.parametrize(
    ("claims", "now", "verdict"),
    [
        ({}, NOW + 350, VerificationResult.VERIFIED),
        ({}, NOW + 370, VerificationResult.STALE),
        ({}, NOW - 70, VerificationResult.STALE),
        ({"iat": None}, NOW, VerificationResult.CLAIMS),
        ({"iat": "now"}, NOW, VerificationResult.CLAIMS),
        ({"digest": hashlib.sha256(b"another").hexdigest()}, NOW, VerificationResult.BODY_CHANGED),
    ],
)
def test_the_age_of_a_token_without_an_expiry(
    claims: dict[str, Any], now: float, verdict: VerificationResult
) -> None:
    assert check(SCHEME, _with(_token(**claims)), now=now, document=DOCUMENT) is verdict


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"{}",
        b"[]",
        b'{"data":{"key":null}}',
        b'{"data":{"key":"text"}}',
        json.dumps({"data": {"key": {**KEY, "kid": "another"}}}).encode(),
        json.dumps({"keys": [KEY]}).encode(),
        json.dumps({"data": {"key": {"kty": "oct", "k": "AAAA", "kid": "k-1"}}}).encode(),
    ],
)
def test_a_document_without_the_key(document: bytes) -> None:
    assert check(SCHEME, _with(_token()), document=document) is VerificationResult.MISMATCH


@pytest.mark.parametrize(
    "changes",
    [
        {"keys": {**DECLARED["keys"], "key_id": ""}},
        {"keys": {**DECLARED["keys"], "post": {}}},
        {"expires": True},
        {"max_age_s": -1},
    ],
)
def test_a_description_that_contradicts_itself(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        make_scheme(**{**DECLARED, **changes})


def test_a_key_pair_names_no_key() -> None:
    with pytest.raises(ValidationError):
        make_scheme(scheme="rsa", signature={"header": "x"}, keys=DECLARED["keys"])
