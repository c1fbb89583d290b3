"""Signature schemes: how providers prove that a webhook is theirs. Pure.

A scheme is a `SchemeVerifier` with `verify` and `sign`. It looks at an `InboundRequest` and at the
endpoint's secrets, newest first (several are valid during a rotation), and returns a `VerificationResult`.
Secrets are compared in constant time, over the bytes as they were received. `sign` makes what `verify`
accepts: for test deliveries, fixtures and the tests of every provider.

The schemes are in `hmac`, `token`, `public_key` and `jwt`. Here is what they share: the results, the
protocol, and the formats of secrets, times and signatures.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final, Literal, NamedTuple, Protocol

from shared.verification.match import Match
from shared.verification.request import InboundRequest
from shared.verification.sources import replace_source
from shared.verification.template import SourceTemplate
from shared.wire.bodies import decode_bytes

SignatureEncoding = Literal["hex", "base64"]
Algorithm = Literal["sha1", "sha256", "sha512"]
KeyType = Literal["ed25519", "ecdsa", "rsa"]
KeyEncoding = Literal["text", "base64", "hex"]
TimeFormat = Literal["seconds", "milliseconds", "rfc3339"]

MAX_SIGNATURES: Final = 10
"""Signatures in one request. A provider that rotates its keys sends two or three."""


class VerificationResult(StrEnum):
    """Result of verifying a request. The value is a metric label and is stored in executions."""

    VERIFIED = "verified"
    UNSIGNED = "unsigned"
    """Accepted without a proof, because the endpoint allows it."""
    MISSING = "missing"
    """The part with the proof is not in the request."""
    DOUBLED = "doubled"
    """A header with the proof is in the request more than once."""
    UNREADABLE = "unreadable"
    STALE = "stale"
    """The proof is right, and its time is too far from now."""
    MISMATCH = "mismatch"
    """The proof was made with another secret, or of another content."""
    BODY_CHANGED = "body_changed"
    """The proof is right, and the hash of the body in it is of another body."""
    CLAIMS = "claims"
    """The token's signature is right, and its issuer, audience, expiry or another claim is not."""
    NO_SECRET = "no_secret"  # noqa: S105 -- a result, no secret
    """The endpoint has no secret yet that this scheme could use."""
    TOO_COSTLY = "too_costly"
    """The body is too large to be checked with every secret and signed content."""


@dataclass(frozen=True, slots=True)
class FetchedKey:
    """A key or certificate that a scheme needs and that was fetched: its URL and the response's body.

    Schemes do no I/O: the caller asks `SchemeVerifier.key_url`, fetches, and passes the result to `verify`.
    """

    url: str
    body: bytes


class SchemeVerifier(Protocol):
    """One signature scheme, as a manifest compiles it."""

    @property
    def proof_location(self) -> str:
        """The part of the request that carries the proof, as error messages name it."""

    @property
    def hash_passes(self) -> int:
        """Number of times that a body is hashed to verify it with one secret; 1 if only a part of it is."""

    @property
    def uses_secrets(self) -> bool:
        """True if it verifies with the endpoint's secrets, and not with keys that are fetched."""

    def applies(self, request: InboundRequest) -> bool:
        """Return whether the request carries this scheme's proof."""

    def key_url(self, request: InboundRequest) -> str | None:
        """Return the URL of the key that `verify` needs fetched; None if it needs none."""

    def key_body(self, request: InboundRequest) -> bytes | None:
        """Return the JSON with which the key is requested by POST; None if GET is enough."""

    def verify(
        self, request: InboundRequest, secrets: Sequence[bytes], now: float, fetched: FetchedKey | None = None
    ) -> VerificationResult:
        """Verify that one of `secrets`, or the fetched key, made the proof. `now` is in Unix seconds.

        Raises `Malformed` if a signed part cannot be decoded, `TooCostly` if the request's work is limited
        and the check would exceed the limit.
        """

    def accepts_secret(self, secret: bytes) -> bool:
        """Return whether this scheme could verify with an endpoint's secret."""

    def sign(self, request: InboundRequest, secret: bytes, now: float) -> InboundRequest:
        """Return a copy of the request as the provider would send it at `now` (Unix seconds).

        For public-key schemes `secret` is the private key as PEM. Raises `Malformed` if a signed part is
        missing or the secret is not for this scheme.
        """


class NoFetchedKey:
    """Base of the schemes that verify with the endpoint's secrets alone."""

    __slots__ = ()

    @property
    def uses_secrets(self) -> bool:
        return True

    def key_url(self, request: InboundRequest) -> str | None:
        """Return None: there is nothing to fetch."""
        del request
        return None

    def key_body(self, request: InboundRequest) -> bytes | None:
        """Return None, as `key_url` does."""
        del request
        return None


