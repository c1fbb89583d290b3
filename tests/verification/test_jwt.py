"""JSON Web Tokens: claims, forgeries, published keys, and the hashes of body and query in them."""

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any

import jwt
import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from pydantic import ValidationError

from shared.verification.jwt import query_string_hash
from shared.verification.request import InboundRequest
from shared.verification.scheme import VerificationResult
from tests.verification.builders import (
    BODY,
    NOW,
    RSA,
    SECRET,
    b64,
    check,
    make_scheme,
    pem_of,
    public_pem,
    request,
)

CLAIMS = {"iat": int(NOW), "exp": int(NOW) + 300, "iss": "https://issuer.example", "aud": "hub"}
HS = make_scheme(
    scheme="jwt",
    algorithms=["HS256"],
    issuer=["https://issuer.example", "other"],
    audience="{setting:audience}",
)
SETTINGS = {"audience": "hub"}


def token(
    claims: Mapping[str, Any] | None = None, key: Any = SECRET, algorithm: str = "HS256", **head: Any
) -> str:
    return jwt.encode({**CLAIMS, **(claims or {})}, key, algorithm=algorithm, headers=head or None)


def bearer(text: str, **other: Any) -> InboundRequest:
    return request({"authorization": f"Bearer {text}"}, **{"settings": SETTINGS, **other})


def raw_token(head: Mapping[str, Any], claims: Mapping[str, Any], key: bytes = SECRET) -> str:
    """A token by hand: what no library would make."""
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (head, claims)]
    content = b".".join(parts)
    digest = hmac.digest(key, content, "sha256") if key else b""
    return (content + b"." + base64.urlsafe_b64encode(digest).rstrip(b"=")).decode()


@pytest.mark.parametrize(
    ("claims", "verdict"),
    [
        ({}, VerificationResult.VERIFIED),
        ({"iss": "other"}, VerificationResult.VERIFIED),
        ({"iss": "https://issuer.example/"}, VerificationResult.CLAIMS),
        ({"iss": None}, VerificationResult.CLAIMS),
        ({"iss": ["https://issuer.example"]}, VerificationResult.CLAIMS),
        ({"aud": ["x", "hub"]}, VerificationResult.VERIFIED),
        ({"aud": "hub2"}, VerificationResult.CLAIMS),
        ({"aud": ["x"]}, VerificationResult.CLAIMS),
        ({"aud": []}, VerificationResult.CLAIMS),
        ({"aud": None}, VerificationResult.CLAIMS),
        ({"aud": {"hub": 1}}, VerificationResult.CLAIMS),
        ({"aud": "x hub"}, VerificationResult.CLAIMS),
        ({"exp": int(NOW) - 59}, VerificationResult.VERIFIED),
        ({"exp": int(NOW) - 61}, VerificationResult.STALE),
        ({"exp": None}, VerificationResult.UNREADABLE),
        ({"exp": "4000000000"}, VerificationResult.UNREADABLE),
        ({"exp": True}, VerificationResult.UNREADABLE),
        ({"exp": []}, VerificationResult.UNREADABLE),
        ({"exp": 10**400}, VerificationResult.UNREADABLE),
        ({"exp": float("inf")}, VerificationResult.UNREADABLE),
        ({"exp": float("nan")}, VerificationResult.UNREADABLE),
        ({"exp": -1}, VerificationResult.UNREADABLE),
        ({"iat": int(NOW) + 61}, VerificationResult.STALE),
        ({"nbf": int(NOW) + 61}, VerificationResult.STALE),
        ({"nbf": int(NOW) + 59}, VerificationResult.VERIFIED),
        ({"nbf": "soon"}, VerificationResult.UNREADABLE),
        ({"iat": int(NOW) - 10**6}, VerificationResult.VERIFIED),
    ],
)
def test_the_claims_of_a_token(claims: dict[str, Any], verdict: VerificationResult) -> None:
    assert check(HS, bearer(raw_token({"alg": "HS256"}, {**CLAIMS, **claims})), SECRET) is verdict


@pytest.mark.parametrize("missing", ["exp", "iss", "aud"])
def test_a_token_that_lacks_a_claim(missing: str) -> None:
    text = jwt.encode({name: value for name, value in CLAIMS.items() if name != missing}, SECRET)
    assert check(HS, bearer(text), SECRET) is VerificationResult.CLAIMS


def test_a_token_may_lack_its_expiry_if_the_provider_sets_none() -> None:
    endless = make_scheme(scheme="jwt", algorithms=["HS256"], expires=False)
    assert check(endless, bearer(jwt.encode({"iss": "x"}, SECRET)), SECRET) is VerificationResult.VERIFIED
    assert (
        check(endless, bearer(jwt.encode({"exp": int(NOW) - 61}, SECRET)), SECRET) is VerificationResult.STALE
    )
    assert (
        check(endless, bearer(jwt.encode({"nbf": int(NOW) + 61}, SECRET)), SECRET) is VerificationResult.STALE
    )
    signed = endless.sign(request(), SECRET, NOW)
    assert endless.verify(signed, [SECRET], NOW + 10**6) is VerificationResult.VERIFIED


