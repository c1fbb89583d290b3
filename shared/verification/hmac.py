"""Schemes with a shared secret: HMAC, and plain digests of a text that contains the secret."""

import base64
import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from shared.contracts.errors import Malformed
from shared.verification.match import MATCH_ALL, Match
from shared.verification.request import InboundRequest
from shared.verification.scheme import (
    MAX_SIGNATURES,
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
from shared.verification.sources import compile_path, replace_source
from shared.verification.template import SignedContent, SourceTemplate
from shared.wire.bodies import decode_bytes


@dataclass(frozen=True, slots=True)
class BodyHash:
    """A digest of the body in a part of the request, where the signature covers the digest only."""

    source: SourceTemplate
    algorithm: Algorithm = "sha256"
    encoding: SignatureEncoding = "hex"

    def holds(self, request: InboundRequest) -> bool:
        """Return whether the digest is the one of the body. Raises `TooCostly`."""
        text = self.source.text(request)
        received = decode_bytes(text, self.encoding) if text else None
        if received is None:
            return False
        request.work.count_hash(len(request.body))
        return hmac.compare_digest(received, self._digest(request))

    def encoded_digest(self, request: InboundRequest) -> str:
        """Return the digest of the body as the provider writes it."""
        digest = self._digest(request)
        return digest.hex() if self.encoding == "hex" else base64.b64encode(digest).decode()

    def _digest(self, request: InboundRequest) -> bytes:
        return hashlib.new(self.algorithm, request.body).digest()


@dataclass(frozen=True, slots=True)
class HmacVerifier(NoFetchedKey):
    """HMAC of the content in `signed`; with `plain`, a bare digest of a content that has `{secret}` in it.

    Several contents in `signed` are alternatives: one of them has to match. `batch_path` is the path of a
    list in the payload if each of its elements has a signature of its own, in `signature.source`.
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
    batch_path: str = ""

    @property
    def proof_location(self) -> str:
        return self.signature.location

    @property
    def hash_passes(self) -> int:
        return len(self.signed) + (self.body_hash is not None)

    def applies(self, request: InboundRequest) -> bool:
        is_signed = self._elements(request) if self.batch_path else self.signature.is_present(request)
        return bool(is_signed) and self.when.holds(request)

    def verify(
        self, request: InboundRequest, secrets: Sequence[bytes], now: float, fetched: FetchedKey | None = None
    ) -> VerificationResult:
        del fetched
        if not self.batch_path:
            return self._verify_one(request, secrets, now)
        elements = self._elements(request)
        if not elements:
            return VerificationResult.MISSING
        # Each element costs a digest for every secret and content: a stranger must not choose how many.
        if len(elements) > MAX_SIGNATURES:
            return VerificationResult.UNREADABLE
        for element in elements:
            result = self._verify_one(request.for_event(request.payload, element), secrets, now)
            if result is not VerificationResult.VERIFIED:
                return result
        return VerificationResult.VERIFIED

    def _elements(self, request: InboundRequest) -> list[Any]:
        """Return the elements that are signed; empty if the payload has no such list."""
        elements = compile_path(self.batch_path)(request.payload)
        return elements if isinstance(elements, list) else []

    def _verify_one(
        self, request: InboundRequest, secrets: Sequence[bytes], now: float
    ) -> VerificationResult:
        parsed = extract_signatures(self.signature, self.timestamp, self.require, request)
        if parsed.result is not VerificationResult.VERIFIED:
            return parsed.result
        keys = self.key.keys(secrets)
        if not keys:
            return VerificationResult.NO_SECRET
        for key in keys:
            if self._is_signed(request, key, parsed.signatures):
                break
        else:
            return VerificationResult.MISMATCH
        if self.body_hash and not self.body_hash.holds(request):
            return VerificationResult.BODY_CHANGED
        return check_timestamp(self.timestamp, request, now)

    def _is_signed(self, request: InboundRequest, key: bytes, signatures: Sequence[bytes]) -> bool:
        """Return whether one of the signatures was made with this key, of one of the contents."""
        for signed in self.signed:
            digest = self._digest(request, key, signed)
            if digest is None:
                continue
            for received in signatures:
                if hmac.compare_digest(digest, received):
                    return True
        return False

    def accepts_secret(self, secret: bytes) -> bool:
        return bool(self.key.key(secret))

    def sign(self, request: InboundRequest, secret: bytes, now: float) -> InboundRequest:
        if self.batch_path:
            return self._sign_elements(request, self.key.key(secret))
        request = add_timestamp(self.timestamp, request, now)
        if self.body_hash:
            request = replace_source(
                request, self.body_hash.source.source, self.body_hash.encoded_digest(request)
            )
        key = self.key.key(secret)
        digest = self._digest(request, key, self.signed[0]) if key else None
        if digest is None:
            raise Malformed("the request lacks a part that is signed, or the secret is not for this scheme")
        return self.signature.add_to(request, digest)

    def _sign_elements(self, request: InboundRequest, key: bytes | None) -> InboundRequest:
        """Return the request with a signature in place of the one that each element has."""
        body, elements = request.body, self._elements(request)
        if not elements:
            raise Malformed(f"the request has no elements in {self.batch_path}, which are signed")
        end = 0
        for element in elements:
            event = request.for_event(request.payload, element)
            old = self.signature.source.text(event) if self.signature.source else None
            digest = self._digest(event, key, self.signed[0]) if key else None
            start = body.find(old.encode(), end) if old else -1
            if old is None or digest is None or start < 0:
                raise Malformed(f"an element of {self.batch_path} lacks a part that is signed")
            # Go on behind it: the next element may have the same text in place of its signature.
            signature = self.signature.encode(digest)
            body = body[:start] + signature + body[start + len(old.encode()) :]
            end = start + len(signature)
        return request.with_body(body)

    def _digest(self, request: InboundRequest, key: bytes, signed: SignedContent) -> bytes | None:
        if signed.only_body and not self.plain:  # the usual scheme: one call instead of an object and a loop
            request.work.count_hash(len(request.body))
            return hmac.digest(key, request.body, self.algorithm)
        digest = hashlib.new(self.algorithm) if self.plain else hmac.new(key, None, self.algorithm)
        return digest.digest() if signed.feed(request, key, digest.update) else None
