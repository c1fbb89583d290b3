"""Making tokens anew: one refresher per credential across all processes, and no answer of a platform lost.

Who refreshes claims a lease in the store (`leases.py`), and before it asks the platform, it writes that it is
about to. The lease's fence tells a later holder's writes from an earlier one's. The new tokens are written,
insisting, before anybody gets them. A lease that is silent is taken over: soon, if the platform was not
asked; else once an answer would be here. A refresh token that works only once is not sent a second time while
its first sender may have the answer: the account is `refresh_interrupted`, until that process writes it.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from time import monotonic
from typing import Any, Final

from shared.connections.app_check import AppChecker
from shared.connections.apps import App, Apps
from shared.connections.credentials import (
    MAIN,
    merge_tokens,
    refresh_schedule,
    refreshable_slots,
    reset_refresh_state,
    template_values,
    token_values,
)
from shared.connections.integrations import IntegrationEventType, IntegrationRepository
from shared.connections.refresh_outcome import (
    MAX_DETAIL_LENGTH,
    MAX_PAUSE_S,
    NO_APP,
    UNREADABLE_CREDENTIAL,
    USABLE,
    NotConnected,
    RefreshOutcomes,
    check_usable,
    is_pause_over,
    next_pause_s,
)
from shared.contracts.errors import DatabaseUnavailable, InterlinkError, Misconfigured, NotFound
from shared.manifests.connector import (
    Connector,
    GrantRevoked,
    InvalidClient,
    ProviderRejected,
    ProviderUnavailable,
    TokenResponse,
)
from shared.manifests.registry import connectors
from shared.runtime.egress.errors import EgressFailure
from shared.runtime.failpoints import failpoint
from shared.runtime.leases import HEARTBEAT_INTERVAL_S, Lease, LeaseObserver, Leases
from shared.runtime.logs import Log
from shared.runtime.metrics import REFRESHES
from shared.runtime.mongo import Document, utcnow
from shared.wire.oauth import ProviderRequest, ProviderResponse, redact
from shared.wire.request_template import MissingValue

_CALL_TIMEOUT_S: Final = 10.0
_SILENT_LEASE_TIMEOUT_S: Final = 5.0
_LEASE_MARGIN_S: Final = 2.0
_WAIT_TIMEOUT_S: Final = 60.0
_POLL_INTERVALS_S: Final = (0.05, 0.5)
_SAVE_RETRY_INTERVALS_S: Final = (0.05, 0.5)
"""Pauses between tries to save: well below `_SETTLE_S`, so that the holder of new tokens is the first."""
_INVALID_CLIENT_PAUSE_S: Final = 300.0
_AMBIGUOUS_FAILURES: Final = frozenset({"timeout", "closed_mid_response"})


class NoAnswer(ProviderUnavailable):
    """The platform did not answer; `maybe_done`: it may have done what it was asked."""

    def __init__(self, failure: EgressFailure, detail: str) -> None:
        super().__init__(f"the platform cannot be reached: {failure}: {detail}"[:MAX_DETAIL_LENGTH])
        self.is_ambiguous = failure in _AMBIGUOUS_FAILURES
        self.failure = failure
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Timing:
    """How long things take, in seconds; tests have a hurry."""

    call_s: float = _CALL_TIMEOUT_S
    """One request to a platform."""
    silent_s: float = _SILENT_LEASE_TIMEOUT_S
    """A lease without a beat for so long is taken over, if its holder did not ask the platform yet."""
    settle_s: float = _LEASE_MARGIN_S
    """So long after `call_s`, if it did."""
    heartbeat_interval_s: float = HEARTBEAT_INTERVAL_S
    """How often a holder beats."""
    wait_s: float = _WAIT_TIMEOUT_S
    """Who needs a token waits so long for whoever makes it."""


DEFAULT_TIMING: Final = Timing()


class Refresher:
    """Makes tokens anew; `ask` sends a request and raises `ProviderUnavailable`."""

    def __init__(
        self,
        integrations: IntegrationRepository,
        apps: Apps,
        app_checker: AppChecker,
        log: Log,
        ask: Callable[[ProviderRequest, str], Awaitable[ProviderResponse]],
        *,
        redirect_uri: str,
        timing: Timing,
    ) -> None:
        self._integrations = integrations
        self._apps = apps
        self.outcomes = RefreshOutcomes(integrations, apps, log)
        self._leases = Leases(integrations.collection, heartbeat_interval_s=timing.heartbeat_interval_s)
        self._app_checker = app_checker
        self._log = log
        self._ask = ask
        self._redirect_uri = redirect_uri
        self._timing = timing
        self._releasing: set[asyncio.Task[None]] = set()
        self.unsaved: dict[str, str] = {}
        """Integrations whose new tokens are only in this process, with their providers."""

    def values(self, document: Mapping[str, Any]) -> dict[str, str]:
        """What requests of the manifest are filled with, but for the tokens."""
        return template_values(document, self.outcomes.app_of(document), self._redirect_uri)

    async def ensure_newer(
        self, name: str, than: int, *, forced: bool = False, user_initiated: bool = False
    ) -> Document:
        """The document with tokens newer than this version: made here, or by another process.

        `by_person`: somebody asks for it himself, which passes a pause over a refused app once. Raises
        `NotFound`, `NotConnected`, `ProviderUnavailable`, `DatabaseUnavailable`.
        """
        await self._apps.current()
        deadline = monotonic() + self._timing.wait_s
        pause = _POLL_INTERVALS_S[0]
        watch = LeaseObserver()
        while True:
            document = await self._integrations.find(name)
            check_usable(document)
            if document["version"] > than and not document.get("halfway"):
                return document
            await self.outcomes.check_pause(document, bypass=user_initiated)
            lease = Lease.of(document)
            if lease is None or watch.silent_s(lease) >= self._takeover_after_s(lease):
                if lease is not None and lease.committed and _is_single_use(document):
                    await self.outcomes.end_interrupted(document)
                    continue
                made = await self._claim_and_refresh(document, lease, forced=forced)
                if made is not None:
                    return made
                continue
            if monotonic() > deadline:
                raise ProviderUnavailable("the token is being made anew by another process", retry_after=2.0)
            await asyncio.sleep(pause * random.uniform(0.7, 1.3))  # noqa: S311 -- only to spread
            pause = min(pause * 1.5, _POLL_INTERVALS_S[1])

    def _takeover_after_s(self, lease: Lease) -> float:
        """How long a lease may be silent before its holder is taken for dead."""
        if lease.committed:  # the platform's answer may be under way, or be waiting for the store
            return self._timing.call_s + self._timing.settle_s
        return self._timing.silent_s

    # The steps. None, where a step gives it: somebody else was first, so look again.

    async def _claim_and_refresh(
        self, document: Document, lease: Lease | None, *, forced: bool
    ) -> Document | None:
        claimed = await self._leases.claim(
            document,
            lease,
            condition={"version": document["version"], "status": {"$in": USABLE}, "deleted_at": None},
            # Whoever dies before it asks the platform leaves no doubt about what the platform did.
            increment={"settled_fence": 1} if lease is not None and not lease.committed else {},
            change={"pause_passed": not is_pause_over(document)},
        )
        if claimed is None:
            return None
        try:
            async with self._leases.heartbeat(claimed):
                return await self._refresh_grants(claimed, forced=forced)
        except DatabaseUnavailable:  # not of new tokens, which `_save` writes: nothing is under way any more
            task = asyncio.create_task(self._leases.release(claimed))
            self._releasing.add(task)
            task.add_done_callback(self._releasing.discard)
            raise

    async def _refresh_grants(self, claimed: Document, *, forced: bool) -> Document | None:
        """Make every grant of the credential anew, each written before the next is asked for."""
        connector = connectors()[claimed["provider"]]
        try:
            secrets = self.outcomes.decrypt_credential(claimed)
        except NotConnected as error:
            await self.outcomes.record_failure(
                claimed, UNREADABLE_CREDENTIAL, error.detail, MAX_PAUSE_S, broken=True
            )
            raise
        slots = refreshable_slots(secrets) or [MAIN]
        document, at = claimed, utcnow()
        whole = TokenResponse(None, {}, None)
        for slot in slots:
            granted = await self._request_tokens(document, connector, secrets, slot)
            if granted is None:
                return None
            whole = TokenResponse(granted.tokens or whole.tokens, {**whole.others, **granted.others}, None)
            secrets = merge_tokens(secrets, granted)
            # Its other grants are as they were: who waits for new tokens goes on waiting.
            change: dict[str, Any] = {**Leases.settled(claimed), "halfway": True}
            if slot == slots[-1]:
                change = self._completed_fields(connector, whole, claimed, at, forced=forced)
            saved = await self._save(document, secrets, change, notify=slot == slots[-1])
            if saved is None:
                await self._handle_overtaken(connector, document, granted)
                return None
            document = saved
        REFRESHES.labels(claimed["provider"], "refreshed").inc()
        return document

    async def _request_tokens(
        self, claimed: Document, connector: Connector, secrets: Mapping[str, Any], slot: str
    ) -> TokenResponse | None:
        """What the platform gives for one grant."""
        tokens = token_values(secrets if slot == MAIN else secrets["others"][slot])
        app = self.outcomes.app_of(claimed)
        values = template_values(claimed, app, self._redirect_uri)
        try:
            call = connector.refresh_request(values | tokens)
        except (MissingValue, KeyError) as error:
            lost = self._apps.is_unreadable(connector.app, claimed["workspace"], claimed.get("app"))
            code, why = ("app_unreadable", "cannot be opened") if lost else ("app_missing", "are not there")
            told = f"the app's credentials {why}"
            await self.outcomes.record_failure(
                claimed, code, f"{told}: {error}", next_pause_s(claimed), refused_app=NO_APP
            )
            raise ProviderUnavailable(told, retry_after=60) from None
        if call is None:
            await self.outcomes.end_grant(claimed, "expired", "the token has ended and cannot be made anew")
            return None
        failpoint("refresh.claimed")
        if not await self._leases.commit(claimed):  # this process stood still: the lease is another's
            return None
        failpoint("refresh.committing")
        try:
            answer = await self._ask(call, claimed["workspace"])
            failpoint("refresh.answered")
            granted = connector.parse_token_response(answer)
        except ProviderUnavailable as error:
            maybe_done = isinstance(error, NoAnswer) and error.is_ambiguous
            pause = max(next_pause_s(claimed), error.retry_after)
            await self.outcomes.record_failure(
                claimed, "unavailable", str(error), pause, settled=not maybe_done
            )
            raise
        except ProviderRejected as error:
            hidden = [*tokens.values(), *(app.secrets.values() if app else ())]
            code, detail = redact(error.code, hidden), redact(error.detail, hidden)
            await self._handle_refusal(claimed, type(error)(code, detail), app)
            return None
        if slot == MAIN or granted.tokens is None:
            return granted
        return TokenResponse(None, {**granted.others, slot: granted.tokens}, granted.document)

    async def _handle_refusal(self, claimed: Document, error: ProviderRejected, app: App | None) -> None:
        """Record that the provider rejected the refresh.

        Raises `ProviderUnavailable` or `NotConnected`, unless another process was first.
        """
        if isinstance(error, GrantRevoked):
            await self.outcomes.end_grant(claimed, error.code, error.detail)
            return
        if not isinstance(error, InvalidClient):
            await self.outcomes.record_failure(claimed, error.code, error.detail, next_pause_s(claimed))
            raise ProviderUnavailable(f"the platform gave no new token: {error.code}")
        revision = app.revision if app is not None else NO_APP
        await self.outcomes.record_failure(
            claimed, error.code, error.detail, _INVALID_CLIENT_PAUSE_S, refused_app=revision
        )
        connector = connectors()[claimed["provider"]]
        if await self._app_checker.handle_invalid_client(app, connector, claimed["workspace"], error):
            raise ProviderUnavailable("the platform refuses the app's credentials", retry_after=60)
        raise ProviderUnavailable(f"the platform gave no new token: {error.code}", retry_after=60)

    def _completed_fields(
        self, connector: Connector, granted: TokenResponse, claimed: Document, at: datetime, *, forced: bool
    ) -> dict[str, Any]:
        """What the document says once all tokens are new."""
        change: dict[str, Any] = {
            **reset_refresh_state(claimed),
            **refresh_schedule(connector, granted, claimed, at=at),
            "refreshed_at": utcnow(),
            "forced_at": utcnow() if forced else None,
        }
        if granted.tokens and granted.tokens.scopes is not None:
            change["scopes"] = list(granted.tokens.scopes)
        return change

    async def _save(
        self, claimed: Document, secrets: Mapping[str, Any], change: Mapping[str, Any], *, notify: bool
    ) -> Document | None:
        """Write new tokens, insisting: they exist nowhere else, and the old ones may be worthless now."""
        sealed = self._integrations.seal(claimed, secrets)
        change = {**change, "credential": sealed, "version": claimed["version"] + 1}
        name, current = claimed["_id"], claimed
        pause = _SAVE_RETRY_INTERVALS_S[0]
        try:
            while True:
                try:
                    saved = await self._integrations.change(
                        claimed,
                        {**change, **(_status_after_refresh(current) if notify else {})},
                        publish=_event_types(current) if notify else (),
                        condition={"fence": claimed["fence"], "status": current["status"]},
                    )
                    if saved is not None:
                        break
                    current = await self._integrations.find(name)
                    if _is_same_sealed_value(
                        current["credential"], sealed
                    ):  # it was written, and the answer lost
                        saved = current
                        break
                    if any(current[field] != claimed[field] for field in ("version", "fence")):
                        return None
                except NotFound:
                    return None
                except (DatabaseUnavailable, Misconfigured) as error:
                    if name not in self.unsaved:
                        self.unsaved[name] = claimed["provider"]
                        self._log.error(
                            "new tokens cannot be saved yet: if this process ends now, the account has to be "
                            "connected again",
                            integration_id=name,
                            provider=claimed["provider"],
                            error=str(error),
                        )
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, _SAVE_RETRY_INTERVALS_S[1])
        finally:
            self.unsaved.pop(name, None)
        failpoint("refresh.committed")
        return saved

    async def _handle_overtaken(
        self, connector: Connector, claimed: Document, granted: TokenResponse
    ) -> None:
        """Disconnected or connected anew meanwhile, or a lease that ended before its time: say so.

        Of an integration that has ended nothing stays at the platform either, unless that would end others.
        """
        REFRESHES.labels(claimed["provider"], "overtaken").inc()
        self._log.warning(
            "new tokens were not saved: the integration was changed meanwhile", integration_id=claimed["_id"]
        )
        try:
            current = await self._integrations.find(claimed["_id"])
            if current["status"] != "disconnected":
                return
        except NotFound:
            pass
        if connector.revokes_all_grants:
            return
        for tokens in (granted.tokens, *granted.others.values()):
            if tokens is None:
                continue
            made = {"access_token": tokens.access_token, "refresh_token": tokens.refresh_token}
            try:
                call = connector.revoke_request({**self.values(claimed), **made})
                if call is not None:
                    await self._ask(call, claimed["workspace"])
            except InterlinkError as error:
                self._log.warning("not revoked", integration_id=claimed["_id"], why=type(error).__name__)


def _is_single_use(document: Mapping[str, Any]) -> bool:
    """Whether the platform takes a refresh token only once."""
    return connectors()[document["provider"]].refresh.rotation == "single-use"


def _event_types(current: Mapping[str, Any]) -> tuple[IntegrationEventType, ...]:
    """What new tokens mean for who follows the integration."""
    if current["status"] in ("error", "reauth_required"):
        return ("integration.refreshed", "integration.recovered")
    return ("integration.refreshed",)


def _status_after_refresh(current: Mapping[str, Any]) -> dict[str, Any]:
    """The status with new tokens; one that was disabled meanwhile stays so."""
    if current["status"] == "disabled":
        return {"status": "disabled", "disabled_from": "connected"}
    return {"status": "connected", "reason": ""}


def _is_same_sealed_value(one: Any, other: Any) -> bool:
    """Whether it is the same sealed value; a rotation of keys may have wrapped it anew."""
    return isinstance(one, dict) and all(one.get(part) == other.get(part) for part in ("n", "c"))
