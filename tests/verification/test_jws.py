"""Unusual tokens, published keys and secrets: the same ones are accepted as by PyJWT."""

import base64
import json
from collections.abc import Callable
from typing import Any

import jwt
import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from shared.verification.scheme import VerificationResult
from tests.verification.builders import NOW, RSA, SECRET, check, make_scheme, pem_of, public_pem, request

CLAIMS = {"iat": int(NOW), "exp": int(NOW) + 300}
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()
HS = make_scheme(scheme="jwt", algorithms=["HS256"])
PUBLISHED = make_scheme(
    scheme="jwt",
    algorithms=["RS256", "ES256", "EdDSA"],
    keys={"url": "https://keys.example.com/jwks", "hosts": ["keys.example.com"]},
)
UNCHECKED: Any = {f"verify_{name}": False for name in ("exp", "nbf", "iat", "aud", "iss", "sub", "jti")}


def encode(part: bytes, padding: str = "") -> str:
    return base64.urlsafe_b64encode(part).rstrip(b"=").decode() + padding


def make_token(head: dict[str, Any], claims: bytes = json.dumps(CLAIMS).encode(), padding: str = "") -> str:
    """A token by hand, signed with HS256."""
    signed = f"{encode(json.dumps({'alg': 'HS256', **head}).encode(), padding)}.{encode(claims)}"
    digest = jwt.get_algorithm_by_name("HS256").sign(signed.encode(), SECRET)
    return f"{signed}.{encode(digest)}"


def is_accepted_by_pyjwt(token: str, key: Any, algorithm: str) -> bool:
    try:
        jwt.decode(token, key, [algorithm], UNCHECKED)
    except (jwt.PyJWTError, ValueError, TypeError):
        return False
    return True


@pytest.mark.parametrize(
    ("head", "is_accepted"),
    [
        ({}, True),
        ({"typ": 7}, True),
        ({"x5u": "no url", "jku": 7, "x5c": "x", "jwk": 1, "cty": None}, True),
        ({"unknown": "x" * 2000}, True),
        ({"b64": True, "crit": ["b64"]}, True),
        ({"b64": None}, True),
        ({"b64": False}, False),
        ({"b64": False, "crit": ["b64"]}, False),
        ({"crit": []}, False),
        ({"crit": "b64", "b64": True}, False),
        ({"crit": ["b64"]}, False),
        ({"crit": ["kid"], "kid": "one"}, False),
        ({"crit": [["b64"]], "b64": True}, False),
        ({"kid": None}, False),
    ],
)
def test_unusual_headers(head: dict[str, Any], is_accepted: bool) -> None:
    token = make_token(head)
    inbound = request({"authorization": f"Bearer {token}"})
    expected = VerificationResult.VERIFIED if is_accepted else VerificationResult.UNREADABLE
    assert check(HS, inbound, SECRET) is expected
    assert is_accepted_by_pyjwt(token, SECRET, "HS256") is is_accepted


@pytest.mark.parametrize(
    "change",
    [
        lambda token: token,
        lambda token: token + "=",
        lambda token: token + "==",
        lambda token: token[:-1] + chr(ord(token[-1]) + 1),
        lambda token: token.replace(".", "=.", 1),
        lambda token: token + "\n.",
        lambda token: token.replace("-", "+").replace("_", "/") + ".",
    ],
)
def test_unusual_base64(change: Callable[[str], str]) -> None:
    token = change(make_token({}))
    verdict = check(HS, request({"authorization": f"Bearer {token}"}), SECRET)
    assert (verdict is VerificationResult.VERIFIED) is is_accepted_by_pyjwt(token, SECRET, "HS256")


@pytest.mark.parametrize(("filler", "padding"), [("", ""), ("", "="), ("x", "="), ("xx", ""), ("xx", "==")])
def test_padding_is_part_of_what_is_signed(filler: str, padding: str) -> None:
    token = make_token({"x": filler}, padding=padding)
    verdict = check(HS, request({"authorization": f"Bearer {token}"}), SECRET)
    assert (verdict is VerificationResult.VERIFIED) is is_accepted_by_pyjwt(token, SECRET, "HS256")


@pytest.mark.parametrize(
    "claims", [b"", b"[]", b"7", b"{", b"\xff", b"[" * 50_000, b'{"exp":' + b"9" * 5_000 + b"}"]
)
def test_a_signed_payload_that_is_no_object(claims: bytes) -> None:
    inbound = request({"authorization": f"Bearer {make_token({}, claims)}"})
    assert check(HS, inbound, SECRET) is VerificationResult.UNREADABLE


