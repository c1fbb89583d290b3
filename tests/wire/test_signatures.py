"""Signatures: official vectors, an independent implementation as the oracle, and what is refused."""

import base64
import hashlib
import hmac
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from shared.catalog.registry import providers
from shared.contracts.errors import Malformed
from shared.wire.signatures import (
    PROFILES,
    Algorithm,
    HmacScheme,
    Verdict,
    new_standard_secret,
    signing_key,
)

# docs.github.com, "Validating webhook deliveries", "Testing the webhook payload validation".
GITHUB_SECRET = b"It's a Secret to Everybody"
GITHUB_BODY = b"Hello, World!"
GITHUB_SIGNATURE = b"sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"

# standard-webhooks/standard-webhooks, the reference libraries' test of a known signature.
STANDARD_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
STANDARD_ID = "msg_p5jXN8AQM9LWM0D4loKWxJek"
STANDARD_AT = 1614265330
STANDARD_BODY = b'{"test": 2432232314}'
STANDARD_SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="

GITHUB = HmacScheme(b"x-hub-signature-256", prefix=b"sha256=")


def _verify(*values: bytes, body: bytes = GITHUB_BODY, keys: tuple[bytes, ...] = (GITHUB_SECRET,)) -> Verdict:
    return GITHUB.verify({b"x-hub-signature-256": list(values)}, body, keys)


def test_githubs_own_vector() -> None:
    assert _verify(GITHUB_SIGNATURE) is Verdict.VERIFIED
    assert GITHUB.sign(GITHUB_BODY, GITHUB_SECRET) == GITHUB_SIGNATURE


def test_githubs_own_vector_through_the_manifest() -> None:
    """What the gateway calls is compiled from data: header, algorithm, encoding and prefix are right."""
    verifier = providers()["github"].verifier
    assert verifier is not None
    headers = {b"x-hub-signature-256": [GITHUB_SIGNATURE]}
    assert verifier.verify(headers, GITHUB_BODY, [GITHUB_SECRET]) is Verdict.VERIFIED
    assert verifier.verify(headers, GITHUB_BODY + b" ", [GITHUB_SECRET]) is Verdict.MISMATCH


def test_a_missing_header() -> None:
    assert GITHUB.verify({}, GITHUB_BODY, [GITHUB_SECRET]) is Verdict.MISSING
    assert _verify() is Verdict.MISSING
    other = {b"x-hub-signature": [GITHUB_SIGNATURE]}
    assert GITHUB.verify(other, GITHUB_BODY, [GITHUB_SECRET]) is Verdict.MISSING


def test_a_header_that_is_there_twice() -> None:
    assert _verify(GITHUB_SIGNATURE, GITHUB_SIGNATURE) is Verdict.DOUBLED
    assert _verify(GITHUB_SIGNATURE, b"sha256=00") is Verdict.DOUBLED
    assert _verify(b"sha256=00", GITHUB_SIGNATURE) is Verdict.DOUBLED


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
        GITHUB_SIGNATURE + b" ",
        b" " + GITHUB_SIGNATURE,
        b"sha256=" + b"zz" * 32,
        b"sha256=" + b"\xff\xfe" * 32,
        b"sha256=\x00",
        "sha256=\uff175".encode(),
    ],
)
def test_a_value_of_another_form(value: bytes) -> None:
    assert _verify(value) is Verdict.UNREADABLE


@pytest.mark.parametrize("value", [b"sha256=", GITHUB_SIGNATURE[:-2], GITHUB_SIGNATURE + b"00", b"sha256=00"])
def test_a_digest_of_another_length(value: bytes) -> None:
    assert _verify(value) is Verdict.MISMATCH


@pytest.mark.parametrize("at", range(len(GITHUB_BODY)))
def test_every_byte_of_the_body_counts(at: int) -> None:
    changed = bytearray(GITHUB_BODY)
    changed[at] ^= 1
    assert _verify(GITHUB_SIGNATURE, body=bytes(changed)) is Verdict.MISMATCH


def test_every_valid_secret_verifies() -> None:
    assert _verify(GITHUB_SIGNATURE, keys=(b"new", GITHUB_SECRET)) is Verdict.VERIFIED
    assert _verify(GITHUB_SIGNATURE, keys=(GITHUB_SECRET, b"old")) is Verdict.VERIFIED
    assert _verify(GITHUB_SIGNATURE, keys=(b"new", b"old")) is Verdict.MISMATCH
    assert _verify(GITHUB_SIGNATURE, keys=()) is Verdict.MISMATCH


