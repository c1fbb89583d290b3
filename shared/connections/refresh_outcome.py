"""The outcome of a refresh in the integration's document: a failure and its pause, or a revoked grant."""

import random
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from shared.connections.apps import Apps
from shared.connections.integrations import IntegrationEventType, IntegrationRepository
from shared.connections.provider_app import App
from shared.contracts.envelope import rfc3339
from shared.contracts.errors import Conflict, Misconfigured
from shared.manifests.provider_response import ProviderUnavailable
from shared.manifests.registry import connectors
from shared.runtime.logs import Log
from shared.runtime.metrics import REFRESHES
from shared.runtime.mongo import Document, utcnow

USABLE: Final = ("connected", "error")
MAX_PAUSE_S: Final = 900.0
MAX_DETAIL_LENGTH: Final = 300
UNREADABLE_CREDENTIAL: Final = "unreadable"
"""The reason of an error that is not the provider's: the stored credential cannot be decrypted."""
NO_APP: Final = ""
"""Stands in place of an app's revision if there was no app, or if it could not be decrypted."""
_FIRST_PAUSE_S: Final = 2.0
_LOCAL_REASONS: Final = ("expired", "token_refused")
"""Reasons for `reauth_required` that do not come from a refresh response."""
_MAX_ATTEMPTS: Final = 5


class NotConnected(Conflict):
    """No usable token: the account has to be connected again. `state` is the integration's status."""

    def __init__(self, state: str, detail: str) -> None:
        super().__init__(detail)
        self.state = state


