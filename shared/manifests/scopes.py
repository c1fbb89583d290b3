"""Scopes of an authorization: those of a purpose, and those that the person did not grant."""

import re
from collections.abc import Iterable, Mapping

from shared.manifests.connect_models import ConnectSpec, OAuth2, Purpose
from shared.manifests.token_response import TokenResponse


def scopes_by_purpose(connect: ConnectSpec, base: ConnectSpec | None) -> Mapping[Purpose, tuple[str, ...]]:
    """Return the scopes to request for each purpose. `base` is the provider that `connect` goes through."""
    flow = base and (base.oauth2 or base.oauth1)
    shared = flow.scopes if flow else ()
    return {purpose: tuple(dict.fromkeys((*shared, *scopes))) for purpose, scopes in connect.purposes.items()}


def granted_user_scopes(flow: OAuth2 | None, granted: TokenResponse) -> tuple[str, ...] | None:
    """Return the scopes of the person's token; None if the response lists none."""
    if flow is None or flow.user_scopes is None:
        return None
    tokens = granted.others.get(flow.user_scopes.token)
    return tokens.scopes if tokens else None


def missing_scopes(flow: OAuth2 | None, requested: Iterable[str], granted: Iterable[str]) -> list[str]:
    """Return the requested scopes that were not granted.

    Return none if the response did not list any: then nothing is known.
    """
    effective = set(granted)
    if not effective or flow is None:
        return []
    # Only the provider's own scopes imply others, not those that were added here.
    for scope in tuple(effective):
        for pattern, implied in flow.scope_means.items():
            if match := re.fullmatch(pattern, scope):
                effective.update(match.expand(template) for template in implied)
    effective.update(flow.scope_untold)
    return [scope for scope in requested if scope not in effective]