def missing_header_result(request: InboundRequest, header: bytes) -> VerificationResult:
    """Return why a header has no value to use: it is missing, or repeated."""
    return (
        VerificationResult.DOUBLED if len(request.headers.get(header, ())) > 1 else VerificationResult.MISSING
    )


@dataclass(frozen=True, slots=True)
class SecretFormat:
    """Format of an endpoint's secret, as its owner sees it, from which the bytes of a key are made.

    A secret of this scheme starts with `prefix`, which is removed. `otherwise` is the encoding of a secret
    without the prefix; None rejects it. A secret that starts with `except_prefix` belongs to another scheme.
    """

    form: KeyEncoding = "text"
    prefix: str = ""
    otherwise: KeyEncoding | None = None
    except_prefix: str = ""

    def key(self, secret: bytes) -> bytes | None:
        """Return the key; None if the secret is not for this scheme or cannot be decoded."""
        if self.except_prefix and secret.startswith(self.except_prefix.encode()):
            return None
        form: KeyEncoding | None = self.form
        # The prefix decides which scheme a secret is for, where one webhook definition has several.
        if self.prefix:
            if secret.startswith(self.prefix.encode()):
                secret = secret[len(self.prefix.encode()) :]
            else:
                form = self.otherwise
        if form is None:
            return None
        return secret if form == "text" else decode_bytes(secret, form)

    def encode(self, key: bytes) -> str:
        """Return the secret of a key as its owner would see it."""
        if self.form == "text":
            return self.prefix + key.decode()
        return self.prefix + (key.hex() if self.form == "hex" else base64.b64encode(key).decode())

    def keys(self, secrets: Sequence[bytes]) -> list[bytes]:
        """Return the keys of those secrets that are for this scheme, in order."""
        return [key for key in map(self.key, secrets) if key]


TEXT_SECRET: Final = SecretFormat()
"""A secret whose text is the key."""


@dataclass(frozen=True, slots=True)
class TimestampCheck:
    """Location and format of the time at which a request was sent, and how old or new it may be.

    Without `source`, the time is in the signature's header. `tolerance_s` bounds the age; `future_s` allows
    for clocks that are ahead.
    """

    source: SourceTemplate | None
    time_format: TimeFormat = "seconds"
    tolerance_s: float = 300.0
    future_s: float = 300.0

    def check(self, text: str, now: float) -> VerificationResult:
        """Return whether a time, as it is written in the request, is near enough to `now` (Unix seconds)."""
        sent_at = self.parse_unix(text)
        if sent_at is None:
            return VerificationResult.UNREADABLE
        return (
            VerificationResult.VERIFIED
            if -self.future_s <= now - sent_at <= self.tolerance_s
            else VerificationResult.STALE
        )

    def encode(self, now: float) -> str:
        """Return a time, given in Unix seconds, as the provider writes it."""
        if self.time_format == "rfc3339":
            return datetime.fromtimestamp(int(now), UTC).isoformat().replace("+00:00", "Z")
        return str(int(now * 1000 if self.time_format == "milliseconds" else now))

    def parse_unix(self, text: str) -> float | None:
        """Return a written time in Unix seconds; None if it is not in the expected format."""
        if self.time_format == "rfc3339":
            try:
                moment = datetime.fromisoformat(text)
            except ValueError:
                return None
            return moment.timestamp() if moment.tzinfo else None
        if not (text.isascii() and text.isdigit() and len(text) <= 16):
            return None
        return int(text) / (1000 if self.time_format == "milliseconds" else 1)


