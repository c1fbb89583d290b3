"""Making tokens anew: one refresher per credential across all processes, and no answer of a platform lost.

Who refreshes claims a lease in the store, longer than the request may take and two clocks may differ. Its
fence tells a later holder's writes from an earlier one's. The new tokens are written, insisting, before
anybody gets them. A lease that ended without a word is taken over a little later than it ended: its holder
may have the platform's answer in hands and only wait for the store.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from time import monotonic
from typing import Any, Final

from shared.catalog.connector import (
    ClientRefused,
    Connector,
    ConsentGone,
    Granted,
    PlatformBusy,
    Refused,
)
from shared.catalog.registry import connectors
from shared.contracts.envelope import rfc3339
from shared.contracts.errors import Conflict, InterlinkError, Misconfigured, NotFound, StoreUnavailable
from shared.runtime.app_trial import AppTrial
from shared.runtime.apps import App, Apps
from shared.runtime.crash import crash_point
from shared.runtime.credentials import MAIN, merged, of_new_tokens, schedule, slots_of, texts_of, values_of
from shared.runtime.guarded import Failure
from shared.runtime.integrations import Integrations
from shared.runtime.logs import Log
from shared.runtime.metrics import REFRESHES
from shared.runtime.mongo import Document, translated, utcnow
from shared.wire.fills import Unfillable
from shared.wire.oauth import Answered, Call, unsaid

_CALL_S: Final = 10.0
_LEASE_S: Final = 45.0
"""A request, and the 30 s that two clocks may differ."""
_SKEW_S: Final = 30.0
"""How far two clocks may differ."""
_SETTLE_S: Final = 2.0
_WAIT_S: Final = 60.0
_LOOK_S: Final = (0.05, 0.5)
_SAVE_S: Final = (0.05, 0.5)
"""Pauses between tries to save: well below `_SETTLE_S`, so that the holder of new tokens is the first."""
_FIRST_PAUSE_S: Final = 2.0
_LONGEST_PAUSE_S: Final = 900.0
_CLIENT_PAUSE_S: Final = 300.0
_LONGEST_TOLD: Final = 300
_USABLE: Final = ("connected", "error")
_UNREADABLE: Final = "unreadable"
"""The reason of an error that is not the platform's: the credential does not open."""
_OURS: Final = ("expired", "token_refused")
"""Ends that no answer about a refresh token says."""
_MAYBE_DONE: Final = frozenset({"timeout", "closed_mid_response"})


class NotConnected(Conflict):
    """There is no token to be had: the account has to be connected (again). `status` says what it is."""

    def __init__(self, state: str, detail: str) -> None:
        super().__init__(detail)
        self.state = state


class NoAnswer(PlatformBusy):
    """The platform did not answer; `maybe_done`: it may have done what it was asked."""

    def __init__(self, failure: Failure, detail: str) -> None:
        super().__init__(f"the platform cannot be reached: {failure}: {detail}"[:_LONGEST_TOLD])
        self.maybe_done = failure in _MAYBE_DONE
        self.failure = failure
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Timing:
    """How long things take, in seconds; tests have a hurry."""

    call_s: float = _CALL_S
    """One request to a platform."""
    lease_s: float = _LEASE_S
    """Nobody else refreshes for so long."""
    settle_s: float = _SETTLE_S
    """From when a lease is seen to have ended without a word until it is taken over."""
    wait_s: float = _WAIT_S
    """Who needs a token waits so long for whoever makes it."""


USUAL: Final = Timing()