class RefreshOutcomes:
    """Writes the outcomes of refreshes. A write does nothing if a later attempt has raised the fence."""

    def __init__(self, integrations: IntegrationRepository, apps: Apps, log: Log) -> None:
        self._integrations = integrations
        self._apps = apps
        self._log = log

    def app_of(self, document: Mapping[str, Any]) -> App | None:
        """Return the app that an integration is connected with."""
        connector = connectors().get(document["provider"])
        if connector is None:
            return None
        return self._apps.find(connector.app, document["workspace"], document.get("app"))

    def decrypt_credential(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """Decrypt the credential. Raises `NotConnected` if it does not open, for example without its key."""
        try:
            return self._integrations.open(document)
        except Misconfigured as error:
            self._log.error("credential.unreadable", integration_id=document["_id"], error=str(error))
            raise NotConnected(
                "error", "the account's credential cannot be decrypted: the log of the service says why"
            ) from None

    async def check_pause(self, document: Document, *, bypass: bool) -> None:
        """Raise `ProviderUnavailable` in the pause after a failure.

        A pause because of a rejected app ends when the app is replaced or verified again. `bypass`, for a
        refresh that a person asked for, is allowed once in such a pause. A credential that could not be
        decrypted is tried again without a pause, because that asks no provider. Raises `NotConnected` while
        it cannot be decrypted.
        """
        if self.may_refresh(document):
            return
        if document.get("reason") == UNREADABLE_CREDENTIAL:
            self.decrypt_credential(document)
            return
        if bypass and document.get("refused_app") is not None and not document.get("pause_passed"):
            return
        await self._record_expiry(document)
        code = (document.get("last_error") or {}).get("code", "no_token")
        raise ProviderUnavailable(
            f"the last refresh failed ({code}): no other one starts before {rfc3339(document['retry_at'])}",
            retry_after=max(1.0, (document["retry_at"] - utcnow()).total_seconds()),
        )

    def may_refresh(self, document: Mapping[str, Any]) -> bool:
        """Return whether no pause holds. One because of an app ends when the app changes or is verified."""
        rejected_revision = document.get("refused_app")
        if is_pause_over(document) or rejected_revision is None:
            return is_pause_over(document)
        app = self.app_of(document)
        return app is not None and app.revision != rejected_revision

    async def _record_expiry(self, document: Document) -> None:
        """Set the status to `error` if the token expired during the pause."""
        ends = document.get("expires_at")
        if document["status"] != "connected" or ends is None or ends > utcnow():
            return
        code = (document.get("last_error") or {}).get("code", "no_token")
        await self._integrations.change(
            document,
            {"status": "error", "reason": code, "open": True, "due_at": document["retry_at"]},
            publish="integration.error",
            condition={"fence": document["fence"], "status": "connected"},
        )

    async def mark_reauth_required(self, document: Mapping[str, Any], code: str, detail: str) -> bool:
        """Mark the integration `reauth_required` and publish the event.

        Return False if the document changed since it was read. The fence stays, so that a holder of the lease
        that comes back with new tokens can still write them.
        """
        # An earlier holder of the lease did not settle its attempt. If it received tokens, they are lost.
        interrupted = document["fence"] > document["settled_fence"] + 1 and code not in _LOCAL_REASONS
        change = {
            "status": "reauth_required",
            "reason": "refresh_interrupted" if interrupted else code,
            "last_error": {"at": utcnow(), "code": code, "detail": detail},
            "lease": None,
            "settled_fence": document["fence"],
            "open": False,
            "due_at": None,
            "refreshable": False,
        }
        condition = {"fence": document["fence"], "status": {"$in": USABLE}}
        changed = await self._integrations.change(
            document, change, publish="integration.reauth_required", condition=condition
        )
        if changed is not None:
            REFRESHES.labels(document["provider"], "consent_gone").inc()
        return changed is not None

    async def end_grant(self, claimed: Document, code: str, detail: str) -> None:
        """Mark the integration `reauth_required`.

        Raises `NotConnected`, unless another process changed the integration first.
        """
        if await self.mark_reauth_required(claimed, code, detail):
            raise NotConnected(
                "reauth_required",
                "access to the account was revoked or has expired: connect the account again",
            )

    async def end_interrupted(self, document: Document) -> None:
        """End an integration whose single-use refresh token may have been used by a process that died.

        Raises as `end_grant` does.
        """
        await self.end_grant(
            document,
            "refresh_interrupted",
            "the process that refreshed the tokens stopped, and the refresh token works only once",
        )

    async def record_failure(
        self,
        claimed: Document,
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
        now = utcnow()
        ends: datetime | None = claimed.get("expires_at")
        retry_at = now + timedelta(seconds=pause_s)
        unusable = broken or (ends is not None and ends <= now)
        change: dict[str, Any] = {
            "failures": claimed.get("failures", 0) + 1,
            "retry_at": retry_at,
            "lease": None,
            "last_error": {"at": now, "code": code, "detail": detail[:MAX_DETAIL_LENGTH]},
            "refused_app": rejected_app,
        }
        if settled:
            change["settled_fence"] = claimed["fence"]
        if unusable:  # maintenance tries again, so that the integration recovers without being used
            change |= {"open": True, "due_at": retry_at}
        else:
            later = max(claimed["due_at"], retry_at) if claimed.get("open") else None
            times = [at for at in (later, ends) if at is not None]  # also when the token expires
            change |= {"open": True, "due_at": min(times)} if times else {}
        REFRESHES.labels(claimed["provider"], "failed").inc()
        await self._write_failure(claimed, change, code, unusable=unusable)

    async def _write_failure(
        self, claimed: Document, change: Mapping[str, Any], code: str, *, unusable: bool
    ) -> None:
        """Write a failure with the status that follows from the stored one, which may have changed since."""
        current = claimed
        for _ in range(_MAX_ATTEMPTS):
            state: dict[str, Any] = {}
            event_type: IntegrationEventType | None = None
            if current["status"] in USABLE and unusable:
                state = {"status": "error", "reason": code}
                event_type = "integration.error" if current["status"] != "error" else None
            elif current["status"] == "error":
                state, event_type = {"status": "connected", "reason": ""}, "integration.recovered"
            condition = {"fence": claimed["fence"], "status": current["status"]}
            written = await self._integrations.change(
                current, {**change, **state}, publish=event_type, condition=condition
            )
            if written is not None:
                return
            current = await self._integrations.find(claimed["_id"])
            if any(current[field] != claimed[field] for field in ("version", "fence")):
                return


def is_pause_over(document: Mapping[str, Any]) -> bool:
    """Return whether the pause after a failure is over."""
    retry_at = document.get("retry_at")
    return retry_at is None or retry_at <= utcnow()


def check_usable(document: Mapping[str, Any]) -> None:
    """Raise `NotConnected` unless the integration is usable and its provider exists."""
    status = document["status"]
    if status not in USABLE or not document.get("credential"):
        remedy = "enable it" if status == "disabled" else "connect the account"
        raise NotConnected(status, f"the integration is {status.replace('_', ' ')}: {remedy}")
    if document["provider"] not in connectors():
        raise NotConnected("error", "this provider is no longer part of the hub")


def next_pause_s(document: Mapping[str, Any]) -> float:
    """Return the seconds of the next pause: doubling from 2 s to 15 minutes, with 20 % jitter."""
    base: float = min(_FIRST_PAUSE_S * 2 ** min(document.get("failures", 0), 20), MAX_PAUSE_S)
    return base * random.uniform(0.8, 1.2)  # noqa: S311 -- only to spread