def test_the_first_audience_with_a_value_counts() -> None:
    scheme = make_scheme(scheme="jwt", algorithms=["HS256"], audience=["{setting:audience}", "{url}"])
    inbound = bearer(token(), settings={})
    own = bearer(token({"aud": inbound.address}), settings={})
    assert check(scheme, own, SECRET) is VerificationResult.VERIFIED
    assert check(scheme, inbound, SECRET) is VerificationResult.CLAIMS
    assert check(scheme, bearer(token()), SECRET) is VerificationResult.VERIFIED
    # An endpoint with the setting accepts no token for its address.
    assert check(scheme, bearer(token({"aud": inbound.address})), SECRET) is VerificationResult.CLAIMS


def test_a_token_without_an_audience_to_compare_is_for_nobody() -> None:
    assert check(HS, bearer(token(), settings={}), SECRET) is VerificationResult.CLAIMS
    assert (
        check(HS, bearer(token({"aud": ""}), settings={"audience": ""}), SECRET) is VerificationResult.CLAIMS
    )


@pytest.mark.parametrize(
    "text",
    [
        raw_token({"alg": "none", "typ": "JWT"}, CLAIMS, b""),
        raw_token({"alg": "None"}, CLAIMS, b""),
        raw_token({"alg": "nOnE"}, CLAIMS, b""),
        raw_token({"alg": "HS512"}, CLAIMS),
        raw_token({"alg": "RS256"}, CLAIMS),
        raw_token({"alg": ""}, CLAIMS),
        raw_token({}, CLAIMS),
        raw_token({"alg": ["HS256"]}, CLAIMS),
        raw_token({"alg": "HS256", "crit": ["x"]}, CLAIMS),
        raw_token({"alg": "HS256", "b64": False, "crit": ["b64"]}, CLAIMS),
        raw_token({"alg": "HS256", "kid": 7}, CLAIMS),
        "",
        ".",
        "..",
        "a.b.c",
        "a.b.c.d",
        token() + ".",
        token().rsplit(".", 1)[0] + ".",
        token().rsplit(".", 1)[0],
        token() + "A",
        "x" + token(),
        "ä.ä.ä",
        base64.urlsafe_b64encode(b"[" * 50_000).decode() + ".e30.AAAA",
        base64.urlsafe_b64encode(b'{"alg":"HS256","x":' + b"[" * 40_000).decode() + ".e30.AAAA",
        base64.urlsafe_b64encode(b'{"alg":"HS256","x":' + b"9" * 40_000 + b"}").decode() + ".e30.AAAA",
    ],
)
def test_a_token_that_is_none(text: str) -> None:
    inbound = bearer(text)
    verdict = check(HS, inbound, SECRET)
    assert verdict in {VerificationResult.UNREADABLE, VerificationResult.MISMATCH, VerificationResult.MISSING}
    assert check(HS, inbound) is not VerificationResult.VERIFIED


def test_a_token_by_another_key() -> None:
    assert check(HS, bearer(token(key=b"x" * 32)), SECRET) is VerificationResult.MISMATCH
    assert check(HS, bearer(token(key=b"x" * 32)), SECRET, b"x" * 32) is VerificationResult.VERIFIED
    assert check(HS, bearer(token())) is VerificationResult.NO_SECRET


def test_which_headers_carry_a_token() -> None:
    assert HS.applies(bearer("x"))
    assert HS.applies(request({"authorization": "bearer x"}))
    assert not HS.applies(request({"authorization": "Basic x"}))
    assert (
        check(HS, request({"authorization": f"BEARER {token()}"}, settings=SETTINGS), SECRET)
        is VerificationResult.VERIFIED
    )
    assert check(HS, request({"authorization": [token(), token()]}), SECRET) is VerificationResult.DOUBLED
    assert check(HS, request(), SECRET) is VerificationResult.MISSING


def jwks(*keys: tuple[str | None, Any], **more: Any) -> bytes:
    listed = []
    for name, key in keys:
        kind = (
            jwt.algorithms.ECAlgorithm
            if isinstance(key, ec.EllipticCurvePublicKey)
            else jwt.algorithms.RSAAlgorithm
        )
        listed.append({**kind.to_jwk(key, as_dict=True), **({"kid": name} if name else {}), **more})
    return orjson.dumps({"keys": listed})


REMOTE = make_scheme(
    scheme="jwt",
    algorithms=["RS256"],
    keys={"url": "https://keys.example.com/jwks", "hosts": ["keys.example.com"]},
    issuer=["https://issuer.example"],
    audience="hub",
)
KEYS = jwks(("one", RSA.public_key()), ("two", rsa.generate_private_key(65537, 2048).public_key()))