class Refresher:
    """Makes tokens anew; `ask` sends a request and raises `PlatformBusy`."""

    def __init__(
        self,
        integrations: Integrations,
        apps: Apps,
        trial: AppTrial,
        log: Log,
        ask: Callable[[Call, str], Awaitable[Answered]],
        *,
        redirect_uri: str,
        timing: Timing,
    ) -> None:
        self._integrations = integrations
        self._apps = apps
        self._trial = trial
        self._log = log
        self._ask = ask
        self._redirect_uri = redirect_uri
        self._timing = timing
        self.unsaved: dict[str, str] = {}
        """Integrations whose new tokens are only in this process, with their providers."""

    def values(self, document: Mapping[str, Any]) -> dict[str, str]:
        """What requests of the manifest are filled with, but for the tokens."""
        return values_of(document, self.app_of(document), self._redirect_uri)

    def app_of(self, document: Mapping[str, Any]) -> App | None:
        """The app that an integration is connected with."""
        connector = connectors().get(document["provider"])
        if connector is None:
            return None
        return self._apps.find(connector.app, document["workspace"], document.get("app"))

    def opened(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """The credential in clear. Raises `NotConnected`: it was changed in the store, or its key is gone."""
        try:
            return self._integrations.open(document)
        except Misconfigured as error:
            self._log.error("credential not opened", integration_id=document["_id"], error=str(error))
            raise NotConnected(
                "error", "the account's credential cannot be opened: the log of the service says why"
            ) from None

    async def newer(self, name: str, than: int, *, forced: bool) -> Document:
        """The document with tokens newer than this version: made here, or by another process.

        Raises `NotFound`, `NotConnected`, `PlatformBusy`, `StoreUnavailable`.
        """
        deadline = monotonic() + self._timing.wait_s
        pause = _LOOK_S[0]
        watched, since = -1, 0.0
        while True:
            document = await self._integrations.find(name)
            check(document)
            if document["version"] > than and not document.get("halfway"):
                return document
            now = utcnow()
            self._check_pause(document, now)
            lease = document.get("lease_until")
            if lease is not None and lease <= now and document["fence"] != watched:
                watched, since = document["fence"], monotonic()
            if lease is None or (lease <= now and monotonic() - since >= self._timing.settle_s):
                made = await self._claimed_and_made(document, forced=forced)
                if made is not None:
                    return made
                continue
            if monotonic() > deadline:
                raise PlatformBusy("the token is being made anew by another process", retry_after=2.0)
            await asyncio.sleep(pause * random.uniform(0.7, 1.3))  # noqa: S311 -- only to spread
            pause = min(pause * 1.5, _LOOK_S[1])

    def _check_pause(self, document: Mapping[str, Any], now: datetime) -> None:
        """Raises `PlatformBusy` in the pause after a failure.

        A credential that did not open is tried again at once: its key may be back, and no platform is asked.
        Raises `NotConnected` while it does not open.
        """
        if may_try(document):
            return
        if document.get("reason") == _UNREADABLE:
            self.opened(document)
            return
        code = (document.get("last_error") or {}).get("code", "no_token")
        raise PlatformBusy(
            f"no new token is asked for before {rfc3339(document['retry_at'])}: the last try failed ({code})",
            retry_after=max(1.0, (document["retry_at"] - now).total_seconds()),
        )

    async def end(self, document: Mapping[str, Any], code: str, detail: str) -> bool:
        """The consent has ended, and it is told; False when the document is not what was read."""
        # A holder before this one settled nothing: what it was given, if it was, is lost.
        interrupted = document["fence"] > document["settled_fence"] + 1 and code not in _OURS
        change = {
            "status": "reauth_required",
            "reason": "refresh_interrupted" if interrupted else code,
            "last_error": {"at": utcnow(), "code": code, "detail": detail},
            "lease_until": None,
            "settled_fence": document["fence"],
            "open": False,
            "due_at": None,
            "refreshable": False,
        }
        only = {"fence": document["fence"], "status": {"$in": _USABLE}}
        changed = await self._integrations.change(
            document, change, tell="integration.reauth_required", only=only
        )
        if changed is not None:
            REFRESHES.labels(document["provider"], "consent_gone").inc()
        return changed is not None

    # The steps. None, where a step gives it: somebody else was first, so look again.

    async def _claimed_and_made(self, document: Document, *, forced: bool) -> Document | None:
        claimed = await self._claim(document)
        return None if claimed is None else await self._made(claimed, forced=forced)

    async def _claim(self, document: Document) -> Document | None:
        query = {
            "_id": document["_id"],
            "version": document["version"],
            "fence": document["fence"],
            "status": {"$in": _USABLE},
            "deleted_at": None,
        }
        until = utcnow() + timedelta(seconds=self._timing.lease_s)
        with translated():
            return await self._integrations.collection.find_one_and_update(
                query, {"$set": {"lease_until": until}, "$inc": {"fence": 1}}, return_document=True
            )

    async def _made(self, claimed: Document, *, forced: bool) -> Document | None:
        """Make every grant of the credential anew, each written before the next is asked for."""
        connector = connectors()[claimed["provider"]]
        try:
            secrets = self.opened(claimed)
        except NotConnected as error:
            await self._failed(claimed, _UNREADABLE, error.detail, _LONGEST_PAUSE_S, broken=True)
            raise
        slots = slots_of(secrets) or [MAIN]
        document, at = claimed, utcnow()
        whole = Granted(None, {}, None)
        for slot in slots:
            granted = await self._asked(document, connector, secrets, slot)
            if granted is None:
                return None
            whole = Granted(granted.tokens or whole.tokens, {**whole.others, **granted.others}, None)
            secrets = merged(secrets, granted)
            # Its other grants are as they were: who waits for new tokens goes on waiting.
            change: dict[str, Any] = {
                "lease_until": utcnow() + timedelta(seconds=self._timing.lease_s),
                "halfway": True,
            }
            if slot == slots[-1]:
                change = self._settled(connector, whole, claimed, at, forced=forced)
            saved = await self._save(document, secrets, change, told=slot == slots[-1])
            if saved is None:
                await self._not_saved(connector, document, granted)
                return None
            document = saved
        REFRESHES.labels(claimed["provider"], "refreshed").inc()
        return document

    async def _asked(
        self, claimed: Document, connector: Connector, secrets: Mapping[str, Any], slot: str
    ) -> Granted | None:
        """What the platform gives for one grant."""
        tokens = texts_of(secrets if slot == MAIN else secrets["others"][slot])
        values = self.values(claimed)
        try:
            call = connector.refreshing(values | tokens)
        except (Unfillable, KeyError) as error:
            lost = self._apps.lost(connector.app, claimed["workspace"], claimed.get("app"))
            code, why = ("app_unreadable", "cannot be opened") if lost else ("app_missing", "are not there")
            told = f"the app's credentials {why}"
            await self._failed(claimed, code, f"{told}: {error}", _pause(claimed))
            raise PlatformBusy(told, retry_after=60) from None
        if call is None:
            await self._gone(claimed, "expired", "the token has ended and cannot be made anew")
            return None
        crash_point("refresh.claimed")
        spare = self._timing.lease_s - self._timing.call_s
        asked_within = min(spare, max(spare - _SKEW_S, self._timing.call_s / 2))
        if utcnow() > claimed["lease_until"] - timedelta(seconds=self._timing.lease_s - asked_within):
            # This process stood still: by the time of an answer, the lease may be another's, whose clock is
            # ahead. Nothing was asked, so nobody need wait for its end; an earlier lease may be open still.
            free = {"lease_until": None, "settled_fence": claimed["settled_fence"] + 1}
            await self._integrations.change(claimed, free, only={"fence": claimed["fence"]})
            return None
        try:
            answer = await self._ask(call, claimed["workspace"])
            crash_point("refresh.answered")
            granted = connector.granted(answer)
        except PlatformBusy as error:
            maybe_done = isinstance(error, NoAnswer) and error.maybe_done
            pause = max(_pause(claimed), error.retry_after)
            await self._failed(claimed, "unavailable", str(error), pause, settled=not maybe_done)
            raise
        except Refused as error:
            app = self.app_of(claimed)
            hidden = [*tokens.values(), *(app.secrets.values() if app else ())]
            code, detail = unsaid(error.code, hidden), unsaid(error.detail, hidden)
            await self._refused(claimed, type(error)(code, detail))
            return None
        if slot == MAIN or granted.tokens is None:
            return granted
        return Granted(None, {**granted.others, slot: granted.tokens}, granted.document)

    async def _refused(self, claimed: Document, error: Refused) -> None:
        """The platform says no. Raises `PlatformBusy` or `NotConnected`, unless somebody else was first."""
        if isinstance(error, ConsentGone):
            await self._gone(claimed, error.code, error.detail)
            return
        if not isinstance(error, ClientRefused):
            await self._failed(claimed, error.code, error.detail, _pause(claimed))
            raise PlatformBusy(f"the platform gave no new token: {error.code}")
        await self._failed(claimed, error.code, error.detail, _CLIENT_PAUSE_S)
        connector = connectors()[claimed["provider"]]
        if await self._trial.suspect(self.app_of(claimed), connector, claimed["workspace"], error):
            raise PlatformBusy("the platform refuses the app's credentials", retry_after=60)
        raise PlatformBusy(f"the platform gave no new token: {error.code}", retry_after=60)

    async def _gone(self, claimed: Document, code: str, detail: str) -> None:
        """The consent has ended. Raises `NotConnected`, unless somebody else was first."""
        if await self.end(claimed, code, detail):
            raise NotConnected("reauth_required", "the consent has ended: connect the account again")

    def _settled(
        self, connector: Connector, granted: Granted, claimed: Document, at: datetime, *, forced: bool
    ) -> dict[str, Any]:
        """What the document says once all tokens are new."""
        change: dict[str, Any] = {
            **of_new_tokens(claimed),
            **schedule(connector, granted, claimed, at=at),
            "refreshed_at": utcnow(),
            "forced_at": utcnow() if forced else None,
        }
        if granted.tokens and granted.tokens.scopes is not None:
            change["scopes"] = list(granted.tokens.scopes)
        return change

    async def _save(
        self, claimed: Document, secrets: Mapping[str, Any], change: Mapping[str, Any], *, told: bool
    ) -> Document | None:
        """Write new tokens, insisting: they exist nowhere else, and the old ones may be worthless now."""
        sealed = self._integrations.seal(claimed, secrets)
        change = {**change, "credential": sealed, "version": claimed["version"] + 1}
        name, current = claimed["_id"], claimed
        pause = _SAVE_S[0]
        try:
            while True:
                try:
                    saved = await self._integrations.change(
                        claimed,
                        {**change, **_status(current)},
                        tell="integration.refreshed" if told else None,
                        only={"fence": claimed["fence"], "status": current["status"]},
                    )
                    if saved is not None:
                        break
                    current = await self._integrations.find(name)
                    if _same_seal(current["credential"], sealed):  # it was written, and the answer lost
                        saved = current
                        break
                    if any(current[field] != claimed[field] for field in ("version", "fence")):
                        return None
                except NotFound:
                    return None
                except (StoreUnavailable, Misconfigured) as error:
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
                    pause = min(pause * 2, _SAVE_S[1])
        finally:
            self.unsaved.pop(name, None)
        crash_point("refresh.committed")
        return saved

    async def _not_saved(self, connector: Connector, claimed: Document, granted: Granted) -> None:
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
        if connector.ends_everything:
            return
        for tokens in (granted.tokens, *granted.others.values()):
            if tokens is None:
                continue
            made = {"access_token": tokens.access_token, "refresh_token": tokens.refresh_token}
            try:
                call = connector.revoking({**self.values(claimed), **made})
                if call is not None:
                    await self._ask(call, claimed["workspace"])
            except InterlinkError as error:
                self._log.warning("not revoked", integration_id=claimed["_id"], why=type(error).__name__)

    async def _failed(
        self,
        claimed: Document,
        code: str,
        detail: str,
        pause_s: float,
        *,
        settled: bool = True,
        broken: bool = False,
    ) -> None:
        """Let go of the lease and wait before the next try; without a good token it is an error.

        `broken`: the credential did not open. One that opens again, with a token that is good, is no error.
        """
        now = utcnow()
        ends = claimed.get("expires_at")
        retry_at = now + timedelta(seconds=pause_s)
        change: dict[str, Any] = {
            "failures": claimed.get("failures", 0) + 1,
            "retry_at": retry_at,
            "lease_until": None,
            "last_error": {"at": now, "code": code, "detail": detail[:_LONGEST_TOLD]},
        }
        if settled:
            change["settled_fence"] = claimed["fence"]
        if claimed.get("open"):
            change["due_at"] = max(claimed["due_at"], retry_at)
        REFRESHES.labels(claimed["provider"], "failed").inc()
        fence = {"fence": claimed["fence"]}
        state: dict[str, Any] = {}
        if broken or (ends is not None and ends <= now):  # tried again by itself, so that it is found well
            state = {"status": "error", "reason": code, "open": True, "due_at": retry_at}
        elif claimed["status"] == "error":
            state = {"status": "connected", "reason": ""}
        if state:
            only = {**fence, "status": {"$in": _USABLE}}
            if await self._integrations.change(claimed, change | state, only=only) is not None:
                return
        await self._integrations.change(claimed, change, only=fence)


def check(document: Mapping[str, Any]) -> None:
    """Raises `NotConnected`: the integration is in no state to be used."""
    status = document["status"]
    if status not in _USABLE or not document.get("credential"):
        raise NotConnected(status, f"the integration is {status.replace('_', ' ')}: connect the account")
    if document["provider"] not in connectors():
        raise NotConnected("error", "there is no such provider any more")


def may_try(document: Mapping[str, Any]) -> bool:
    """Whether the pause after a failure is over."""
    pause = document.get("retry_at")
    return pause is None or pause <= utcnow()


def _status(current: Mapping[str, Any]) -> dict[str, Any]:
    """The status with new tokens; one that was disabled meanwhile stays so."""
    if current["status"] == "disabled":
        return {"status": "disabled", "disabled_from": "connected"}
    return {"status": "connected", "reason": ""}


def _same_seal(one: Any, other: Any) -> bool:
    """Whether it is the same sealed value; a rotation of keys may have wrapped it anew."""
    return isinstance(one, dict) and all(one.get(part) == other.get(part) for part in ("n", "c"))


def _pause(document: Mapping[str, Any]) -> float:
    """Doubling from 2 s to 15 minutes, a fifth more or less by chance."""
    base: float = min(_FIRST_PAUSE_S * 2 ** min(document.get("failures", 0), 20), _LONGEST_PAUSE_S)
    return base * random.uniform(0.8, 1.2)  # noqa: S311 -- only to spread
