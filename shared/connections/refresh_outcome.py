"""The outcome of a refresh: a status, a failure and its pause, or a revoked grant in the integration."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

from shared.connections.apps import Apps
from shared.connections.integration_record import (
    USABLE,
    Integration,
    IntegrationEventType,
    LastError,
)
from shared.connections.integrations import IntegrationRepository
from shared.connections.provider_app import App
from shared.contracts.envelope import rfc3339
from shared.contracts.errors import Conflict, Misconfigured
from shared.manifests.connector import Connector
from shared.manifests.provider_response import ProviderUnavailable
from shared.runtime.clock import utcnow
from shared.runtime.logs import Log
from shared.runtime.metrics import REFRESHES
from shared.runtime.retry import Backoff

MAX_PAUSE_S: Final = 900.0
MAX_DETAIL_LENGTH: Final = 300
UNREADABLE_CREDENTIAL: Final = "unreadable"
"""The reason of an error that is not the provider's: the stored credential cannot be decrypted."""
NO_APP: Final = ""
"""Stands in place of an app's revision if there was no app, or if it could not be decrypted."""
_PAUSES: Final = Backoff(first_s=2.0, max_s=MAX_PAUSE_S, spread=0.2)
_LOCAL_REASONS: Final = ("expired", "token_refused")
"""Reasons for `reauth_required` that do not come from a refresh response."""
_MAX_ATTEMPTS: Final = 5
_REMEDIES: Final[Mapping[str, str]] = {
    "disabled": "enable it",
    "confirmation_required": "confirm the account with POST /api/auth/oauth/confirm",
    "choice_required": "send one of its choices to POST /api/integrations/{id}/choose",
}
"""What makes an integration usable, by its status, or by the reason why it is pending."""


class NotConnected(Conflict):
    """No usable token: the account has to be connected again. `state` is the integration's status."""

    def __init__(self, state: str, detail: str) -> None:
        super().__init__(detail)
        self.state = state


