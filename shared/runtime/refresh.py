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

from shared.catalog.connector import (
    ClientRefused,
    Connector,
    ConsentGone,
    Granted,
    PlatformBusy,
    Refused,
)
from shared.catalog.registry import connectors
from shared.contracts.errors import InterlinkError, Misconfigured, NotFound, StoreUnavailable
from shared.runtime.app_trial import AppTrial
from shared.runtime.apps import App, Apps
from shared.runtime.crash import crash_point
from shared.runtime.credentials import MAIN, merged, of_new_tokens, schedule, slots_of, texts_of, values_of
from shared.runtime.guarded import Failure
from shared.runtime.integrations import Integrations, Told
from shared.runtime.leases import BEAT_S, Lease, Leases, LeaseWatch
from shared.runtime.logs import Log
from shared.runtime.metrics import REFRESHES
from shared.runtime.mongo import Document, utcnow
from shared.runtime.refresh_outcome import (
    LONGEST_PAUSE_S,
    MAX_DETAIL,
    NO_APP,
    UNREADABLE,
    USABLE,
    NotConnected,
    RefreshOutcomes,
    check,
    may_try,
    pause_after,
)
from shared.wire.fills import Unfillable
from shared.wire.oauth import Answered, Call, unsaid

_CALL_S: Final = 10.0
_SILENT_S: Final = 5.0
_SETTLE_S: Final = 2.0
_WAIT_S: Final = 60.0
_LOOK_S: Final = (0.05, 0.5)
_SAVE_S: Final = (0.05, 0.5)
"""Pauses between tries to save: well below `_SETTLE_S`, so that the holder of new tokens is the first."""
_CLIENT_PAUSE_S: Final = 300.0
_MAYBE_DONE: Final = frozenset({"timeout", "closed_mid_response"})