@pytest.mark.parametrize(
    "secret",
    [
        b"x",
        b"ssh-secret",
        b'{"a":1}',
        b'["kty"]',
        b"-----BEGIN PRIVATE KEY-----",
        public_pem(RSA),
        b" " + public_pem(RSA),
        pem_of(RSA),
        b"ssh-rsa AAAA",
        b'{"kty":"oct","k":"AAAA"}',
        b'{"keys":[{"kty" : "oct"}]}',
    ],
)
def test_a_secret_that_is_a_key_of_another_kind_verifies_nothing(secret: bytes) -> None:
    head, claims, _ = make_token({}).split(".")
    digest = jwt.get_algorithm_by_name("HS256").sign(f"{head}.{claims}".encode(), secret)
    token = f"{head}.{claims}.{encode(digest)}"
    is_accepted = is_accepted_by_pyjwt(token, secret, "HS256")
    verdict = check(HS, request({"authorization": f"Bearer {token}"}), secret)
    assert verdict is (VerificationResult.VERIFIED if is_accepted else VerificationResult.UNREADABLE)


def published(key: Any, **changed: Any) -> dict[str, Any]:
    algorithms = {"RS256": jwt.algorithms.RSAAlgorithm, "ES256": jwt.algorithms.ECAlgorithm}
    kind: Any = algorithms.get(algorithm_of(key), jwt.algorithms.OKPAlgorithm)
    return {**kind.to_jwk(key.public_key(), as_dict=True), "kid": "one", **changed}


def algorithm_of(key: Any) -> str:
    if key is RSA:
        return "RS256"
    return "ES256" if key is EC else "EdDSA"


def standard_base64(text: str) -> str:
    return base64.b64encode(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))).decode()


@pytest.mark.parametrize("key", [RSA, EC, ED], ids=algorithm_of)
@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"use": "enc"},
        {"use": 7, "key_ops": "x", "x5c": 1, "x5u": "no url"},
        {"alg": ""},
        {"alg": "RS256"},
        {"alg": "PS512"},
        {"alg": "ES384"},
        {"alg": "EdDSA"},
        {"alg": "RSA-OAEP"},
        {"alg": ["RS256"]},
        {"kty": "oct", "k": "AAAA"},
        {"kty": ["RSA"]},
        {"crv": "X25519"},
        {"crv": "P-384"},
    ],
    ids=str,
)
def test_unusual_published_keys(key: Any, changed: dict[str, Any]) -> None:
    item = published(key, **changed)
    check_published(key, item)


@pytest.mark.parametrize("key", [RSA, EC, ED], ids=algorithm_of)
@pytest.mark.parametrize(
    "change",
    [
        standard_base64,
        lambda text: text + "==",
        lambda text: f"{text[:20]}\n{text[20:]}",
        lambda text: "AAAA" + text,
        lambda text: text[:-2],
        lambda _: "",
        lambda _: None,
    ],
)
def test_unusual_base64_of_published_keys(key: Any, change: Callable[[str], Any]) -> None:
    item = published(key)
    for name in {"n", "e", "x", "y"} & item.keys():
        check_published(key, {**item, name: change(item[name])})


def check_published(key: Any, item: dict[str, Any]) -> None:
    """Compare the verdict on a signed token with PyJWT's, which takes the key for the token's algorithm."""
    token = jwt.encode(CLAIMS, key, algorithm_of(key), {"kid": "one"})
    try:
        is_accepted = is_accepted_by_pyjwt(token, jwt.PyJWK(item).key, algorithm_of(key))
    except (jwt.PyJWTError, ValueError, TypeError, AttributeError):
        is_accepted = False
    inbound = request({"authorization": f"Bearer {token}"})
    verdict = check(PUBLISHED, inbound, document=orjson.dumps({"keys": [item]}))
    assert (verdict is VerificationResult.VERIFIED) is is_accepted, item


def test_a_published_key_without_its_value_is_left_out() -> None:
    token = jwt.encode(CLAIMS, RSA, "RS256", {"kid": "one"})
    document = orjson.dumps({"keys": [{"kty": "oct", "kid": "one"}, published(RSA)]})
    verdict = check(PUBLISHED, request({"authorization": f"Bearer {token}"}), document=document)
    assert verdict is VerificationResult.VERIFIED


def test_a_published_private_key_is_left_out() -> None:
    token = jwt.encode(CLAIMS, RSA, "RS256", {"kid": "one"})
    document = orjson.dumps(
        {"keys": [jwt.algorithms.RSAAlgorithm.to_jwk(RSA, as_dict=True) | {"kid": "one"}]}
    )
    verdict = check(PUBLISHED, request({"authorization": f"Bearer {token}"}), document=document)
    assert verdict is VerificationResult.MISMATCH
