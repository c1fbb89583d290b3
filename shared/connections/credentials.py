"""An account's credential: values for request templates, merging of new tokens, and the refresh schedule."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from shared.connections.grant_end import grant_end, is_warned, warning_at
from shared.connections.integration_record import Account, Integration
from shared.connections.provider_app import App
from shared.manifests.connector import Connector
from shared.manifests.token_response import TokenResponse, Tokens
from shared.runtime.clock import utcnow

MAIN: Final = ""
"""The name of a credential's main grant. Further grants of the same consent have names of their own."""

RESOURCE: Final = "@resource"
"""The name of the selected resource's token among the others. It ends with the main grant."""

_IDLE_SHARE: Final = 0.2
"""An idle refresh token is used when this share of its lifetime is left."""
_AHEAD_SHARE: Final = 0.5
"""A token is refreshed with at most this share of its lifetime left.

Else a token that lives for a minute would be refreshed at every call if the manifest says five minutes ahead.
"""
_RECHECK_INTERVAL: Final = timedelta(minutes=5)
"""Interval of refreshes with a refresh token that should have expired but that the provider still accepts."""


def template_values(
    connector: Connector | None,
    app: App | None,
    redirect_uri: str,
    *,
    params: Mapping[str, str],
    account: Account | None,
) -> dict[str, str]:
    """Return the values for the manifest's request templates, without the tokens.

    `connector` is None if the provider is no longer part of the hub.
    """
    values = {"redirect_uri": redirect_uri}
    for name, setting in (connector.settings if connector else {}).items():
        if setting.default:
            values[f"setting:{name}"] = setting.default
    if app is not None:
        values |= {"client_id": app.client_id, **app.secrets}
        values |= {f"setting:{name}": value for name, value in app.settings.items() if value}
    values |= {f"param:{name}": value for name, value in params.items()}
    if account is not None:
        values |= {f"account:{name}": value for name, value in account.attributes.items()}
        values["account:id"] = account.id
    return values


def merge_tokens(secrets: Mapping[str, Any], granted: TokenResponse) -> dict[str, Any]:
    """Return the credential with new tokens. What the response leaves out, such as a refresh token, stays."""
    merged = {**secrets, **(_token_fields(granted.tokens) if granted.tokens else {})}
    others = dict(secrets.get("others", {}))
    if granted.tokens is not None:
        others.pop(RESOURCE, None)  # it came from the token that is replaced
    for name, tokens in granted.others.items():
        others[name] = {**others.get(name, {}), **_token_fields(tokens)}
    merged.pop("others", None)
    return {**merged, "others": others} if others else merged


def _token_fields(tokens: Tokens) -> dict[str, str]:
    fields = {"access_token": tokens.access_token, "refresh_token": tokens.refresh_token}
    return {name: value for name, value in fields.items() if value}


def retained_refresh_tokens(before: Mapping[str, Any], granted: TokenResponse) -> dict[str, Any]:
    """Return the refresh tokens of an earlier credential that a token response leaves out.

    Only grants that the response has are considered. The result has the shape of a credential.
    """

    def left_out(tokens: Tokens | None, old: Mapping[str, Any]) -> dict[str, str]:
        refresh_token = old.get("refresh_token", "")
        missing = tokens and refresh_token and not tokens.refresh_token
        return {"refresh_token": refresh_token} if missing else {}

    old = before.get("others", {})
    others = {name: left_out(tokens, old.get(name, {})) for name, tokens in granted.others.items()}
    others = {name: retained for name, retained in others.items() if retained}
    return {**left_out(granted.tokens, before), **({"others": others} if others else {})}


def refreshable_slots(secrets: Mapping[str, Any]) -> list[str]:
    """Return the names of the grants that a refresh renews: the main one, and others with a refresh token."""
    others = [name for name, tokens in secrets.get("others", {}).items() if tokens.get("refresh_token")]
    own = bool(secrets.get("refresh_token")) or not others
    return [*([MAIN] if own and secrets.get("access_token") else []), *others]


def token_values(secrets: Mapping[str, Any]) -> dict[str, str]:
    """Return the tokens of one grant, without its nested grants."""
    return {name: value for name, value in secrets.items() if isinstance(value, str)}


