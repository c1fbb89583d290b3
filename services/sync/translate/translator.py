"""Translate changes of one leg of a mapping into changes of the others: from events to events and requests.

Everything that a change causes has ids that are derived from it. A batch that is handled again after a crash
stores and publishes the same once more, which changes nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final

from services.sync.model.mapping import CHAT, link_id
from services.sync.model.marker import marker_parts
from services.sync.model.synced_message import synced_id_for
from services.sync.store.conflicts import Conflicts
from services.sync.store.mapping_index import MappedLeg, MappingIndex
from services.sync.store.mappings import MappingRepository
from services.sync.store.messages import SyncedMessages
from services.sync.store.people_links import PersonLinkRepository
from services.sync.translate.batch_state import BatchState
from services.sync.translate.context import Attachments, Context, RecentIds
from services.sync.translate.echoes import Echoes
from services.sync.translate.edits import Edits
from services.sync.translate.incoming import Incoming, StoredByChat, chat_changes, check_numbers
from services.sync.translate.messages import Messages
from services.sync.translate.profiles import Profiles
from services.sync.translate.reactions import Reactions
from services.sync.translate.text import People
from shared.connections.channel_accounts import AccountRef, ChannelAccounts, channel_account
from shared.contracts.errors import Invalid, Malformed
from shared.contracts.ids import provider_message_id_for
from shared.contracts.topics import CHAT_EVENTS
from shared.manifests.channel_failures import split_fix
from shared.manifests.channel_types import (
    Account,
    ConversationClosed,
    ConversationMoved,
    MessageDeleted,
    MessageWritten,
    ReactionChanged,
    ReadsEvents,
)
from shared.manifests.registry import Provider
from shared.richtext.mentions import mentioned
from shared.runtime import metrics
from shared.runtime.failpoints import failpoint
from shared.runtime.kafka.batch import Batch, ConsumedEvent
from shared.runtime.kafka.producer import Producer
from shared.runtime.logs import Log
from shared.wire.bodies import parse_object

_MAX_DROPPED: Final = 10_000
_ACK_TIMEOUT_S: Final = 10.0
_MAX_NAMED: Final = 20
"""People of one message whose names are asked for."""
_MAX_PART_BYTES: Final = 4 * 1024 * 1024
"""Of the changes of a batch that are published together, counted once for each leg of their mappings."""
MappedChange = tuple[Incoming, Sequence[MappedLeg]]
"""A change, and the legs that it came from."""


class Translator:
    """The handler of `webhooks.received` and `chat.events`."""

    def __init__(
        self,
        providers: Mapping[str, Provider],
        accounts: ChannelAccounts,
        index: MappingIndex,
        mappings: MappingRepository,
        messages: SyncedMessages,
        conflicts: Conflicts,
        links: PersonLinkRepository,
        profiles: Profiles,
        attachments: Attachments,
        producer: Producer,
        log: Log,
    ) -> None:
        self._providers = providers
        self._accounts = accounts
        self._index = index
        self._mappings = mappings
        self._messages = messages
        self._conflicts = conflicts
        self._links = links
        self._profiles = profiles
        self._attachments = attachments
        self._producer = producer
        self._log = log
        self._dropped = RecentIds(_MAX_DROPPED)

    async def handle(self, batch: Batch) -> None:
        """Store and publish what the changes of a batch mean for the other legs, in their order.

        A body that is not the provider's or the chat's becomes a dead letter. Raises `DatabaseUnavailable`
        and `BrokerUnavailable`: nothing of the batch is complete then.
        """
        await self._index.ensure_current()
        incoming: list[Incoming] = []
        for consumed in batch:
            try:
                incoming += await self._read(consumed)
            except (Malformed, Invalid) as error:
                # The others of the batch are not handled again for it.
                batch.take(consumed).fail(error)
        for part in self._parts(incoming):
            await self._translate(part)

    def _parts(self, incoming: Sequence[Incoming]) -> Iterable[Sequence[MappedChange]]:
        """Yield those changes that have mappings, in parts, each after the one before is published.

        What a part publishes takes bounded memory, although each change may go to hundreds of legs. A part
        ends where a conversation moves: the changes after it name the conversation by its new id.
        """
        part: list[MappedChange] = []
        size = 0
        for item in incoming:
            if not (legs := self._mapped(item)):
                continue
            part.append((item, legs))
            size += len(item.event.data) * sum(len(mapping.legs) for mapping, _ in legs)
            if size >= _MAX_PART_BYTES or isinstance(item.change, ConversationMoved):
                yield part
                part, size = [], 0
        if part:
            yield part

    async def _translate(self, mapped: Sequence[MappedChange]) -> None:
        """Store and publish what changes mean for the other legs."""
        state = BatchState(self._messages)
        await self._load(state, mapped)
        people = await self._people([found for found in mapped if not _is_own_message(found[0].change)])
        context = self._context(state, people)
        for item, legs in mapped:
            _apply(item, legs, context)
        failpoint("translate.read")
        await state.save()
        await self._conflicts.add(context.conflicts)
        failpoint("translate.stored")
        if state.records:
            await self._producer.publish_all(state.records, timeout_s=_ACK_TIMEOUT_S)
        failpoint("translate.published")
        metrics.SYNC_ECHOES.inc(context.echoes)
        for item, legs in mapped:
            await self._follow(item, legs)

    async def publish_resolved(
        self, incoming: Incoming, change: MessageWritten, mapped: MappedLeg, synced_id: str
    ) -> None:
        """Publish the edit of a conflict for the other legs. Repeated, it changes nothing.

        Raises `DatabaseUnavailable` and `BrokerUnavailable`.
        """
        state = BatchState(self._messages)
        await state.load({synced_id})
        people = await self._people([(incoming, [mapped])])
        context = self._context(state, people)
        Edits(context).apply_resolved(incoming, change, mapped, synced_id)
        await state.save()
        if state.records:
            await self._producer.publish_all(state.records, timeout_s=_ACK_TIMEOUT_S)

    # Reading

    async def _read(self, consumed: ConsumedEvent) -> Sequence[Incoming]:
        """Return the changes in an event; none if it is about no conversation that can be mapped.

        Raises `Malformed` or `Invalid`.
        """
        event = consumed.event
        if consumed.topic == CHAT_EVENTS.name:
            return chat_changes(event) if self._index.has_workspace(event.workspace) else ()
        if not self._index.has_workspace(event.workspace):
            return ()
        ref = await self._accounts.of_event(event)
        if ref is None or not isinstance(channel := self._accounts.channel(ref.provider), ReadsEvents):
            return ()
        integration = await self._accounts.find_reading(ref)
        if integration is None:  # it was disconnected meanwhile
            return ()
        account = channel_account(integration)
        provider = self._providers[ref.provider]
        payload = parse_object(provider.payload(event.content_type, event.data))
        received_at = datetime.fromisoformat(event.time)
        changes = channel.changes(event.attributes.get("event", ""), payload, account)
        for change in changes:
            check_numbers(change)
        return [
            Incoming(event, ref, change, received_at)
            for change in changes
            if not (isinstance(change, ReactionChanged) and _is_own(change.person.id, account))
        ]

    def _mapped(self, item: Incoming) -> Sequence[MappedLeg]:
        """Return the legs that a change came from."""
        ref, change = item.ref, item.change
        match change:
            case MessageWritten():
                conversation = change.place.conversation
            case ConversationMoved():
                conversation = change.old
            case _:
                conversation = change.conversation
        found = self._index.find(ref.workspace, ref.provider, ref.account, conversation)
        if isinstance(change, ConversationMoved):
            return found  # a paused mapping needs the new id when it is resumed
        return [mapped for mapped in found if mapped.mapping.status != "paused"]

    async def _load(self, state: BatchState, mapped: Sequence[MappedChange]) -> None:
        """Read the messages and links that the changes refer to."""
        links = {
            link_id(item.ref.provider, item.ref.account, conversation, external_id)
            for item, _ in mapped
            for conversation, external_id in _references(item.change)
        }
        await state.load_links(links)
        messages: set[str] = set()
        for item, legs in mapped:
            messages.update(_needed_messages(item, legs, state))
        await state.load(messages)

    async def _people(self, mapped: Iterable[MappedChange]) -> People:
        """Read who is who, and the names that the events do not tell."""
        people: set[tuple[AccountRef, str]] = set()
        users: dict[str, set[str]] = {}
        authors: dict[tuple[AccountRef, str], None] = {}
        mentioned_people: dict[tuple[AccountRef, str], None] = {}
        for item, _ in mapped:
            ref, change = item.ref, item.change
            named: tuple[str, ...] = ()
            if isinstance(change, MessageWritten):
                person = change.author
                named = mentioned(change.body).users[:_MAX_NAMED]
            elif isinstance(change, ReactionChanged):
                person = change.person
            else:
                continue
            if ref.provider == CHAT:
                users.setdefault(ref.workspace, set()).update(named)
                continue
            people.update((ref, name) for name in (person.id, *named))
            if not person.name:
                authors[ref, person.id] = None
            mentioned_people |= dict.fromkeys((ref, name) for name in named)
        await self._profiles.load(list(authors | mentioned_people))
        user_by_person: dict[tuple[AccountRef, str], str] = {}
        for (ref, person_id), link in (await self._links.find_many(people)).items():
            if link.user_id:
                user_by_person[ref, person_id] = link.user_id
                users.setdefault(ref.workspace, set()).add(link.user_id)
        person_by_user: dict[tuple[AccountRef, str], str] = {}
        for workspace, ids in users.items():
            for link in await self._links.of_users(workspace, ids):
                if link.user_id:
                    ref = AccountRef(workspace, link.provider, link.account)
                    person_by_user[ref, link.user_id] = link.person_id
        return People(user_by_person, person_by_user)

    def _name(self, ref: AccountRef, person_id: str) -> str:
        person = self._profiles.get(ref, person_id)
        return person.name if person else ""

    def _context(self, state: BatchState, people: People) -> Context:
        return Context(
            state,
            self._index,
            people,
            self._name,
            self._profiles.get,
            self._attachments,
            self._dropped,
        )

    # Applying

    async def _follow(self, item: Incoming, legs: Sequence[MappedLeg]) -> None:
        """Change the mappings of a conversation that has moved or was closed."""
        change = item.change
        if isinstance(change, ConversationMoved):
            for mapping, leg in legs:
                if await self._mappings.move_leg(mapping.id, mapping.workspace, leg.id, change.new):
                    self._log.info("mapping.moved", mapping_id=mapping.id, leg=leg.id)
            await self._index.ensure_current()
        elif isinstance(change, ConversationClosed):
            reason, fix = split_fix(change.reason)
            for mapping, leg in legs:
                await self._mappings.set_error(mapping.id, mapping.workspace, leg.id, reason, fix or reason)


def _apply(item: Incoming, legs: Sequence[MappedLeg], context: Context) -> None:
    """Apply a change to the mappings of the legs that it came from."""
    change = item.change
    reactions, edits = Reactions(context), Edits(context)
    match change:
        case StoredByChat():
            for mapped in legs:
                Echoes(context).link_stored(change, mapped)
        case MessageWritten():
            if not _is_echo(item, change, legs, context):
                apply = edits.edit if change.edited else Messages(context, reactions).write
                for mapped in legs:
                    apply(item, change, mapped)
        case MessageDeleted():
            for mapped in legs:
                edits.delete(item, change, mapped)
        case ReactionChanged():
            for mapped in legs:
                reactions.react(item, change, mapped)


def _is_echo(item: Incoming, change: MessageWritten, legs: Sequence[MappedLeg], context: Context) -> bool:
    """Return whether a hub has sent the message: by its marker, its author, or its link."""
    ref = item.ref
    if change.marker:
        # Whoever reads a conversation can copy a marker: it says which message this is only on an own one.
        marker = marker_parts(change.marker) if change.own else None
        message = context.state.message(marker.synced_id) if marker else None
        if marker and message is not None:
            Echoes(context).note_own(item, message, marker.leg, marker.part, change)
        else:
            context.echoes += 1
        return True
    link = context.state.link(link_id(*ref[1:], change.place.conversation, change.external_id))
    is_copy = (link is not None and link.leg is not None) or (
        ref.provider == CHAT
        and any(context.copied_to_chat(change.external_id, mapped) is not None for mapped in legs)
    )
    if change.own or (is_copy and not change.edited):
        context.echoes += 1
        return True
    return False


def _is_own_message(change: object) -> bool:
    """Return whether a change is certain to be an echo, of which nothing but its ids is needed."""
    return isinstance(change, MessageWritten) and (bool(change.marker) or change.own)


def _needed_messages(item: Incoming, legs: Sequence[MappedLeg], state: BatchState) -> Iterable[str]:
    """Yield the ids of the messages that a change needs. Its links are loaded."""
    ref, change = item.ref, item.change
    if _is_own_message(change):
        marker = marker_parts(change.marker or "") if isinstance(change, MessageWritten) else None
        if marker is not None and not any(
            state.link(link_id(*ref[1:], *reference)) for reference in _references(change)
        ):
            yield marker.synced_id
        return
    for conversation, external_id in _references(change):
        link = state.link(link_id(*ref[1:], conversation, external_id))
        if link is not None:
            yield link.synced_id
        hub_id = provider_message_id_for(*ref[1:], conversation, external_id)
        for mapping, _ in legs:
            if link is None or link.mapping_id != mapping.id:
                yield synced_id_for(mapping.id, hub_id)
            if ref.provider == CHAT:  # it may be an id of the hub
                yield synced_id_for(mapping.id, external_id)


def _references(change: object) -> Iterable[tuple[str, str]]:
    """Yield the conversation and id of each message that a change names; of the hub's own, only its own."""
    match change:
        case MessageWritten(external_id=external_id, place=place) if _is_own_message(change):
            yield place.conversation, external_id
        case MessageWritten(external_id=external_id, place=place):
            yield place.conversation, external_id
            for parent in (place.thread, place.reply_to):
                if parent is not None:
                    yield place.conversation, parent
        case StoredByChat(external_id, conversation, origin_id):
            yield conversation, external_id
            yield conversation, origin_id
        case MessageDeleted(external_id, conversation):
            yield conversation, external_id
        case ReactionChanged(external_id=external_id, conversation=conversation):
            yield conversation, external_id


def _is_own(person_id: str, account: Account) -> bool:
    """Return whether the hub itself acts as this person."""
    return person_id in (account.id, account.values.get("user_id"), account.values.get("bot_id"))
