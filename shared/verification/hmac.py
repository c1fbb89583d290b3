"""Signatures that both sides can make: HMAC, and digests of a text with the secret in it."""

import base64
import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass

from shared.contracts.errors import Malformed
from shared.verification.request import InboundRequest, Match, SignedContent, SourceTemplate, decode_bytes
from shared.verification.scheme import (
    MATCH_ALL,
    TEXT_SECRET,
    Algorithm,
    FetchedKey,
    NoFetchedKey,
    SecretFormat,
    SignatureEncoding,
    SignatureFormat,
    TimestampCheck,
    VerificationResult,
    add_timestamp,
    check_timestamp,
    extract_signatures,
)


@dataclass(frozen=True, slots=True)
class BodyHash:
    """A digest of the body that the signature covers, in a part of the request."""

    source: SourceTemplate
    algorithm: Algorithm = "sha256"
    encoding: SignatureEncoding = "hex"

    def holds(self, request: InboundRequest) -> bool:
        """Whether the body is the one that the digest was made of."""
        said = self.source.text(request)
        given = decode_bytes(said, self.encoding) if said else None
        if given is None:
            return False
        request.work.count_hash(len(request.body))
        return hmac.compare_digest(given, self._digest(request))

    def encoded_digest(self, request: InboundRequest) -> str:
        """The digest, as it is written."""
        digest = self._digest(request)
        return digest.hex() if self.encoding == "hex" else base64.b64encode(digest).decode()

    def _digest(self, request: InboundRequest) -> bytes:
        return hashlib.new(self.algorithm, request.body).digest()


@dataclass(frozen=True, slots=True)
class HmacVerifier(NoFetchedKey):
    """HMAC of `signed`, or, with `plain`, a bare digest of a text that has `{secret}` in it.

    Several `signed` are alternatives: one of them has to match.
    """

    signature: SignatureFormat
    signed: tuple[SignedContent, ...]
    algorithm: Algorithm = "sha256"
    plain: bool = False
    key: SecretFormat = TEXT_SECRET
    timestamp: TimestampCheck | None = None
    body_hash: BodyHash | None = None
    when: Match = MATCH_ALL
    require: Match = MATCH_ALL

    @property
    def proof_location(self) -> str:
        return f"the header {self.signature.headers[0].decode()}"

    @property
    def hash_passes(self) -> int:
        return len(self.signed) + (self.body_hash is not None)

    def applies(self, request: InboundRequest) -> bool:
        return self.signature.is_present(request) and self.when.holds(request)

    def verify(
        self, request: InboundRequest, secrets: Sequence[bytes], now: float, fetched: FetchedKey | None = None
    ) -> VerificationResult:
        del fetched
        found = extract_signatures(self.signature, self.timestamp, self.require, request)
        if found.verdict is not VerificationResult.VERIFIED:
            return found.verdict
        keys = self.key.keys(secrets)
        if not keys:
            return VerificationResult.NO_SECRET
        if not any(self._is_signed(request, key, found.signatures) for key in keys):
            return VerificationResult.MISMATCH
        if self.body_hash and not self.body_hash.holds(request):
            return VerificationResult.BODY_CHANGED
        return check_timestamp(self.timestamp, request, now)

    def _is_signed(self, request: InboundRequest, key: bytes, signatures: Sequence[bytes]) -> bool:
        """Whether one of the signatures is this key's. The first text that matches ends the search."""
        for signed in self.signed:
            made = self._digest(request, key, signed)
            if made is not None and any(hmac.compare_digest(made, each) for each in signatures):
                return True
        return False

    def accepts_secret(self, secret: bytes) -> bool:
        return bool(self.key.key(secret))

    def sign(self, request: InboundRequest, secret: bytes, now: float) -> InboundRequest:
        request = add_timestamp(self.timestamp, request, now)
        if self.body_hash:
            request = request.with_part(self.body_hash.source.source, self.body_hash.encoded_digest(request))
        key = self.key.key(secret)
        made = self._digest(request, key, self.signed[0]) if key else None
        if made is None:
            raise Malformed("the request lacks a part that is signed, or the secret is not for this way")
        return self.signature.signed(request, made)

    def _digest(self, request: InboundRequest, key: bytes, signed: SignedContent) -> bytes | None:
        if signed.only_body and not self.plain:
            request.work.count_hash(len(request.body))
            return hmac.digest(key, request.body, self.algorithm)
        digest = hashlib.new(self.algorithm) if self.plain else hmac.new(key, None, self.algorithm)
        return digest.digest() if signed.feed(request, key, digest.update) else None
