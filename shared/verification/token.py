"""Schemes in which the secret itself is the proof: a token in some part of the request, or HTTP Basic."""

import base64
import hmac
from collections.abc import Sequence
from dataclasses import dataclass

from shared.contracts.errors import Malformed, TooLarge
from shared.verification.batch import MAX_EVENTS
from shared.verification.match import MATCH_ALL, Match
from shared.verification.request import InboundRequest
from shared.verification.scheme import (
    TEXT_SECRET,
    FetchedKey,
    NoFetchedKey,
    SecretFormat,
    VerificationResult,
    missing_header_result,
)
from shared.verification.sources import compile_path, replace_source, scalar_text
from shared.verification.template import SourceTemplate
from shared.wire.bodies import decode_bytes


@dataclass(frozen=True, slots=True)
class TokenVerifier(NoFetchedKey):
    """The secret itself, in a part of the request, or in every element of a batch.

    `batch_path` is the path of the batch (`value`) if each of its elements carries the token at `source`.
    """

    source: SourceTemplate
    prefix: str = ""
    batch_path: str = ""
    key: SecretFormat = TEXT_SECRET
    when: Match = MATCH_ALL
    require: Match = MATCH_ALL

    @property
    def is_in_body(self) -> bool:
        """True if the secret is a part of the body, which is passed on to consumers."""
        return self.source.source.strip("{}").partition(":")[0] in ("json", "item", "form")

    @property
    def proof_location(self) -> str:
        return f"the token ({self.source.source.strip('{}').replace(':', ' ')})"

    @property
    def hash_passes(self) -> int:
        return 1

    def applies(self, request: InboundRequest) -> bool:
        return (bool(self.batch_path) or self.source.text(request) is not None) and self.when.holds(request)

    def verify(
        self, request: InboundRequest, secrets: Sequence[bytes], now: float, fetched: FetchedKey | None = None
    ) -> VerificationResult:
        del now, fetched
        tokens = self._complete_tokens(request)
        if tokens is None:
            return VerificationResult.MISSING
        if not self.require.holds(request):
            return VerificationResult.UNREADABLE
        keys = self.key.keys(secrets)
        if not keys:
            return VerificationResult.NO_SECRET
        # Every token is compared with every key, whatever was found before: the time tells nothing.
        verified = True
        for token in tokens:
            raw = token.removeprefix(self.prefix).encode("utf-8", "surrogatepass")
            is_key = False
            for key in keys:
                is_key |= hmac.compare_digest(raw, key)
            verified &= is_key and token.startswith(self.prefix)
        return VerificationResult.VERIFIED if verified else VerificationResult.MISMATCH

    def presented_tokens(self, request: InboundRequest) -> list[str | None]:
        """Return the token of the request, right or wrong, or of every element of its batch.

        None stands for a missing token. Raises `Malformed`, and `TooLarge` for a batch of more than
        `MAX_EVENTS` elements.
        """
        if not self.batch_path:
            return [self.source.text(request)]
        elements = compile_path(self.batch_path)(request.payload)
        if not isinstance(elements, list):
            return []
        if len(elements) > MAX_EVENTS:
            raise TooLarge(f"{self.batch_path} has more than {MAX_EVENTS} elements")
        read = compile_path(self.source.source.strip("{}").partition(":")[2])
        return [scalar_text(read(element)) or None for element in elements]

    def _complete_tokens(self, request: InboundRequest) -> list[str] | None:
        """Return every token of the request; None if one is missing.

        Otherwise an element without a token would be accepted along with the others.
        """
        tokens = self.presented_tokens(request)
        return None if not tokens or None in tokens else [token for token in tokens if token is not None]

    def accepts_secret(self, secret: bytes) -> bool:
        return bool(self.key.key(secret))

    def sign(self, request: InboundRequest, secret: bytes, now: float) -> InboundRequest:
        del now
        if not self.batch_path:
            return replace_source(request, self.source.source, self.prefix + secret.decode())
        tokens = self._complete_tokens(request)
        if not tokens:
            raise Malformed(f"an element of {self.batch_path} has no token to replace")
        body = request.body
        for token in set(tokens):
            body = body.replace(token.encode(), secret)
        return request.with_body(body)


@dataclass(frozen=True, slots=True)
class BasicAuthVerifier(NoFetchedKey):
    """HTTP Basic authentication (RFC 7617): the secret is `user:password`."""

    when: Match = MATCH_ALL
    require: Match = MATCH_ALL

    @property
    def proof_location(self) -> str:
        return "the header authorization (Basic)"

    @property
    def hash_passes(self) -> int:
        return 1

    def applies(self, request: InboundRequest) -> bool:
        return _authorization_scheme(request) == "basic" and self.when.holds(request)

    def verify(
        self, request: InboundRequest, secrets: Sequence[bytes], now: float, fetched: FetchedKey | None = None
    ) -> VerificationResult:
        del now, fetched
        authorization = request.header(b"authorization")
        if authorization is None:
            return missing_header_result(request, b"authorization")
        credentials = decode_bytes(authorization.partition(" ")[2].strip(), "base64")
        if _authorization_scheme(request) != "basic" or credentials is None or b":" not in credentials:
            return VerificationResult.UNREADABLE
        if not secrets:
            return VerificationResult.NO_SECRET
        verified = False
        for secret in secrets:
            verified |= hmac.compare_digest(credentials, secret)
        return VerificationResult.VERIFIED if verified else VerificationResult.MISMATCH

    def accepts_secret(self, secret: bytes) -> bool:
        return b":" in secret

    def sign(self, request: InboundRequest, secret: bytes, now: float) -> InboundRequest:
        del now
        return request.with_header(b"authorization", b"Basic " + base64.b64encode(secret))


def _authorization_scheme(request: InboundRequest) -> str:
    return (request.header(b"authorization") or "").partition(" ")[0].lower()
