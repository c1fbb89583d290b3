"""What people do about messages that were not sent: try again, or give up."""

from services.sync.model.mapping import Mapping
from services.sync.model.synced_message import QueuedChange, SyncedMessage, TargetState, TraceEntry
from services.sync.store.mappings import MappingRepository
from services.sync.store.messages import SyncedMessages
from services.sync.store.queue import SyncQueue
from shared.contracts.errors import Conflict, NotFound
from shared.runtime.clock import utcnow

_UNSENT: tuple[TargetState, ...] = ("waiting", "failed", "unknown")


class MessageControl:
    """Retries and discards changes of messages. Every method raises `DatabaseUnavailable`."""

    def __init__(self, mappings: MappingRepository, messages: SyncedMessages, queue: SyncQueue) -> None:
        self._mappings = mappings
        self._messages = messages
        self._queue = queue

    async def retry(self, synced_id: str, workspace: str, leg: str | None) -> SyncedMessage:
        """Try again what has failed of a message, at one target or at all; return the message.

        The process that owns the account finds the changes within a second. Raises `NotFound` for an unknown
        message or target, and `Conflict` if there is nothing to retry.
        """
        message = await self._find(synced_id, workspace, leg)
        changes = await self._changes(message, leg)
        failed = [change for change in changes if change.state == "failed"]
        if not failed:
            raise Conflict(_nothing_to_retry(message, leg))
        mapping = await self._mapping(message)
        legs = {change.leg_id for change in failed}
        gone = sorted(leg_id for leg_id in legs if mapping.leg(leg_id) is None)
        if gone:
            raise Conflict(f"the mapping has no leg {', '.join(gone)} any more: discard the message there")
        # The targets first: the owner of a change may find it at once.
        for leg_id in legs:
            message = await self._reopen(message, leg_id)
        await self._queue.retry(failed, mapping.options.retry_for_s)
        return message

    async def discard(self, synced_id: str, workspace: str, leg: str | None) -> SyncedMessage:
        """Give up what waits or has failed of a message, at one target or at all; return the message.

        What is about to be sent at this moment may still go out; its state says so then. Raises `NotFound`
        for an unknown message or target, and `Conflict` if it is being sent or there is nothing to discard.
        """
        message = await self._find(synced_id, workspace, leg)
        changes = await self._changes(message, leg)
        targets = [target for target in message.targets.values() if leg in (None, target.leg)]
        if any(target.state == "sending" for target in targets):
            raise Conflict("the message is being sent: try again when it is sent or waits")
        changed_legs = {change.leg_id for change in changes}
        legs = [target for target in targets if target.state in _UNSENT or target.leg in changed_legs]
        if not legs:
            raise Conflict("nothing of the message waits or has failed: there is nothing to discard")
        for target in legs:
            message = await self._give_up(message, target.leg, target.state)
        await self._queue.remove_all(changes)
        return message

    async def _find(self, synced_id: str, workspace: str, leg: str | None) -> SyncedMessage:
        message = await self._messages.of_workspace(synced_id, workspace)
        if leg is not None and leg not in message.targets:
            raise NotFound("the message has no target with this leg")
        return message

    async def _changes(self, message: SyncedMessage, leg: str | None) -> list[QueuedChange]:
        found = await self._queue.of_message(message.id)
        return [change for change in found if leg in (None, change.leg_id)]

    async def _mapping(self, message: SyncedMessage) -> Mapping:
        try:
            return await self._mappings.find(message.mapping_id, message.workspace)
        except NotFound:
            raise Conflict("the mapping was deleted: discard the message") from None

    async def _reopen(self, message: SyncedMessage, leg: str) -> SyncedMessage:
        """Let a target be sent to again. Where the outcome is not known, it is found out first."""
        entry = TraceEntry(at=utcnow(), step="retried")
        fields = {
            "code": None,
            "reason": None,
            "fix": None,
            "attempts": 0,
            "fetches": 0,
            "first_fetch_at": None,
        }
        states: tuple[tuple[TargetState, TargetState], ...] = (("failed", "waiting"), ("unknown", "sending"))
        for before, after in states:
            changed = await self._messages.change_target(
                message, leg, [before], {**fields, "state": after}, [entry]
            )
            if changed is not None:
                return changed
        return (
            await self._messages.change_target(message, leg, ["sent", "waiting"], fields, [entry]) or message
        )

    async def _give_up(self, message: SyncedMessage, leg: str, state: TargetState) -> SyncedMessage:
        now = utcnow()
        fields: dict[str, object] = {"discarded_at": now}
        if state in _UNSENT:
            fields["state"] = "discarded"
        entry = TraceEntry(at=now, step="discarded")
        changed = await self._messages.change_target(message, leg, [state], fields, [entry])
        if changed is None:
            raise Conflict("the message is being sent just now: look at its state")
        return changed


def _nothing_to_retry(message: SyncedMessage, leg: str | None) -> str:
    """Return why nothing of a message can be retried."""
    targets = [target for target in message.targets.values() if leg in (None, target.leg)]
    if any(target.state in ("failed", "unknown") for target in targets):
        return "what failed is not stored any more: write the message again"
    if any(target.state in ("waiting", "sending") for target in targets):
        return "the message waits, and is tried by itself: there is nothing to retry"
    return "nothing of the message has failed: there is nothing to retry"
