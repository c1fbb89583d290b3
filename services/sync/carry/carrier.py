"""Apply one change (a message, an edit, a deletion or a reaction) at its target, and handle its failures."""

from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from time import monotonic
from typing import Final

from services.sync.carry.failure_notice import FailureNotices
from services.sync.carry.notes import Notes
from services.sync.carry.outcomes import Change, Done, Failed, Outcome, SetAside, Stopped, Waits
from services.sync.carry.scene import SceneCalls
from services.sync.carry.work import Work
from services.sync.model.mapping import Leg
from services.sync.model.mapping import Mapping as SyncMapping
from services.sync.model.synced_message import SyncedMessage
from services.sync.store.mapping_index import MappingIndex
from services.sync.store.mappings import MappingRepository
from services.sync.store.messages import SyncedMessages
from shared.connections.channel_calls import NotReached, OutcomeUnknown
from shared.contracts.errors import BrokerUnavailable, Conflict, DatabaseUnavailable, NotFound, RetryLater
from shared.manifests.channel_failures import split_fix
from shared.manifests.channel_types import ChannelFailure
from shared.runtime import metrics
from shared.runtime.clock import utcnow
from shared.runtime.hourly_counts import HourlyCounts
from shared.runtime.logs import Log
from shared.runtime.retry import Backoff

_PAUSES: Final = Backoff(first_s=1.0, max_s=3600.0, spread=0.1)
_CONVERSATION_PAUSES: Final = Backoff(first_s=30.0, max_s=3600.0, spread=0.1)
"""Pauses for a conversation that refuses messages until a person changes something there. Resuming the
mapping ends them."""
_ACCOUNT_PAUSE_S: Final = 300.0
"""Pause after an account's token was refused or is missing. Connecting the account ends it."""
_PAUSED_S: Final = 600.0
_SIGNAL_AGE_S: Final = 10.0


