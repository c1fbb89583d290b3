"""How platforms prove that a webhook is theirs: each way a value with `verify` and `sign`. Pure.

A way looks at a `Request` and at the endpoint's secrets, newest first (several are valid while one is
rotated), and gives a `Verdict`. Comparison is in constant time, over the bytes as they came. `sign` makes
what `verify` accepts: for test deliveries, fixtures and the tests of every provider.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final, Literal, Protocol

from shared.verification.request import InboundRequest, Match, SourceTemplate, decode_bytes

SignatureEncoding = Literal["hex", "base64"]
Algorithm = Literal["sha1", "sha256", "sha512"]
KeyType = Literal["ed25519", "ecdsa", "rsa"]
KeyEncoding = Literal["text", "base64", "hex"]
TimeFormat = Literal["seconds", "milliseconds", "rfc3339"]


class VerificationResult(StrEnum):
    """Why a request was accepted or not; the value is the metric's label and stands in executions."""

    VERIFIED = "verified"
    UNSIGNED = "unsigned"
    """Accepted without a proof, because the endpoint says so."""
    MISSING = "missing"
    DOUBLED = "doubled"
    UNREADABLE = "unreadable"
    STALE = "stale"
    MISMATCH = "mismatch"
    BODY_CHANGED = "body_changed"
    CLAIMS = "claims"
    """A token that is rightly signed, and is from another issuer, for somebody else, or has no end."""
    NO_SECRET = "no_secret"  # noqa: S105 -- a word
    """The endpoint has no secret yet that this way of signing could use."""
    TOO_COSTLY = "too_costly"
    """The body is too large to be tried with every secret and signed text."""


MAX_SIGNATURES: Final = 10
"""Of one request: a platform that rotates its keys sends two or three."""


@dataclass(frozen=True, slots=True)
class SecretFormat:
    """How an endpoint's secret, as its owner sees it, becomes the bytes of a key.

    `prefix` is what a secret of this way starts with, and is taken away; `otherwise` says what a secret
    without it is: read in this form, or not for this way (None). `except_prefix` leaves secrets to another
    way.
    """

    form: KeyEncoding = "text"
    prefix: str = ""
    otherwise: KeyEncoding | None = None
    except_prefix: str = ""

    def key(self, secret: bytes) -> bytes | None:
        """The key, None when the secret is not for this way or cannot be read."""
        if self.except_prefix and secret.startswith(self.except_prefix.encode()):
            return None
        form: KeyEncoding | None = self.form
        if self.prefix:
            if secret.startswith(self.prefix.encode()):
                secret = secret[len(self.prefix.encode()) :]
            else:
                form = self.otherwise
        if form is None:
            return None
        return secret if form == "text" else decode_bytes(secret, form)

    def encode(self, key: bytes) -> str:
        """A secret for these bytes, as its owner would see it."""
        if self.form == "text":
            return self.prefix + key.decode()
        return self.prefix + (key.hex() if self.form == "hex" else base64.b64encode(key).decode())

    def keys(self, secrets: Sequence[bytes]) -> list[bytes]:
        """Those of the endpoint's secrets that are keys of this way."""
        return [key for key in map(self.key, secrets) if key]


TEXT_SECRET: Final = SecretFormat()
"""A secret that is the key as it is."""


@dataclass(frozen=True, slots=True)
class TimestampCheck:
    """When a request was sent: where it says so, how it is written, and how far off the clock it may be.

    Without `source` the time is in the signature's header. `future_s` is for clocks that are ahead.
    """

    source: SourceTemplate | None
    time_format: TimeFormat = "seconds"
    tolerance_s: float = 300.0
    future_s: float = 300.0

    def verdict(self, text: str, now: float) -> VerificationResult:
        """Whether a time, as it is written in the request, is near enough to `now` (Unix seconds)."""
        at = self.parse_unix(text)
        if at is None:
            return VerificationResult.UNREADABLE
        return (
            VerificationResult.VERIFIED
            if -self.future_s <= now - at <= self.tolerance_s
            else VerificationResult.STALE
        )

    def encode(self, now: float) -> str:
        """A moment as the platform writes it."""
        if self.time_format == "rfc3339":
            return datetime.fromtimestamp(int(now), UTC).isoformat().replace("+00:00", "Z")
        return str(int(now * 1000 if self.time_format == "milliseconds" else now))

    def parse_unix(self, text: str) -> float | None:
        """The moment in Unix seconds; None when it is not written as it should be."""
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
    """Where signatures are and how they are written.

    One header or several (each of them may match), a `prefix` before each signature, several of them in one
    value with a `separator`. `field` is for headers of pairs (`t=1614,v1=ab`): which ones are signatures;
    `time_field` which one is the time.
    """

    headers: tuple[bytes, ...]
    encoding: SignatureEncoding = "hex"
    prefixes: tuple[bytes, ...] = (b"",)
    separator: bytes = b""
    field: bytes = b""
    time_field: bytes = b""

    def parse(self, request: InboundRequest) -> "ParsedSignatures":
        """The signatures of a request."""
        texts: list[bytes] = []
        at = ""
        for name in self.headers:
            values = request.headers.get(name)
            if not values:
                continue
            if len(values) > 1:
                return ParsedSignatures(VerificationResult.DOUBLED)
            pieces = values[0].split(self.separator) if self.separator else values
            for piece in pieces:
                text = piece.strip()
                if self.field:
                    key, _, text = text.partition(b"=")
                    if self.time_field and key == self.time_field:
                        at = text.decode("latin-1")
                    if key != self.field:
                        continue
                texts.append(text)
        if not texts:
            there = any(request.headers.get(name) for name in self.headers)
            return ParsedSignatures(VerificationResult.UNREADABLE if there else VerificationResult.MISSING)
        if len(texts) > MAX_SIGNATURES:
            return ParsedSignatures(VerificationResult.UNREADABLE)
        signatures = [signature for signature in map(self._decode_signature, texts) if signature]
        return ParsedSignatures(
            VerificationResult.VERIFIED if signatures else VerificationResult.UNREADABLE, signatures, at
        )

    def _decode_signature(self, text: bytes) -> bytes | None:
        for prefix in self.prefixes:
            if text.startswith(prefix):
                return decode_bytes(text[len(prefix) :], self.encoding)
        return None

    def is_present(self, request: InboundRequest) -> bool:
        """Whether the request has one of the headers."""
        return any(name in request.headers for name in self.headers)

    def signed(self, request: InboundRequest, signature: bytes) -> InboundRequest:
        """The request with this signature in its header."""
        return request.with_header(self.headers[0], self._header_value(signature, request.timestamp))

    def _header_value(self, signature: bytes, at: str) -> bytes:
        text = signature.hex().encode() if self.encoding == "hex" else base64.b64encode(signature)
        text = self.prefixes[0] + text
        if not self.field:
            return text
        pairs = [self.field + b"=" + text]
        if self.time_field:
            pairs.insert(0, self.time_field + b"=" + at.encode())
        return self.separator.join(pairs)


