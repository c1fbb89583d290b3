"""JSON Web Tokens as the proof (RFC 7519), with a shared key or keys published as a JWKS (RFC 7517)."""

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal
from urllib.parse import quote, urlsplit

from joserfc import jws
from joserfc.jwk import Key, import_key

from shared.contracts.errors import Malformed
from shared.verification.jwks import hmac_key, select_keys
from shared.verification.jws import SignedToken, parse_token
from shared.verification.match import MATCH_ALL, Match
from shared.verification.public_key import KeySource
from shared.verification.request import InboundRequest
from shared.verification.scheme import (
    TEXT_SECRET,
    Algorithm,
    FetchedKey,
    SecretFormat,
    SignatureEncoding,
    VerificationResult,
    missing_header_result,
)
from shared.verification.sources import scalar_text
from shared.verification.template import SourceTemplate
from shared.wire.bodies import decode_bytes


@dataclass(frozen=True, slots=True)
class JwtVerifier:
    """A signed token in a header. It proves the body only where a claim has a hash of it.

    Every claim in `claims` must have the value of its template; `issuers` and `audience` are checked if they
    are set. With `keys`, the signing keys are a fetched JWKS document; else the secret is the HMAC key.
    `body_hash` names a claim with a digest of the body, `query_hash` one with Atlassian's digest of method,
    path and query (`qsh`). `leeway_s` allows for differences between clocks. If `expires` is false, a token
    without an expiry is accepted; it expires `max_age_s` after it was issued (`iat`), or never if that is 0.

    The claims are checked here and not by joserfc's `JWTClaimsRegistry`: that does not tell an expired token
    from one with an unreadable or a wrong claim, refuses `iat` in the future also where `nbf` counts, and
    compares no claim with a part of the request.
    """

    header: bytes
    prefix: str
    algorithms: tuple[str, ...]
    keys: KeySource | None = None
    key: SecretFormat = TEXT_SECRET
    issuers: tuple[str, ...] = ()
    audience: tuple[SourceTemplate, ...] = ()
    claims: tuple[tuple[str, SourceTemplate], ...] = ()
    body_hash: tuple[str, Algorithm, SignatureEncoding] | None = None
    query_hash: str = ""
    leeway_s: float = 60.0
    expires: bool = True
    when: Match = MATCH_ALL
    require: Match = MATCH_ALL
    max_age_s: float = 0.0

    @property
    def proof_location(self) -> str:
        return f"the token in the header {self.header.decode()}"

    @property
    def hash_passes(self) -> int:
        return 1

    @property
    def uses_secrets(self) -> bool:
        return self.keys is None

    def applies(self, request: InboundRequest) -> bool:
        value = request.header(self.header) or ""
        return value.lower().startswith(self.prefix.lower()) and self.when.holds(request)

    def key_url(self, request: InboundRequest) -> str | None:
        if self.keys is None or (self.keys.post and self.key_body(request) is None):
            return None
        return self.keys.fetch_url(request)

    def key_body(self, request: InboundRequest) -> bytes | None:
        if self.keys is None or not self.keys.post:
            return None
        try:
            token = parse_token((request.header(self.header) or "")[len(self.prefix) :].strip())
        except Malformed:
            return None
        # A token that no key could verify causes no call of the provider.
        if token.header.get("alg") not in self.algorithms:
            return None
        return self.keys.request_body(request, token.header.get("kid"))

    def verify(
        self, request: InboundRequest, secrets: Sequence[bytes], now: float, fetched: FetchedKey | None = None
    ) -> VerificationResult:
        value = request.header(self.header)
        if value is None:
            return missing_header_result(request, self.header)
        token = value[len(self.prefix) :].strip()
        if not (value.lower().startswith(self.prefix.lower()) and self.require.holds(request) and token):
            return VerificationResult.UNREADABLE
        try:
            parsed = parse_token(token)
        except Malformed:
            parsed = None
        candidates: Sequence[Key | bytes] = self.key.keys(secrets)
        if self.keys:
            if parsed is None:
                return VerificationResult.UNREADABLE
            document = self.keys.jwks(fetched.body) if fetched else b""
            candidates = select_keys(parsed.header.get("kid"), document)
        if not candidates:
            return VerificationResult.MISMATCH if self.keys else VerificationResult.NO_SECRET
        count = request.work.count_public_key_check if self.keys else request.work.count_hash
        # A result other than "another key" says more about what is wrong, so it wins.
        result = VerificationResult.MISMATCH
        for candidate in candidates:
            count(len(token))
            candidate_result = self._verify_with_key(request, parsed, candidate, now)
            if candidate_result is not VerificationResult.MISMATCH:
                result = candidate_result
            if candidate_result is VerificationResult.VERIFIED:
                break
        return result

    def _verify_with_key(
        self, request: InboundRequest, token: SignedToken | None, candidate: Key | bytes, now: float
    ) -> VerificationResult:
        if token is None:
            return VerificationResult.UNREADABLE
        try:
            key = hmac_key(candidate) if isinstance(candidate, bytes) else candidate
            if not token.is_signed_by(key, self.algorithms):
                return VerificationResult.MISMATCH
            claims = token.claims()
        except Malformed:
            return VerificationResult.UNREADABLE
        if not self._claims_match(request, claims):
            return VerificationResult.CLAIMS
        if not self._hashes_match(request, claims):
            return VerificationResult.BODY_CHANGED
        return self._check_validity_period(claims, now)

    def _claims_match(self, request: InboundRequest, claims: Mapping[str, Any]) -> bool:
        if self.issuers and claims.get("iss") not in self.issuers:
            return False
        if self.audience:
            expected, audience = self._expected_audience(request), claims.get("aud")
            if not expected or expected not in (audience if isinstance(audience, list) else [audience]):
                return False
        for name, template in self.claims:
            expected = template.text(request)
            if not expected or scalar_text(claims.get(name)) != expected:
                return False
        return True

    def _expected_audience(self, request: InboundRequest) -> str | None:
        """Return the audience of the first template that has a value."""
        return next((text for template in self.audience if (text := template.text(request))), None)

    def _hashes_match(self, request: InboundRequest, claims: Mapping[str, Any]) -> bool:
        if self.query_hash:
            query_hash = scalar_text(claims.get(self.query_hash)) or ""
            if not hmac.compare_digest(query_hash.encode(), query_string_hash(request).encode()):
                return False
        if self.body_hash is None:
            return True
        name, algorithm, encoding = self.body_hash
        request.work.count_hash(len(request.body))
        digest = decode_bytes(scalar_text(claims.get(name)) or "", encoding) or b""
        return hmac.compare_digest(digest, hashlib.new(algorithm, request.body).digest())

    def _check_validity_period(self, claims: Mapping[str, Any], now: float) -> VerificationResult:
        expires_at = _numeric_date(claims.get("exp"))
        starts_at = _numeric_date(claims.get("nbf", claims.get("iat", 0)))
        if expires_at is None and "exp" not in claims:
            issued_at = _numeric_date(claims.get("iat"))
            if self.expires or (self.max_age_s and issued_at is None):
                return VerificationResult.CLAIMS
            expires_at = issued_at + self.max_age_s if self.max_age_s and issued_at is not None else now
        if expires_at is None or starts_at is None:
            return VerificationResult.UNREADABLE
        is_early, is_late = starts_at > now + self.leeway_s, now > expires_at + self.leeway_s
        return VerificationResult.STALE if is_early or is_late else VerificationResult.VERIFIED

    def accepts_secret(self, secret: bytes) -> bool:
        return self.keys is None and bool(self.key.key(secret))

    def sign(self, request: InboundRequest, secret: bytes, now: float) -> InboundRequest:
        """Return the request with a token. `secret` is the HMAC key, or the private key as PEM.

        The token's key id in a JWKS is `FIXTURE_KEY_ID`.
        """
        claims: dict[str, Any] = {"iat": int(now)}
        if self.expires:
            claims["exp"] = int(now) + 300
        if self.issuers:
            claims["iss"] = self.issuers[0]
        if self.audience:
            claims["aud"] = self._expected_audience(request)
        for name, template in self.claims:
            text = template.text(request)
            claims[name] = {"true": True, "false": False}.get(text or "", text)
        if self.query_hash:
            claims[self.query_hash] = query_string_hash(request)
        if self.body_hash:
            name, algorithm, encoding = self.body_hash
            digest = hashlib.new(algorithm, request.body).digest()
            claims[name] = digest.hex() if encoding == "hex" else base64.b64encode(digest).decode()
        name = self.algorithms[0]
        key = import_key(secret, _KEY_TYPES[name[:2]]) if self.keys else hmac_key(self.key.key(secret) or b"")
        token = jws.serialize_compact(
            {"alg": name, "kid": FIXTURE_KEY_ID, "typ": "JWT"},
            json.dumps(claims, separators=(",", ":")),
            key,
            [name],
        )
        return request.with_header(self.header, (self.prefix + token).encode())


