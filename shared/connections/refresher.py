"""Refreshes tokens: one refresh per credential across all processes, and no token response is lost.

The process that refreshes claims a lease in MongoDB (`leases.py`) and marks it as committed before it asks
the provider. The lease's fence keeps out writes of an earlier holder. New tokens are written, with retries,
before anybody uses them. A lease without heartbeats is taken over: soon if the provider was not asked, else
after the time in which an answer can arrive. A single-use refresh token is never sent twice while its first
sender may have the answer: the account becomes `reauth_required` with the reason `refresh_interrupted`, until
that process writes the tokens. Which providers these are is `refresh.rotation` of the manifest.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from time import monotonic
from typing import Any, Final

from shared.connections.app_check import AppChecker
from shared.connections.apps import Apps
from shared.connections.credentials import (
    MAIN,
    merge_tokens,
    refresh_schedule,
    refreshable_slots,
    reset_refresh_state,
    template_values,
    token_values,
)
from shared.connections.integration_record import USABLE, Integration
from shared.connections.integrations import IntegrationRepository
from shared.connections.provider_app import App
from shared.connections.refresh_outcome import (
    MAX_PAUSE_S,
    NO_APP,
    UNREADABLE_CREDENTIAL,
    NotConnected,
    RefreshOutcomes,
    events_of_refresh,
    is_pause_over,
    next_pause_s,
    status_after_refresh,
)
from shared.connections.refresh_types import Timing
from shared.contracts.errors import DatabaseUnavailable, InterlinkError, Misconfigured, NotFound
from shared.manifests.connector import Connector
from shared.manifests.provider_response import (
    GrantRevoked,
    InvalidClient,
    ProviderRejected,
    ProviderUnavailable,
    UnreadableResponse,
)
from shared.manifests.scopes import granted_user_scopes
from shared.manifests.token_response import TokenResponse
from shared.runtime.clock import utcnow
from shared.runtime.failpoints import failpoint
from shared.runtime.leases import Lease, LeaseObserver, Leases
from shared.runtime.logs import Log
from shared.runtime.metrics import REFRESHES
from shared.runtime.retry import Backoff
from shared.runtime.secrets import Sealed
from shared.wire.provider_http import ProviderRequest, ProviderResponse
from shared.wire.redaction import redact
from shared.wire.request_template import MissingValue

_POLL_PAUSES: Final = Backoff(first_s=0.05, max_s=0.5, factor=1.5, spread=0.3)
_SAVE_PAUSES: Final = Backoff(first_s=0.05, max_s=0.5)
"""Shorter than `Timing.settle_s`, so that the holder of new tokens writes before its lease is taken over."""
_INVALID_CLIENT_PAUSE_S: Final = 300.0


class Refresher:
    """Refreshes tokens. `ask` sends a request for a workspace and raises `ProviderUnavailable`."""

    def __init__(
        self,
        integrations: IntegrationRepository,
        apps: Apps,
        connectors: Mapping[str, Connector],
        app_checker: AppChecker,
        log: Log,
        ask: Callable[[ProviderRequest, str], Awaitable[ProviderResponse]],
        *,
        redirect_uri: str,
        timing: Timing,
    ) -> None:
        self._integrations = integrations
        self._apps = apps
        self._connectors = connectors
        self.outcomes = RefreshOutcomes(integrations, apps, connectors, log)
        self._leases = integrations.leases(heartbeat_interval_s=timing.heartbeat_interval_s)
        self._app_checker = app_checker
        self._log = log
        self._ask = ask
        self._redirect_uri = redirect_uri
        self._timing = timing
        self._releasing: set[asyncio.Task[None]] = set()
        self.unsaved: dict[str, str] = {}
        """Integrations whose new tokens are not written yet, with their providers."""

    def values(self, integration: Integration) -> dict[str, str]:
        """Return the values for the manifest's request templates, without the tokens."""
        return self._values(integration, self.outcomes.app_of(integration))

    def _values(self, integration: Integration, app: App | None) -> dict[str, str]:
        return template_values(
            self._connectors.get(integration.provider),
            app,
            self._redirect_uri,
            params=integration.params,
            account=integration.account,
        )

    async def ensure_newer(
        self, integration_id: str, than: int, *, forced: bool = False, user_initiated: bool = False
    ) -> Integration:
        """Return the integration with tokens newer than version `than`, refreshed here or by another process.

        `forced`: the provider rejected the tokens before their expiry. `user_initiated`: a person asked for
        the refresh, which is allowed once in a pause because of a rejected app. Raises `NotFound`,
        `NotConnected`, `ProviderUnavailable` or `DatabaseUnavailable`.
        """
        await self._apps.current()
        deadline = monotonic() + self._timing.wait_s
        observer, polls = LeaseObserver(), 0
        while True:
            integration = await self._integrations.find(integration_id)
            self.outcomes.check_usable(integration)
            if integration.version > than and not integration.is_partially_refreshed:
                return integration
            await self.outcomes.check_pause(integration, bypass=user_initiated)
            lease = Lease.of(integration)
            if lease is None or observer.silent_s(lease) >= self._takeover_after_s(lease):
                if lease is not None and lease.committed and self.outcomes.is_single_use(integration):
                    # The refresh token may have been used: sending it again could revoke the grant.
                    await self.outcomes.end_interrupted(integration)
                    continue
                refreshed = await self._claim_and_refresh(integration, lease, forced=forced)
                if refreshed is not None:
                    return refreshed
                continue
            if monotonic() > deadline:
                raise ProviderUnavailable(
                    "another process is still refreshing the token: try again", retry_after=2.0
                )
            polls += 1
            await asyncio.sleep(_POLL_PAUSES.pause_s(polls))

    def _takeover_after_s(self, lease: Lease) -> float:
        """Return the seconds without a heartbeat after which a lease is taken over."""
        if lease.committed:  # the answer may still arrive, or wait for MongoDB
            return self._timing.call_s + self._timing.settle_s
        return self._timing.silent_s

    # The steps of a refresh. None as a result means that another process was first: the caller reads again.

    async def _claim_and_refresh(
        self, integration: Integration, lease: Lease | None, *, forced: bool
    ) -> Integration | None:
        claimed = await self._leases.claim(
            integration,
            lease,
            condition={"version": integration.version, "status": USABLE, "deleted_at": None},
            # A holder that died before it asked the provider leaves no doubt about the refresh token.
            increment={"settled_fence": 1} if lease is not None and not lease.committed else {},
            change={"is_pause_bypassed": not is_pause_over(integration)},
        )
        if claimed is None:
            return None
        try:
            async with self._leases.heartbeat(claimed):
                return await self._refresh_grants(claimed, forced=forced)
        except DatabaseUnavailable:  # not from `_save`, which retries: no tokens can be lost now
            task = asyncio.create_task(self._leases.release(claimed))
            self._releasing.add(task)
            task.add_done_callback(self._releasing.discard)
            raise

    async def _refresh_grants(self, claimed: Integration, *, forced: bool) -> Integration | None:
        """Refresh every grant of the credential. Each is written before the next is requested."""
        connector = self._connectors[claimed.provider]
        try:
            secrets = self.outcomes.decrypt_credential(claimed)
        except NotConnected as error:
            await self.outcomes.record_failure(
                claimed, UNREADABLE_CREDENTIAL, error.detail, MAX_PAUSE_S, broken=True
            )
            raise
        slots = refreshable_slots(secrets) or [MAIN]
        integration, at = claimed, utcnow()
        combined = TokenResponse(None, {}, None)
        for slot in slots:
            granted = await self._request_tokens(integration, connector, secrets, slot)
            if granted is None:
                return None
            combined = TokenResponse(
                granted.tokens or combined.tokens, {**combined.others, **granted.others}, None
            )
            secrets = merge_tokens(secrets, granted)
            # The other grants still have old tokens: callers that wait for new ones go on waiting.
            change: dict[str, Any] = {"lease": Leases.settled(claimed), "is_partially_refreshed": True}
            if slot == slots[-1]:
                change = self._completed_fields(connector, combined, claimed, at, forced=forced)
            saved = await self._save(integration, secrets, change, notify=slot == slots[-1])
            if saved is None:
                await self._handle_overtaken(connector, integration, granted)
                return None
            integration = saved
        REFRESHES.labels(claimed.provider, "refreshed").inc()
        return integration

    async def _request_tokens(
        self, claimed: Integration, connector: Connector, secrets: Mapping[str, Any], slot: str
    ) -> TokenResponse | None:
        """Request new tokens for one grant. Return None if another process was first.

        A failure is stored. Raises `ProviderUnavailable` or `NotConnected`.
        """
        tokens = token_values(secrets if slot == MAIN else secrets["others"][slot])
        app = self.outcomes.app_of(claimed)
        values = self._values(claimed, app)
        try:
            call = connector.refresh_request(values | tokens)
        except (MissingValue, KeyError) as error:
            unreadable = self._apps.is_unreadable(connector.app, claimed.workspace, claimed.app)
            if unreadable:
                code, detail = "app_unreadable", "the app's credentials cannot be decrypted"
            else:
                code, detail = "app_missing", "the app's credentials are missing"
            await self.outcomes.record_failure(
                claimed, code, f"{detail}: {error}", next_pause_s(claimed), rejected_app=NO_APP
            )
            raise ProviderUnavailable(detail, retry_after=60) from None
        if call is None:
            await self.outcomes.end_grant(claimed, "expired", "the token has expired and cannot be refreshed")
            return None
        failpoint("refresh.claimed")
        if not await self._leases.commit(claimed):  # this process was suspended: another one has the lease
            return None
        failpoint("refresh.committing")
        try:
            answer = await self._ask(call, claimed.workspace)
            failpoint("refresh.answered")
            granted = connector.parse_token_response(answer)
        except ProviderUnavailable as error:
            pause = max(next_pause_s(claimed), error.retry_after)
            await self.outcomes.record_failure(
                claimed, "unavailable", str(error), pause, settled=not error.is_ambiguous
            )
            raise
        except ProviderRejected as error:
            # A provider may repeat in its error what it was sent.
            hidden = [*tokens.values(), *(app.secrets.values() if app else ())]
            code, detail = redact(error.code, hidden), redact(error.detail, hidden)
            await self._handle_rejection(claimed, type(error)(code, detail), app)
            return None
        if slot == MAIN or granted.tokens is None:
            return granted
        return TokenResponse(None, {**granted.others, slot: granted.tokens}, granted.document)

    async def _handle_rejection(self, claimed: Integration, error: ProviderRejected, app: App | None) -> None:
        """Record that the provider rejected the refresh.

        Raises `ProviderUnavailable` or `NotConnected`, unless another process was first.
        """
        if isinstance(error, GrantRevoked):
            await self.outcomes.end_grant(claimed, error.code, error.detail)
            return
        if not isinstance(error, InvalidClient):
            await self.outcomes.record_failure(
                claimed,
                error.code,
                error.detail,
                next_pause_s(claimed),
                settled=not isinstance(error, UnreadableResponse),
            )
            raise ProviderUnavailable(f"the provider issued no new token: {error.code}")
        revision = app.revision if app is not None else NO_APP
        await self.outcomes.record_failure(
            claimed, error.code, error.detail, _INVALID_CLIENT_PAUSE_S, rejected_app=revision
        )
        connector = self._connectors[claimed.provider]
        if await self._app_checker.handle_invalid_client(app, connector, claimed.workspace, error):
            raise ProviderUnavailable("the provider rejects the app's credentials", retry_after=60)
        raise ProviderUnavailable(f"the provider issued no new token: {error.code}", retry_after=60)

    def _completed_fields(
        self,
        connector: Connector,
        granted: TokenResponse,
        claimed: Integration,
        at: datetime,
        *,
        forced: bool,
    ) -> dict[str, Any]:
        """Return the changed fields after a refresh of all grants, of which the first began at `at`."""
        schedule = refresh_schedule(
            connector,
            granted,
            refreshable=claimed.refreshable,
            refresh_expires_at=claimed.refresh_expires_at,
            at=at,
            granted_at=claimed.connected_at,
            warned_at=claimed.warned_at,
        )
        change: dict[str, Any] = {
            **reset_refresh_state(claimed),
            **schedule,
            "refreshed_at": utcnow(),
            "forced_refresh_at": utcnow() if forced else None,
        }
        if granted.tokens and granted.tokens.scopes is not None:
            change["scopes"] = tuple(granted.tokens.scopes)
        if (user_scopes := granted_user_scopes(connector.oauth2, granted)) is not None:
            change["user_scopes"] = user_scopes
        return change

    async def _save(
        self, claimed: Integration, secrets: Mapping[str, Any], change: Mapping[str, Any], *, notify: bool
    ) -> Integration | None:
        """Write new tokens and return the integration; None if it changed meanwhile.

        Retry without a limit while MongoDB fails: the tokens exist nowhere else, and the old ones may be
        invalid by now. `notify`: all grants are new, so write the status and publish the events too.
        """
        sealed = self._integrations.seal(claimed, secrets)
        change = {**change, "credential": sealed, "version": claimed.version + 1}
        integration_id, current = claimed.id, claimed
        failures = 0
        try:
            while True:
                try:
                    saved = await self._integrations.change(
                        claimed,
                        publish=events_of_refresh(current) if notify else (),
                        condition={"fence": claimed.fence, "status": current.status},
                        **change,
                        **(status_after_refresh(current) if notify else {}),
                    )
                    if saved is not None:
                        break
                    current = await self._integrations.find(integration_id)
                    if _is_same_sealed_value(current.credential, sealed):
                        saved = current  # an earlier attempt was written, and its answer lost
                        break
                    if (current.version, current.fence) != (claimed.version, claimed.fence):
                        return None
                except NotFound:
                    return None
                except (DatabaseUnavailable, Misconfigured) as error:
                    if integration_id not in self.unsaved:
                        self.unsaved[integration_id] = claimed.provider
                        self._log.error(
                            "token.save_failed",
                            integration_id=integration_id,
                            provider=claimed.provider,
                            error=str(error),
                            detail="if this process ends now, the account has to be connected again",
                        )
                    failures += 1
                    await asyncio.sleep(_SAVE_PAUSES.pause_s(failures))
        finally:
            self.unsaved.pop(integration_id, None)
        failpoint("refresh.committed")
        return saved

    async def _handle_overtaken(
        self, connector: Connector, claimed: Integration, granted: TokenResponse
    ) -> None:
        """Log that new tokens were not stored, because the integration changed or the lease was lost.

        If the integration is disconnected or gone, revoke the tokens at the provider, unless that would
        revoke the grants of other integrations.
        """
        REFRESHES.labels(claimed.provider, "overtaken").inc()
        self._log.warning("token.discarded", integration_id=claimed.id)
        try:
            current = await self._integrations.find(claimed.id)
            if current.status != "disconnected":
                return
        except NotFound:
            pass
        if connector.revokes_all_grants:
            return
        for tokens in (granted.tokens, *granted.others.values()):
            if tokens is None:
                continue
            values = {"access_token": tokens.access_token, "refresh_token": tokens.refresh_token}
            try:
                call = connector.revoke_request({**self.values(claimed), **values})
                if call is not None:
                    await self._ask(call, claimed.workspace)
            except InterlinkError as error:
                self._log.warning("token.revoke_failed", integration_id=claimed.id, why=type(error).__name__)


def _is_same_sealed_value(left: Sealed | None, right: Sealed) -> bool:
    """Compare nonce and ciphertext only: a key rotation may have wrapped the data key again."""
    return left is not None and (left.get("n"), left.get("c")) == (right.get("n"), right.get("c"))