@dataclass(frozen=True, slots=True)
class SignatureFormat:
    """Headers of signatures, and their format.

    There may be several headers, and any of their signatures may match. `prefixes` are the texts that may
    stand before a signature; `separator` divides several signatures in one value. For headers of pairs
    (`t=1614,v1=ab`), `field` names the pairs that are signatures, `time_field` the one that is the time.
    With `source`, the one signature is another part of the request, such as a field of the payload.
    """

    headers: tuple[bytes, ...]
    encoding: SignatureEncoding = "hex"
    prefixes: tuple[bytes, ...] = (b"",)
    separator: bytes = b""
    field: bytes = b""
    time_field: bytes = b""
    source: SourceTemplate | None = None

    @property
    def location(self) -> str:
        """The part of the request with the signature, as error messages name it."""
        if self.source:
            return f"the signature ({self.source.source.strip('{}').replace(':', ' ')})"
        return f"the header {self.headers[0].decode()}"

    def parse(self, request: InboundRequest) -> "ParsedSignatures":
        """Return the signatures of a request, or why there are none. Raises `Malformed` as a source does."""
        if self.source:
            return self._parse_source(self.source.text(request))
        texts: list[bytes] = []
        sent_at = ""
        for name in self.headers:
            values = request.headers.get(name)
            if not values:
                continue
            # A repeated header is refused: a proxy in front of the hub might have checked the other one.
            if len(values) > 1:
                return ParsedSignatures(VerificationResult.DOUBLED)
            pieces = values[0].split(self.separator) if self.separator else values
            for piece in pieces:
                text = piece.strip()
                if self.field:
                    key, _, text = text.partition(b"=")
                    if self.time_field and key == self.time_field:
                        sent_at = text.decode("latin-1")
                    if key != self.field:
                        continue
                texts.append(text)
        if not texts:
            has_header = any(request.headers.get(name) for name in self.headers)
            return ParsedSignatures(
                VerificationResult.UNREADABLE if has_header else VerificationResult.MISSING
            )
        # Each signature costs a comparison, or a public-key check: a stranger must not choose how many.
        if len(texts) > MAX_SIGNATURES:
            return ParsedSignatures(VerificationResult.UNREADABLE)
        signatures = [signature for signature in map(self._decode_signature, texts) if signature]
        return ParsedSignatures(
            VerificationResult.VERIFIED if signatures else VerificationResult.UNREADABLE, signatures, sent_at
        )

    def _parse_source(self, text: str | None) -> "ParsedSignatures":
        if text is None:
            return ParsedSignatures(VerificationResult.MISSING)
        signature = self._decode_signature(text.encode("utf-8", "surrogatepass"))
        if not signature:
            return ParsedSignatures(VerificationResult.UNREADABLE)
        return ParsedSignatures(VerificationResult.VERIFIED, (signature,))

    def _decode_signature(self, text: bytes) -> bytes | None:
        for prefix in self.prefixes:
            if text.startswith(prefix):
                return decode_bytes(text[len(prefix) :], self.encoding)
        return None

    def is_present(self, request: InboundRequest) -> bool:
        """Return whether the request has one of the headers, or the source."""
        if self.source:
            return self.source.text(request) is not None
        return not request.headers.keys().isdisjoint(self.headers)

    def add_to(self, request: InboundRequest, signature: bytes) -> InboundRequest:
        """Return a copy of the request with this signature in the first of the headers, or in the source."""
        value = self._header_value(signature, request.timestamp)
        if self.source:
            return replace_source(request, self.source.source, value.decode())
        return request.with_header(self.headers[0], value)

    def encode(self, signature: bytes) -> bytes:
        """Return a signature as the provider writes it."""
        text = signature.hex().encode() if self.encoding == "hex" else base64.b64encode(signature)
        return self.prefixes[0] + text

    def _header_value(self, signature: bytes, sent_at: str) -> bytes:
        text = self.encode(signature)
        if not self.field:
            return text
        pairs = [self.field + b"=" + text]
        if self.time_field:
            pairs.insert(0, self.time_field + b"=" + sent_at.encode())
        return self.separator.join(pairs)


class ParsedSignatures(NamedTuple):
    """The signatures of a request. `result` is `VERIFIED`, or the reason why there are none to check.

    `sent_at` is the time in a header of pairs, as it is written; empty where there is none.
    """

    result: VerificationResult
    signatures: Sequence[bytes] = ()
    sent_at: str = ""


def extract_signatures(
    signature: SignatureFormat, timestamp: TimestampCheck | None, require: Match, request: InboundRequest
) -> ParsedSignatures:
    """Return the signatures of a request that has a time and meets `require`, or why there are none.

    The time is stored in `request.timestamp` as it is written, because signatures cover that text.
    """
    parsed = signature.parse(request)
    if parsed.result is not VerificationResult.VERIFIED:
        return parsed
    if timestamp:
        request.timestamp = parsed.sent_at or (timestamp.source and timestamp.source.text(request)) or ""
        if not request.timestamp:
            return ParsedSignatures(VerificationResult.UNREADABLE)
    return parsed if require.holds(request) else ParsedSignatures(VerificationResult.UNREADABLE)


def check_timestamp(
    timestamp: TimestampCheck | None, request: InboundRequest, now: float
) -> VerificationResult:
    """Return the final result for a request whose signature is right: whether its time is acceptable."""
    return timestamp.check(request.timestamp, now) if timestamp else VerificationResult.VERIFIED


def add_timestamp(timestamp: TimestampCheck | None, request: InboundRequest, now: float) -> InboundRequest:
    """Return a copy of the request that says it was sent at `now` (Unix seconds), to be signed."""
    if timestamp is None:
        return request
    text = timestamp.encode(now)
    if timestamp.source:
        request = replace_source(request, timestamp.source.source, text)
    request.timestamp = text
    return request