class Carrier:
    """Applies changes at their targets, and turns each failure into an outcome."""

    def __init__(
        self,
        index: MappingIndex,
        mappings: MappingRepository,
        messages: SyncedMessages,
        work: Work,
        calls: SceneCalls,
        notes: Notes,
        notices: FailureNotices,
        log: Log,
        counts: HourlyCounts,
    ) -> None:
        self._index = index
        self._mappings = mappings
        self._messages = messages
        self._work = work
        self._calls = calls
        self._notes = notes
        self._notices = notices
        self._log = log
        self._counts = counts
        self._account_pauses: dict[tuple[str, str], tuple[float, str]] = {}
        """Accounts without a valid token, by workspace and account key: the pause's end (monotonic clock)
        and the reason."""
        self._account_epoch = 0
        """Number of calls of `end_account_pauses`. A call of the provider that began before the last of them
        used a token that may be replaced by now, so its refusal starts no pause."""

    def end_account_pauses(self, workspace: str | None = None) -> None:
        """End the pauses of a workspace's accounts, or of all: an account may have been connected again."""
        self._account_epoch += 1
        for key in [key for key in self._account_pauses if workspace in (None, key[0])]:
            del self._account_pauses[key]

    def account_pause_s(self, workspace: str, account_key: str) -> float:
        """Return the rest of an account's pause after its token was refused, in seconds; 0 for no pause."""
        paused_until, _ = self._account_pauses.get((workspace, account_key), (0.0, ""))
        return max(0.0, paused_until - monotonic())

    def retry_for_s(self, mapping_id: str) -> float:
        """Return how long changes of a mapping are retried, in seconds."""
        mapping = self._index.get(mapping_id)
        return float(mapping.options.retry_for_s) if mapping else 0.0

    async def carry(self, change: Change) -> Outcome:
        """Apply a change at its target, and return the outcome.

        Raises `DatabaseUnavailable` and `BrokerUnavailable`.
        """
        await self._index.ensure_current()  # it may have waited while its mapping was paused or deleted
        mapping = self._index.get(change.request.mapping_id)
        leg = mapping.leg(change.request.leg_id) if mapping else None
        if mapping is None or leg is None or mapping.workspace != change.workspace:
            return Done()  # the mapping or its leg was removed meanwhile
        if change.request.kind == "signal":
            return await self._signal(change, mapping, leg)
        if mapping.status == "paused":
            return Waits(_PAUSED_S, "The mapping is paused: resume it.", counts=False, needs_person=True)
        if pause_s := self.account_pause_s(change.workspace, change.account_key):
            _, reason = self._account_pauses[change.workspace, change.account_key]
            return Waits(pause_s, reason, counts=False, needs_person=True)
        message = await self._messages.find(change.request.synced_id)
        if message is None:
            return Done()  # it has expired, or its workspace was deleted
        outcome = await self._apply(change, mapping, leg, message)
        if isinstance(outcome, SetAside) and utcnow() > self._give_up_at(change):
            return await self._fail(change, message, leg, "not_ready", outcome.reason)
        is_accepted = isinstance(outcome, Done) and bool(change.method)  # without a call, nothing is known
        if is_accepted and mapping.status == "error" and mapping.failed_leg == leg.id:
            await self._mappings.clear_error(mapping.id, mapping.workspace)
        return outcome

    async def give_up(self, change: Change, reason: str) -> Outcome:
        """Fail a change that a fault of the hub keeps from being applied. Raises as `carry`.

        `reason` is the problem and the fix for a person.
        """
        mapping = self._index.get(change.request.mapping_id)
        leg = mapping.leg(change.request.leg_id) if mapping else None
        try:
            message = await self._messages.find(change.request.synced_id)
            if leg is None or message is None or change.request.kind == "signal":
                return Done()
            return await self._fail(change, message, leg, "hub_fault", reason)
        except RetryLater:
            raise
        except Exception as error:  # noqa: BLE001 -- the fault may be there too: its lane must go on
            self._log.error("carry.give_up_failed", synced_id=change.request.synced_id, exc_info=error)
            return Failed(reason)

    async def _apply(self, change: Change, mapping: SyncMapping, leg: Leg, message: SyncedMessage) -> Outcome:
        """Apply a change at its target, and turn a failure into an outcome. Raises as `carry`."""
        epoch = self._account_epoch
        try:
            return await self._work.apply(change, mapping, leg, message)
        except Stopped as stopped:
            outcome = stopped.outcome
            if isinstance(outcome, Waits | SetAside):
                await self._notes.paused(change, message, leg, outcome.reason)
            return outcome
        except ChannelFailure as failure:
            if failure.kind == "account":
                return await self._pause_account(change, message, leg, failure.code, failure.text, epoch)
            return await self._refused_by(failure, change, mapping, leg, message)
        except (NotFound, Conflict) as error:  # the account was removed, or is not connected
            return await self._pause_account(change, message, leg, "account", str(error), epoch)
        except NotReached as error:
            text = f"The provider cannot be reached ({error}): the hub tries again."
            return await self._later(change, message, leg, "unreachable", text)
        except OutcomeUnknown as error:
            text = f"The provider did not answer ({error}): the hub finds out whether it has the message."
            metrics.SYNC_UNKNOWN.labels(leg.provider).inc()
            return await self._later(change, message, leg, "unknown", text, unknown=True)
        except (DatabaseUnavailable, BrokerUnavailable):
            raise  # a fault of the hub, after which the provider may have done its part
        except RetryLater as error:
            return await self._later(change, message, leg, "unavailable", str(error))

    async def _pause_account(
        self, change: Change, message: SyncedMessage, leg: Leg, code: str, text: str, epoch: int
    ) -> Outcome:
        """Pause the account until it is connected again, unless that has happened since the call began."""
        pause_s = _ACCOUNT_PAUSE_S
        if epoch == self._account_epoch:
            self._account_pauses[change.workspace, change.account_key] = (monotonic() + pause_s, text)
        else:
            pause_s = _PAUSES.pause_s(change.attempts + 1)
        return _until_person_acts(await self._wait(change, message, leg, pause_s, code, text))

    async def _refused_by(
        self,
        failure: ChannelFailure,
        change: Change,
        mapping: SyncMapping,
        leg: Leg,
        message: SyncedMessage,
    ) -> Outcome:
        """Return the outcome of a change that the provider has refused, and store the consequences."""
        reason, fix = split_fix(failure.text)
        match failure.kind:
            case "later":
                if failure.code == "rate_limited":
                    metrics.SYNC_RATE_LIMITED.labels(leg.provider).inc()
                    self._counts.add(change.workspace, "rate_limited", leg.provider)
                if failure.retry_after is not None:
                    self._calls.block(change, leg, failure)
                if failure.uncertain:
                    metrics.SYNC_UNKNOWN.labels(leg.provider).inc()
                return await self._later(
                    change,
                    message,
                    leg,
                    failure.code,
                    failure.text,
                    pause_s=failure.retry_after,
                    unknown=failure.uncertain,
                )
            case "conversation":
                if await self._mappings.set_error(
                    mapping.id, mapping.workspace, leg.id, reason, fix or reason
                ):
                    self._log.warning("mapping.failed", mapping_id=mapping.id, leg=leg.id, code=failure.code)
                pause_s = _CONVERSATION_PAUSES.pause_s(change.attempts + 1)
                return _until_person_acts(
                    await self._later(change, message, leg, failure.code, failure.text, pause_s=pause_s)
                )
            case "gone" if change.request.kind != "message":
                await self._notes.gone(message, leg, failure.text)
                return Done()
            case "unsupported":
                await self._notes.skipped(change, message, leg, failure.code, failure.text)
                return Done()
        return await self._fail(change, message, leg, failure.code, failure.text)

    async def _later(
        self,
        change: Change,
        message: SyncedMessage,
        leg: Leg,
        code: str,
        text: str,
        *,
        pause_s: float | None = None,
        unknown: bool = False,
    ) -> Outcome:
        """Return a pause before the next attempt; fail the change if that would be after its deadline."""
        pause = _PAUSES.pause_s(change.attempts + 1) if pause_s is None else pause_s
        if utcnow() + timedelta(seconds=pause) > self._give_up_at(change):
            return await self._fail(change, message, leg, code, text, unknown=unknown)
        return await self._wait(change, message, leg, pause, code, text, unknown=unknown)

    async def _wait(
        self,
        change: Change,
        message: SyncedMessage,
        leg: Leg,
        pause_s: float,
        code: str,
        text: str,
        *,
        unknown: bool = False,
    ) -> Outcome:
        if utcnow() > self._give_up_at(change):
            return await self._fail(change, message, leg, code, text, unknown=unknown)
        metrics.SYNC_WAITS.labels(leg.provider, code if code in _KNOWN_WAITS else "other").inc()
        await self._notes.waiting(change, message, leg, code, text, unknown=unknown)
        return Waits(pause_s, text)

    async def _fail(
        self,
        change: Change,
        message: SyncedMessage,
        leg: Leg,
        code: str,
        text: str,
        *,
        unknown: bool = False,
    ) -> Outcome:
        self._log.info("change.failed", synced_id=message.id, leg=leg.id, kind=change.request.kind, code=code)
        await self._notes.failed(change, message, leg, code, text, unknown=unknown)
        mapping = self._index.get(message.mapping_id)
        if change.request.kind == "message" and mapping is not None:
            await self._notices.write(change, mapping, leg, message, split_fix(text)[0])
        return Failed(text)

    def _give_up_at(self, change: Change) -> datetime:
        if change.stored is not None:
            return change.stored.give_up_at
        return change.received_at + timedelta(seconds=self.retry_for_s(change.request.mapping_id))

    async def _signal(self, change: Change, mapping: SyncMapping, leg: Leg) -> Outcome:
        """Show that somebody types, unless the event is old. It is not retried, and does not wait."""
        is_stopped = mapping.status == "paused" or self.account_pause_s(change.workspace, change.account_key)
        if not is_stopped and (utcnow() - change.received_at).total_seconds() < _SIGNAL_AGE_S:
            with suppress(
                Stopped, ChannelFailure, NotReached, OutcomeUnknown, RetryLater, NotFound, Conflict
            ):
                await self._work.signal(change, leg)
        return Done()


_KNOWN_WAITS: Final = frozenset({"rate_limited", "unreachable", "unknown", "unavailable", "account"})


def _until_person_acts(outcome: Outcome) -> Outcome:
    """Return the outcome, with `needs_person` set if the change waits."""
    return replace(outcome, needs_person=True) if isinstance(outcome, Waits) else outcome
