"""Signature profiles: official vectors, an independent implementation as oracle, rejected secrets."""

import base64
import hashlib
import hmac
from datetime import UTC, datetime
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey
from standardwebhooks import Webhook, WebhookVerificationError
from svix.webhooks import Webhook as SvixWebhook
from svix.webhooks import WebhookVerificationError as SvixVerificationError

from shared.contracts.errors import Malformed
from shared.webhooks.signatures import (
    SIGNERS,
    SigningProfile,
    new_secret,
    new_standard_secret,
    public_key,
    signing_key,
)

# standard-webhooks/standard-webhooks, the reference libraries' test of a known signature.
STANDARD_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
STANDARD_ID = "msg_p5jXN8AQM9LWM0D4loKWxJek"
STANDARD_AT = 1614265330
STANDARD_BODY = b'{"test": 2432232314}'
STANDARD_SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_the_standard_webhooks_vector() -> None:
    key = signing_key("standard", STANDARD_SECRET)
    headers = SIGNERS["standard"]([key], STANDARD_ID, "any.type", 1, STANDARD_AT, STANDARD_BODY)
    assert headers == {
        "webhook-id": STANDARD_ID,
        "webhook-timestamp": str(STANDARD_AT),
        "webhook-signature": STANDARD_SIGNATURE,
    }


@pytest.mark.parametrize("newest_first", [True, False])
@pytest.mark.parametrize(
    ("library", "refusal"),
    [(Webhook, WebhookVerificationError), (SvixWebhook, SvixVerificationError)],
    ids=["standardwebhooks", "svix"],
)
def test_both_secrets_of_a_rotation_verify_with_the_reference_libraries(
    library: type[Webhook] | type[SvixWebhook], refusal: type[Exception], newest_first: bool
) -> None:
    old, new = new_secret("standard"), new_secret("standard")
    at = int(datetime.now(UTC).timestamp())
    body = '{"text":"ünïcode"}'.encode()
    keys = [signing_key("standard", secret) for secret in ((new, old) if newest_first else (old, new))]
    headers = SIGNERS["standard"](keys, "dlv_1", "message.created", 3, at, body)
    assert len(headers["webhook-signature"].split(" ")) == 2
    for secret in (old, new):
        library(secret).verify(body, headers)
    with pytest.raises(refusal):
        library(new_secret("standard")).verify(body, headers)
    with pytest.raises(refusal):
        library(new).verify(body + b" ", headers)


# Ed25519, checked with libsodium (PyNaCl), which has no code in common with the one that signs.


def _v1a(*secrets: str, body: bytes = STANDARD_BODY) -> dict[str, str]:
    keys = [signing_key("standard_v1a", secret) for secret in secrets]
    return SIGNERS["standard_v1a"](keys, STANDARD_ID, "any.type", 1, STANDARD_AT, body)


def _verify_key(secret: str) -> VerifyKey:
    """From nothing but the public key that the API shows."""
    public = public_key("standard_v1a", secret)
    assert public
    assert public.startswith("whpk_")
    return VerifyKey(base64.b64decode(public.removeprefix("whpk_"), validate=True))


def _v1a_signatures(headers: dict[str, str]) -> list[bytes]:
    texts = headers["webhook-signature"].split(" ")
    assert all(text.startswith("v1a,") for text in texts)
    return [base64.b64decode(text.removeprefix("v1a,"), validate=True) for text in texts]


SIGNED = b'msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330.{"test": 2432232314}'


def test_v1a_verifies_with_an_independent_implementation() -> None:
    secret = new_secret("standard_v1a")
    headers = _v1a(secret)
    assert (headers["webhook-id"], headers["webhook-timestamp"]) == (STANDARD_ID, str(STANDARD_AT))
    [signature] = _v1a_signatures(headers)
    _verify_key(secret).verify(SIGNED, signature)
    for changed in (SIGNED + b" ", SIGNED.replace(b"msg_p", b"msg_q"), SIGNED.replace(b"30.", b"31.")):
        with pytest.raises(BadSignatureError):
            _verify_key(secret).verify(changed, signature)
    with pytest.raises(BadSignatureError):
        _verify_key(new_secret("standard_v1a")).verify(SIGNED, signature)


