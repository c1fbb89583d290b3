"""The known end of a grant, after which only a person can connect the account again.

Refreshing does not move it: some providers end a grant a year after the consent, however often it is
refreshed, and tokens without a refresh end by themselves. The owner is warned before.
"""

from datetime import datetime, timedelta
from typing import Final

from shared.connections.integration_record import Integration
from shared.manifests.connector import Connector

_WARNING: Final = timedelta(days=14)
"""Time before the end at which the warning is published."""
_MIN_LIFETIME: Final = 2 * _WARNING
"""Grants that live shorter end without a warning: their users know, and it would come every few days."""


def grant_end(
    connector: Connector,
    *,
    granted_at: datetime,
    expires_at: datetime | None,
    refresh_expires_at: datetime | None,
    refreshable: bool,
) -> datetime | None:
    """Return when a grant that a person gave at `granted_at` ends; None if refreshing keeps it alive."""
    if not refreshable:
        return expires_at
    refresh = connector.refresh
    if refresh.absolute_s is not None:
        return granted_at + timedelta(seconds=refresh.absolute_s)
    return refresh_expires_at if refresh.fixed else None


def warning_at(grant_ends_at: datetime | None, granted_at: datetime | None) -> datetime | None:
    """Return when to warn that a grant ends; None if it needs no warning."""
    if grant_ends_at is None or granted_at is None or grant_ends_at - granted_at < _MIN_LIFETIME:
        return None
    return grant_ends_at - _WARNING


def is_warned(warned_at: datetime | None, granted_at: datetime | None) -> bool:
    """Return whether the last warning was about the grant of `granted_at`, not about an earlier one."""
    return warned_at is not None and granted_at is not None and warned_at >= granted_at


def is_ending(integration: Integration, now: datetime) -> bool:
    """Return whether a person should connect the account again, because its grant ends within 14 days."""
    warn_at = warning_at(integration.grant_ends_at, integration.connected_at)
    return warn_at is not None and warn_at <= now


def must_warn(integration: Integration, now: datetime) -> bool:
    """Return whether the warning is due, and was not published since the person gave the grant."""
    return is_ending(integration, now) and not is_warned(integration.warned_at, integration.connected_at)
