"""OAuth as values: authorization URLs, PKCE and OAuth 1.0a signatures. No I/O.

OAuth 2.0 is RFC 6749 with PKCE (RFC 7636) and the best practice of RFC 9700; OAuth 1.0a is RFC 5849. What
Authlib implements is Authlib's; where providers differ from the standard, a parameter says how.
"""

import hashlib
import hmac
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from authlib.common.urls import add_params_to_uri
from authlib.oauth1.rfc5849.client_auth import ClientAuth as OAuth1
from authlib.oauth2.rfc6749.parameters import prepare_grant_uri
from authlib.oauth2.rfc7636 import create_s256_code_challenge

from shared.wire.provider_http import ProviderRequest


@dataclass(frozen=True, slots=True)
class ClientCredentials:
    """The client id and secret of an OAuth app that is registered with a provider."""

    id: str
    secret: str


def new_state() -> str:
    """Return an authorization state of 256 random bits."""
    return secrets.token_urlsafe(32)


def new_code_verifier() -> str:
    """Return a PKCE code verifier of 256 random bits, 43 characters (RFC 7636, 4.1)."""
    return secrets.token_urlsafe(32)


def code_challenge(verifier: str) -> str:
    """Return the S256 code challenge of a code verifier (RFC 7636, 4.2)."""
    return str(create_s256_code_challenge(verifier))  # type: ignore[no-untyped-call]


def authorization_url(url: str, parameters: Mapping[str, str]) -> str:
    """Return the URL that a browser is redirected to. `response_type` is `code` unless it is given."""
    others = dict(parameters)
    client_id = others.pop("client_id", None)
    if client_id is None:  # a provider that calls it by another name
        return str(add_params_to_uri(url, [("response_type", "code"), *others.items()]))
    return str(prepare_grant_uri(url, client_id, others.pop("response_type", "code"), **others))


def sign_oauth1(
    client: ClientCredentials,
    method: str,
    url: str,
    *,
    token: str | None = None,
    token_secret: str | None = None,
    callback: str | None = None,
    verifier: str | None = None,
) -> ProviderRequest:
    """Return a request without a body, with an HMAC-SHA1 `Authorization` header (RFC 5849, 3.4)."""
    signer = OAuth1(
        client.id,
        client_secret=client.secret,
        token=token,
        token_secret=token_secret,
        redirect_uri=callback,
        verifier=verifier,
    )
    signed_url, headers, _ = signer.prepare(method, url, {}, "")
    # Authlib adds a length for the empty body; the HTTP client sets its own.
    own = {name: value for name, value in headers.items() if name.lower() != "content-length"}
    return ProviderRequest(method, str(signed_url), own)


def sorted_query_hmac(pairs: Iterable[tuple[str, str]], without: str, secret: str) -> str:
    """Return the hex HMAC-SHA256 of a callback's sorted parameters, except the one named `without`.

    That parameter carries the HMAC itself.
    """
    signed = "&".join(f"{name}={value}" for name, value in sorted(pairs) if name != without)
    return hmac.new(secret.encode(), signed.encode(), hashlib.sha256).hexdigest()