def _numeric_date(value: Any) -> float | None:
    """Return a NumericDate claim in Unix seconds; None if it is not a number or is after the year 9999."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 253_402_300_800:
        return None
    return float(value)


FIXTURE_KEY_ID: Final = "fixture"
"""The `kid` of tokens that `JwtVerifier.sign` makes."""

_KEY_TYPES: Final[Mapping[str, Literal["RSA", "EC", "OKP"]]] = {"RS": "RSA", "ES": "EC", "Ed": "OKP"}
"""The type of key by the first letters of an algorithm."""


def query_string_hash(request: InboundRequest) -> str:
    """Return Atlassian's `qsh`: SHA-256 in hex of method, path and the sorted query, percent-encoded.

    https://developer.atlassian.com/cloud/jira/platform/understanding-jwt-for-connect-apps/ ("Creating a
    query string hash"): values of one name are joined by a comma, and the parameter `jwt` is left out.
    """
    values: dict[str, list[str]] = {}
    for name, value in request.query:
        if name != "jwt":
            values.setdefault(quote(name, safe="-._~"), []).append(quote(value, safe="-._~"))
    query = "&".join(f"{name}={','.join(sorted(texts))}" for name, texts in sorted(values.items()))
    path = urlsplit(request.address).path.rstrip("/").replace("&", "%26") or "/"
    return hashlib.sha256(f"{request.method.upper()}&{path}&{query}".encode()).hexdigest()
