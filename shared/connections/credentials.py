"""What is known of an account's credential: what fills requests, what an answer changes, when it is due."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from shared.connections.apps import App
from shared.manifests.connector import Connector
from shared.manifests.registry import connectors
from shared.manifests.token_response import TokenResponse, Tokens
from shared.runtime.mongo import utcnow

MAIN: Final = ""
"""The name of a credential's own tokens; others of the same consent have names of their own."""

_IDLE_SHARE: Final = 0.2
"""Of a refresh token's life is left when an idle one is used."""
_AHEAD_SHARE: Final = 0.5
"""Of an access token's life is left at most when it is made anew: what lives for a minute is not made anew
at every call because the manifest says five minutes ahead."""
_RECHECK_INTERVAL: Final = timedelta(minutes=5)
"""A refresh token whose end has passed, and which the platform still takes, is looked at again so often."""


def template_values(document: Mapping[str, Any], app: App | None, redirect_uri: str) -> dict[str, str]:
    """What requests of the manifest are filled with, but for the tokens."""
    values = {"redirect_uri": redirect_uri}
    connector = connectors().get(document["provider"])
    for name, setting in (connector.settings if connector else {}).items():
        if setting.default:
            values[f"setting:{name}"] = setting.default
    if app is not None:
        values |= {"client_id": app.client_id, **app.secrets}
        values |= {f"setting:{name}": value for name, value in app.settings.items() if value}
    values |= {f"param:{name}": value for name, value in document.get("params", {}).items()}
    account = document.get("account") or {}
    values |= {f"account:{name}": value for name, value in account.get("kept", {}).items()}
    if account:
        values["account:id"] = account["id"]
    return values


def merge_tokens(secrets: Mapping[str, Any], granted: TokenResponse) -> dict[str, Any]:
    """The credential after an answer: what the answer leaves out (a refresh token, other tokens) stays."""
    kept = {**secrets, **(_token_fields(granted.tokens) if granted.tokens else {})}
    others = dict(secrets.get("others", {}))
    for name, tokens in granted.others.items():
        others[name] = {**others.get(name, {}), **_token_fields(tokens)}
    return {**kept, "others": others} if others else kept


def _token_fields(tokens: Tokens) -> dict[str, str]:
    both = {"access_token": tokens.access_token, "refresh_token": tokens.refresh_token}
    return {name: value for name, value in both.items() if value}


def retained_refresh_tokens(before: Mapping[str, Any], granted: TokenResponse) -> dict[str, Any]:
    """Those of a credential from before that an answer, which has such grants, leaves out."""

    def left_out(tokens: Tokens | None, old: Mapping[str, Any]) -> dict[str, str]:
        kept = old.get("refresh_token", "")
        return {"refresh_token": kept} if tokens and kept and not tokens.refresh_token else {}

    old = before.get("others", {})
    others = {name: left_out(tokens, old.get(name, {})) for name, tokens in granted.others.items()}
    others = {name: kept for name, kept in others.items() if kept}
    return {**left_out(granted.tokens, before), **({"others": others} if others else {})}


def refreshable_slots(secrets: Mapping[str, Any]) -> list[str]:
    """The grants of a credential that are made anew: its own, and others with refresh tokens."""
    others = [name for name, tokens in secrets.get("others", {}).items() if tokens.get("refresh_token")]
    own = bool(secrets.get("refresh_token")) or not others
    return [*([MAIN] if own and secrets.get("access_token") else []), *others]


def token_values(secrets: Mapping[str, Any]) -> dict[str, str]:
    """The tokens of one grant, without those of others."""
    return {name: value for name, value in secrets.items() if isinstance(value, str)}


def reset_refresh_state(document: Mapping[str, Any]) -> dict[str, Any]:
    """With new tokens, nothing counts of what was under way or failed before: fields of the document."""
    return {
        "lease": None,
        "settled_fence": document["fence"],
        "halfway": False,
        "forced_at": None,
        "retry_at": None,
        "failures": 0,
        "last_error": None,
        "refused_app": None,
        "pause_passed": False,
    }


def refresh_schedule(
    connector: Connector, granted: TokenResponse, before: Mapping[str, Any], *, at: datetime | None = None
) -> dict[str, Any]:
    """When tokens end, and when something is to be done by itself: fields of the integration's document.

    Tokens are made anew when they are used, from `renew_at` on; by itself only what would die unused: a
    refresh token towards the end of its life, or an access token that is its own refresh token. What cannot
    be made anew is looked at when it ends. Lifetimes count from `at`, when the platform was asked.
    """
    at = at or utcnow()
    refresh = connector.refresh
    every = [each for each in (granted.tokens, *granted.others.values()) if each is not None]
    lifetimes = [each.expires_in for each in every if each.expires_in]
    ends = renew = None
    if lifetimes:
        ends = at + timedelta(seconds=min(lifetimes))
        renew = ends - timedelta(seconds=min(refresh.ahead_s, min(lifetimes) * _AHEAD_SHARE))
    has_refresh = any(each.refresh_token for each in every) or bool(before.get("refreshable"))
    can = refresh.by == "request" or (refresh.by == "refresh_token" and has_refresh)
    dies = _refresh_token_expiry(connector, granted, before, at) if can else None
    if can and refresh.by == "request":
        due = renew
    elif can:
        due = _idle_refresh_at(at, dies, fixed=refresh.fixed)
    else:
        due = ends
    return {
        "expires_at": ends,
        "renew_at": renew if can else None,
        "refresh_expires_at": dies,
        "refreshable": can,
        "open": due is not None,
        "due_at": due,
    }


def _refresh_token_expiry(
    connector: Connector, granted: TokenResponse, before: Mapping[str, Any], at: datetime
) -> datetime | None:
    known: datetime | None = before.get("refresh_expires_at")
    if connector.refresh.fixed and known is not None:
        return known
    every = [each for each in (granted.tokens, *granted.others.values()) if each is not None]
    said = [each.refresh_expires_in for each in every if each.refresh_expires_in]
    seconds = min(said) if said else connector.refresh.lifetime_s
    return at + timedelta(seconds=seconds) if seconds else known


def _idle_refresh_at(at: datetime, dies: datetime | None, *, fixed: bool) -> datetime | None:
    if dies is None:
        return None
    if dies <= at:
        return at + _RECHECK_INTERVAL
    # Using a fixed one does not make it live longer: its end is noted when it comes.
    return dies if fixed else dies - (dies - at) * _IDLE_SHARE
