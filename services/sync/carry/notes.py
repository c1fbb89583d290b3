"""Store the state and the trace of a target after a change was applied or failed."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from services.sync.carry.outcomes import Change
from services.sync.carry.status import StatusEvents
from services.sync.model.mapping import Leg
from services.sync.model.synced_message import Step, SyncedMessage, TraceEntry
from services.sync.store.messages import SyncedMessages, target_update
from shared.manifests.channel_failures import split_fix
from shared.richtext.tree import Loss
from shared.runtime import metrics
from shared.runtime.clock import utcnow

NO_PROBLEM: Final[Mapping[str, None]] = {"code": None, "reason": None, "fix": None}
"""The fields that a target's last problem has, emptied: for a target whose last change succeeded."""


class Notes:
    """Writes states and traces of targets. Every method raises `DatabaseUnavailable`."""

    def __init__(self, messages: SyncedMessages, status: StatusEvents) -> None:
        self._messages = messages
        self._status = status

    async def waiting(
        self, change: Change, message: SyncedMessage, leg: Leg, code: str, text: str, *, unknown: bool
    ) -> None:
        """Store why a change waits; for a message, publish its status too. A known reason is not repeated."""
        target = message.targets.get(leg.id)
        if target is None:
            return
        is_refused = change.request.kind == "message" and not unknown
        problem, fix = split_fix(text)
        fields: dict[str, Any] = {"code": code, "reason": problem, "fix": fix}
        fields["attempts"] = change.attempts + 1
        # After a refusal, the message is not at the target, unless an earlier attempt may have sent it.
        if not unknown and target.sending_at is None:
            fields["sending_at"] = None
            if is_refused:
                fields["state"] = "waiting"
        entry = TraceEntry(at=utcnow(), step="waiting", attempt=change.attempts + 1, detail=text)
        is_known = (target.code, target.reason) == (code, problem)
        await self._messages.write([target_update(message.id, leg.id, fields, () if is_known else (entry,))])
        if is_refused and not is_known:
            await self._status.publish(change, message, leg, target.model_copy(update=fields))

    async def paused(self, change: Change, message: SyncedMessage, leg: Leg, reason: str) -> None:
        """Store why a change waits that the hub itself has paused. A known reason is not repeated."""
        target = message.targets.get(leg.id)
        if target is None or target.reason == reason:
            return
        entry = TraceEntry(at=utcnow(), step="waiting", attempt=change.attempts, detail=reason)
        fields = {**NO_PROBLEM, "reason": reason}
        await self._messages.write([target_update(message.id, leg.id, fields, [entry])])

    async def failed(
        self, change: Change, message: SyncedMessage, leg: Leg, code: str, text: str, *, unknown: bool
    ) -> None:
        """Store that a change was given up, and publish the status of its message."""
        target = message.targets.get(leg.id)
        if target is None:
            return
        problem, fix = split_fix(text)
        entry = TraceEntry(at=utcnow(), step="failed", attempt=change.attempts + 1, detail=text)
        fields: dict[str, Any] = {"code": code, "reason": problem, "fix": fix}
        # An earlier attempt without a response may have sent it.
        is_unknown = unknown or target.sending_at is not None
        if not is_unknown:
            fields["sending_at"] = None
        if change.request.kind == "message":
            fields["state"] = "unknown" if is_unknown else "failed"
        await self._messages.write([target_update(message.id, leg.id, fields, [entry])])
        metrics.SYNC_FAILED.labels(leg.provider).inc()
        await self._status.publish(change, message, leg, target.model_copy(update=fields))

    async def skipped(self, change: Change, message: SyncedMessage, leg: Leg, code: str, text: str) -> None:
        """Store that the provider cannot do what a change asks for."""
        if leg.id not in message.targets:
            return  # a reaction to the message itself, not to a copy
        entry = TraceEntry(at=utcnow(), step="skipped", detail=text)
        fields: dict[str, Any] = {"code": code, "reason": text}
        if change.request.kind == "message":
            fields["state"] = "skipped"
        await self._messages.write([target_update(message.id, leg.id, fields, [entry])])

    async def gone(self, message: SyncedMessage, leg: Leg, text: str) -> None:
        """Store that a message is not at its target any more."""
        if leg.id not in message.targets:
            return  # it was deleted where it was written
        entry = TraceEntry(at=utcnow(), step="deleted", detail=text)
        await self._messages.write([target_update(message.id, leg.id, {"state": "deleted"}, [entry])])

    async def state(self, message: SyncedMessage, leg: Leg, step: Step, **fields: Any) -> None:
        """Store fields of a target, with an entry of its trace."""
        entry = TraceEntry(at=utcnow(), step=step)
        await self._messages.write([target_update(message.id, leg.id, fields, [entry])])


def loss_entries(losses: Sequence[Loss], at: datetime) -> list[TraceEntry]:
    """Return the trace entry that lists formatting which the target could not show; none without losses."""
    if not losses:
        return []
    unique = dict.fromkeys(f"{loss.node}: {loss.shown_as}" for loss in losses)
    return [TraceEntry(at=at, step="lost_formatting", detail="; ".join(unique)[:500])]
