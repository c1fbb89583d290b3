"""Carry one change to its target: what a message, an edit, a deletion or a reaction needs of the provider."""

from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from time import monotonic
from typing import Final

from services.sync.calls import NotReached, OutcomeUnknown
from services.sync.carry.failure_notice import FailureNotices
from services.sync.carry.notes import Notes
from services.sync.carry.outcomes import Aside, Change, Done, Failed, Outcome, Stopped, Waits
from services.sync.carry.scene import SceneCalls
from services.sync.carry.work import Work
from services.sync.model.mapping import Leg
from services.sync.model.mapping import Mapping as SyncMapping
from services.sync.model.synced_message import SyncedMessage
from services.sync.store.mapping_index import MappingIndex
from services.sync.store.mappings import MappingRepository
from services.sync.store.messages import SyncedMessages
from shared.contracts.errors import Conflict, DatabaseUnavailable, NotFound, RetryLater
from shared.manifests.channel_failures import split_fix
from shared.manifests.channel_types import ChannelFailure
from shared.runtime import metrics
from shared.runtime.logs import Log
from shared.runtime.mongo import utcnow
from shared.runtime.retry import Backoff

_PAUSES: Final = Backoff(first_s=1.0, max_s=3600.0, spread=0.1)
_MENDED_PAUSES: Final = Backoff(first_s=30.0, max_s=3600.0, spread=0.1)
"""Until a person has mended a conversation. Resuming the mapping ends the pause at once."""
_ACCOUNT_PAUSE_S: Final = 300.0
"""Until an account is asked for again. Connecting it ends the pause at once."""
_PAUSED_S: Final = 600.0
_SIGNAL_AGE_S: Final = 10.0