def test_v1a_signs_what_libsodium_would_sign() -> None:
    """Ed25519 has one signature for a key and a message, and RFC 8032 a known key pair (7.1, test 1)."""
    seed = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    public = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
    for private_key in (seed, seed + public):
        secret = "whsk_" + base64.b64encode(private_key).decode()
        assert _v1a_signatures(_v1a(secret)) == [SigningKey(seed).sign(SIGNED).signature]
        assert public_key("standard_v1a", secret) == "whpk_" + base64.b64encode(public).decode()


def test_both_keys_of_a_v1a_rotation_verify() -> None:
    new, old = new_secret("standard_v1a"), new_secret("standard_v1a")
    first, second = _v1a_signatures(_v1a(new, old))
    _verify_key(new).verify(SIGNED, first)
    _verify_key(old).verify(SIGNED, second)
    with pytest.raises(BadSignatureError):
        _verify_key(new).verify(SIGNED, second)


def test_a_v1a_secret_has_the_format_of_libsodium() -> None:
    """64 bytes: the seed, then the public key of exactly that seed."""
    private_key = base64.b64decode(new_secret("standard_v1a").removeprefix("whsk_"), validate=True)
    assert bytes(SigningKey(private_key[:32]).verify_key) == private_key[32:]


@pytest.mark.parametrize(
    "secret",
    [
        "",
        "whsk_",
        "whsk_" + base64.b64encode(b"x" * 31).decode(),
        "whsk_" + base64.b64encode(b"x" * 33).decode(),
        "whsk_" + base64.b64encode(b"x" * 63).decode(),
        "whsk_" + base64.b64encode(b"x" * 64).decode(),  # the halves are no pair
        "whsk_" + base64.b64encode(b"x" * 96).decode(),
        "whsk_" + base64.b64encode(b"x" * 32).decode().rstrip("="),
        "whsk_ " + base64.b64encode(b"x" * 32).decode(),
        "whpk_" + base64.b64encode(b"x" * 32).decode(),  # a public key
        base64.b64encode(b"x" * 32).decode(),  # might be one
        STANDARD_SECRET,
        "whsk_" + "\ud800" * 43 + "=",
        "whsk_" + "é" * 44,
    ],
)
def test_what_is_no_v1a_secret(secret: str) -> None:
    for read in (signing_key, public_key):
        with pytest.raises(Malformed) as caught:
            read("standard_v1a", secret)
        assert len(secret) < 10 or secret not in caught.value.detail


# The other profiles


def test_the_nchat_profile() -> None:
    """`X-Webhook-Signature: sha256=<hex over the body>`."""
    key = signing_key("nchat", "a secret of the owner")
    headers = SIGNERS["nchat"]([key], "dlv_1", "message.created", 2, 0, b'{"a":1}')
    assert headers == {
        "X-Webhook-Signature": "sha256="
        + hmac.new(b"a secret of the owner", b'{"a":1}', hashlib.sha256).hexdigest(),
        "X-Webhook-Event": "message.created",
        "X-Webhook-ID": "dlv_1",
        "X-Webhook-Attempt": "2",
    }


def test_the_chatwoot_profile() -> None:
    """`sha256=<hex over timestamp.body>`; the id stays, the timestamp is fresh."""
    keys = [signing_key("chatwoot", "a secret of the owner")]
    headers = SIGNERS["chatwoot"](keys, "dlv_1", "message_created", 2, 1614265330, b'{"a":1}')
    signed = hmac.new(b"a secret of the owner", b'1614265330.{"a":1}', hashlib.sha256).hexdigest()
    assert headers == {
        "X-Chatwoot-Signature": "sha256=" + signed,
        "X-Chatwoot-Timestamp": "1614265330",
        "X-Chatwoot-Delivery": "dlv_1",
    }
    again = SIGNERS["chatwoot"](keys, "dlv_1", "message_created", 3, 1614265340, b'{"a":1}')
    assert again["X-Chatwoot-Delivery"] == "dlv_1"
    assert again["X-Chatwoot-Signature"] != headers["X-Chatwoot-Signature"]