class NoAnswer(PlatformBusy):
    """The platform did not answer; `maybe_done`: it may have done what it was asked."""

    def __init__(self, failure: Failure, detail: str) -> None:
        super().__init__(f"the platform cannot be reached: {failure}: {detail}"[:MAX_DETAIL])
        self.maybe_done = failure in _MAYBE_DONE
        self.failure = failure
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Timing:
    """How long things take, in seconds; tests have a hurry."""

    call_s: float = _CALL_S
    """One request to a platform."""
    silent_s: float = _SILENT_S
    """A lease without a beat for so long is taken over, if its holder did not ask the platform yet."""
    settle_s: float = _SETTLE_S
    """So long after `call_s`, if it did."""
    beat_s: float = BEAT_S
    """How often a holder beats."""
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
        self.outcomes = RefreshOutcomes(integrations, apps, log)
        self._leases = Leases(integrations.collection, beat_s=timing.beat_s)
        self._trial = trial
        self._log = log
        self._ask = ask
        self._redirect_uri = redirect_uri
        self._timing = timing
        self._releasing: set[asyncio.Task[None]] = set()
        self.unsaved: dict[str, str] = {}
        """Integrations whose new tokens are only in this process, with their providers."""

    def values(self, document: Mapping[str, Any]) -> dict[str, str]:
        """What requests of the manifest are filled with, but for the tokens."""
        return values_of(document, self.outcomes.app_of(document), self._redirect_uri)

    async def newer(self, name: str, than: int, *, forced: bool = False, by_person: bool = False) -> Document:
        """The document with tokens newer than this version: made here, or by another process.

        `by_person`: somebody asks for it himself, which passes a pause over a refused app once. Raises
        `NotFound`, `NotConnected`, `PlatformBusy`, `StoreUnavailable`.
        """
        await self._apps.current()
        deadline = monotonic() + self._timing.wait_s
        pause = _LOOK_S[0]
        watch = LeaseWatch()
        while True:
            document = await self._integrations.find(name)
            check(document)
            if document["version"] > than and not document.get("halfway"):
                return document
            await self.outcomes.check_pause(document, passes=by_person)
            lease = Lease.of(document)
            if lease is None or watch.silent_s(lease) >= self._patience_s(lease):
                if lease is not None and lease.committed and _works_once(document):
                    await self.outcomes.interrupted(document)
                    continue
                made = await self._claimed_and_made(document, lease, forced=forced)
                if made is not None:
                    return made
                continue
            if monotonic() > deadline:
                raise PlatformBusy("the token is being made anew by another process", retry_after=2.0)
            await asyncio.sleep(pause * random.uniform(0.7, 1.3))  # noqa: S311 -- only to spread
            pause = min(pause * 1.5, _LOOK_S[1])

    def _patience_s(self, lease: Lease) -> float:
        """How long a lease may be silent before its holder is taken for dead."""
        if lease.committed:  # the platform's answer may be under way, or be waiting for the store
            return self._timing.call_s + self._timing.settle_s
        return self._timing.silent_s

    # The steps. None, where a step gives it: somebody else was first, so look again.

    async def _claimed_and_made(
        self, document: Document, lease: Lease | None, *, forced: bool
    ) -> Document | None:
        claimed = await self._leases.claim(
            document,
            lease,
            only={"version": document["version"], "status": {"$in": USABLE}, "deleted_at": None},
            # Whoever dies before it asks the platform leaves no doubt about what the platform did.
            increment={"settled_fence": 1} if lease is not None and not lease.committed else {},
            change={"pause_passed": not may_try(document)},
        )
        if claimed is None:
            return None
        try:
            async with self._leases.beating(claimed):
                return await self._made(claimed, forced=forced)
        except StoreUnavailable:  # not of new tokens, which `_save` writes: nothing is under way any more
            task = asyncio.create_task(self._leases.release(claimed))
            self._releasing.add(task)
            task.add_done_callback(self._releasing.discard)
            raise

    async def _made(self, claimed: Document, *, forced: bool) -> Document | None:
        """Make every grant of the credential anew, each written before the next is asked for."""
        connector = connectors()[claimed["provider"]]
        try:
            secrets = self.outcomes.opened(claimed)
        except NotConnected as error:
            await self.outcomes.failed(claimed, UNREADABLE, error.detail, LONGEST_PAUSE_S, broken=True)
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
            change: dict[str, Any] = {**Leases.settled(claimed), "halfway": True}
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
        app = self.outcomes.app_of(claimed)
        values = values_of(claimed, app, self._redirect_uri)
        try:
            call = connector.refreshing(values | tokens)
        except (Unfillable, KeyError) as error:
            lost = self._apps.lost(connector.app, claimed["workspace"], claimed.get("app"))
            code, why = ("app_unreadable", "cannot be opened") if lost else ("app_missing", "are not there")
            told = f"the app's credentials {why}"
            await self.outcomes.failed(
                claimed, code, f"{told}: {error}", pause_after(claimed), refused_app=NO_APP
            )
            raise PlatformBusy(told, retry_after=60) from None
        if call is None:
            await self.outcomes.gone(claimed, "expired", "the token has ended and cannot be made anew")
            return None
        crash_point("refresh.claimed")
        if not await self._leases.commit(claimed):  # this process stood still: the lease is another's
            return None
        crash_point("refresh.committing")
        try:
            answer = await self._ask(call, claimed["workspace"])
            crash_point("refresh.answered")
            granted = connector.granted(answer)
        except PlatformBusy as error:
            maybe_done = isinstance(error, NoAnswer) and error.maybe_done
            pause = max(pause_after(claimed), error.retry_after)
            await self.outcomes.failed(claimed, "unavailable", str(error), pause, settled=not maybe_done)
            raise
        except Refused as error:
            hidden = [*tokens.values(), *(app.secrets.values() if app else ())]
            code, detail = unsaid(error.code, hidden), unsaid(error.detail, hidden)
            await self._refused(claimed, type(error)(code, detail), app)
            return None
        if slot == MAIN or granted.tokens is None:
            return granted
        return Granted(None, {**granted.others, slot: granted.tokens}, granted.document)

    async def _refused(self, claimed: Document, error: Refused, app: App | None) -> None:
        """The platform says no. Raises `PlatformBusy` or `NotConnected`, unless somebody else was first."""
        if isinstance(error, ConsentGone):
            await self.outcomes.gone(claimed, error.code, error.detail)
            return
        if not isinstance(error, ClientRefused):
            await self.outcomes.failed(claimed, error.code, error.detail, pause_after(claimed))
            raise PlatformBusy(f"the platform gave no new token: {error.code}")
        revision = app.revision if app is not None else NO_APP
        await self.outcomes.failed(claimed, error.code, error.detail, _CLIENT_PAUSE_S, refused_app=revision)
        connector = connectors()[claimed["provider"]]
        if await self._trial.suspect(app, connector, claimed["workspace"], error):
            raise PlatformBusy("the platform refuses the app's credentials", retry_after=60)
        raise PlatformBusy(f"the platform gave no new token: {error.code}", retry_after=60)

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
                        {**change, **(_status(current) if told else {})},
                        tell=_events(current) if told else (),
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


def _works_once(document: Mapping[str, Any]) -> bool:
    """Whether the platform takes a refresh token only once."""
    return connectors()[document["provider"]].refresh.rotation == "single-use"


def _events(current: Mapping[str, Any]) -> tuple[Told, ...]:
    """What new tokens mean for who follows the integration."""
    if current["status"] in ("error", "reauth_required"):
        return ("integration.refreshed", "integration.recovered")
    return ("integration.refreshed",)


def _status(current: Mapping[str, Any]) -> dict[str, Any]:
    """The status with new tokens; one that was disabled meanwhile stays so."""
    if current["status"] == "disabled":
        return {"status": "disabled", "disabled_from": "connected"}
    return {"status": "connected", "reason": ""}


def _same_seal(one: Any, other: Any) -> bool:
    """Whether it is the same sealed value; a rotation of keys may have wrapped it anew."""
    return isinstance(one, dict) and all(one.get(part) == other.get(part) for part in ("n", "c"))