def test_a_token_by_a_published_key() -> None:
    signed = pem_of(RSA)
    assert (
        check(REMOTE, bearer(token(key=signed, algorithm="RS256", kid="one")), document=KEYS)
        is VerificationResult.VERIFIED
    )
    assert (
        check(REMOTE, bearer(token(key=signed, algorithm="RS256")), document=KEYS)
        is VerificationResult.VERIFIED
    )
    tried: list[tuple[dict[str, Any], bytes]] = [
        ({"kid": "two"}, KEYS),
        ({"kid": "three"}, KEYS),
        ({"kid": ""}, KEYS),
        ({"kid": "one"}, b""),
        ({"kid": "one"}, b"<html>"),
        ({"kid": "one"}, b"[]"),
        ({"kid": "one"}, b'{"keys":{}}'),
        ({"kid": "one"}, b'{"keys":[1,null,{},{"kty":"RSA"}]}'),
        ({"kid": "one"}, jwks()),
    ]
    for head, document in tried:
        text = token(key=signed, algorithm="RS256", **head)
        assert check(REMOTE, bearer(text), document=document) is VerificationResult.MISMATCH, (
            head,
            document,
        )
    assert (
        check(REMOTE, bearer(token(key=signed, algorithm="RS256", kid="one"))) is VerificationResult.MISMATCH
    )


def test_a_public_key_is_no_shared_key() -> None:
    """HS256 with the text of the public key as its secret: the classic confusion of algorithms."""
    public = public_pem(RSA)
    for key in (public, public.strip(), KEYS):
        text = raw_token({"alg": "HS256", "kid": "one"}, CLAIMS, key)
        assert check(REMOTE, bearer(text), key, document=KEYS) is VerificationResult.UNREADABLE
    with pytest.raises(ValidationError):
        make_scheme(
            scheme="jwt",
            algorithms=["RS256", "HS256"],
            keys={"url": "https://keys.example.com/jwks", "hosts": ["keys.example.com"]},
        )


def test_a_shared_key_in_a_public_document_is_not_used() -> None:
    document = orjson.dumps(
        {"keys": [{"kty": "oct", "kid": "one", "k": base64.urlsafe_b64encode(SECRET).decode()}]}
    )
    assert check(REMOTE, bearer(token(kid="one")), SECRET, document=document) is VerificationResult.MISMATCH


def test_a_key_in_the_token_itself_is_not_used() -> None:
    stranger = rsa.generate_private_key(65537, 2048)
    own = jwt.algorithms.RSAAlgorithm.to_jwk(stranger.public_key(), as_dict=True)
    for head in (
        {"jwk": own},
        {"jku": "https://evil.example/"},
        {"x5u": "https://evil.example/"},
        {"x5c": ["AAAA"]},
    ):
        text = token(key=pem_of(stranger), algorithm="RS256", kid="one", **head)
        assert check(REMOTE, bearer(text), document=KEYS) is VerificationResult.MISMATCH


def test_a_token_with_claims_and_the_hash_of_the_body() -> None:
    scheme = make_scheme(
        scheme="jwt",
        algorithms=["HS256"],
        claims={"app": "{setting:app}", "ok": "true"},
        body_hash={"claim": "body", "encoding": "base64"},
    )
    digest = b64(hashlib.sha256(BODY).digest())
    good = {"app": "7", "ok": True, "body": digest}
    for claims, verdict in (
        (good, VerificationResult.VERIFIED),
        ({**good, "app": 7}, VerificationResult.VERIFIED),
        ({**good, "app": "8"}, VerificationResult.CLAIMS),
        ({**good, "app": None}, VerificationResult.CLAIMS),
        ({**good, "ok": False}, VerificationResult.CLAIMS),
        ({**good, "body": b64(bytes(32))}, VerificationResult.BODY_CHANGED),
        ({**good, "body": ""}, VerificationResult.BODY_CHANGED),
        ({**good, "body": None}, VerificationResult.BODY_CHANGED),
        ({**good, "body": ["x"]}, VerificationResult.BODY_CHANGED),
    ):
        inbound = bearer(token(claims), settings={"app": "7"})
        assert check(scheme, inbound, SECRET) is verdict, claims
    assert check(scheme, bearer(token(good), settings={}), SECRET) is VerificationResult.CLAIMS
    changed = bearer(token(good), settings={"app": "7"}, body=BODY + b" ")
    assert check(scheme, changed, SECRET) is VerificationResult.BODY_CHANGED