class Carrier:
    """Carries changes, and decides what follows from each failure."""

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
    ) -> None:
        self._index = index
        self._mappings = mappings
        self._messages = messages
        self._work = work
        self._calls = calls
        self._notes = notes
        self._notices = notices
        self._log = log
        self._refused: dict[tuple[str, str], tuple[float, str]] = {}
        """Refused tokens by workspace and account: the end of the pause (monotonic clock) and the reason."""
        self._mended = 0
        """How often accounts were to be asked for again: a refusal from before it does not count."""

    def forget_refusals(self, workspace: str | None = None) -> None:
        """Ask for accounts again, of a workspace or all: one of them may have been connected again."""
        self._mended += 1
        for key in [key for key in self._refused if workspace in (None, key[0])]:
            del self._refused[key]

    def refused_for_s(self, workspace: str, account_key: str) -> float:
        """Return for how many seconds not to ask for an account whose token was refused; 0 if it may work."""
        refused_until, _ = self._refused.get((workspace, account_key), (0.0, ""))
        return max(0.0, refused_until - monotonic())

    def retry_for_s(self, mapping_id: str) -> float:
        """Return how long changes of a mapping are retried, in seconds."""
        mapping = self._index.get(mapping_id)
        return float(mapping.options.retry_for_s) if mapping else 0.0

    async def carry(self, change: Change) -> Outcome:
        """Carry a change, and return what became of it. Raises `DatabaseUnavailable`."""
        await self._index.ensure_current()  # it may have waited while its mapping was paused or deleted
        mapping = self._index.get(change.request.mapping_id)
        leg = mapping.leg(change.request.leg_id) if mapping else None
        if mapping is None or leg is None or mapping.workspace != change.workspace:
            return Done()  # the mapping or its leg was removed meanwhile
        if mapping.status == "paused":
            return Waits(_PAUSED_S, "The mapping is paused: resume it.", counts=False, mendable=True)
        if pause_s := self.refused_for_s(change.workspace, change.account_key):
            _, reason = self._refused[change.workspace, change.account_key]
            return Waits(pause_s, reason, counts=False, mendable=True)
        if change.request.kind == "signal":
            return await self._signal(change, leg)
        message = await self._messages.find(change.request.synced_id)
        if message is None:
            return Done()  # it has expired, or its workspace was deleted
        outcome = await self._apply(change, mapping, leg, message)
        if isinstance(outcome, Done) and mapping.status == "error" and mapping.failed_leg == leg.id:
            await self._mappings.clear_error(mapping.id, mapping.workspace)
        return outcome

    async def _apply(self, change: Change, mapping: SyncMapping, leg: Leg, message: SyncedMessage) -> Outcome:
        """Apply a change at its target; a failure decides what became of it. Raises `DatabaseUnavailable`."""
        mended = self._mended
        try:
            return await self._work.apply(change, mapping, leg, message)
        except Stopped as stopped:
            outcome = stopped.outcome
            if isinstance(outcome, Waits | Aside):
                await self._notes.held(change, message, leg, outcome.reason)
            return outcome
        except ChannelFailure as failure:
            if failure.kind == "account":
                return await self._without_account(change, message, leg, failure.code, failure.text, mended)
            return await self._refused_by(failure, change, mapping, leg, message)
        except (NotFound, Conflict) as error:  # there is no account any more, or it is not connected
            return await self._without_account(change, message, leg, "account", str(error), mended)
        except NotReached as error:
            text = f"The provider cannot be reached ({error}): the hub tries again."
            return await self._later(change, message, leg, "unreachable", text)
        except OutcomeUnknown as error:
            text = f"The provider did not answer ({error}): the hub finds out whether it has the message."
            metrics.SYNC_UNKNOWN.labels(leg.provider).inc()
            return await self._later(change, message, leg, "unknown", text, unknown=True)
        except DatabaseUnavailable:
            raise
        except RetryLater as error:
            return await self._later(change, message, leg, "unavailable", str(error))

    async def _without_account(
        self, change: Change, message: SyncedMessage, leg: Leg, code: str, text: str, mended: int
    ) -> Outcome:
        """Let the account's changes wait until it is connected again, unless that has happened meanwhile."""
        pause_s = _ACCOUNT_PAUSE_S
        if mended == self._mended:
            self._refused[change.workspace, change.account_key] = (monotonic() + pause_s, text)
        else:
            pause_s = _PAUSES.pause_s(change.attempts + 1)
        return _for_a_person(await self._wait(change, message, leg, pause_s, code, text))

    async def _refused_by(
        self,
        failure: ChannelFailure,
        change: Change,
        mapping: SyncMapping,
        leg: Leg,
        message: SyncedMessage,
    ) -> Outcome:
        """Return what follows from a refusal of the provider."""
        reason, fix = split_fix(failure.text)
        match failure.kind:
            case "later":
                if failure.code == "rate_limited":
                    metrics.SYNC_RATE_LIMITED.labels(leg.provider).inc()
                if failure.retry_after is not None:
                    self._calls.block(change, leg, failure)
                return await self._later(
                    change, message, leg, failure.code, failure.text, pause_s=failure.retry_after
                )
            case "conversation":
                if await self._mappings.set_error(
                    mapping.id, mapping.workspace, leg.id, reason, fix or reason
                ):
                    self._log.warning("mapping.failed", mapping_id=mapping.id, leg=leg.id, code=failure.code)
                pause_s = _MENDED_PAUSES.pause_s(change.attempts + 1)
                return _for_a_person(
                    await self._later(change, message, leg, failure.code, failure.text, pause_s=pause_s)
                )
            case "gone":
                await self._notes.gone(change, message, leg, failure.text)
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
        """Wait before another attempt, or give the change up if its time is over."""
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

    async def _signal(self, change: Change, leg: Leg) -> Outcome:
        """Show that somebody types, if that is still so. A failure is nothing to repeat."""
        if (utcnow() - change.received_at).total_seconds() < _SIGNAL_AGE_S:
            with suppress(
                Stopped, ChannelFailure, NotReached, OutcomeUnknown, RetryLater, NotFound, Conflict
            ):
                await self._work.signal(change, leg)
        return Done()


_KNOWN_WAITS: Final = frozenset({"rate_limited", "unreachable", "unknown", "unavailable", "account"})


def _for_a_person(outcome: Outcome) -> Outcome:
    """Return an outcome that a person can end, if it is to wait."""
    return replace(outcome, mendable=True) if isinstance(outcome, Waits) else outcome
