"""Apply a new message: store it with its targets, and publish it for each of them."""

from dataclasses import replace
from datetime import timedelta
from typing import Final

from services.sync.model.mapping import CHAT, Leg
from services.sync.model.synced_message import (
    MessageLink,
    SyncedMessage,
    Target,
    TraceEntry,
    synced_id_for,
)
from services.sync.store.mapping_index import MappedLeg
from services.sync.store.messages import expiry
from services.sync.translate.context import LATE_S, Context, Parent, message_id_of
from services.sync.translate.filters import dropped_because
from services.sync.translate.incoming import Incoming
from services.sync.translate.outputs import (
    chat_id_of,
    chat_message,
    chat_record,
    moment,
    requested_record,
)
from services.sync.translate.reactions import Reactions
from shared.contracts.chat import MESSAGE_CREATED, ChatAttachment, ChatAuthor
from shared.contracts.envelope import rfc3339
from shared.manifests.channel_types import (
    MessageWritten,
)
from shared.richtext.markdown import parse_markdown
from shared.richtext.plain import render_plain
from shared.richtext.tree import Document
from shared.runtime.clock import utcnow

_EXCERPT: Final = 80


class Messages:
    """Applies new messages."""

    def __init__(self, context: Context, reactions: Reactions) -> None:
        self._context = context
        self._reactions = reactions

    def write(self, incoming: Incoming, change: MessageWritten, mapped: MappedLeg) -> None:
        """Apply a new message."""
        mapping, leg = mapped
        state, ref = self._context.state, incoming.ref
        synced_id = synced_id_for(
            mapping.id, message_id_of(ref, change.place.conversation, change.external_id)
        )
        if not leg.sends or dropped_because(mapping.filters, change) is not None:
            self._context.dropped.add(synced_id)
            return
        message = state.message(synced_id)
        author = self._context.author(ref, change.author)
        body = change.body
        late = message.late_edit if message else None
        if late is not None:
            body = parse_markdown(late.text)
        if message is None or not message.has_come:
            message = self._store(message, synced_id, incoming, change, mapped, author, body)
        if message.deleted:
            return
        # Not `message.revision`: if this event is repeated, that may be the revision of an edit after it.
        revision = late.revision if late else 0
        self._send(message, incoming, replace(change, body=body, revision=revision), mapped, author)

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
            message_id=message_id_of(ref, change.place.conversation, change.external_id),
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
            event_id=incoming.event.id,
            trace_id=incoming.event.trace_id,
            received_at=at,
            expires_at=expiry(),
            revision=late.revision if late else 0,
            late_edit=late,
            deleted=deleted,
            reactions=known.reactions if known else {},
            targets=targets,
        )
        if known is None:
            self._context.state.add(message)
        else:
            self._context.state.complete(message)
        related = (message.external_id, message.event_id, message.trace_id)
        self._context.state.add_link(
            MessageLink(
                id=message.id,
                workspace=message.workspace,
                mapping_id=message.mapping_id,
                synced_id=message.id,
                related_ids=tuple(filter(None, related)),
                expires_at=message.expires_at,
            )
        )
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
        thread = self._context.parent(incoming, change, mapped, change.place.thread)
        reply = self._context.parent(incoming, change, mapped, change.place.reply_to)
        waits = any(parent is not None and parent.late for parent in (thread, reply))
        wait_until = rfc3339(incoming.received_at + timedelta(seconds=LATE_S)) if waits else None
        files: tuple[ChatAttachment, ...] = ()
        if mapping.options.files and change.files:
            files = self._context.attachments(incoming.ref, message.message_id, change.files)
        texts = self._context.texts(incoming.ref, change.body, mapping, author)
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
                self._context.state.records.append(
                    chat_record(MESSAGE_CREATED, payload, target.conversation, incoming, target)
                )
            else:
                self._context.state.records.append(
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
                        revision=change.revision,
                    )
                )
        if message.reactions:  # they came before the message
            self._reactions.send_all(message, mapping, incoming)


def _chat_parent(parent: Parent | None, leg: Leg) -> str | None:
    """Return the id of an answered message in a channel of the chat."""
    return chat_id_of(parent.message, leg) if parent and parent.message else None


def _new_target(leg: Leg, *, deleted: bool) -> Target:
    """Return a target of a new message. What is for the chat is sent when it is published."""
    now = utcnow()
    is_chat = leg.provider == CHAT
    step = "deleted" if deleted else "sent" if is_chat else "waiting"
    detail = "for its turn" if step == "waiting" else ""
    return Target(
        leg=leg.id,
        provider=leg.provider,
        account=leg.account,
        conversation=leg.conversation,
        state=step,
        sent_at=now if step == "sent" else None,
        trace=(TraceEntry(at=now, step=step, detail=detail),),
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
