"""Tokens of connected accounts, for every service: fetched here, and made anew by one process for all.

Who wants to call a platform asks `access`. A token that is about to end is made anew beside the call, one
that has ended is waited for. A platform's 401 makes a token be made anew once (`refused`), however many calls
it met. How it is made anew is in `refresh.py`.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from time import monotonic
from typing import Any, Final

from shared.connections.app_check import AppChecker
from shared.connections.apps import App, Apps
from shared.connections.credentials import MAIN, token_values
from shared.connections.integrations import COLLECTION, IntegrationRepository
from shared.connections.refresh_outcome import NotConnected, check_usable
from shared.connections.refresher import DEFAULT_TIMING, NoAnswer, Refresher, Timing
from shared.contracts.errors import Conflict, DatabaseUnavailable, InterlinkError, RetryLater
from shared.manifests.connector import ProviderRejected, ProviderUnavailable, manual_credential_values
from shared.manifests.registry import connectors
from shared.runtime.configuration import Configuration
from shared.runtime.egress.client import EgressClient
from shared.runtime.logs import Log
from shared.runtime.mongo import Document, translate_errors, utcnow
from shared.runtime.version import VERSION
from shared.wire.oauth import ProviderRequest, ProviderResponse, basic_authorization
from shared.wire.request_template import RequestTemplate

__all__ = ["MAIN", "Access", "NoAnswer", "NotConnected", "Timing", "TokenSource"]

_USER_AGENT: Final = f"Interlink/{VERSION}"
"""Some platforms refuse requests without one."""
_CACHE_TTL_S: Final = 2.0
_MAX_CACHED: Final = 10_000
_EXPIRY_MARGIN: Final = timedelta(seconds=5)
"""A token is waited for when it ends within this time: a call may be under way for a while."""
_FORCED_REFRESH_INTERVAL: Final = timedelta(seconds=60)
_MAX_ATTEMPTS: Final = 5
_LAST_USED_INTERVAL_S: Final = 600.0
_ACCEPTED_TTL_S: Final = 60.0
"""A token that the platform took is taken to be good for so long, whatever one call is answered."""
_MAX_RESPONSE_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Access:
    """What a call to the platform is made with; `version` names the tokens for `TokenSource.refused`."""

    integration: str
    provider: str
    workspace: str
    version: int
    values: Mapping[str, str] = field(repr=False)
    """For requests of the manifest: tokens, account, params, settings."""
    ends_at: datetime | None
    other: str = MAIN
    """Which of the consent's tokens they are."""
    kind: str = "oauth2"

    @property
    def token(self) -> str:
        return self.values["access_token"]

    @property
    def headers(self) -> dict[str, str]:
        """What carries the token."""
        api = connectors()[self.provider].api_for(self.kind)
        made = {
            name: RequestTemplate(text).render_or_empty(self.values) for name, text in api.headers.items()
        }
        if api.basic:
            made["Authorization"] = basic_authorization(
                *(RequestTemplate(text).render_or_empty(self.values) for text in api.basic)
            )
        return {name: value for name, value in made.items() if value}

    @property
    def base(self) -> str:
        """What addresses of the API begin with."""
        return RequestTemplate(connectors()[self.provider].api_for(self.kind).base).url(self.values)


