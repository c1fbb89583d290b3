"""Validate ID tokens (OpenID Connect Core 1.0, 3.1.3.7). Pure.

Authlib checks the claims, `shared.verification` the signature, with the keys that the identity provider
publishes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from authlib.oidc.core import CodeIDToken
from joserfc.errors import JoseError
from joserfc.jwk import Key

from services.console.openid.configuration import OpenIdConfiguration
from shared.contracts.errors import Malformed, Unauthenticated
from shared.verification.jwks import select_keys
from shared.verification.jws import SignedToken, parse_token

LEEWAY_S: Final = 60
"""Accepted clock skew."""
_ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA")
"""Asymmetric only: with HMAC, anyone with the client secret could sign."""
_MAX_SUBJECT: Final = 255
_MAX_NAME: Final = 200
_MAX_EMAIL: Final = 320


class UnknownSigningKey(Unauthenticated):
    """No cached key verifies the token: the identity provider may have published new ones."""


@dataclass(frozen=True, slots=True)
class Identity:
    """The authenticated user of an ID token, with all its claims."""

    subject: str
    name: str
    email: str
    claims: Mapping[str, Any]


def read_id_token(
    text: str, keys: bytes, configuration: OpenIdConfiguration, *, nonce: str, access_token: str, now: float
) -> Identity:
    """Return the identity of an ID token after validation. `keys` is a JWKS document, `now` in Unix seconds.

    Raises `UnknownSigningKey`, or `Unauthenticated` if the signature or a claim is not valid.
    """
    try:
        token = parse_token(text)
        candidates = select_keys(token.header.get("kid"), keys)
        if not any(_is_signed_by(token, key) for key in candidates):
            raise UnknownSigningKey(
                "the identity provider's answer is not valid: no published key verifies its signature"
            )
        claims = CodeIDToken(
            token.claims(),
            dict(token.header),
            {
                "iss": {"essential": True, "value": configuration.issuer},
                "aud": {"essential": True, "value": configuration.client_id},
            },
            {"nonce": nonce, "client_id": configuration.client_id, "access_token": access_token},
        )
        claims.validate(now=int(now), leeway=LEEWAY_S)
    except (JoseError, Malformed, ValueError, TypeError, AttributeError) as error:
        raise Unauthenticated(f"the identity provider's answer is not valid: {_reason(error)}") from None
    subject = claims.get("sub")
    if not isinstance(subject, str) or not 0 < len(subject) <= _MAX_SUBJECT or not subject.isprintable():
        raise Unauthenticated("the identity provider's answer is not valid: invalid_claim sub")
    name = _text(claims, "name", _MAX_NAME) or _text(claims, "preferred_username", _MAX_NAME)
    return Identity(subject, name or subject[:_MAX_NAME], _text(claims, "email", _MAX_EMAIL), dict(claims))


def _is_signed_by(token: SignedToken, key: Key) -> bool:
    try:
        return token.is_signed_by(key, _ALGORITHMS)
    except Malformed:
        return False


def _reason(error: Exception) -> str:
    """Return the reason for a rejected token, without its contents."""
    if isinstance(error, JoseError):
        return " ".join(part for part in (error.error, getattr(error, "claim", "")) if part)
    return type(error).__name__


def _text(claims: Mapping[str, Any], name: str, maximum: int) -> str:
    """Return a claim as valid UTF-8 text, cut to `maximum` characters; empty if it is not a string."""
    value = claims.get(name)
    return value[:maximum].encode("utf-8", "replace").decode() if isinstance(value, str) else ""
