"""Signature schemes as pure functions: bytes in, a verdict or headers out.

Inbound: `HmacScheme` is what a provider's manifest compiles to. Outbound: `PROFILES` are the ways
an outgoing webhook can be signed. Comparison is in constant time, over the raw bytes of the body.
"""

import base64
import binascii
import hmac
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal

from shared.contracts.errors import Malformed

Encoding = Literal["hex", "base64"]
Algorithm = Literal["sha1", "sha256", "sha512"]


class Verdict(StrEnum):
    """Why a signature was accepted or not; the value is the metric's label."""

    VERIFIED = "verified"
    MISSING = "missing"
    DOUBLED = "doubled"
    UNREADABLE = "unreadable"
    MISMATCH = "mismatch"


@dataclass(frozen=True, slots=True)
class HmacScheme:
    """HMAC over the raw body, in one header: `<prefix><digest>`.

    `header` is lower case, as ASGI gives it. Several secrets may be valid at a time (rotation).
    """

    header: bytes
    algorithm: Algorithm = "sha256"
    encoding: Encoding = "hex"
    prefix: bytes = b""

    def verify(self, headers: Mapping[bytes, Sequence[bytes]], body: bytes, keys: Sequence[bytes]) -> Verdict:
        """Whether one of `keys` made the signature over exactly these bytes."""
        values = headers.get(self.header)
        if not values:
            return Verdict.MISSING
        if len(values) > 1:
            return Verdict.DOUBLED
        value = values[0]
        if not value.startswith(self.prefix):
            return Verdict.UNREADABLE
        try:
            given = self._decode(value[len(self.prefix) :])
        except (ValueError, binascii.Error):
            return Verdict.UNREADABLE
        verified = False
        for key in keys:
            verified |= hmac.compare_digest(hmac.digest(key, body, self.algorithm), given)
        return Verdict.VERIFIED if verified else Verdict.MISMATCH

    def sign(self, body: bytes, key: bytes) -> bytes:
        """The header value that `verify` accepts; for test deliveries, fixtures and `curl` lines."""
        digest = hmac.digest(key, body, self.algorithm)
        text = digest.hex().encode() if self.encoding == "hex" else base64.b64encode(digest)
        return self.prefix + text

    def _decode(self, text: bytes) -> bytes:
        if self.encoding == "hex":
            return binascii.unhexlify(text)
        return base64.b64decode(text, validate=True)


STANDARD_SECRET_PREFIX: Final = "whsec_"  # noqa: S105 -- a prefix, no secret

Signer = Callable[[Sequence[bytes], str, str, int, int, bytes], dict[str, str]]
"""(keys, delivery id, event type, attempt number from 1, unix seconds, body) -> headers."""


def standard(
    keys: Sequence[bytes], delivery: str, _event: str, _attempt: int, at: int, body: bytes
) -> dict[str, str]:
    """Standard Webhooks 1.0: `webhook-signature: v1,<base64>`, one per valid secret, space separated."""
    signed = b"%b.%d.%b" % (delivery.encode(), at, body)
    signatures = " ".join(
        "v1," + base64.b64encode(hmac.digest(key, signed, "sha256")).decode() for key in keys
    )
    return {"webhook-id": delivery, "webhook-timestamp": str(at), "webhook-signature": signatures}


def nchat(
    keys: Sequence[bytes], delivery: str, event: str, attempt: int, _at: int, body: bytes
) -> dict[str, str]:
    """nself-chat: `X-Webhook-Signature: sha256=<hex of HMAC-SHA256 over the body>` by the newest secret."""
    return {
        "X-Webhook-Signature": "sha256=" + hmac.digest(keys[0], body, "sha256").hex(),
        "X-Webhook-Event": event,
        "X-Webhook-ID": delivery,
        "X-Webhook-Attempt": str(attempt),
    }


Profile = Literal["standard", "nchat"]
PROFILES: Final[Mapping[Profile, Signer]] = {"standard": standard, "nchat": nchat}


def new_standard_secret() -> str:
    """A fresh secret as Standard Webhooks writes it: `whsec_` and 24 to 64 bytes in base64."""
    return STANDARD_SECRET_PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def signing_key(profile: Profile, secret: str) -> bytes:
    """The HMAC key of a secret as its owner sees it.

    `standard` secrets are base64 after `whsec_`; `nchat` uses the text as it is. Raises `Malformed`.
    """
    if profile == "nchat":
        return secret.encode()
    try:
        key = base64.b64decode(secret.removeprefix(STANDARD_SECRET_PREFIX), validate=True)
    except (ValueError, binascii.Error):
        key = b""
    if not 24 <= len(key) <= 64:
        raise Malformed("a standard secret is 'whsec_' followed by 24 to 64 bytes in base64")
    return key
