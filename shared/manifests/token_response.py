"""The tokens in a token endpoint's response."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from math import isfinite
from typing import Any, Final

from shared.contracts.errors import InterlinkError
from shared.manifests.connect_models import OAuth2, TokenMapping
from shared.manifests.provider_response import (
    GrantRevoked,
    InvalidClient,
    ProviderRejected,
    as_text,
    provider_unavailable,
    select_value,
)
from shared.wire.provider_http import ProviderResponse

_MAX_LIFETIME_S: Final = 20 * 365 * 24 * 3600.0
"""Longest lifetime that is believed."""
_MAX_TOKEN_LENGTH: Final = 16 * 1024
_MAX_SCOPES: Final = 500
_MAX_DETAIL_LENGTH: Final = 200
_INVALID_CLIENT_CODES: Final = frozenset({"invalid_client", "unauthorized_client"})
_INVALID_GRANT: Final = "invalid_grant"


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens of one grant. Lifetimes are seconds from the response; None if no end is known."""

    access_token: str
    refresh_token: str = ""
    expires_in: float | None = None
    refresh_expires_in: float | None = None
    scopes: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class TokenResponse:
    """Result of a token endpoint. `others` are further tokens of the same grant, by name."""

    tokens: Tokens | None
    others: Mapping[str, Tokens]
    document: Any
    """The whole response. It contains secrets: never store or log it."""


def parse_tokens(grant: TokenMapping, document: Any, flow: OAuth2) -> Tokens | None:
    """Return the tokens that `grant` selects from a response; None if it has no access token."""
    access_token = parse_token(select_value(grant.access_token, document))
    if not access_token:
        return None
    # The response wins over the manifest's lifetime; 0 means that the token does not expire.
    seconds = _parse_seconds(select_value(grant.expires_in, document))
    lifetime = flow.lifetime_s if seconds is None else seconds
    return Tokens(
        access_token=access_token,
        refresh_token=parse_token(select_value(grant.refresh_token, document)),
        expires_in=lifetime or None,
        refresh_expires_in=_parse_seconds(select_value(grant.refresh_expires_in, document)) or None,
        scopes=_parse_scopes(select_value(grant.scope, document), flow.scope_separator),
    )


def parse_token(value: Any) -> str:
    """Return a token; '' if the value is not a printable string of at most `_MAX_TOKEN_LENGTH`."""
    return value if isinstance(value, str) and len(value) <= _MAX_TOKEN_LENGTH and value.isprintable() else ""


def _parse_seconds(value: Any) -> float | None:
    """Return a lifetime in seconds; 0 means for ever, None means missing or not a number."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        seconds = float(value)
    except (ValueError, OverflowError):
        return None
    return min(seconds, _MAX_LIFETIME_S) if isfinite(seconds) and seconds >= 0 else None


def _parse_scopes(value: Any, separator: str) -> tuple[str, ...] | None:
    """Split the granted scopes; None if the response does not list any.

    Providers often answer with other separators than they accept: commas, spaces and `separator` all count.
    """
    if isinstance(value, str):
        words: Iterable[Any] = value.replace(",", " ").replace(separator, " ").split()
    elif isinstance(value, list):
        words = value
    else:
        return None
    return tuple(islice(dict.fromkeys(str(word)[:200] for word in words if word), _MAX_SCOPES))


def token_error(flow: OAuth2, code: str, document: Any, response: ProviderResponse) -> InterlinkError:
    """Return the error that a token endpoint's error code means.

    `ProviderUnavailable`: repeat the request later. `GrantRevoked`: the grant or the code is not valid.
    `InvalidClient`: the app is rejected. Any other code is a `ProviderRejected`.
    """
    detail = as_text(select_value(flow.answer.description, document))[:_MAX_DETAIL_LENGTH]
    if response.status == 429 or response.status >= 500 or code == "temporarily_unavailable":
        return provider_unavailable(response)
    revoked_codes = flow.refresh.reconnect
    # The manifest's codes win: a provider may return a general code for a revoked grant.
    if code in (_INVALID_GRANT, *flow.code_refused, *revoked_codes) or detail.startswith(revoked_codes):
        return GrantRevoked(code, detail)
    if code in _INVALID_CLIENT_CODES or code in flow.client.refused:
        return InvalidClient(code, detail)
    return ProviderRejected(code, detail)
