"""Signatures that both sides can make: HMAC, and digests of a text with the secret in it."""

import base64
import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass

from shared.contracts.errors import Malformed
from shared.wire.requests import Match, Request, Signed, Template, decoded
from shared.wire.verification import (
    ALWAYS,
    AS_TEXT,
    Algorithm,
    Encoding,
    Fetched,
    KeyForm,
    NothingFetched,
    Signature,
    Timestamp,
    Verdict,
    in_time,
    opened,
    stamped,
)


@dataclass(frozen=True, slots=True)
class BodyHash:
    """A digest of the body that the signature covers, in a part of the request."""

    source: Template
    algorithm: Algorithm = "sha256"
    encoding: Encoding = "hex"

    def holds(self, request: Request) -> bool:
        """Whether the body is the one that the digest was made of."""
        said = self.source.text(request)
        given = decoded(said, self.encoding) if said else None
        if given is None:
            return False
        request.work.hash(len(request.body))
        return hmac.compare_digest(given, self._digest(request))

    def made(self, request: Request) -> str:
        """The digest, as it is written."""
        digest = self._digest(request)
        return digest.hex() if self.encoding == "hex" else base64.b64encode(digest).decode()

    def _digest(self, request: Request) -> bytes:
        return hashlib.new(self.algorithm, request.body).digest()


@dataclass(frozen=True, slots=True)
class Mac(NothingFetched):
    """HMAC of `signed`, or, with `plain`, a bare digest of a text that has `{secret}` in it.

    Several `signed` are alternatives: one of them has to match.
    """

    signature: Signature
    signed: tuple[Signed, ...]
    algorithm: Algorithm = "sha256"
    plain: bool = False
    key: KeyForm = AS_TEXT
    timestamp: Timestamp | None = None
    body_hash: BodyHash | None = None
    when: Match = ALWAYS
    require: Match = ALWAYS

    @property
    def about(self) -> str:
        return f"the header {self.signature.headers[0].decode()}"

    @property
    def passes(self) -> int:
        return len(self.signed) + (self.body_hash is not None)

    def applies(self, request: Request) -> bool:
        return self.signature.there(request) and self.when.holds(request)

    def verify(
        self, request: Request, secrets: Sequence[bytes], now: float, fetched: Fetched | None = None
    ) -> Verdict:
        del fetched
        found = opened(self.signature, self.timestamp, self.require, request)
        if found.verdict is not Verdict.VERIFIED:
            return found.verdict
        keys = self.key.keys(secrets)
        if not keys:
            return Verdict.NO_SECRET
        if not any(self._is_signed(request, key, found.signatures) for key in keys):
            return Verdict.MISMATCH
        if self.body_hash and not self.body_hash.holds(request):
            return Verdict.BODY_CHANGED
        return in_time(self.timestamp, request, now)

    def _is_signed(self, request: Request, key: bytes, signatures: Sequence[bytes]) -> bool:
        """Whether one of the signatures is this key's. The first text that matches ends the search."""
        for signed in self.signed:
            made = self._digest(request, key, signed)
            if made is not None and any(hmac.compare_digest(made, each) for each in signatures):
                return True
        return False

    def usable(self, secret: bytes) -> bool:
        return bool(self.key.key(secret))

    def sign(self, request: Request, secret: bytes, now: float) -> Request:
        request = stamped(self.timestamp, request, now)
        if self.body_hash:
            request = request.with_part(self.body_hash.source.source, self.body_hash.made(request))
        key = self.key.key(secret)
        made = self._digest(request, key, self.signed[0]) if key else None
        if made is None:
            raise Malformed("the request lacks a part that is signed, or the secret is not for this way")
        return self.signature.signed(request, made)

    def _digest(self, request: Request, key: bytes, signed: Signed) -> bytes | None:
        if signed.only_body and not self.plain:
            request.work.hash(len(request.body))
            return hmac.digest(key, request.body, self.algorithm)
        digest = hashlib.new(self.algorithm) if self.plain else hmac.new(key, None, self.algorithm)
        return digest.digest() if signed.feed(request, key, digest.update) else None
