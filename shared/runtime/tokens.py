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

from shared.catalog.connector import PlatformBusy, Refused, entered_values
from shared.catalog.registry import connectors
from shared.contracts.errors import Conflict, InterlinkError, RetryLater, StoreUnavailable
from shared.runtime.app_trial import AppTrial
from shared.runtime.apps import App, Apps
from shared.runtime.configuration import Configuration
from shared.runtime.credentials import MAIN, texts_of
from shared.runtime.guarded import GuardedClient
from shared.runtime.integrations import COLLECTION, Integrations
from shared.runtime.logs import Log
from shared.runtime.mongo import Document, translated, utcnow
from shared.runtime.refresh import USUAL, NoAnswer, Refresher, Timing
from shared.runtime.refresh_outcome import NotConnected, check
from shared.runtime.service import VERSION
from shared.wire.fills import Fill
from shared.wire.oauth import Answered, Call, basic

__all__ = ["MAIN", "Access", "NoAnswer", "NotConnected", "Timing", "TokenSource"]

_USER_AGENT: Final = f"Interlink/{VERSION}"
"""Some platforms refuse requests without one."""
_KEPT_S: Final = 2.0
_MOST_KEPT: Final = 10_000
_SOON: Final = timedelta(seconds=5)
"""A token is waited for when it ends within this time: a call may be under way for a while."""
_FORCED_AGAIN: Final = timedelta(seconds=60)
_LOOKS: Final = 5
_USE_NOTED_S: Final = 600.0
_GOOD_S: Final = 60.0
"""A token that the platform took is taken to be good for so long, whatever one call is answered."""
_MOST_ANSWER: Final = 1024 * 1024


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
        api = connectors()[self.provider].api_of(self.kind)
        made = {name: Fill(text).maybe(self.values) for name, text in api.headers.items()}
        if api.basic:
            made["Authorization"] = basic(*(Fill(text).maybe(self.values) for text in api.basic))
        return {name: value for name, value in made.items() if value}

    @property
    def base(self) -> str:
        """What addresses of the API begin with."""
        return Fill(connectors()[self.provider].api_of(self.kind).base).url(self.values)


