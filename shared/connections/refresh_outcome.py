"""What comes of a refresh, written to the integration: a failure and its pause, or the end of the grant."""

import random
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from shared.connections.apps import App, Apps
from shared.connections.integrations import IntegrationEventType, IntegrationRepository
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
"""The reason of an error that is not the platform's: the credential does not open."""
NO_APP: Final = ""
"""In place of an app's revision: there was none, or it could not be opened."""
_FIRST_PAUSE_S: Final = 2.0
_LOCAL_REASONS: Final = ("expired", "token_refused")
"""Ends that no answer about a refresh token says."""
_MAX_TRIES: Final = 5


class NotConnected(Conflict):
    """There is no token to be had: the account has to be connected (again). `status` says what it is."""

    def __init__(self, state: str, detail: str) -> None:
        super().__init__(detail)
        self.state = state


class RefreshOutcomes:
    """Writes what came of refreshes. Every write is bound to the fence of the attempt that it is about."""

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
        """Return the credential in clear. Raises `NotConnected`: it does not open, or its key is gone."""
        try:
            return self._integrations.open(document)
        except Misconfigured as error:
            self._log.error("credential not opened", integration_id=document["_id"], error=str(error))
            raise NotConnected(
                "error", "the account's credential cannot be opened: the log of the service says why"
            ) from None

    async def check_pause(self, document: Document, *, bypass: bool) -> None:
        """Raise `ProviderUnavailable` in the pause after a failure.

        A pause over a refused app ends when the app is another one or verified anew, and a person's own
        refresh (`passes`) is let through once. A credential that did not open is tried again at once: its
        key may be back, and no platform is asked; raises `NotConnected` while it does not open.
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
            f"no new token is asked for before {rfc3339(document['retry_at'])}: the last try failed ({code})",
            retry_after=max(1.0, (document["retry_at"] - utcnow()).total_seconds()),
        )

    def may_refresh(self, document: Mapping[str, Any]) -> bool:
        """Return whether no pause is left: one over an app ends when the app is changed or verified anew."""
        refused = document.get("refused_app")
        if is_pause_over(document) or refused is None:
            return is_pause_over(document)
        app = self.app_of(document)
        return app is not None and app.revision != refused

    async def _record_expiry(self, document: Document) -> None:
        """Set the status to `error` if the token has ended in the pause."""
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

        Return False if the document changed since it was read. The fence stays: should a holder of the lease
        come back with new tokens, it writes them.
        """
        # A holder before this one settled nothing: what it was given, if it was, is lost.
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
        only = {"fence": document["fence"], "status": {"$in": USABLE}}
        changed = await self._integrations.change(
            document, change, publish="integration.reauth_required", condition=only
        )
        if changed is not None:
            REFRESHES.labels(document["provider"], "consent_gone").inc()
        return changed is not None

    async def end_grant(self, claimed: Document, code: str, detail: str) -> None:
        """End the integration. Raises `NotConnected`, unless somebody else was first."""
        if await self.mark_reauth_required(claimed, code, detail):
            raise NotConnected("reauth_required", "the consent has ended: connect the account again")

    async def end_interrupted(self, document: Document) -> None:
        """End an integration whose single-use refresh token may have been used by a process that is gone.

        Raises as `gone`.
        """
        await self.end_grant(
            document,
            "refresh_interrupted",
            "the process that asked for new tokens did not finish, and the refresh token works only once",
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
        refused_app: str | None = None,
    ) -> None:
        """Let go of the lease and begin a pause; without a good token the status is `error`.

        `settled`: the platform did not give new tokens for sure. `broken`: the credential did not open; one
        that opens again, with a token that is good, is no error. `refused_app`: the revision of the app that
        the platform did not take.
        """
        now = utcnow()
        ends: datetime | None = claimed.get("expires_at")
        retry_at = now + timedelta(seconds=pause_s)
        ended = broken or (ends is not None and ends <= now)
        change: dict[str, Any] = {
            "failures": claimed.get("failures", 0) + 1,
            "retry_at": retry_at,
            "lease": None,
            "last_error": {"at": now, "code": code, "detail": detail[:MAX_DETAIL_LENGTH]},
            "refused_app": refused_app,
        }
        if settled:
            change["settled_fence"] = claimed["fence"]
        if ended:  # tried again by itself, so that it is found well
            change |= {"open": True, "due_at": retry_at}
        else:
            later = max(claimed["due_at"], retry_at) if claimed.get("open") else None
            dues = [at for at in (later, ends) if at is not None]  # looked at when the token ends, too
            change |= {"open": True, "due_at": min(dues)} if dues else {}
        REFRESHES.labels(claimed["provider"], "failed").inc()
        await self._write_failure(claimed, change, code, ended=ended)

    async def _write_failure(
        self, claimed: Document, change: Mapping[str, Any], code: str, *, ended: bool
    ) -> None:
        """Write it over the status that the integration has by now, which somebody may have changed."""
        current = claimed
        for _ in range(_MAX_TRIES):
            state: dict[str, Any] = {}
            tell: IntegrationEventType | None = None
            if current["status"] in USABLE and ended:
                state = {"status": "error", "reason": code}
                tell = "integration.error" if current["status"] != "error" else None
            elif current["status"] == "error":
                state, tell = {"status": "connected", "reason": ""}, "integration.recovered"
            only = {"fence": claimed["fence"], "status": current["status"]}
            written = await self._integrations.change(
                current, {**change, **state}, publish=tell, condition=only
            )
            if written is not None:
                return
            current = await self._integrations.find(claimed["_id"])
            if any(current[field] != claimed[field] for field in ("version", "fence")):
                return


def is_pause_over(document: Mapping[str, Any]) -> bool:
    """Return whether the pause after a failure is over."""
    pause = document.get("retry_at")
    return pause is None or pause <= utcnow()


def check_usable(document: Mapping[str, Any]) -> None:
    """Raise `NotConnected` if the integration is in no state to be used."""
    status = document["status"]
    if status not in USABLE or not document.get("credential"):
        raise NotConnected(status, f"the integration is {status.replace('_', ' ')}: connect the account")
    if document["provider"] not in connectors():
        raise NotConnected("error", "there is no such provider any more")


def next_pause_s(document: Mapping[str, Any]) -> float:
    """Return the seconds of the next pause: doubling from 2 s to 15 minutes, randomised by a fifth."""
    base: float = min(_FIRST_PAUSE_S * 2 ** min(document.get("failures", 0), 20), MAX_PAUSE_S)
    return base * random.uniform(0.8, 1.2)  # noqa: S311 -- only to spread
