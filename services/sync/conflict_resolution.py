"""What a person decides about two edits of one message: which of them the other legs get."""

from typing import Literal

from services.sync.chat_inbound import SOURCE
from services.sync.model.conflict import Conflict as EditConflict
from services.sync.store.conflicts import Conflicts
from services.sync.store.mapping_index import MappedLeg
from services.sync.store.mappings import MappingRepository
from services.sync.store.messages import SyncedMessages
from services.sync.translate.incoming import Incoming
from services.sync.translate.translator import Translator
from shared.connections.channel_accounts import AccountRef
from shared.contracts.envelope import Event, rfc3339
from shared.contracts.errors import Conflict, NotFound
from shared.contracts.ids import derive
from shared.manifests.channel_types import MessageWritten, Person, Place
from shared.richtext.markdown import parse_markdown
from shared.runtime.tracing import continue_trace

Choice = Literal["this", "other"]
_EVENT_TYPE = "sync.conflict.resolved"


class ConflictResolution:
    """Resolves conflicts."""

    def __init__(
        self,
        conflicts: Conflicts,
        mappings: MappingRepository,
        messages: SyncedMessages,
        translator: Translator,
    ) -> None:
        self._conflicts = conflicts
        self._mappings = mappings
        self._messages = messages
        self._translator = translator

    async def resolve(self, conflict_id: str, workspace: str, use: Choice) -> EditConflict:
        """Publish the edit that waits (`this`) or drop it (`other`); return the conflict. Safe to repeat.

        Raises `NotFound`; `Conflict` if it was resolved otherwise, or there is nothing left to edit;
        `DatabaseUnavailable` and `BrokerUnavailable`.
        """
        conflict = await self._conflicts.find(conflict_id, workspace)
        wanted: Literal["applied", "dropped"] = "applied" if use == "this" else "dropped"
        if conflict.state not in ("open", wanted):
            raise _resolved_otherwise(conflict)
        if wanted == "dropped":
            conflict = await self._conflicts.resolve(conflict, wanted)
        else:
            conflict = await self._apply(conflict)
        if conflict.state != wanted:  # by another call at this time
            raise _resolved_otherwise(conflict)
        return conflict

    async def _apply(self, conflict: EditConflict) -> EditConflict:
        mapped = await self._mapped(conflict)
        message = (await self._messages.find_many([conflict.synced_id])).get(conflict.synced_id)
        if message is None or message.deleted:
            raise Conflict("the message was deleted: use: other drops the edit")
        revision = max(conflict.revision, message.revision + 1)
        conflict = await self._conflicts.resolve(conflict, "applied", applied_revision=revision)
        if conflict.state == "applied" and conflict.applied_revision is not None:
            # Also if it was resolved before: that call may have ended before it published.
            await self._publish(conflict, conflict.applied_revision, mapped)
        return conflict

    async def _mapped(self, conflict: EditConflict) -> MappedLeg:
        try:
            mapping = await self._mappings.find(conflict.mapping_id, conflict.workspace)
        except NotFound:
            raise Conflict("the mapping was deleted: use: other drops the edit") from None
        leg = mapping.leg(conflict.leg)
        if leg is None:
            raise Conflict("the mapping has not this leg any more: use: other drops the edit")
        return MappedLeg(mapping, leg)

    async def _publish(self, conflict: EditConflict, revision: int, mapped: MappedLeg) -> None:
        leg = mapped.leg
        event = Event(
            id=f"evt_{derive(conflict.id, _EVENT_TYPE)}",
            type=_EVENT_TYPE,
            source=SOURCE,
            workspace=conflict.workspace,
            time=rfc3339(conflict.resolved_at or conflict.created_at),
            data=b"{}",
            subject=conflict.synced_id,
            traceparent=continue_trace(""),
        )
        change = MessageWritten(
            external_id=conflict.synced_id,
            place=Place(leg.conversation),
            author=Person(conflict.author_id, conflict.author_name),
            body=parse_markdown(conflict.text),
            edited=True,
            revision=revision,
        )
        ref = AccountRef(conflict.workspace, leg.provider, leg.account)
        incoming = Incoming(event, ref, change, conflict.resolved_at or conflict.created_at)
        await self._translator.publish_resolved(incoming, change, mapped, conflict.synced_id)


def _resolved_otherwise(conflict: EditConflict) -> Conflict:
    return Conflict(f"the conflict is {conflict.state} already: edit the message to change it again")