QSH = [
    # Atlassian's "Query string hash" (developer.atlassian.com/cloud/bitbucket/query-string-hash) gives the
    # canonical requests; the digests are those of the tests of atlassian-jwt and of Go clients of Connect.
    ("GET", "/", b"", "GET&/&", "c88caad15a1c1a900b8ac08aa9686f4e8184539bea1deda36e2f649430df3239"),
    ("GET", "", b"", "GET&/&", "c88caad15a1c1a900b8ac08aa9686f4e8184539bea1deda36e2f649430df3239"),
    ("get", "/path", b"", "GET&/path&", "799be84a7fa35570087163c0cd9af3abff7ac05c2c12ba0bb1d7eebc984b3ac2"),
    ("GET", "/path/", b"", "GET&/path&", "799be84a7fa35570087163c0cd9af3abff7ac05c2c12ba0bb1d7eebc984b3ac2"),
    (
        "POST",
        "/something",
        b"simple=key",
        "POST&/something&simple=key",
        "eafb48e8c78a5b09bc2ce7b0b86289ee4a7bd58179e47006d0141b33d5165af7",
    ),
    (
        "GET",
        "/something",
        b"jwt=ABC.DEF.GHI",
        "GET&/something&",
        "90b8cc6920375d6a6d133bd65be2d802a20e3544bf5704a1a80151210078798d",
    ),
    (
        "GET",
        "/something",
        b"connect*=yes",
        "GET&/something&connect%2A=yes",
        "4ce3c840740a86e20beafc1d50b106996eaa844de89e879e85c92398cbfb131d",
    ),
    (
        "GET",
        "/something",
        b"director=%e5%ae%ae%e5%b4%8e%20%e9%a7%bf",
        "GET&/something&director=%E5%AE%AE%E5%B4%8E%20%E9%A7%BF",
        "459b64741b7a3f0c1fe713a4b796f3a1210402729598179b016fd97aec00b4a8",
    ),
    (
        "GET",
        "/something",
        b"a10=1&a1=2&b1=3&b10=4",
        "GET&/something&a1=2&a10=1&b1=3&b10=4",
        "31e1a2db664e96b08862145f45e290f4045fa894886afbb020e64437dabab07e",
    ),
    (
        "GET",
        "/something",
        b"ids=-1&ids=1&ids=20&ids=2&ids=10",
        "GET&/something&ids=-1,1,10,2,20",
        "cfb9607f936f9523743b25897bd3a4ae822536fd18678b984b9dc0b31bfd8c46",
    ),
    (
        "GET",
        "/something",
        b"tuples=1%2C2%2C3&tuples=6%2C5%2C4&tuples=7%2C9%2C8",
        "GET&/something&tuples=1%2C2%2C3,6%2C5%2C4,7%2C9%2C8",
        "4f6da3fce3772b2b1958f7b97f9f7e8e0919ffc777bb74a892418faedf2fe15b",
    ),
]


@pytest.mark.parametrize(("method", "path", "query", "canonical", "digest"), QSH)
def test_the_hash_of_the_query(method: str, path: str, query: bytes, canonical: str, digest: str) -> None:
    inbound = request(method=method, address="https://hub.example.com" + path, query=query)
    assert hashlib.sha256(canonical.encode()).hexdigest() == digest
    assert query_string_hash(inbound) == digest


@pytest.mark.parametrize(
    ("path", "query", "canonical"),
    [
        ("/rest/project&a=b", b"x=y", "POST&/rest/project%26a=b&x=y"),
        ("/hello", b"a&b=foo&c", "POST&/hello&a=&b=foo&c="),
        ("/hello", b"b=~-._&B=%2B+", "POST&/hello&B=%2B%20&b=~-._"),
    ],
)
def test_the_canonical_request(path: str, query: bytes, canonical: str) -> None:
    """An `&` in the path must not be read as the beginning of the query."""
    inbound = request(address="https://hub.example.com" + path, query=query)
    assert query_string_hash(inbound) == hashlib.sha256(canonical.encode()).hexdigest()


def test_a_token_with_the_hash_of_the_query() -> None:
    connect = make_scheme(
        scheme="jwt", header="authorization", prefix="JWT ", algorithms=["HS256"], query_hash="qsh"
    )
    inbound = request(query=b"user=1")
    claims = {"qsh": query_string_hash(inbound)}
    for detail_of_it, query, verdict in (
        (claims, b"user=1", VerificationResult.VERIFIED),
        (claims, b"user=2", VerificationResult.BODY_CHANGED),
        (claims, b"", VerificationResult.BODY_CHANGED),
        ({"qsh": "context-qsh"}, b"user=1", VerificationResult.BODY_CHANGED),
        ({"qsh": "ä"}, b"user=1", VerificationResult.BODY_CHANGED),
        ({}, b"user=1", VerificationResult.BODY_CHANGED),
    ):
        tried = request({"authorization": f"JWT {token(detail_of_it)}"}, query=query)
        assert check(connect, tried, SECRET) is verdict, (detail_of_it, query)
