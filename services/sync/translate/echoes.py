"""Note what comes back of what the hub has made: ids that it did not know yet."""

from services.sync.model.mapping import CHAT, link_id
from services.sync.model.synced_message import (
    MessageLink,
    SyncedMessage,
    TraceEntry,
)
from services.sync.store.mapping_index import MappedLeg
from services.sync.translate.context import Context
from services.sync.translate.incoming import Incoming, StoredByChat
from shared.manifests.channel_types import (
    MessageWritten,
)
from shared.runtime.clock import utcnow


class Echoes:
    """Links the ids that echoes tell."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def link_stored(self, change: StoredByChat, mapped: MappedLeg) -> None:
        """Link the chat's own id of a message that it got, and note that it is stored."""
        leg = mapped.leg
        message = self._context.copied_to_chat(change.origin_id, mapped)
        if message is None:
            return
        self._context.echoes += 1
        self._context.state.add_link(
            MessageLink(
                id=link_id(CHAT, leg.account, leg.conversation, change.external_id),
                workspace=message.workspace,
                mapping_id=message.mapping_id,
                synced_id=message.id,
                leg=leg.id,
                related_ids=(change.external_id,),
                expires_at=message.expires_at,
            )
        )
        target = message.targets.get(leg.id)
        if target is not None and not any(entry.step == "stored" for entry in target.trace):
            self._context.state.change_target(message, leg.id, TraceEntry(at=utcnow(), step="stored"))

    def note_own(
        self, incoming: Incoming, message: SyncedMessage, leg: str, part: int, change: MessageWritten
    ) -> None:
        """Link the id of a part that the hub has sent, as the provider's event tells it."""
        self._context.echoes += 1
        target = message.targets.get(leg)
        place = (*incoming.ref, change.place.conversation)
        # A marker can be copied to another conversation, too: it counts where the hub has sent it.
        if target is None or place != (
            message.workspace,
            target.provider,
            target.account,
            target.conversation,
        ):
            return
        self._context.state.add_link(
            MessageLink(
                id=link_id(target.provider, target.account, target.conversation, change.external_id),
                workspace=message.workspace,
                mapping_id=message.mapping_id,
                synced_id=message.id,
                leg=leg,
                part=part,
                related_ids=(change.external_id,),
                expires_at=message.expires_at,
            )
        )
        if not change.edited and part < len(target.parts) and not target.parts[part]:
            # The provider had not told the id when the message was sent.
            message = self._context.state.set_part(message, leg, part, change.external_id)
            if change.permalink and not target.permalink:
                self._context.state.change_target(message, leg, permalink=change.permalink)