class TokenSource:
    """The tokens of all integrations. Services ask it; it needs `start`ed apps and client."""

    def __init__(
        self,
        integrations: IntegrationRepository,
        apps: Apps,
        configuration: Configuration,
        client: EgressClient,
        log: Log,
        *,
        redirect_uri: str,
        timing: Timing = DEFAULT_TIMING,
    ) -> None:
        self._integrations = integrations
        self._configuration = configuration
        self._client = client
        self._log = log
        self._timing = timing
        self.app_checker = AppChecker(apps, log, self.ask, redirect_uri=redirect_uri)
        """Whether platforms take apps."""
        self._refresher = Refresher(
            integrations, apps, self.app_checker, log, self.ask, redirect_uri=redirect_uri, timing=timing
        )
        self._cache: dict[str, tuple[float, Document]] = {}
        self._changes = 0
        """How often integrations were changed: what was read before the last time is not kept."""
        self._refreshes: dict[tuple[str, bool], asyncio.Task[Document]] = {}
        """By integration, and whether a person asked for it himself."""
        self._use_recorded: dict[str, float] = {}
        self._accepted: dict[tuple[str, str, int], float] = {}
        self._use_tasks: set[asyncio.Task[None]] = set()
        configuration.follow(COLLECTION, self._on_change)

    async def start(self) -> None:
        """Nothing to prepare."""

    async def stop(self) -> None:
        """Let what is under way be written: a new refresh token exists nowhere else."""
        under_way = [*self._refreshes.values(), *self._use_tasks]
        if under_way:
            await asyncio.wait(under_way, timeout=self._timing.call_s + 5)
        for name, provider in self._refresher.unsaved.items():
            self._log.error(
                "new tokens are lost, because the store does not take them: the account has to be connected "
                "again",
                integration_id=name,
                provider=provider,
            )

    # For services

    async def access(self, name: str, *, other: str = MAIN) -> Access:
        """The tokens of an integration, good for now.

        `other` names further tokens of the same consent. Raises `NotFound`, `NotConnected`,
        `ProviderUnavailable`
        (it is being made anew, or the platform does not answer), `DatabaseUnavailable`.
        """
        document = await self._find_cached(name)
        check_usable(document)
        ends = document.get("expires_at")
        if ends is not None and document.get("refreshable"):
            renew_at = document.get("renew_at") or ends
            if ends - min(_EXPIRY_MARGIN, (ends - renew_at) / 2) <= utcnow():
                try:
                    document = await self._ensure_newer(name, than=document["version"])
                except (ProviderUnavailable, DatabaseUnavailable):
                    if ends <= utcnow():
                        raise
            elif renew_at <= utcnow() and self._refresher.outcomes.may_refresh(document):
                self._start_refresh(name, document["version"])
        access = self._access(document, other)
        self._record_use(document)
        return access

    async def replace_refused(self, access: Access) -> Access:
        """After a 401: tokens newer than those that the platform refused, made once for everybody.

        Where they are new already, or cannot be made anew, the platform is asked whose they are: when it
        answers, the 401 was about the call, and they come back as they are. Raises `NotConnected` when it
        does not take them there either; else as `access`.
        """
        for _ in range(_MAX_ATTEMPTS):
            document = await self._integrations.find(access.integration)
            check_usable(document)
            if document["version"] > access.version and not document.get("halfway"):
                return self._access(document, access.other)
            named = (access.integration, access.other, access.version)
            if self._accepted.get(named, 0.0) > monotonic():
                return access
            made = document.get("forced_at")
            fresh = made is not None and made > utcnow() - _FORCED_REFRESH_INTERVAL
            under_way = document.get("halfway") or document.get("lease") is not None
            if document.get("refreshable") and (not fresh or under_way):
                document = await self._ensure_newer(access.integration, than=access.version, forced=True)
                return self._access(document, access.other)
            if await self._is_accepted(access):
                if len(self._accepted) >= _MAX_CACHED:
                    self._accepted.clear()
                self._accepted[named] = monotonic() + _ACCEPTED_TTL_S
                return access
            self.forget(access.integration)
            why = "the platform does not take the token"
            if await self._refresher.outcomes.mark_reauth_required(document, "token_refused", why):
                break
        raise NotConnected("reauth_required", "the platform does not take the account's token")

    async def call(
        self, name: str, make: Callable[[Access], ProviderRequest], *, other: str = MAIN
    ) -> ProviderResponse:
        """Call the platform with an account's token; once more with new ones when they are refused.

        Raises as `access` does; `ProviderUnavailable` also when there is no answer.
        """
        access = await self.access(name, other=other)
        connector = connectors()[access.provider]
        answer = await self.ask(make(access), access.workspace)
        if connector.is_token_rejected(answer, connector.api_for(access.kind)):
            answer = await self.ask(make(await self.replace_refused(access)), access.workspace)
        return answer

    async def _is_accepted(self, access: Access) -> bool:
        """Whether the platform takes the token when it is asked whose it is. Raises `ProviderUnavailable`."""
        connector = connectors()[access.provider]
        api, probe = connector.api_for(access.kind), connector.probe_for(access.kind)
        if probe is None:
            return False
        by_app = not probe.token and access.kind not in connector.entered
        if by_app and "client_id" not in access.values:  # nobody can ask now
            raise ProviderUnavailable("the app's credentials are not there", retry_after=60)
        answer = await self.ask(connector.request(probe, access.values, api), access.workspace)
        if connector.is_token_rejected(answer, api):
            return False
        with suppress(ProviderRejected):  # it is the answer to somebody that the platform knows
            connector.parse_api_response(answer, api)
        return True

    async def ask(self, call: ProviderRequest, workspace: str) -> ProviderResponse:
        """Send a request as it is, on behalf of a workspace. Raises `NoAnswer`."""
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

    async def refresh(self, name: str, *, than: int, user_initiated: bool = False) -> Document:
        """Make an integration's tokens anew, or wait for who does. Raises as `access`.

        `by_person`: somebody asks for it himself, which passes a pause over a refused app once.
        """
        return await self._ensure_newer(name, than=than, user_initiated=user_initiated)

    def values(self, document: Mapping[str, Any]) -> dict[str, str]:
        """What requests of the manifest are filled with, but for the tokens."""
        return self._refresher.values(document)

    def app_of(self, document: Mapping[str, Any]) -> App | None:
        """The app that an integration is connected with."""
        return self._refresher.outcomes.app_of(document)

    def forget(self, name: str) -> None:
        """Look at the store at the next call: this process has changed it."""
        self._changes += 1
        self._cache.pop(name, None)

    # Reading

    async def _on_change(self, names: Collection[str] | None) -> None:
        """Forget integrations that were connected or disconnected."""
        self._changes += 1
        if names is None:
            self._cache.clear()
        for name in names or ():
            self.forget(name)

    async def _find_cached(self, name: str) -> Document:
        if name in self._cache:
            await self._configuration.current()
        kept = self._cache.get(name)
        if kept and kept[0] > monotonic():
            return kept[1]
        changes = self._changes
        document = await self._integrations.find(name)
        self._cache_document(document, changes)
        return document

    def _cache_document(self, document: Document, changes: int) -> None:
        """Keep what was read when there had been so many changes, unless there were more since."""
        if changes != self._changes:
            return
        if len(self._cache) >= _MAX_CACHED:
            self._cache.clear()
        kept = self._cache.get(document["_id"])
        if kept is None or kept[1]["version"] <= document["version"]:
            self._cache[document["_id"]] = (monotonic() + _CACHE_TTL_S, document)

    def _access(self, document: Document, other: str) -> Access:
        secrets = self._refresher.outcomes.decrypt_credential(document)
        others = secrets.get("others", {})
        tokens = secrets if other == MAIN else others.get(other)
        if other == MAIN and others and not secrets.get("access_token"):
            tokens = next(iter(others.values()))  # the consent gave no other
        if not tokens:
            raise NotConnected("connected", f"the account has no token called {other!r}")
        ends = document.get("expires_at")
        if ends is not None and ends <= utcnow() and not document.get("refreshable"):
            raise NotConnected("reauth_required", "the account's token has ended: connect it again")
        values = self._refresher.values(document) | token_values(tokens)
        way = connectors()[document["provider"]].entered.get(document["kind"])
        if way is not None:
            try:
                values |= manual_credential_values(way, secrets.get("fields", {}))
            except ProviderRejected:  # the manifest asks for something else by now
                raise NotConnected(
                    "error", "what was entered does not fit any more: enter it again"
                ) from None
        return Access(
            integration=document["_id"],
            provider=document["provider"],
            workspace=document["workspace"],
            version=document["version"],
            values=values,
            ends_at=ends,
            other=other,
            kind=document["kind"],
        )

    def _record_use(self, document: Document) -> None:
        """Write down, now and then, that it is used; beside the call, which does not depend on it."""
        name, now = document["_id"], monotonic()
        if self._use_recorded.get(name, 0.0) > now:
            return
        if len(self._use_recorded) >= _MAX_CACHED:
            self._use_recorded.clear()
        self._use_recorded[name] = now + _LAST_USED_INTERVAL_S
        task = asyncio.create_task(self._write_use(name))
        self._use_tasks.add(task)
        task.add_done_callback(self._use_tasks.discard)

    async def _write_use(self, name: str) -> None:
        try:
            with translate_errors():
                await self._integrations.collection.update_one(
                    {"_id": name, "deleted_at": None}, {"$set": {"last_used_at": utcnow()}}
                )
        except InterlinkError:
            self._use_recorded.pop(name, None)

    # Making anew: one task for each integration, whoever waits for it

    async def _ensure_newer(
        self, name: str, *, than: int, forced: bool = False, user_initiated: bool = False
    ) -> Document:
        """The document with tokens newer than this version; who goes away does not end the making."""
        while True:
            changes = self._changes
            try:
                document = await asyncio.shield(
                    self._start_refresh(name, than, forced=forced, user_initiated=user_initiated)
                )
            except BaseException:
                self.forget(name)
                raise
            if document["version"] > than:  # not of a task that began for an older version
                self._cache_document(document, changes)
                return document

    def _start_refresh(
        self, name: str, than: int, *, forced: bool = False, user_initiated: bool = False
    ) -> "asyncio.Task[Document]":
        key = name, user_initiated
        task = self._refreshes.get(key)
        if task is None or task.done():
            task = asyncio.create_task(
                self._refresher.ensure_newer(name, than, forced=forced, user_initiated=user_initiated)
            )
            self._refreshes[key] = task
            changes = self._changes
            task.add_done_callback(lambda done: self._refresh_done(key, done, changes))
        return task

    def _refresh_done(self, key: tuple[str, bool], task: "asyncio.Task[Document]", changes: int) -> None:
        if self._refreshes.get(key) is task:
            del self._refreshes[key]
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            self._cache_document(task.result(), changes)
        elif not isinstance(error, RetryLater | Conflict):
            self._log.warning("token not made anew", integration_id=key[0], error=str(error)[:300])
