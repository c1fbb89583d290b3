"""Tokens of connected accounts, for every service that calls providers.

`TokenSource.access` returns valid tokens. A token that expires soon is refreshed beside the call; for one
that has expired, the caller waits. A 401 of a provider causes one refresh (`replace_rejected`), however many
calls received it. `refresher.py` has the refresh itself.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from datetime import timedelta
from time import monotonic
from typing import Final

from shared.connections.access import Access
from shared.connections.app_check import AppChecker
from shared.connections.apps import Apps
from shared.connections.credentials import MAIN, token_values
from shared.connections.integration_record import Integration
from shared.connections.integrations import COLLECTION, IntegrationRepository
from shared.connections.last_used import LastUsedRecorder
from shared.connections.provider_app import App
from shared.connections.refresh_outcome import NotConnected
from shared.connections.refresh_types import DEFAULT_TIMING, NoAnswer, Timing
from shared.connections.refresher import Refresher
from shared.connections.resource_tokens import ResourceTokens, stored_resource_token
from shared.contracts.errors import Conflict, DatabaseUnavailable, RetryLater
from shared.manifests.accounts import manual_credential_values
from shared.manifests.connector import Connector
from shared.manifests.provider_response import ProviderRejected, ProviderUnavailable
from shared.runtime.clock import utcnow
from shared.runtime.configuration import Configuration
from shared.runtime.egress.client import EgressClient
from shared.runtime.logs import Log
from shared.runtime.version import VERSION
from shared.wire.provider_http import ProviderRequest, ProviderResponse

__all__ = ["MAIN", "Access", "NoAnswer", "NotConnected", "Timing", "TokenSource"]

_USER_AGENT: Final = f"Interlink/{VERSION}"
"""Some providers reject requests without one."""
_CACHE_TTL_S: Final = 2.0
_MAX_CACHED: Final = 10_000
_EXPIRY_MARGIN: Final = timedelta(seconds=5)
"""A caller waits for a refresh if its token expires within this time: the call itself takes some."""
_FORCED_REFRESH_INTERVAL: Final = timedelta(seconds=60)
"""After a refresh because of a 401, another 401 causes none for this time."""
_MAX_ATTEMPTS: Final = 5
_ACCEPTED_TTL_S: Final = 60.0
"""A token that the provider accepted counts as valid for this time, even if single calls are rejected."""
_MAX_RESPONSE_BYTES: Final = 1024 * 1024


class TokenSource:
    """Provides tokens of all integrations. Apps and egress client have to be started before it is used."""

    def __init__(
        self,
        integrations: IntegrationRepository,
        apps: Apps,
        connectors: Mapping[str, Connector],
        configuration: Configuration,
        client: EgressClient,
        log: Log,
        *,
        redirect_uri: str,
        timing: Timing = DEFAULT_TIMING,
    ) -> None:
        self._integrations = integrations
        self._connectors = connectors
        self._configuration = configuration
        self._client = client
        self._log = log
        self._timing = timing
        self.app_checker = AppChecker(apps, log, self.send, redirect_uri=redirect_uri)
        """Checks whether providers accept apps."""
        self._refresher = Refresher(
            integrations,
            apps,
            connectors,
            self.app_checker,
            log,
            self.send,
            redirect_uri=redirect_uri,
            timing=timing,
        )
        self._resource_tokens = ResourceTokens(
            integrations, connectors, self._refresher.outcomes, self.send, log
        )
        self._cache: dict[str, tuple[float, Integration]] = {}
        self._reads: dict[str, asyncio.Task[Integration]] = {}
        """Running reads, each for all callers that wait for it."""
        self._changes = 0
        """Number of changes of integrations. One that was read before the last one is not cached."""
        self._refreshes: dict[tuple[str, bool], asyncio.Task[Integration]] = {}
        """Running refreshes by integration id and by whether a person asked for the refresh."""
        self._accepted: dict[tuple[str, str, int], float] = {}
        """Until when tokens count as valid, by integration id, grant and version."""
        self._last_used = LastUsedRecorder(integrations)
        configuration.follow(COLLECTION, self._on_change)

    async def stop(self) -> None:
        """Wait until running refreshes are written: a new refresh token exists nowhere else."""
        pending = [*self._refreshes.values(), *self._last_used.tasks]
        if pending:
            await asyncio.wait(pending, timeout=self._timing.call_s + 5)
        for integration_id, provider in self._refresher.unsaved.items():
            self._log.error(
                "token.lost",
                integration_id=integration_id,
                provider=provider,
                detail="MongoDB did not accept the new tokens: the account has to be connected again",
            )

    # For services

    async def access(self, integration_id: str, *, other: str = MAIN) -> Access:
        """Return valid tokens of an integration. `other` is the name of a further grant of the same consent.

        Raises `NotFound`, `NotConnected`, `ProviderUnavailable` (another process refreshes the token, or the
        provider does not answer) or `DatabaseUnavailable`.
        """
        integration = await self._find_cached(integration_id)
        self._refresher.outcomes.check_usable(integration)
        ends = integration.expires_at
        if ends is not None and integration.refreshable:
            renew_at = integration.renew_at or ends
            # Just before the expiry the caller waits for new tokens. Earlier, from `renew_at` on, it uses the
            # old ones while a refresh runs beside the call.
            if ends - min(_EXPIRY_MARGIN, (ends - renew_at) / 2) <= utcnow():
                try:
                    integration = await self._ensure_newer(integration_id, than=integration.version)
                except (ProviderUnavailable, DatabaseUnavailable):
                    if ends <= utcnow():  # else the old token still works
                        raise
            elif renew_at <= utcnow() and self._refresher.outcomes.may_refresh(integration):
                self._start_refresh(integration_id, integration.version)
        access = await self._open(integration, other)
        self._last_used.record(integration.id)
        return access

    async def replace_rejected(self, access: Access) -> Access:
        """Return newer tokens after a 401, refreshed once for all callers.

        If the tokens were refreshed a moment ago, or cannot be refreshed, ask the provider for the account's
        identity: if it answers, the 401 concerned the call, and the same tokens are returned. Raises
        `NotConnected` if the provider rejects the tokens there too; else as `access`.
        """
        for _ in range(_MAX_ATTEMPTS):
            integration = await self._integrations.find(access.integration)
            self._refresher.outcomes.check_usable(integration)
            if integration.version > access.version and not integration.is_partially_refreshed:
                return await self._open(integration, access.other)
            key = (access.integration, access.other, access.version)
            if self._accepted.get(key, 0.0) > monotonic():
                return access
            forced_at = integration.forced_refresh_at
            recent = forced_at is not None and forced_at > utcnow() - _FORCED_REFRESH_INTERVAL
            refreshing = integration.is_partially_refreshed or integration.lease is not None
            if integration.refreshable and (not recent or refreshing):
                integration = await self._ensure_newer(access.integration, than=access.version, forced=True)
                return await self._open(integration, access.other)
            if await self._is_accepted(access):
                if len(self._accepted) >= _MAX_CACHED:
                    self._accepted.clear()
                self._accepted[key] = monotonic() + _ACCEPTED_TTL_S
                return access
            # None of it helped: a person has to connect the account again.
            self.forget(access.integration)
            detail = "the provider rejects the token"
            if await self._refresher.outcomes.mark_reauth_required(integration, "token_refused", detail):
                break
        raise NotConnected(
            "reauth_required", "the provider rejects the account's token: connect the account again"
        )

    async def call(
        self, integration_id: str, make: Callable[[Access], ProviderRequest], *, other: str = MAIN
    ) -> ProviderResponse:
        """Send the request that `make` returns for an account's tokens. After a 401, send it with new tokens.

        Raises as `access` does, and `ProviderUnavailable` without an answer.
        """
        access = await self.access(integration_id, other=other)
        connector = access.connector
        answer = await self.send(make(access), access.workspace)
        if connector.is_token_rejected(answer, connector.api_for(access.kind)):
            answer = await self.send(make(await self.replace_rejected(access)), access.workspace)
        return answer

    async def _is_accepted(self, access: Access) -> bool:
        """Return whether the provider identifies the account by the token. Raises `ProviderUnavailable`."""
        connector = access.connector
        api, probe = connector.api_for(access.kind), connector.probe_for(access.kind)
        if probe is None:
            return False
        by_app = not probe.token and access.kind not in connector.manual_credentials
        if by_app and "client_id" not in access.values:
            raise ProviderUnavailable("the app's credentials are missing", retry_after=60)
        answer = await self.send(connector.request(probe, access.values, api), access.workspace)
        if connector.is_token_rejected(answer, api):
            return False
        with suppress(ProviderRejected):  # an error, but not about the token: the provider knows the account
            connector.parse_api_response(answer, api)
        return True

    async def send(self, call: ProviderRequest, workspace: str) -> ProviderResponse:
        """Send a request unchanged, on behalf of a workspace. Raises `NoAnswer`."""
        headers = {"User-Agent": _USER_AGENT, **call.headers}
        answer = await self._client.call(
            call.method,
            call.url,
            headers,
            call.body or None,
            timeout_s=self._timing.call_s,
            workspace=workspace,
            max_bytes=_MAX_RESPONSE_BYTES,
        )
        if answer.status is None:
            raise NoAnswer(answer.failure or "connection", answer.detail)
        headers = {name.lower(): value for name, value in answer.headers.items()}
        return ProviderResponse(answer.status, headers, answer.body)

    # For the service that owns integrations

    async def refresh(self, integration_id: str, *, than: int, user_initiated: bool = False) -> Integration:
        """Refresh an integration's tokens until they are newer than version `than`, or wait for it.

        `user_initiated`: a person asked for it, which is allowed once in a pause because of a rejected app.
        Raises as `access`.
        """
        return await self._ensure_newer(integration_id, than=than, user_initiated=user_initiated)

    def values(self, integration: Integration) -> dict[str, str]:
        """Return the values for the manifest's request templates, without the tokens."""
        return self._refresher.values(integration)

    def app_of(self, integration: Integration) -> App | None:
        """Return the app that an integration is connected with; None if it is gone or unreadable."""
        return self._refresher.outcomes.app_of(integration)

    def forget(self, integration_id: str) -> None:
        """Read the integration again at the next call: this process has changed it."""
        self._changes += 1
        self._cache.pop(integration_id, None)
        self._reads.pop(integration_id, None)

    # Reading

    async def _on_change(self, integration_ids: Collection[str] | None) -> None:
        """Forget integrations that another process changed; all of them for None."""
        self._changes += 1
        if integration_ids is None:
            self._cache.clear()
            self._reads.clear()
        for integration_id in integration_ids or ():
            self.forget(integration_id)

    async def _find_cached(self, integration_id: str) -> Integration:
        if integration_id in self._cache or integration_id in self._reads:
            await self._configuration.current()
        cached = self._cache.get(integration_id)
        if cached and cached[0] > monotonic():
            return cached[1]
        read = self._reads.get(integration_id)
        if read is None:
            read = self._reads[integration_id] = asyncio.create_task(self._read(integration_id))
        return await asyncio.shield(read)

    async def _read(self, integration_id: str) -> Integration:
        changes = self._changes  # before the read: a change during it makes the record stale
        try:
            integration = await self._integrations.find(integration_id)
        finally:
            if self._reads.get(integration_id) is asyncio.current_task():
                del self._reads[integration_id]
        self._cache_integration(integration, changes)
        return integration

    def _cache_integration(self, integration: Integration, changes: int) -> None:
        """Cache what was read at change number `changes`, unless there were more changes since."""
        if changes != self._changes:
            return
        if len(self._cache) >= _MAX_CACHED:
            self._cache.clear()
        cached = self._cache.get(integration.id)
        if cached is None or cached[1].version <= integration.version:
            self._cache[integration.id] = (monotonic() + _CACHE_TTL_S, integration)

    async def _open(self, integration: Integration, other: str) -> Access:
        """Return the tokens of one grant. The main one is that of the selected resource, if it has one.

        Raises as `access` does.
        """
        if other == MAIN and self._resource_tokens.is_used_by(integration):
            changes = self._changes
            integration = await self._resource_tokens.ensure(integration, self._refresher.values(integration))
            self._cache_integration(integration, changes)
        return self._access(integration, other)

    def _access(self, integration: Integration, other: str) -> Access:
        """Decrypt the tokens of one grant. Raises `NotConnected` if there are none that can be used."""
        secrets = self._refresher.outcomes.decrypt_credential(integration)
        others = secrets.get("others", {})
        tokens = secrets if other == MAIN else others.get(other)
        if other == MAIN and others and not secrets.get("access_token"):
            tokens = next(iter(others.values()))  # this consent has no main grant
        if other == MAIN:
            tokens = stored_resource_token(integration, secrets) or tokens
        if not tokens:
            raise NotConnected("connected", f"the account has no token named {other!r}")
        ends = integration.expires_at
        if ends is not None and ends <= utcnow() and not integration.refreshable:
            raise NotConnected(
                "reauth_required", "the account's token has expired: connect the account again"
            )
        values = self._refresher.values(integration) | token_values(tokens)
        connector = self._connectors[integration.provider]
        manual = connector.manual_credentials.get(integration.kind)
        if manual is not None:
            try:
                values |= manual_credential_values(manual, secrets.get("fields", {}))
            except ProviderRejected:  # the manifest has other fields than when they were entered
                raise NotConnected(
                    "error", "the provider needs other credentials now: enter them again"
                ) from None
        return Access(
            integration=integration.id,
            connector=connector,
            workspace=integration.workspace,
            version=integration.version,
            values=values,
            ends_at=ends,
            other=other,
            kind=integration.kind,
        )

    # Refreshing: one task for each integration, for all callers that wait

    async def _ensure_newer(
        self, integration_id: str, *, than: int, forced: bool = False, user_initiated: bool = False
    ) -> Integration:
        """Return the integration with tokens newer than version `than`.

        A cancelled caller stops no refresh.
        """
        while True:
            changes = self._changes
            try:
                integration = await asyncio.shield(
                    self._start_refresh(integration_id, than, forced=forced, user_initiated=user_initiated)
                )
            except BaseException:
                self.forget(integration_id)
                raise
            if integration.version > than:  # else the task had been started for an older version
                self._cache_integration(integration, changes)
                return integration

    def _start_refresh(
        self, integration_id: str, than: int, *, forced: bool = False, user_initiated: bool = False
    ) -> "asyncio.Task[Integration]":
        key = integration_id, user_initiated
        task = self._refreshes.get(key)
        if task is None or task.done():
            task = asyncio.create_task(
                self._refresher.ensure_newer(
                    integration_id, than, forced=forced, user_initiated=user_initiated
                )
            )
            self._refreshes[key] = task
            changes = self._changes
            task.add_done_callback(lambda done: self._refresh_done(key, done, changes))
        return task

    def _refresh_done(self, key: tuple[str, bool], task: "asyncio.Task[Integration]", changes: int) -> None:
        if self._refreshes.get(key) is task:
            del self._refreshes[key]
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            self._cache_integration(task.result(), changes)
        elif not isinstance(error, RetryLater | Conflict):
            self._log.warning("token.refresh_failed", integration_id=key[0], error=str(error)[:300])