class TokenSource:
    """The tokens of all integrations. Services ask it; it needs `start`ed apps and client."""

    def __init__(
        self,
        integrations: Integrations,
        apps: Apps,
        configuration: Configuration,
        client: GuardedClient,
        log: Log,
        *,
        redirect_uri: str,
        timing: Timing = USUAL,
    ) -> None:
        self._integrations = integrations
        self._configuration = configuration
        self._client = client
        self._log = log
        self._timing = timing
        self.trial = AppTrial(apps, log, self.ask, redirect_uri=redirect_uri)
        """Whether platforms take apps."""
        self._refresher = Refresher(
            integrations, apps, self.trial, log, self.ask, redirect_uri=redirect_uri, timing=timing
        )
        self._kept: dict[str, tuple[float, Document]] = {}
        self._changes = 0
        """How often integrations were changed: what was read before the last time is not kept."""
        self._renewing: dict[tuple[str, bool], asyncio.Task[Document]] = {}
        """By integration, and whether a person asked for it himself."""
        self._noted: dict[str, float] = {}
        self._good: dict[tuple[str, str, int], float] = {}
        self._noting: set[asyncio.Task[None]] = set()
        configuration.follow(COLLECTION, self._changed)

    async def start(self) -> None:
        """Nothing to prepare."""

    async def stop(self) -> None:
        """Let what is under way be written: a new refresh token exists nowhere else."""
        under_way = [*self._renewing.values(), *self._noting]
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

        `other` names further tokens of the same consent. Raises `NotFound`, `NotConnected`, `PlatformBusy`
        (it is being made anew, or the platform does not answer), `StoreUnavailable`.
        """
        document = await self._known(name)
        check(document)
        ends = document.get("expires_at")
        if ends is not None and document.get("refreshable"):
            renew_at = document.get("renew_at") or ends
            if ends - min(_SOON, (ends - renew_at) / 2) <= utcnow():
                try:
                    document = await self._newer(name, than=document["version"])
                except (PlatformBusy, StoreUnavailable):
                    if ends <= utcnow():
                        raise
            elif renew_at <= utcnow() and self._refresher.outcomes.may_ask(document):
                self._begin(name, document["version"])
        access = self._access(document, other)
        self._note_use(document)
        return access

    async def refused(self, access: Access) -> Access:
        """After a 401: tokens newer than those that the platform refused, made once for everybody.

        Where they are new already, or cannot be made anew, the platform is asked whose they are: when it
        answers, the 401 was about the call, and they come back as they are. Raises `NotConnected` when it
        does not take them there either; else as `access`.
        """
        for _ in range(_LOOKS):
            document = await self._integrations.find(access.integration)
            check(document)
            if document["version"] > access.version and not document.get("halfway"):
                return self._access(document, access.other)
            named = (access.integration, access.other, access.version)
            if self._good.get(named, 0.0) > monotonic():
                return access
            made = document.get("forced_at")
            fresh = made is not None and made > utcnow() - _FORCED_AGAIN
            under_way = document.get("halfway") or document.get("lease") is not None
            if document.get("refreshable") and (not fresh or under_way):
                document = await self._newer(access.integration, than=access.version, forced=True)
                return self._access(document, access.other)
            if await self._taken(access):
                if len(self._good) >= _MOST_KEPT:
                    self._good.clear()
                self._good[named] = monotonic() + _GOOD_S
                return access
            self.forget(access.integration)
            why = "the platform does not take the token"
            if await self._refresher.outcomes.end(document, "token_refused", why):
                break
        raise NotConnected("reauth_required", "the platform does not take the account's token")

    async def call(self, name: str, make: Callable[[Access], Call], *, other: str = MAIN) -> Answered:
        """Call the platform with an account's token; once more with new ones when they are refused.

        Raises as `access` does; `PlatformBusy` also when there is no answer.
        """
        access = await self.access(name, other=other)
        connector = connectors()[access.provider]
        answer = await self.ask(make(access), access.workspace)
        if connector.token_refused(answer, connector.api_of(access.kind)):
            answer = await self.ask(make(await self.refused(access)), access.workspace)
        return answer

    async def _taken(self, access: Access) -> bool:
        """Whether the platform takes the token when it is asked whose it is. Raises `PlatformBusy`."""
        connector = connectors()[access.provider]
        api, probe = connector.api_of(access.kind), connector.probe_of(access.kind)
        if probe is None:
            return False
        by_app = not probe.token and access.kind not in connector.entered
        if by_app and "client_id" not in access.values:  # nobody can ask now
            raise PlatformBusy("the app's credentials are not there", retry_after=60)
        answer = await self.ask(connector.request(probe, access.values, api), access.workspace)
        if connector.token_refused(answer, api):
            return False
        with suppress(Refused):  # it is the answer to somebody that the platform knows
            connector.read(answer, api)
        return True

    async def ask(self, call: Call, workspace: str) -> Answered:
        """Send a request as it is, on behalf of a workspace. Raises `NoAnswer`."""
        headers = {"User-Agent": _USER_AGENT, **call.headers}
        answer = await self._client.call(
            call.method,
            call.url,
            headers,
            call.body or None,
            timeout_s=self._timing.call_s,
            workspace=workspace,
            most=_MOST_ANSWER,
        )
        if answer.status is None:
            raise NoAnswer(answer.failure or "connection", answer.detail)
        headers = {name.lower(): value for name, value in answer.headers.items()}
        return Answered(answer.status, headers, answer.body)

    # For the service that owns integrations

    async def renew(self, name: str, *, than: int, by_person: bool = False) -> Document:
        """Make an integration's tokens anew, or wait for who does. Raises as `access`.

        `by_person`: somebody asks for it himself, which passes a pause over a refused app once.
        """
        return await self._newer(name, than=than, by_person=by_person)

    def values(self, document: Mapping[str, Any]) -> dict[str, str]:
        """What requests of the manifest are filled with, but for the tokens."""
        return self._refresher.values(document)

    def app_of(self, document: Mapping[str, Any]) -> App | None:
        """The app that an integration is connected with."""
        return self._refresher.outcomes.app_of(document)

    def forget(self, name: str) -> None:
        """Look at the store at the next call: this process has changed it."""
        self._changes += 1
        self._kept.pop(name, None)

    # Reading

    async def _changed(self, names: Collection[str] | None) -> None:
        """Forget integrations that were connected or disconnected."""
        self._changes += 1
        if names is None:
            self._kept.clear()
        for name in names or ():
            self.forget(name)

    async def _known(self, name: str) -> Document:
        if name in self._kept:
            await self._configuration.current()
        kept = self._kept.get(name)
        if kept and kept[0] > monotonic():
            return kept[1]
        changes = self._changes
        document = await self._integrations.find(name)
        self._keep(document, changes)
        return document

    def _keep(self, document: Document, changes: int) -> None:
        """Keep what was read when there had been so many changes, unless there were more since."""
        if changes != self._changes:
            return
        if len(self._kept) >= _MOST_KEPT:
            self._kept.clear()
        kept = self._kept.get(document["_id"])
        if kept is None or kept[1]["version"] <= document["version"]:
            self._kept[document["_id"]] = (monotonic() + _KEPT_S, document)

    def _access(self, document: Document, other: str) -> Access:
        secrets = self._refresher.outcomes.opened(document)
        others = secrets.get("others", {})
        tokens = secrets if other == MAIN else others.get(other)
        if other == MAIN and others and not secrets.get("access_token"):
            tokens = next(iter(others.values()))  # the consent gave no other
        if not tokens:
            raise NotConnected("connected", f"the account has no token called {other!r}")
        ends = document.get("expires_at")
        if ends is not None and ends <= utcnow() and not document.get("refreshable"):
            raise NotConnected("reauth_required", "the account's token has ended: connect it again")
        values = self._refresher.values(document) | texts_of(tokens)
        way = connectors()[document["provider"]].entered.get(document["kind"])
        if way is not None:
            try:
                values |= entered_values(way, secrets.get("fields", {}))
            except Refused:  # the manifest asks for something else by now
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

    def _note_use(self, document: Document) -> None:
        """Write down, now and then, that it is used; beside the call, which does not depend on it."""
        name, now = document["_id"], monotonic()
        if self._noted.get(name, 0.0) > now:
            return
        if len(self._noted) >= _MOST_KEPT:
            self._noted.clear()
        self._noted[name] = now + _USE_NOTED_S
        task = asyncio.create_task(self._noted_use(name))
        self._noting.add(task)
        task.add_done_callback(self._noting.discard)

    async def _noted_use(self, name: str) -> None:
        try:
            with translated():
                await self._integrations.collection.update_one(
                    {"_id": name, "deleted_at": None}, {"$set": {"last_used_at": utcnow()}}
                )
        except InterlinkError:
            self._noted.pop(name, None)

    # Making anew: one task for each integration, whoever waits for it

    async def _newer(
        self, name: str, *, than: int, forced: bool = False, by_person: bool = False
    ) -> Document:
        """The document with tokens newer than this version; who goes away does not end the making."""
        while True:
            changes = self._changes
            try:
                document = await asyncio.shield(self._begin(name, than, forced=forced, by_person=by_person))
            except BaseException:
                self.forget(name)
                raise
            if document["version"] > than:  # not of a task that began for an older version
                self._keep(document, changes)
                return document

    def _begin(
        self, name: str, than: int, *, forced: bool = False, by_person: bool = False
    ) -> "asyncio.Task[Document]":
        key = name, by_person
        task = self._renewing.get(key)
        if task is None or task.done():
            task = asyncio.create_task(self._refresher.newer(name, than, forced=forced, by_person=by_person))
            self._renewing[key] = task
            changes = self._changes
            task.add_done_callback(lambda done: self._ended(key, done, changes))
        return task

    def _ended(self, key: tuple[str, bool], task: "asyncio.Task[Document]", changes: int) -> None:
        if self._renewing.get(key) is task:
            del self._renewing[key]
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            self._keep(task.result(), changes)
        elif not isinstance(error, RetryLater | Conflict):
            self._log.warning("token not made anew", integration_id=key[0], error=str(error)[:300])
