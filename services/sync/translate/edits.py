"""Apply edits and deletions of messages, and decide between edits of both sides."""

import hashlib

from services.sync.model.conflict import RETENTION as CONFLICT_RETENTION
from services.sync.model.conflict import Conflict, conflict_id_for
from services.sync.model.mapping import CHAT, Mapping
from services.sync.model.synced_message import (
    LateEdit,
    SyncedMessage,
    TraceEntry,
)
from services.sync.store.mapping_index import MappedLeg
from services.sync.translate.context import LATE_S, Context
from services.sync.translate.filters import dropped_because, has_excluded_word
from services.sync.translate.incoming import Incoming
from services.sync.translate.outputs import (
    account_of,
    chat_message,
    chat_record,
    deletion_record,
    moment,
    requested_record,
)
from shared.contracts.chat import MESSAGE_UPDATED, ChatAttachment, ChatAuthor
from shared.contracts.envelope import rfc3339
from shared.manifests.channel_types import (
    MessageDeleted,
    MessageWritten,
)
from shared.richtext.markdown_render import render_markdown
from shared.runtime.clock import utcnow


class Edits:
    """Applies edits and deletions."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def edit(self, incoming: Incoming, change: MessageWritten, mapped: MappedLeg) -> None:
        """Apply an edit. One that comes before its message is stored until the message comes.

        After an edit with an excluded word, the copies stay as they are.
        """
        mapping, leg = mapped
        if not (mapping.options.edits and leg.sends) or has_excluded_word(mapping.filters, change):
            return
        state = self._context.state
        synced_id, copy_leg = self._context.locate(
            incoming.ref, change.place.conversation, change.external_id, mapped
        )
        message = state.message(synced_id)
        if message is None:
            is_old = change.sent_at and incoming.received_at.timestamp() - change.sent_at > LATE_S
            if is_old or copy_leg or dropped_because(mapping.filters, change) is not None:
                return
            message = state.add(self._context.placeholder(synced_id, incoming, change.external_id, mapped))
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
                self._context.echoes += 1
                return
        edited_leg = copy_leg or message.leg
        revision = self._accepted_revision(message, edited_leg, change, mapping, incoming)
        if revision is None:
            return
        message = state.change(message, revision=revision, edited_leg=edited_leg)
        self._publish_edit(message, incoming, change, mapped, edited_leg)

    def apply_resolved(
        self, incoming: Incoming, change: MessageWritten, mapped: MappedLeg, synced_id: str
    ) -> None:
        """Publish an edit that a person has chosen, unless the message was edited again since."""
        message = self._context.state.message(synced_id)
        if message is None or message.deleted or change.revision < message.revision:
            return
        message = self._context.state.change(message, revision=change.revision, edited_leg=mapped.leg.id)
        self._publish_edit(message, incoming, change, mapped, mapped.leg.id)

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
            self._context.conflicts.append(self._conflict(message, edited_leg, last, change, incoming))
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
            author_name=self._context.author(incoming.ref, change.author).name,
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
            files = self._context.attachments(account_of(message), message.message_id, change.files)
        texts = self._context.texts(incoming.ref, change.body, mapping, author)
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
                self._context.state.records.append(
                    chat_record(MESSAGE_UPDATED, payload, target.conversation, incoming, target)
                )
                message = self._context.state.change_target(
                    message,
                    target.id,
                    TraceEntry(at=utcnow(), step="edited"),
                    text_digest=text_digest(text),
                    revision=message.revision,
                )
            else:
                self._context.state.records.append(
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
        synced_id, copy_leg = self._context.locate(
            incoming.ref, change.conversation, change.external_id, mapped
        )
        message = self._context.state.message(synced_id)
        if copy_leg:
            if message is not None and (copy := message.targets.get(copy_leg)) and copy.state == "sent":
                entry = TraceEntry(at=utcnow(), step="deleted", detail="It was deleted there.")
                self._context.state.change_target(message, copy_leg, entry, state="deleted")
            return
        if not (mapping.options.deletions and leg.sends):
            return
        if message is None:
            message = self._context.state.add(
                self._context.placeholder(synced_id, incoming, change.external_id, mapped)
            )
        if not message.deleted:
            message = self._context.state.change(message, deleted=True)
        for target in mapping.legs:
            if target.id not in message.targets:
                continue
            if target.provider == CHAT:
                self._context.state.records.append(deletion_record(message, mapping, target, incoming))
                entry = TraceEntry(at=utcnow(), step="deleted")
                message = self._context.state.change_target(message, target.id, entry, state="deleted")
            else:
                author = ChatAuthor(id=message.author_id or "unknown", name=message.author_name)
                self._context.state.records.append(
                    requested_record("delete", message, target, incoming, author=author)
                )

    def _stored_author(
        self, message: SyncedMessage, change: MessageWritten, incoming: Incoming, edited_leg: str
    ) -> ChatAuthor:
        """Return the author of a message, not of its edit."""
        if edited_leg == message.leg and change.author.id == message.author_id:
            author = self._context.author(incoming.ref, change.author)
            if author.name:
                return author
        ref = account_of(message)
        return ChatAuthor(
            id=message.author_id or "unknown",
            name=message.author_name,
            user_id=self._context.people.user_of(ref, message.author_id),
        )


def text_digest(text: str) -> str:
    """Return what a text of the chat is recognized by."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