def test_the_chatwoot_profile_over_the_body_alone() -> None:
    keys = [signing_key("chatwoot_body", "8 bytes.")]
    headers = SIGNERS["chatwoot_body"](keys, "dlv_1", "message_created", 2, 1614265330, b'{"a":1}')
    assert headers == {
        "X-Chatwoot-Signature": "sha256=" + hmac.new(b"8 bytes.", b'{"a":1}', hashlib.sha256).hexdigest(),
        "X-Chatwoot-Timestamp": "1614265330",
        "X-Chatwoot-Delivery": "dlv_1",
    }


@pytest.mark.parametrize(
    ("profile", "header", "signed"),
    [
        ("nchat", "X-Webhook-Signature", b"{}"),
        ("chatwoot", "X-Chatwoot-Signature", b"7.{}"),
        ("chatwoot_body", "X-Chatwoot-Signature", b"{}"),
    ],
)
def test_a_header_of_one_signature_is_by_the_oldest_valid_secret(
    profile: SigningProfile, header: str, signed: bytes
) -> None:
    keys = [signing_key(profile, secret) for secret in ("newest", "newer", "old")]
    by = ["sha256=" + hmac.new(key, signed, hashlib.sha256).hexdigest() for key in keys]
    headers = SIGNERS[profile](keys, "dlv_1", "any.type", 1, 7, b"{}")
    assert (headers[header], headers[header + "-Next"]) == (by[2], f"{by[0]} {by[1]}")
    headers = SIGNERS[profile](keys[:1], "dlv_1", "any.type", 1, 7, b"{}")
    assert headers[header] == by[0]
    assert header + "-Next" not in headers


def test_the_profile_that_does_not_sign() -> None:
    key = signing_key("none", new_secret("none"))
    assert SIGNERS["none"]([key], "dlv_1", "message.created", 2, 1, b"{}") == {"webhook-id": "dlv_1"}
    assert SIGNERS["none"]([], "dlv_1", "message.created", 2, 1, b"{}") == {"webhook-id": "dlv_1"}
    with pytest.raises(Malformed):
        signing_key("none", "a secret that would never be used")


@pytest.mark.parametrize("profile", get_args(SigningProfile))
def test_a_fresh_secret_is_one_that_its_profile_takes(profile: SigningProfile) -> None:
    new_secrets = {new_secret(profile) for _ in range(20)}
    assert len(new_secrets) == (1 if profile == "none" else 20)
    for secret in new_secrets:
        key = signing_key(profile, secret)
        assert profile == "none" or len(key) >= 32
        assert SIGNERS[profile]([key], "dlv_1", "any.type", 1, 1, b"{}")
        assert (public_key(profile, secret) is None) == (profile != "standard_v1a")


@pytest.mark.parametrize("profile", get_args(SigningProfile))
@given(secret=st.text(max_size=100) | st.text("whskpec_AZaz09+/=", max_size=100) | st.just("\ud800"))
def test_a_hostile_secret_is_malformed_and_nothing_else(profile: SigningProfile, secret: str) -> None:
    try:
        key = signing_key(profile, secret)
    except Malformed:
        with pytest.raises(Malformed):
            public_key(profile, secret)
    else:
        assert SIGNERS[profile]([key], "dlv_1", "any.type", 1, 1, b"{}")


@pytest.mark.parametrize("profile", ["nchat", "chatwoot", "chatwoot_body"])
@pytest.mark.parametrize("secret", ["", "\ud800"])
def test_what_is_no_text_secret(profile: SigningProfile, secret: str) -> None:
    with pytest.raises(Malformed):
        signing_key(profile, secret)


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