@dataclass(frozen=True, slots=True)
class ParsedSignatures:
    """The signatures of a request, or why there are none; `at` is the time in a header of pairs."""

    verdict: VerificationResult
    signatures: Sequence[bytes] = ()
    at: str = ""


@dataclass(frozen=True, slots=True)
class FetchedKey:
    """A key or certificate that a way needs and a request does not have: where it is, and what is there.

    Whoever does I/O gets `wanted` from the way, fetches it, and calls `verify` with what came.
    """

    url: str
    body: bytes


class SchemeVerifier(Protocol):
    """One way of signing, as a manifest compiles it."""

    @property
    def proof_location(self) -> str:
        """The part of the request that carries the proof, as error messages name it."""

    @property
    def hash_passes(self) -> int:
        """How often a body is hashed to verify it with one secret; 1 where only a part of it is."""

    def applies(self, request: InboundRequest) -> bool:
        """Whether the request carries this way's proof: the first way that applies decides."""

    def key_url(self, request: InboundRequest) -> str | None:
        """The address of a key that `verify` needs fetched, None when it needs none."""

    def verify(
        self, request: InboundRequest, secrets: Sequence[bytes], now: float, fetched: FetchedKey | None = None
    ) -> VerificationResult:
        """Whether one of `secrets` (or the fetched key) made the proof. `now` is in Unix seconds.

        Raises `Malformed` when a part that is signed cannot be read, `TooCostly` when the request's work
        is limited and this would go over the limit.
        """

    def accepts_secret(self, secret: bytes) -> bool:
        """Whether an endpoint's secret is one that this way could verify with."""

    def sign(self, request: InboundRequest, secret: bytes, now: float) -> InboundRequest:
        """The request as the platform would send it. For key pairs `secret` is the private key as PEM."""


class NoFetchedKey:
    """What a way inherits that verifies with the endpoint's secrets alone."""

    __slots__ = ()

    def key_url(self, request: InboundRequest) -> str | None:
        """None: there is nothing to fetch."""
        del request
        return None


MATCH_ALL: Final = Match({})
"""Of a way that is every request's which carries its proof."""


def missing_header_result(request: InboundRequest, header: bytes) -> VerificationResult:
    """Why a header cannot be read: it is not there, or there more than once."""
    return (
        VerificationResult.DOUBLED if len(request.headers.get(header, ())) > 1 else VerificationResult.MISSING
    )


def extract_signatures(
    signature: SignatureFormat, timestamp: TimestampCheck | None, require: Match, request: InboundRequest
) -> ParsedSignatures:
    """The signatures of a request that has what goes with them, or why it has not.

    The request's time is noted in it as it is written: signatures cover that text.
    """
    found = signature.parse(request)
    if found.verdict is not VerificationResult.VERIFIED:
        return found
    if timestamp:
        request.timestamp = found.at or (timestamp.source and timestamp.source.text(request)) or ""
        if not request.timestamp:
            return ParsedSignatures(VerificationResult.UNREADABLE)
    return found if require.holds(request) else ParsedSignatures(VerificationResult.UNREADABLE)


def check_timestamp(
    timestamp: TimestampCheck | None, request: InboundRequest, now: float
) -> VerificationResult:
    """The last word on a request whose signature is right: whether its time is near enough to now."""
    return timestamp.verdict(request.timestamp, now) if timestamp else VerificationResult.VERIFIED


def add_timestamp(timestamp: TimestampCheck | None, request: InboundRequest, now: float) -> InboundRequest:
    """The request with its time in it, for `sign`."""
    if timestamp is None:
        return request
    text = timestamp.encode(now)
    if timestamp.source:
        request = request.with_part(timestamp.source.source, text)
    request.timestamp = text
    return request