def reset_refresh_state(integration: Integration) -> dict[str, Any]:
    """Return the fields that clear lease, failures and pauses once there are new tokens."""
    return {
        "lease": None,
        "settled_fence": integration.fence,
        "is_partially_refreshed": False,
        "forced_refresh_at": None,
        "retry_at": None,
        "failures": 0,
        "last_error": None,
        "rejected_app_revision": None,
        "is_pause_bypassed": False,
    }


def refresh_schedule(
    connector: Connector,
    granted: TokenResponse,
    *,
    refreshable: bool = False,
    refresh_expires_at: datetime | None = None,
    at: datetime | None = None,
    granted_at: datetime | None = None,
    warned_at: datetime | None = None,
) -> dict[str, Any]:
    """Return the fields of an integration that say when tokens expire and when maintenance has to act.

    Tokens are refreshed on use, from `renew_at` on. Maintenance (`due_at`) refreshes only what would expire
    unused: a refresh token near the end of its lifetime, or an access token that is its own refresh token.
    For tokens that cannot be refreshed, it notes the expiry. Before the end of a grant, it warns. Lifetimes
    count from `at` (default: now), the time of the token request, and those of grants from `granted_at`, the
    time of the consent (default: `at`). `warned_at` is when the last warning was published. `refreshable` and
    `refresh_expires_at` are of the earlier tokens that are kept.
    """
    at = at or utcnow()
    refresh = connector.refresh
    grants = [tokens for tokens in (granted.tokens, *granted.others.values()) if tokens is not None]
    lifetimes = [tokens.expires_in for tokens in grants if tokens.expires_in]
    ends = renew = None
    if lifetimes:
        ends = at + timedelta(seconds=min(lifetimes))
        renew = ends - timedelta(seconds=min(refresh.ahead_s, min(lifetimes) * _AHEAD_SHARE))
    has_refresh_token = any(tokens.refresh_token for tokens in grants) or refreshable
    refreshable = refresh.by == "request" or (refresh.by == "refresh_token" and has_refresh_token)
    refresh_ends = _refresh_token_expiry(connector, granted, refresh_expires_at, at) if refreshable else None
    granted_at = granted_at or at
    grant_ends = grant_end(
        connector,
        granted_at=granted_at,
        expires_at=ends,
        refresh_expires_at=refresh_ends,
        refreshable=refreshable,
    )
    is_fixed = refresh.fixed
    if refreshable and refresh.absolute_s is not None and grant_ends is not None:
        if grant_ends <= at:
            grant_ends = None  # the provider issues tokens beyond the end that its documents name
        elif refresh_ends is None or grant_ends <= refresh_ends:
            refresh_ends, is_fixed = grant_ends, True
    if refreshable and refresh.by == "request":
        due = renew
    elif refreshable:
        due = _idle_refresh_at(at, refresh_ends, fixed=is_fixed)
    else:
        due = ends
    warn = warning_at(grant_ends, granted_at)
    if warn is not None and not is_warned(warned_at, granted_at):
        due = min(max(warn, at), due) if due else max(warn, at)
    return {
        "expires_at": ends,
        "renew_at": renew if refreshable else None,
        "refresh_expires_at": refresh_ends,
        "grant_ends_at": grant_ends,
        "refreshable": refreshable,
        "needs_maintenance": due is not None,
        "due_at": due,
    }


def _refresh_token_expiry(
    connector: Connector, granted: TokenResponse, previous: datetime | None, at: datetime
) -> datetime | None:
    """Return when the first refresh token expires; None if it is not known.

    `previous` is when the earlier refresh token expires.
    """
    if connector.refresh.fixed and previous is not None:
        return previous  # its lifetime counts from the consent, whatever a later response says
    grants = [tokens for tokens in (granted.tokens, *granted.others.values()) if tokens is not None]
    lifetimes = [tokens.refresh_expires_in for tokens in grants if tokens.refresh_expires_in]
    seconds = min(lifetimes) if lifetimes else connector.refresh.lifetime_s
    return at + timedelta(seconds=seconds) if seconds else previous


def _idle_refresh_at(at: datetime, ends: datetime | None, *, fixed: bool) -> datetime | None:
    """Return when an unused refresh token has to be used, or checked, to be renewed in time."""
    if ends is None:
        return None
    if ends <= at:
        return at + _RECHECK_INTERVAL
    # Use does not extend a fixed lifetime: only the expiry has to be noted.
    return ends if fixed else ends - (ends - at) * _IDLE_SHARE
