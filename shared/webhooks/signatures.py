"""Signature profiles: how outgoing webhooks are signed, as pure functions from bytes to headers.

An outgoing webhook chooses one of `SIGNERS`. Inbound requests are verified in `shared.verification`.
"""

import base64
import binascii
import hmac
import secrets
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Final, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shared.contracts.errors import Malformed

STANDARD_SECRET_PREFIX: Final = "whsec_"  # noqa: S105 -- a prefix, no secret
PRIVATE_KEY_PREFIX: Final = "whsk_"
PUBLIC_KEY_PREFIX: Final = "whpk_"

Signer = Callable[[Sequence[bytes], str, str, int, int, bytes], dict[str, str]]
"""(keys, newest first, delivery id, event type, attempt number from 1, Unix seconds, body) -> headers."""


def sign_standard(
    keys: Sequence[bytes], delivery_id: str, _event: str, _attempt: int, at: int, body: bytes
) -> dict[str, str]:
    """Sign as Standard Webhooks 1.0: `webhook-signature: v1,<base64>`, one per valid secret, with blanks."""
    signed = _signed_content(delivery_id, at, body)
    return _standard_headers(delivery_id, at, [("v1", hmac.digest(key, signed, "sha256")) for key in keys])


def sign_standard_v1a(
    keys: Sequence[bytes], delivery_id: str, _event: str, _attempt: int, at: int, body: bytes
) -> dict[str, str]:
    """Sign as Standard Webhooks 1.0 with Ed25519: `webhook-signature: v1a,<base64>`, one per valid key.

    Subscribers have only the public key, so nobody but the hub can sign.
    """
    signed = _signed_content(delivery_id, at, body)
    return _standard_headers(delivery_id, at, [("v1a", _private_key(key).sign(signed)) for key in keys])


def sign_nchat(
    keys: Sequence[bytes], delivery_id: str, event: str, attempt: int, _at: int, body: bytes
) -> dict[str, str]:
    """Sign as nself-chat: `X-Webhook-Signature: sha256=<hex of HMAC-SHA256 over the body>`.

    During a rotation there is also `X-Webhook-Signature-Next`: see `_single_signature_headers`.
    """
    return {
        **_single_signature_headers("X-Webhook-Signature", keys, body),
        "X-Webhook-Event": event,
        "X-Webhook-ID": delivery_id,
        "X-Webhook-Attempt": str(attempt),
    }


def sign_chatwoot(
    keys: Sequence[bytes], delivery_id: str, _event: str, _attempt: int, at: int, body: bytes
) -> dict[str, str]:
    """Sign as Chatwoot: `X-Chatwoot-Signature: sha256=<hex of HMAC-SHA256 over timestamp.body>`.

    As in Chatwoot's `lib/webhooks/trigger.rb`, the delivery id is the same in all attempts. During a
    rotation there is also `X-Chatwoot-Signature-Next`: see `_single_signature_headers`.
    """
    return {
        **_single_signature_headers("X-Chatwoot-Signature", keys, b"%d.%b" % (at, body)),
        "X-Chatwoot-Timestamp": str(at),
        "X-Chatwoot-Delivery": delivery_id,
    }


def sign_chatwoot_body(
    keys: Sequence[bytes], delivery_id: str, _event: str, _attempt: int, at: int, body: bytes
) -> dict[str, str]:
    """Sign as `sign_chatwoot`, but over the body alone: the timestamp is not signed.

    For receivers that were written before Chatwoot signed the timestamp.
    """
    return {
        **_single_signature_headers("X-Chatwoot-Signature", keys, body),
        "X-Chatwoot-Timestamp": str(at),
        "X-Chatwoot-Delivery": delivery_id,
    }


def _single_signature_headers(header: str, keys: Sequence[bytes], signed: bytes) -> dict[str, str]:
    """Sign for a header with one signature: with the oldest valid secret, so that no subscriber must switch.

    The newer secrets sign in `<header>-Next`, the newest first, separated by blanks. During a rotation that
    is one signature with the new secret, for subscribers that switched already. When the old secret expires,
    the new one signs in the header itself, and there is no second header.
    """
    # Keys come newest first, so the last signature is the one of the oldest secret.
    signatures = ["sha256=" + hmac.digest(key, signed, "sha256").hex() for key in keys]
    next_header = {f"{header}-Next": " ".join(signatures[:-1])} if len(signatures) > 1 else {}
    return {header: signatures[-1], **next_header}


