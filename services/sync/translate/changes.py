"""Apply one change of a leg to a mapping: what is stored of it, and what the other legs get."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

from services.sync.accounts import AccountRef
from services.sync.model.conflict import RETENTION as CONFLICT_RETENTION
from services.sync.model.conflict import Conflict, conflict_id_for
from services.sync.model.mapping import CHAT, Leg, Mapping, hub_message_id, link_id
from services.sync.model.synced_message import (
    LateEdit,
    MessageLink,
    PersonReaction,
    SyncedMessage,
    Target,
    TraceEntry,
    synced_id_for,
)
from services.sync.store.mapping_index import MappedLeg, MappingIndex
from services.sync.store.messages import expiry
from services.sync.translate.batch_state import BatchState
from services.sync.translate.filters import dropped_because
from services.sync.translate.incoming import Incoming, StoredByChat
from services.sync.translate.outputs import (
    account_of,
    chat_id_of,
    chat_message,
    chat_record,
    deletion_record,
    moment,
    reaction_record,
    requested_record,
)
from services.sync.translate.text import Names, People, has_mentions, mass_mentions_allowed, text_for
from shared.contracts.chat import MESSAGE_CREATED, MESSAGE_UPDATED, ChatAttachment, ChatAuthor
from shared.contracts.envelope import rfc3339
from shared.contracts.ids import derive
from shared.manifests.channel_types import (
    ExternalFile,
    MessageDeleted,
    MessageWritten,
    Person,
    ReactionChanged,
)
from shared.richtext.markdown import parse_markdown
from shared.richtext.markdown_render import render_markdown
from shared.richtext.plain import render_plain
from shared.richtext.tree import Document
from shared.runtime.mongo import utcnow

LATE_S: Final = 60.0
"""A change may come this long before its message, or a reply before what it answers."""
_EXCERPT: Final = 80
_MAX_REACTIONS: Final = 200
"""Reactions of one message that are followed."""
Attachments = Callable[[AccountRef, str, Sequence[ExternalFile]], tuple[ChatAttachment, ...]]
"""Returns the files of a message of an account, whose id in the chat is given, as the chat gets them."""


@dataclass(frozen=True, slots=True)
class _Parent:
    """A message that another one answers. `late` says that it may still come."""

    synced_id: str
    late: bool
    message: SyncedMessage | None


class Changes:
    """Applies the changes of a batch to its state."""

    def __init__(
        self,
        state: BatchState,
        index: MappingIndex,
        people: People,
        names: Names,
        person: Callable[[AccountRef, str], Person | None],
        attachments: Attachments,
    ) -> None:
        self._state = state
        self._index = index
        self._people = people
        self._names = names
        self._person = person
        self._attachments = attachments
        self.conflicts: list[Conflict] = []
        self.echoes = 0

    # Messages

    def write(self, incoming: Incoming, change: MessageWritten, mapped: MappedLeg) -> None:
        """Apply a new message."""
        mapping, leg = mapped
        if not leg.sends or dropped_because(mapping.filters, change) is not None:
            return
        state, ref = self._state, incoming.ref
        synced_id = synced_id_for(mapping.id, _message_id(ref, change.place.conversation, change.external_id))
        message = state.message(synced_id)
        author = self._author(ref, change.author)
        body = change.body
        if message is not None and message.late_edit is not None:
            body = parse_markdown(message.late_edit.text)
        if message is None or not message.has_come:
            message = self._store(message, synced_id, incoming, change, mapped, author, body)
        if message.deleted:
            return
        self._send(message, incoming, replace(change, body=body), mapped, author)

    def _store(
        self,
        known: SyncedMessage | None,
        synced_id: str,
        incoming: Incoming,
        change: MessageWritten,
        mapped: MappedLeg,
        author: ChatAuthor,
        body: Document,
    ) -> SyncedMessage:
        mapping, leg = mapped
        ref, at = incoming.ref, incoming.received_at
        deleted = known is not None and known.deleted
        targets = {
            other.id: _new_target(other, deleted=deleted)
            for other in mapping.legs
            if other.id != leg.id and other.receives
        }
        late = known.late_edit if known else None
        message = SyncedMessage(
            id=synced_id,
            workspace=ref.workspace,
            mapping_id=mapping.id,
            leg=leg.id,
            message_id=_message_id(ref, change.place.conversation, change.external_id),
            provider=ref.provider,
            account=ref.account,
            conversation=change.place.conversation,
            external_id=change.external_id,
            thread=change.place.thread,
            author_id=change.author.id,
            author_name=author.name,
            excerpt=render_plain(body).text[:_EXCERPT],
            parsed_as=_describe(change),
            permalink=change.permalink,
            received_at=at,
            expires_at=expiry(),
            revision=late.revision if late else 0,
            deleted=deleted,
            reactions=known.reactions if known else {},
            targets=targets,
        )
        if known is None:
            self._state.add(message)
        else:
            fields = {name: getattr(message, name) for name in SyncedMessage.model_fields if name != "id"}
            self._state.change(message, **fields)
        for target_leg in mapping.legs:
            if target_leg.id in targets and target_leg.provider == CHAT:
                self._link_chat_copy(message, target_leg, message.message_id)
        return message

    def _send(
        self,
        message: SyncedMessage,
        incoming: Incoming,
        change: MessageWritten,
        mapped: MappedLeg,
        author: ChatAuthor,
    ) -> None:
        """Publish a message for each of its targets."""
        mapping = mapped.mapping
        thread = self._parent(incoming, change, mapped, change.place.thread)
        reply = self._parent(incoming, change, mapped, change.place.reply_to)
        waits = any(parent is not None and parent.late for parent in (thread, reply))
        wait_until = rfc3339(incoming.received_at + timedelta(seconds=LATE_S)) if waits else None
        files: tuple[ChatAttachment, ...] = ()
        if mapping.options.files and change.files:
            files = self._attachments(incoming.ref, message.message_id, change.files)
        texts = self._texts(incoming.ref, change.body, mapping, author)
        for target in mapping.legs:
            if target.id not in message.targets:
                continue
            if target.provider == CHAT:
                payload = chat_message(
                    message,
                    mapping,
                    target,
                    incoming,
                    author=author,
                    text=texts(target),
                    attachments=files,
                    thread_id=_chat_parent(thread, target),
                    reply_to_id=_chat_parent(reply, target),
                    created_at=moment(change.sent_at, incoming.event.time),
                )
                self._state.records.append(
                    chat_record(MESSAGE_CREATED, payload, target.conversation, incoming, target)
                )
            else:
                self._state.records.append(
                    requested_record(
                        "message",
                        message,
                        target,
                        incoming,
                        author=author,
                        text=texts(target),
                        attachments=files,
                        thread_id=thread.synced_id if thread else None,
                        reply_to_id=reply.synced_id if reply else None,
                        wait_until=wait_until,
                        revision=message.revision,
                    )
                )
        if message.reactions:  # they came before the message
            self._send_reactions(message, mapping, incoming)

    def _send_reactions(self, message: SyncedMessage, mapping: Mapping, incoming: Incoming) -> None:
        """Publish the reactions that a new message has."""
        for reaction in message.reactions.values():
            author = self._author(incoming.ref, Person(reaction.person))
            for target in mapping.legs:
                if reaction.added and target.provider == CHAT and target.id in message.targets:
                    self._state.records.append(
                        reaction_record(
                            message, mapping, target, incoming, reaction.emoji, author, added=True
                        )
                    )
        self._request_reactions(message, mapping, incoming)

    def edit(self, incoming: Incoming, change: MessageWritten, mapped: MappedLeg) -> None:
        """Apply an edit. One that comes before its message is kept until the message comes."""
        mapping, leg = mapped
        if not (mapping.options.edits and leg.sends):
            return
        state = self._state
        synced_id, copy_leg = self._locate(
            incoming.ref, change.place.conversation, change.external_id, mapping
        )
        message = state.message(synced_id)
        if message is None:
            is_old = change.sent_at and incoming.received_at.timestamp() - change.sent_at > LATE_S
            if is_old or copy_leg or dropped_because(mapping.filters, change) is not None:
                return
            message = state.add(self._placeholder(synced_id, incoming, change.external_id, mapped))
        if not message.has_come:
            late = message.late_edit
            if late is None or late.revision < change.revision:
                text = render_markdown(change.body).text
                state.change(message, late_edit=LateEdit(text=text, revision=change.revision))
            return
        if message.deleted:
            return
        text = ""
        if copy_leg:
            text = text_digest(render_markdown(change.body).text)
            target = message.targets.get(copy_leg)
            if target is not None and target.text_digest == text:
                self.echoes += 1
                return
        edited_leg = copy_leg or message.leg
        revision = self._accepted_revision(message, edited_leg, change, mapping, incoming)
        if revision is None:
            return
        message = state.change(message, revision=revision, edited_leg=edited_leg)
        self._publish_edit(message, incoming, change, mapped, edited_leg)

    def _accepted_revision(
        self,
        message: SyncedMessage,
        edited_leg: str,
        change: MessageWritten,
        mapping: Mapping,
        incoming: Incoming,
    ) -> int | None:
        """Return the revision of an edit; None if it is stale, or lost to or waits for the other side."""
        last = message.edited_leg
        if last is None or last == edited_leg:
            # An equal one is a repeat: it is published again, because the last time may have failed.
            return change.revision if change.revision >= message.revision or last is None else None
        policy = mapping.options.conflicts
        by_source = edited_leg == message.leg
        if policy == "manual":
            self.conflicts.append(self._conflict(message, edited_leg, last, change, incoming))
            return None
        if policy == "latest":
            return change.revision if change.revision > message.revision else None
        if (policy == "source") != by_source:
            return None
        return max(change.revision, message.revision + 1)

    def _conflict(
        self, message: SyncedMessage, leg: str, other: str, change: MessageWritten, incoming: Incoming
    ) -> Conflict:
        now = utcnow()
        return Conflict(
            id=conflict_id_for(message.id, leg, change.revision),
            workspace=message.workspace,
            mapping_id=message.mapping_id,
            synced_id=message.id,
            leg=leg,
            other_leg=other,
            text=render_markdown(change.body).text,
            revision=change.revision,
            author_id=change.author.id,
            author_name=self._author(incoming.ref, change.author).name,
            created_at=now,
            expires_at=now + CONFLICT_RETENTION,
        )

    def _publish_edit(
        self,
        message: SyncedMessage,
        incoming: Incoming,
        change: MessageWritten,
        mapped: MappedLeg,
        edited_leg: str,
    ) -> None:
        mapping, _ = mapped
        author = self._stored_author(message, change, incoming, edited_leg)
        files: tuple[ChatAttachment, ...] = ()
        if mapping.options.files and change.files and edited_leg == message.leg:
            files = self._attachments(account_of(message), message.message_id, change.files)
        texts = self._texts(incoming.ref, change.body, mapping, author)
        for target in mapping.legs:
            if target.id not in message.targets or target.id == edited_leg:
                continue
            text = texts(target)
            if target.provider == CHAT:
                payload = chat_message(
                    message,
                    mapping,
                    target,
                    incoming,
                    author=author,
                    text=text,
                    attachments=files,
                    thread_id=None,
                    reply_to_id=None,
                    created_at=rfc3339(message.received_at),
                    edited_at=moment(change.revision / 1_000_000, incoming.event.time),
                )
                self._state.records.append(
                    chat_record(MESSAGE_UPDATED, payload, target.conversation, incoming, target)
                )
                message = self._state.change_target(
                    message,
                    target.id,
                    TraceEntry(at=utcnow(), step="edited"),
                    text_digest=text_digest(text),
                    revision=message.revision,
                )
            else:
                self._state.records.append(
                    requested_record(
                        "edit",
                        message,
                        target,
                        incoming,
                        author=author,
                        text=text,
                        revision=message.revision,
                    )
                )

    def delete(self, incoming: Incoming, change: MessageDeleted, mapped: MappedLeg) -> None:
        """Apply a deletion. That of a copy concerns this copy only."""
        mapping, leg = mapped
        if not leg.sends and not leg.receives:
            return
        synced_id, copy_leg = self._locate(incoming.ref, change.conversation, change.external_id, mapping)
        message = self._state.message(synced_id)
        if copy_leg:
            if message is not None and (copy := message.targets.get(copy_leg)) and copy.state == "sent":
                entry = TraceEntry(at=utcnow(), step="deleted", detail="It was deleted there.")
                self._state.change_target(message, copy_leg, entry, state="deleted")
            return
        if not (mapping.options.deletions and leg.sends):
            return
        if message is None:
            message = self._state.add(self._placeholder(synced_id, incoming, change.external_id, mapped))
        if not message.deleted:
            message = self._state.change(message, deleted=True)
        for target in mapping.legs:
            if target.id not in message.targets:
                continue
            if target.provider == CHAT:
                self._state.records.append(deletion_record(message, mapping, target, incoming))
                entry = TraceEntry(at=utcnow(), step="deleted")
                message = self._state.change_target(message, target.id, entry, state="deleted")
            else:
                author = ChatAuthor(id=message.author_id or "unknown", name=message.author_name)
                self._state.records.append(
                    requested_record("delete", message, target, incoming, author=author)
                )

    def react(self, incoming: Incoming, change: ReactionChanged, mapped: MappedLeg) -> None:
        """Apply a reaction: what each person has set is stored, and the targets follow it."""
        mapping, leg = mapped
        if not (mapping.options.reactions and leg.sends):
            return
        state = self._state
        synced_id, _ = self._locate(incoming.ref, change.conversation, change.external_id, mapping)
        message = state.message(synced_id)
        if message is None:
            message = state.add(self._placeholder(synced_id, incoming, change.external_id, mapped))
        if incoming.ref.provider == CHAT and (incoming.repeats or _is_mirrored(message, leg, change)):
            self.echoes += 1
            return
        key = derive(leg.id, change.person.id, change.emoji)[:16]
        known = message.reactions.get(key)
        if (known is not None and known.at > change.at) or (
            known is None and len(message.reactions) >= _MAX_REACTIONS
        ):
            return
        reaction = PersonReaction(
            leg=leg.id, person=change.person.id, emoji=change.emoji, added=change.added, at=change.at
        )
        message = state.set_reaction(message, key, reaction)
        if not message.has_come or message.deleted:
            return
        author = self._author(incoming.ref, change.person)
        for target in mapping.legs:
            if target.id != leg.id and target.provider == CHAT and target.receives:
                state.records.append(
                    reaction_record(
                        message, mapping, target, incoming, change.emoji, author, added=change.added
                    )
                )
        self._request_reactions(message, mapping, incoming, except_leg=leg.id)

    def _request_reactions(
        self, message: SyncedMessage, mapping: Mapping, incoming: Incoming, except_leg: str = ""
    ) -> None:
        author = ChatAuthor(id=message.author_id or "unknown", name=message.author_name)
        for target in mapping.legs:
            if target.id == except_leg or target.provider == CHAT or not target.receives:
                continue
            self._state.records.append(requested_record("reaction", message, target, incoming, author=author))

    # What comes back

    def link_stored(self, incoming: Incoming, change: StoredByChat, mapped: MappedLeg) -> None:
        """Link the chat's own id of a message that it got, and note that it is stored."""
        mapping, leg = mapped
        origin = link_id(CHAT, incoming.ref.account, change.conversation, change.origin_id)
        link = self._state.link(origin)
        message = self._state.message(link.synced_id) if link and link.mapping_id == mapping.id else None
        if message is None:
            return
        self.echoes += 1
        self._link_chat_copy(message, leg, change.external_id)
        target = message.targets.get(leg.id)
        if target is not None and not any(entry.step == "stored" for entry in target.trace):
            self._state.change_target(message, leg.id, TraceEntry(at=utcnow(), step="stored"))

    def note_own(self, message: SyncedMessage, leg: str, part: int, change: MessageWritten) -> None:
        """Link the id of a part that the hub has sent, as the provider's event tells it."""
        self.echoes += 1
        target = message.targets.get(leg)
        if target is None:
            return
        self._state.add_link(
            MessageLink(
                id=link_id(target.provider, target.account, target.conversation, change.external_id),
                workspace=message.workspace,
                mapping_id=message.mapping_id,
                synced_id=message.id,
                leg=leg,
                part=part,
                external_id=change.external_id,
                expires_at=message.expires_at,
            )
        )
        if not change.edited and part < len(target.parts) and not target.parts[part]:
            # The provider had not told the id when the message was sent.
            parts = (*target.parts[:part], change.external_id, *target.parts[part + 1 :])
            self._state.change_target(
                message, leg, parts=parts, permalink=target.permalink or change.permalink
            )

    # Parts

    def _link_chat_copy(self, message: SyncedMessage, leg: Leg, external_id: str) -> None:
        self._state.add_link(
            MessageLink(
                id=link_id(CHAT, leg.account, leg.conversation, external_id),
                workspace=message.workspace,
                mapping_id=message.mapping_id,
                synced_id=message.id,
                leg=leg.id,
                external_id=external_id,
                expires_at=message.expires_at,
            )
        )

    def _locate(
        self, ref: AccountRef, conversation: str, external_id: str, mapping: Mapping
    ) -> tuple[str, str | None]:
        """Return a message's id in a mapping, and the leg whose copy it is; None for the message itself."""
        link = self._state.link(link_id(ref.provider, ref.account, conversation, external_id))
        if link is not None and link.mapping_id == mapping.id:
            return link.synced_id, link.leg
        return synced_id_for(mapping.id, _message_id(ref, conversation, external_id)), None

    def _parent(
        self, incoming: Incoming, change: MessageWritten, mapped: MappedLeg, external_id: str | None
    ) -> _Parent | None:
        """Return the message that another one answers; None if there is none.

        One that is not known gets a record, so that only the first answer waits for it.
        """
        if external_id is None:
            return None
        ref, conversation = incoming.ref, change.place.conversation
        synced_id, _ = self._locate(ref, conversation, external_id, mapped.mapping)
        message = self._state.message(synced_id)
        if message is None:
            message = self._state.add(self._placeholder(synced_id, incoming, external_id, mapped))
            return _Parent(synced_id, late=True, message=message)
        late = not message.has_come and (incoming.received_at - message.received_at).total_seconds() < LATE_S
        return _Parent(synced_id, late, message)

    def _placeholder(
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
            message_id=_message_id(ref, leg.conversation, external_id),
            provider=ref.provider,
            account=ref.account,
            conversation=leg.conversation,
            external_id=external_id,
            received_at=incoming.received_at,
            expires_at=utcnow() + timedelta(days=1),
        )

    def _author(self, ref: AccountRef, person: Person) -> ChatAuthor:
        """Return an author with the name and picture that are known of the person."""
        known = self._person(ref, person.id) if not person.name else None
        name = person.name or (known.name if known else "")
        picture = person.avatar_url or (known.avatar_url if known else None)
        return ChatAuthor(
            id=person.id[:256],
            name=name[:256],
            user_id=self._people.user_of(ref, person.id),
            avatar_url=picture,
            bot=person.bot,
        )

    def _stored_author(
        self, message: SyncedMessage, change: MessageWritten, incoming: Incoming, edited_leg: str
    ) -> ChatAuthor:
        """Return the author of a message, not of its edit."""
        if edited_leg == message.leg and change.author.id == message.author_id:
            author = self._author(incoming.ref, change.author)
            if author.name:
                return author
        ref = account_of(message)
        return ChatAuthor(
            id=message.author_id or "unknown",
            name=message.author_name,
            user_id=self._people.user_of(ref, message.author_id),
        )

    def _texts(
        self, ref: AccountRef, body: Document, mapping: Mapping, author: ChatAuthor
    ) -> Callable[[Leg], str]:
        """Return the function that gives a text for a leg. A text without mentions is rendered once."""
        if not has_mentions(body):
            text = render_markdown(body).text
            return lambda _leg: text
        allowed = mass_mentions_allowed(mapping.options, author)
        return lambda leg: text_for(
            body,
            ref,
            leg,
            people=self._people,
            names=self._names,
            index=self._index,
            mass_mentions=allowed,
        )