class RefreshOutcomes:
    """Writes the outcomes of refreshes. A write does nothing if a later attempt has raised the fence."""

    def __init__(
        self,
        integrations: IntegrationRepository,
        apps: Apps,
        connectors: Mapping[str, Connector],
        log: Log,
    ) -> None:
        self._integrations = integrations
        self._apps = apps
        self._connectors = connectors
        self._log = log

    def check_usable(self, integration: Integration) -> None:
        """Raise `NotConnected` unless the integration is usable and its provider exists."""
        status = integration.status
        if status not in USABLE or integration.credential is None:
            cause = integration.reason if status == "pending" else status
            remedy = _REMEDIES.get(cause, "connect the account")
            raise NotConnected(status, f"the integration is {status.replace('_', ' ')}: {remedy}")
        if integration.provider not in self._connectors:
            raise NotConnected("error", "this provider is no longer part of the hub")

    def app_of(self, integration: Integration) -> App | None:
        """Return the app that an integration is connected with."""
        connector = self._connectors.get(integration.provider)
        if connector is None:
            return None
        return self._apps.find(connector.app, integration.workspace, integration.app)

    def is_single_use(self, integration: Integration) -> bool:
        """Return whether the provider accepts a refresh token only once."""
        return self._connectors[integration.provider].refresh.rotation == "single-use"

    def decrypt_credential(self, integration: Integration) -> dict[str, Any]:
        """Decrypt the credential. Raises `NotConnected` if it does not open, for example without its key."""
        try:
            return self._integrations.open(integration)
        except Misconfigured as error:
            self._log.error("credential.unreadable", integration_id=integration.id, error=str(error))
            raise NotConnected(
                "error", "the account's credential cannot be decrypted: the log of the service says why"
            ) from None

    async def check_pause(self, integration: Integration, *, bypass: bool) -> None:
        """Raise `ProviderUnavailable` in the pause after a failure.

        A pause because of a rejected app ends when the app is replaced or verified again. `bypass`, for a
        refresh that a person asked for, is allowed once in such a pause. A credential that could not be
        decrypted is tried again without a pause, because that asks no provider. Raises `NotConnected` while
        it cannot be decrypted.
        """
        retry_at = integration.retry_at
        if retry_at is None or self.may_refresh(integration):
            return
        if integration.reason == UNREADABLE_CREDENTIAL:
            self.decrypt_credential(integration)
            return
        if bypass and integration.rejected_app_revision is not None and not integration.is_pause_bypassed:
            return
        await self._record_expiry(integration)
        raise ProviderUnavailable(
            f"the last refresh failed ({_last_code(integration)}): no other one starts before "
            f"{rfc3339(retry_at)}",
            retry_after=max(1.0, (retry_at - utcnow()).total_seconds()),
        )

    def may_refresh(self, integration: Integration) -> bool:
        """Return whether no pause holds. One because of an app ends when the app changes or is verified."""
        rejected_revision = integration.rejected_app_revision
        if is_pause_over(integration) or rejected_revision is None:
            return is_pause_over(integration)
        app = self.app_of(integration)
        return app is not None and app.revision != rejected_revision

    async def _record_expiry(self, integration: Integration) -> None:
        """Set the status to `error` if the token expired during the pause."""
        ends = integration.expires_at
        if integration.status != "connected" or ends is None or ends > utcnow():
            return
        await self._integrations.change(
            integration,
            status="error",
            reason=_last_code(integration),
            needs_maintenance=True,
            due_at=integration.retry_at,
            publish="integration.error",
            condition={"fence": integration.fence, "status": "connected"},
        )

    async def mark_reauth_required(self, integration: Integration, code: str, detail: str) -> bool:
        """Mark the integration `reauth_required` and publish the event.

        Return False if the integration changed since it was read. The fence stays, so that a holder of the
        lease that comes back with new tokens can still write them.
        """
        # It is not certain whether an earlier attempt brought tokens. If it did, they are lost, and that is
        # why the refresh token does not work any more.
        interrupted = (
            integration.fence > integration.settled_fence + 1
            and code not in _LOCAL_REASONS
            and self.is_single_use(integration)
        )
        changed = await self._integrations.change(
            integration,
            status="reauth_required",
            reason="refresh_interrupted" if interrupted else code,
            last_error=LastError(at=utcnow(), code=code, detail=detail),
            lease=None,
            settled_fence=integration.fence,
            needs_maintenance=False,
            due_at=None,
            refreshable=False,
            publish="integration.reauth_required",
            condition={"fence": integration.fence, "status": USABLE},
        )
        if changed is not None:
            REFRESHES.labels(integration.provider, "consent_gone").inc()
        return changed is not None

    async def end_grant(self, claimed: Integration, code: str, detail: str) -> None:
        """Mark the integration `reauth_required`.

        Raises `NotConnected`, unless another process changed the integration first.
        """
        if await self.mark_reauth_required(claimed, code, detail):
            raise NotConnected(
                "reauth_required",
                "access to the account was revoked or has expired: connect the account again",
            )

    async def end_interrupted(self, integration: Integration) -> None:
        """End an integration whose single-use refresh token may have been used by a process that died.

        Raises as `end_grant` does.
        """
        await self.end_grant(
            integration,
            "refresh_interrupted",
            "the process that refreshed the tokens stopped, and the refresh token works only once",
        )

    async def record_failure(
        self,
        claimed: Integration,
        code: str,
        detail: str,
        pause_s: float,
        *,
        settled: bool = True,
        broken: bool = False,
        rejected_app: str | None = None,
    ) -> None:
        """Release the lease and start a pause of `pause_s`. Without a valid token the status is `error`.

        `settled`: the provider certainly issued no tokens. `broken`: the credential could not be decrypted.
        `rejected_app`: the revision of the app that the provider rejected. An integration in status `error`
        whose token is valid goes back to `connected`.
        """
        now, ends = utcnow(), claimed.expires_at
        retry_at = now + timedelta(seconds=pause_s)
        unusable = broken or (ends is not None and ends <= now)
        change: dict[str, Any] = {
            "failures": claimed.failures + 1,
            "retry_at": retry_at,
            "lease": None,
            "last_error": LastError(at=now, code=code, detail=detail[:MAX_DETAIL_LENGTH]),
            "rejected_app_revision": rejected_app,
        }
        if settled:
            # One attempt more. An earlier one that is not settled stays so.
            change["settled_fence"] = claimed.settled_fence + 1
        if unusable:  # maintenance tries again, so that the integration recovers without being used
            change |= {"needs_maintenance": True, "due_at": retry_at}
        else:
            later = max(claimed.due_at, retry_at) if claimed.needs_maintenance and claimed.due_at else None
            times = [at for at in (later, ends) if at is not None]  # also when the token expires
            change |= {"needs_maintenance": True, "due_at": min(times)} if times else {}
        REFRESHES.labels(claimed.provider, "failed").inc()
        await self._write_failure(claimed, change, code, unusable=unusable)

    async def _write_failure(
        self, claimed: Integration, change: Mapping[str, Any], code: str, *, unusable: bool
    ) -> None:
        """Write a failure with the status that follows from the stored one, which may have changed since."""
        current = claimed
        for _ in range(_MAX_ATTEMPTS):
            state: dict[str, Any] = {}
            events: tuple[IntegrationEventType, ...] = ()
            if current.status in USABLE and unusable:
                state = {"status": "error", "reason": code}
                events = ("integration.error",) if current.status != "error" else ()
            elif current.status == "error":
                state, events = {"status": "connected", "reason": ""}, ("integration.recovered",)
            condition = {"fence": claimed.fence, "status": current.status}
            written = await self._integrations.change(
                current, publish=events, condition=condition, **change, **state
            )
            if written is not None:
                return
            current = await self._integrations.find(claimed.id)
            if (current.version, current.fence) != (claimed.version, claimed.fence):
                return


def is_pause_over(integration: Integration) -> bool:
    """Return whether the pause after a failure is over."""
    return integration.retry_at is None or integration.retry_at <= utcnow()


def next_pause_s(integration: Integration) -> float:
    """Return the seconds of the next pause: doubling from 2 s to 15 minutes, with 20 % jitter."""
    return _PAUSES.pause_s(integration.failures + 1)


def events_of_refresh(current: Integration) -> tuple[IntegrationEventType, ...]:
    """Return the events to publish after a refresh."""
    if current.status in ("error", "reauth_required"):
        return ("integration.refreshed", "integration.recovered")
    return ("integration.refreshed",)


def status_after_refresh(current: Integration) -> dict[str, Any]:
    """Return the status fields after a refresh. An integration that was disabled meanwhile stays so."""
    if current.status == "disabled":
        return {"status": "disabled", "status_before_disabled": "connected"}
    return {"status": "connected", "reason": ""}


def _last_code(integration: Integration) -> str:
    return integration.last_error.code if integration.last_error else "no_token"
