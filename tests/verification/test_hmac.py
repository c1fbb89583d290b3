"""HMAC signatures: GitHub's published vector, rejected requests with the reason, other encodings."""

import base64
import hmac
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.manifests.registry import registry
from shared.verification.hmac import HmacVerifier
from shared.verification.request import Headers, InboundRequest
from shared.verification.scheme import Algorithm, SignatureEncoding, SignatureFormat, VerificationResult
from shared.verification.template import SignedContent

# docs.github.com, "Validating webhook deliveries", "Testing the webhook payload validation".
GITHUB_SECRET = b"It's a Secret to Everybody"
GITHUB_BODY = b"Hello, World!"
GITHUB_SIGNATURE = b"sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"

NAME = b"x-hub-signature-256"
GITHUB = HmacVerifier(SignatureFormat((NAME,), prefixes=(b"sha256=",)), (SignedContent("{body}"),))


def _request(body: bytes, headers: Headers) -> InboundRequest:
    return InboundRequest("POST", "https://hub.example.com/x", b"", headers, body, {}, lambda _: None)


def _verify(
    *values: bytes, body: bytes = GITHUB_BODY, keys: tuple[bytes, ...] = (GITHUB_SECRET,)
) -> VerificationResult:
    return GITHUB.verify(_request(body, {NAME: list(values)} if values else {}), keys, 0.0)


def test_githubs_own_vector() -> None:
    assert _verify(GITHUB_SIGNATURE) is VerificationResult.VERIFIED
    signed = GITHUB.sign(_request(GITHUB_BODY, {}), GITHUB_SECRET, 0.0)
    assert signed.headers[NAME] == [GITHUB_SIGNATURE]


def test_githubs_own_vector_through_the_manifest() -> None:
    """What the gateway calls is compiled from data: header, algorithm, encoding and prefix are right."""
    definition = registry().providers["github"].definition
    assert definition is not None
    for body, verdict in (
        (GITHUB_BODY, VerificationResult.VERIFIED),
        (GITHUB_BODY + b" ", VerificationResult.MISMATCH),
    ):
        request = _request(body, {NAME: [GITHUB_SIGNATURE]})
        scheme = definition.select_scheme(request)
        assert scheme is not None
        assert scheme.verify(request, [GITHUB_SECRET], 0.0) is verdict


def test_a_missing_header() -> None:
    assert _verify() is VerificationResult.MISSING
    other = _request(GITHUB_BODY, {b"x-hub-signature": [GITHUB_SIGNATURE]})
    assert not GITHUB.applies(other)
    assert GITHUB.verify(other, [GITHUB_SECRET], 0.0) is VerificationResult.MISSING


def test_a_header_that_is_there_twice() -> None:
    assert _verify(GITHUB_SIGNATURE, GITHUB_SIGNATURE) is VerificationResult.DOUBLED
    assert _verify(GITHUB_SIGNATURE, b"sha256=00") is VerificationResult.DOUBLED
    assert _verify(b"sha256=00", GITHUB_SIGNATURE) is VerificationResult.DOUBLED


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"sha256",
        GITHUB_SIGNATURE.removeprefix(b"sha256="),
        b"sha1=" + GITHUB_SIGNATURE.removeprefix(b"sha256="),
        b"SHA256=" + GITHUB_SIGNATURE.removeprefix(b"sha256="),
        GITHUB_SIGNATURE[:-1],
        GITHUB_SIGNATURE + b"," + GITHUB_SIGNATURE,
        b"sha256=",
        b"sha256=" + b"zz" * 32,
        b"sha256=" + b"\xff\xfe" * 32,
        b"sha256=\x00",
        "sha256=\uff175".encode(),
    ],
)
def test_a_value_of_another_form(value: bytes) -> None:
    assert _verify(value) is VerificationResult.UNREADABLE


@pytest.mark.parametrize("value", [GITHUB_SIGNATURE[:-2], GITHUB_SIGNATURE + b"00", b"sha256=00"])
def test_a_digest_of_another_length(value: bytes) -> None:
    assert _verify(value) is VerificationResult.MISMATCH


@pytest.mark.parametrize("at", range(len(GITHUB_BODY)))
def test_every_byte_of_the_body_counts(at: int) -> None:
    changed = bytearray(GITHUB_BODY)
    changed[at] ^= 1
    assert _verify(GITHUB_SIGNATURE, body=bytes(changed)) is VerificationResult.MISMATCH


def test_every_valid_secret_verifies() -> None:
    assert _verify(GITHUB_SIGNATURE, keys=(b"new", GITHUB_SECRET)) is VerificationResult.VERIFIED
    assert _verify(GITHUB_SIGNATURE, keys=(GITHUB_SECRET, b"old")) is VerificationResult.VERIFIED
    assert _verify(GITHUB_SIGNATURE, keys=(b"new", b"old")) is VerificationResult.MISMATCH
    assert _verify(GITHUB_SIGNATURE, keys=()) is VerificationResult.NO_SECRET


@pytest.mark.parametrize("algorithm", get_args(Algorithm))
def test_other_schemes_a_manifest_can_name(algorithm: Algorithm) -> None:
    digest = hmac.new(b"key", b"body", algorithm).digest()
    texts: dict[SignatureEncoding, bytes] = {"hex": digest.hex().encode(), "base64": base64.b64encode(digest)}
    for encoding, text in texts.items():
        scheme = HmacVerifier(
            SignatureFormat((b"x-s",), encoding, (b"v0=",)), (SignedContent("{body}"),), algorithm
        )
        request = _request(b"body", {b"x-s": [b"v0=" + text]})
        assert scheme.sign(_request(b"body", {}), b"key", 0.0).headers[b"x-s"] == [b"v0=" + text]
        assert scheme.verify(request, [b"key"], 0.0) is VerificationResult.VERIFIED
        assert scheme.verify(request, [b"other"], 0.0) is VerificationResult.MISMATCH


def test_base64_in_either_alphabet_and_nothing_else() -> None:
    scheme = HmacVerifier(SignatureFormat((b"x-s",), "base64"), (SignedContent("{body}"),))
    value = scheme.sign(_request(b"body", {}), b"key", 0.0).headers[b"x-s"][0]
    for same in (value, value.rstrip(b"="), value.replace(b"+", b"-").replace(b"/", b"_")):
        assert (
            scheme.verify(_request(b"body", {b"x-s": [same]}), [b"key"], 0.0) is VerificationResult.VERIFIED
        )
    for other in (value[:4] + b"\n" + value[4:], value + b"!", value[:-3]):
        assert (
            scheme.verify(_request(b"body", {b"x-s": [other]}), [b"key"], 0.0)
            is not VerificationResult.VERIFIED
        )


@given(
    st.lists(st.binary(max_size=100), max_size=3), st.binary(max_size=50), st.binary(min_size=1, max_size=50)
)
def test_verifying_never_raises(values: list[bytes], body: bytes, key: bytes) -> None:
    for scheme in (GITHUB, HmacVerifier(SignatureFormat((NAME,), "base64"), (SignedContent("{body}"),))):
        assert scheme.verify(_request(body, {NAME: values}), [key], 0.0) is not VerificationResult.VERIFIED


@given(st.binary(max_size=200), st.binary(min_size=1, max_size=100))
def test_what_is_signed_verifies(body: bytes, key: bytes) -> None:
    signed = GITHUB.sign(_request(body, {}), key, 0.0)
    assert GITHUB.verify(signed, [key], 0.0) is VerificationResult.VERIFIED