def text_digest(text: str) -> str:
    """Return what a text of the chat is recognized by."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _message_id(ref: AccountRef, conversation: str, external_id: str) -> str:
    return hub_message_id(ref.provider, ref.account, conversation, external_id)


def _chat_parent(parent: _Parent | None, leg: Leg) -> str | None:
    """Return the id of an answered message in a channel of the chat."""
    return chat_id_of(parent.message, leg) if parent and parent.message else None


def _new_target(leg: Leg, *, deleted: bool) -> Target:
    """Return a target of a new message. What is for the chat is sent when it is published."""
    now = utcnow()
    is_chat = leg.provider == CHAT
    step = "deleted" if deleted else "sent" if is_chat else "waiting"
    return Target(
        leg=leg.id,
        provider=leg.provider,
        account=leg.account,
        conversation=leg.conversation,
        state=step,
        sent_at=now if step == "sent" else None,
        trace=(TraceEntry(at=now, step=step),),
    )


def _is_mirrored(message: SyncedMessage, leg: Leg, change: ReactionChanged) -> bool:
    """Return whether somebody of another leg has set or removed the same: the chat repeats what it got."""
    return any(
        known.leg != leg.id and known.person == change.person.id and known.emoji == change.emoji
        for known in message.reactions.values()
    )


def _describe(change: MessageWritten) -> str:
    """Describe a message for its trace."""
    parts = ["message"]
    if change.files:
        parts.append(f"with {len(change.files)} files" if len(change.files) > 1 else "with a file")
    if change.place.thread:
        parts.append("in a thread")
    elif change.place.reply_to:
        parts.append("in reply to another")
    return " ".join(parts)