@pytest.mark.parametrize(
    ("algorithm", "make"), [("sha1", hashlib.sha1), ("sha256", hashlib.sha256), ("sha512", hashlib.sha512)]
)
def test_other_schemes_a_manifest_can_name(algorithm: Algorithm, make: object) -> None:
    digest = hmac.new(b"key", b"body", algorithm).digest()
    for encoding, text in (("hex", digest.hex().encode()), ("base64", base64.b64encode(digest))):
        scheme = HmacScheme(b"x-s", algorithm, encoding, b"v0=")  # type: ignore[arg-type]
        assert scheme.sign(b"body", b"key") == b"v0=" + text
        assert scheme.verify({b"x-s": [b"v0=" + text]}, b"body", [b"key"]) is Verdict.VERIFIED
        assert scheme.verify({b"x-s": [b"v0=" + text]}, b"body", [b"other"]) is Verdict.MISMATCH


def test_base64_has_one_spelling() -> None:
    """What a lenient decoder would skip is not skipped: one signature, one text."""
    scheme = HmacScheme(b"x-s", encoding="base64")
    value = scheme.sign(b"body", b"key")
    for other in (value[:4] + b"\n" + value[4:], value + b"!", b"-" + value, value.rstrip(b"=")):
        assert scheme.verify({b"x-s": [other]}, b"body", [b"key"]) is Verdict.UNREADABLE


@given(
    st.lists(st.binary(max_size=100), max_size=3), st.binary(max_size=50), st.binary(min_size=1, max_size=50)
)
def test_verifying_never_raises(values: list[bytes], body: bytes, key: bytes) -> None:
    for scheme in (GITHUB, HmacScheme(b"x-hub-signature-256", encoding="base64")):
        assert scheme.verify({b"x-hub-signature-256": values}, body, [key]) is not Verdict.VERIFIED


@given(st.binary(max_size=200), st.binary(min_size=1, max_size=100))
def test_what_is_signed_verifies(body: bytes, key: bytes) -> None:
    assert GITHUB.verify({GITHUB.header: [GITHUB.sign(body, key)]}, body, [key]) is Verdict.VERIFIED


# Outgoing profiles


def test_the_standard_webhooks_vector() -> None:
    key = signing_key("standard", STANDARD_SECRET)
    headers = PROFILES["standard"]([key], STANDARD_ID, "any.type", 1, STANDARD_AT, STANDARD_BODY)
    assert headers == {
        "webhook-id": STANDARD_ID,
        "webhook-timestamp": str(STANDARD_AT),
        "webhook-signature": STANDARD_SIGNATURE,
    }


@pytest.mark.parametrize("newest_first", [True, False])
def test_both_secrets_of_a_rotation_verify_with_the_reference_library(newest_first: bool) -> None:
    old, new = new_standard_secret(), new_standard_secret()
    at = int(datetime.now(UTC).timestamp())
    body = '{"text":"ünïcode"}'.encode()
    keys = [signing_key("standard", secret) for secret in ((new, old) if newest_first else (old, new))]
    headers = PROFILES["standard"](keys, "dlv_1", "message.created", 3, at, body)
    assert len(headers["webhook-signature"].split(" ")) == 2
    for secret in (old, new):
        Webhook(secret).verify(body, headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(new_standard_secret()).verify(body, headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(new).verify(body + b" ", headers)


def test_the_nchat_profile() -> None:
    """`X-Webhook-Signature: sha256=<hex over the body>` by the newest secret alone."""
    keys = [signing_key("nchat", "a secret of the owner"), signing_key("nchat", "the one before it")]
    headers = PROFILES["nchat"](keys, "dlv_1", "message.created", 2, 0, b'{"a":1}')
    assert headers == {
        "X-Webhook-Signature": "sha256="
        + hmac.new(b"a secret of the owner", b'{"a":1}', hashlib.sha256).hexdigest(),
        "X-Webhook-Event": "message.created",
        "X-Webhook-ID": "dlv_1",
        "X-Webhook-Attempt": "2",
    }


def test_fresh_secrets_are_standard_and_differ() -> None:
    secrets = {new_standard_secret() for _ in range(50)}
    assert len(secrets) == 50
    assert all(
        secret.startswith("whsec_") and len(signing_key("standard", secret)) == 32 for secret in secrets
    )


@pytest.mark.parametrize(
    "secret",
    [
        "",
        "whsec_",
        "whsec_" + base64.b64encode(b"x" * 23).decode(),
        "whsec_" + base64.b64encode(b"x" * 65).decode(),
        "whsec_not base64 at all, not base64 at all",
        "whsec_" + "é" * 40,
        "whpk_" + base64.b64encode(b"x" * 32).decode(),
    ],
)
def test_what_is_no_standard_secret(secret: str) -> None:
    with pytest.raises(Malformed) as caught:
        signing_key("standard", secret)
    assert len(secret) < 10 or secret not in caught.value.detail


def test_a_standard_secret_with_and_without_its_prefix() -> None:
    assert signing_key("standard", STANDARD_SECRET) == signing_key("standard", STANDARD_SECRET[6:])
    assert signing_key("standard", STANDARD_SECRET) == base64.b64decode(STANDARD_SECRET[6:])
    for size in (24, 64):
        assert len(signing_key("standard", base64.b64encode(b"x" * size).decode())) == size
