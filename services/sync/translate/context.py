"""What the changes of a batch need of each other and of the outside, and what several of them share."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from services.sync.model.conflict import Conflict
from services.sync.model.mapping import CHAT, Leg, Mapping, link_id
from services.sync.model.synced_message import (
    SyncedMessage,
    synced_id_for,
)
from services.sync.store.mapping_index import MappedLeg, MappingIndex
from services.sync.translate.batch_state import BatchState
from services.sync.translate.incoming import Incoming
from services.sync.translate.text import Names, People, markdown_of, mass_mentions_allowed, text_for
from shared.connections.channel_accounts import AccountRef
from shared.contracts.chat import ChatAttachment, ChatAuthor
from shared.contracts.ids import provider_message_id_for
from shared.manifests.channel_types import (
    ExternalFile,
    MessageWritten,
    Person,
)
from shared.richtext.mentions import has_mentions
from shared.richtext.tree import Document
from shared.runtime.clock import utcnow

LATE_S: Final = 60.0
"""A change may come this long before its message, or a reply before what it answers."""
Attachments = Callable[[AccountRef, str, Sequence[ExternalFile]], tuple[ChatAttachment, ...]]
"""Returns the files of a message of an account, whose id in the chat is given, as the chat gets them."""


@dataclass(frozen=True, slots=True)
class Parent:
    """A message that another one answers. `late` says that it may still come."""

    synced_id: str
    late: bool
    message: SyncedMessage | None


class RecentIds:
    """The ids that were added last, in the memory of one process."""

    def __init__(self, max_ids: int) -> None:
        self._ids: OrderedDict[str, None] = OrderedDict()
        self._max_ids = max_ids

    def add(self, id_: str) -> None:
        """Add an id; the oldest one goes if there are too many."""
        self._ids[id_] = None
        if len(self._ids) > self._max_ids:
            self._ids.popitem(last=False)

    def __contains__(self, id_: str) -> bool:
        return id_ in self._ids


class Context:
    """The state of a batch, who is who, and what both lead to."""

    def __init__(
        self,
        state: BatchState,
        index: MappingIndex,
        people: People,
        names: Names,
        person: Callable[[AccountRef, str], Person | None],
        attachments: Attachments,
        dropped: RecentIds,
    ) -> None:
        self.state = state
        self.index = index
        self.people = people
        self.names = names
        self.person = person
        self.attachments = attachments
        self.dropped = dropped
        """Messages that a filter dropped: no answer waits for them."""
        self.conflicts: list[Conflict] = []
        self.echoes = 0

    def locate(
        self, ref: AccountRef, conversation: str, external_id: str, mapped: MappedLeg
    ) -> tuple[str, str | None]:
        """Return a message's id in a mapping, and the leg whose copy it is; None for the message itself."""
        mapping, leg = mapped
        link = self.state.link(link_id(ref.provider, ref.account, conversation, external_id))
        if link is not None and link.mapping_id == mapping.id:
            return link.synced_id, link.leg
        if ref.provider == CHAT and (copied := self.copied_to_chat(external_id, mapped)) is not None:
            return copied.id, leg.id
        return synced_id_for(mapping.id, message_id_of(ref, conversation, external_id)), None

    def copied_to_chat(self, message_id: str, mapped: MappedLeg) -> SyncedMessage | None:
        """Return the message that a leg of the chat got under this id, the hub's; None if it got none.

        The id leads to it, so no link is stored. Only an id of the chat's own needs one.
        """
        mapping, leg = mapped
        message = self.state.message(synced_id_for(mapping.id, message_id))
        return message if message is not None and leg.id in message.targets else None

    def parent(
        self, incoming: Incoming, change: MessageWritten, mapped: MappedLeg, external_id: str | None
    ) -> Parent | None:
        """Return the message that another one answers; None if there is none.

        One that is not known gets a record, so that only the first answer waits for it.
        """
        if external_id is None:
            return None
        ref, conversation = incoming.ref, change.place.conversation
        synced_id, _ = self.locate(ref, conversation, external_id, mapped)
        message = self.state.message(synced_id)
        if message is None:
            message = self.state.add(self.placeholder(synced_id, incoming, external_id, mapped))
        age_s = incoming.received_at.timestamp() - (change.answered_at or message.received_at.timestamp())
        late = not message.has_come and age_s < LATE_S and synced_id not in self.dropped
        return Parent(synced_id, late, message)

    def placeholder(
        self, synced_id: str, incoming: Incoming, external_id: str, mapped: MappedLeg
    ) -> SyncedMessage:
        """Return the record of a message that has not come."""
        ref, leg = incoming.ref, mapped.leg
        return SyncedMessage(
            id=synced_id,
            workspace=ref.workspace,
            mapping_id=mapped.mapping.id,
            leg=leg.id,
            has_come=False,
            message_id=message_id_of(ref, leg.conversation, external_id),
            provider=ref.provider,
            account=ref.account,
            conversation=leg.conversation,
            external_id=external_id,
            received_at=incoming.received_at,
            expires_at=utcnow() + timedelta(days=1),
        )

    def author(self, ref: AccountRef, person: Person) -> ChatAuthor:
        """Return an author with the name and picture that are known of the person."""
        known = self.person(ref, person.id) if not person.name else None
        name = person.name or (known.name if known else "")
        picture = person.avatar_url or (known.avatar_url if known else None)
        return ChatAuthor(
            id=person.id[:256],
            name=name[:256],
            user_id=self.people.user_of(ref, person.id),
            avatar_url=picture,
            bot=person.bot,
        )

    def texts(
        self, ref: AccountRef, body: Document, mapping: Mapping, author: ChatAuthor
    ) -> Callable[[Leg], str]:
        """Return the function that gives a text for a leg.

        A text without mentions is rendered once, one with mentions once for each account.
        """
        if not has_mentions(body):
            text = markdown_of(body)
            return lambda _leg: text
        allowed = mass_mentions_allowed(mapping.options, author)
        by_account: dict[tuple[str, str], str] = {}

        def text_of(leg: Leg) -> str:
            account = (
                leg.provider,
                leg.account,
            )  # its ids of people and channels are the same for all its legs
            if account not in by_account:
                by_account[account] = text_for(
                    body,
                    ref,
                    leg,
                    people=self.people,
                    names=self.names,
                    index=self.index,
                    mass_mentions=allowed,
                )
            return by_account[account]

        return text_of


def message_id_of(ref: AccountRef, conversation: str, external_id: str) -> str:
    return provider_message_id_for(ref.provider, ref.account, conversation, external_id)