def sign_none(
    _keys: Sequence[bytes], delivery_id: str, _event: str, _attempt: int, _at: int, _body: bytes
) -> dict[str, str]:
    """Do not sign: `webhook-id` alone, by which a subscriber recognises a delivery that comes twice.

    There is no timestamp: without a signature it would prove nothing.
    """
    return {"webhook-id": delivery_id}


SigningProfile = Literal["standard", "standard_v1a", "nchat", "chatwoot", "chatwoot_body", "none"]
SIGNERS: Final[Mapping[SigningProfile, Signer]] = {
    "standard": sign_standard,
    "standard_v1a": sign_standard_v1a,
    "nchat": sign_nchat,
    "chatwoot": sign_chatwoot,
    "chatwoot_body": sign_chatwoot_body,
    "none": sign_none,
}


def new_secret(profile: SigningProfile) -> str:
    """Return a new random secret in the profile's format, for `signing_key`; empty for `none`."""
    if profile == "standard":
        return new_standard_secret()
    if profile == "standard_v1a":
        seed = secrets.token_bytes(32)
        return PRIVATE_KEY_PREFIX + base64.b64encode(seed + _public_bytes(seed)).decode()
    return "" if profile == "none" else secrets.token_hex(32)


def new_standard_secret() -> str:
    """Return a new random secret as Standard Webhooks writes it: `whsec_` and 32 bytes in base64."""
    return STANDARD_SECRET_PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def signing_key(profile: SigningProfile, secret: str) -> bytes:
    """Return the key of a secret as its owner sees it.

    `standard`: base64 after `whsec_`. `standard_v1a`: the 32-byte seed of the Ed25519 key. `nchat`,
    `chatwoot` and `chatwoot_body`: the text as UTF-8. `none`: there is no secret, and the key is empty.
    Raises `Malformed`, which never repeats the secret, if the secret is not in the profile's format.
    """
    if profile == "standard":
        return _standard_key(secret)
    if profile == "standard_v1a":
        return _seed(secret)
    if profile == "none":
        if secret:
            raise Malformed("the profile 'none' does not sign: it takes no secret")
        return b""
    try:
        key = secret.encode()
    except UnicodeEncodeError:
        key = b""
    if not key:
        raise Malformed(f"a secret of the profile {profile!r} must be a text that is not empty")
    return key


def public_key(profile: SigningProfile, secret: str) -> str | None:
    """Return the public key for subscribers as Standard Webhooks writes it: `whpk_` and 32 bytes in base64.

    None for profiles whose subscribers need the secret itself, or nothing. Raises `Malformed` as
    `signing_key` does.
    """
    key = signing_key(profile, secret)
    if profile != "standard_v1a":
        return None
    return PUBLIC_KEY_PREFIX + base64.b64encode(_public_bytes(key)).decode()


def _signed_content(delivery_id: str, at: int, body: bytes) -> bytes:
    return b"%b.%d.%b" % (delivery_id.encode(), at, body)


def _standard_headers(delivery_id: str, at: int, signatures: Sequence[tuple[str, bytes]]) -> dict[str, str]:
    texts = (f"{version},{base64.b64encode(signature).decode()}" for version, signature in signatures)
    return {
        "webhook-id": delivery_id,
        "webhook-timestamp": str(at),
        "webhook-signature": " ".join(texts),
    }


@lru_cache(maxsize=4096)
def _private_key(seed: bytes) -> Ed25519PrivateKey:
    """Return the private key of a seed. Cached, because making one costs as much as signing."""
    return Ed25519PrivateKey.from_private_bytes(seed)


def _public_bytes(seed: bytes) -> bytes:
    return _private_key(seed).public_key().public_bytes_raw()


def _standard_key(secret: str) -> bytes:
    key = _decode_base64(secret.removeprefix(STANDARD_SECRET_PREFIX))
    if not 24 <= len(key) <= 64:
        raise Malformed("a standard secret is 'whsec_' followed by 24 to 64 bytes in base64")
    return key


def _seed(secret: str) -> bytes:
    """Return the Ed25519 seed of a `standard_v1a` secret. Raises `Malformed`.

    The prefix is required: without it, a public key could be taken for a private one. 64 bytes are the seed
    and its public key, the private key format of Svix and libsodium.
    """
    key = _decode_base64(secret.removeprefix(PRIVATE_KEY_PREFIX))
    if not secret.startswith(PRIVATE_KEY_PREFIX) or len(key) not in (32, 64):
        raise Malformed("a standard_v1a secret is 'whsk_' followed by 32 or 64 bytes in base64")
    seed, public = key[:32], key[32:]
    if public and public != _public_bytes(seed):
        raise Malformed("the two halves of this standard_v1a secret are not a key pair")
    return seed


def _decode_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        return b""
