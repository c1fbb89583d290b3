"""Events of `chat.inbound` and requests of `sync.requested`, with ids that a repeated event has again."""

from datetime import UTC, datetime
from typing import Final

import orjson

from services.sync.chat_inbound import SOURCE, inbound_record
from services.sync.model.mapping import CHAT, Leg, Mapping, account_key
from services.sync.model.synced_message import SyncedMessage
from services.sync.translate.incoming import Incoming
from shared.connections.channel_accounts import AccountRef
from shared.contracts.chat import (
    MESSAGE_DELETED,
    REACTION_ADDED,
    REACTION_REMOVED,
    ChatAttachment,
    ChatAuthor,
    ChatMessage,
    ChatMessageDeleted,
    ChatOrigin,
    ChatReaction,
)
from shared.contracts.envelope import Event, rfc3339
from shared.contracts.ids import derive
from shared.contracts.messages import Payload
from shared.contracts.sync import Kind, SourceRef, SyncRequested
from shared.contracts.topics import SYNC_REQUESTED
from shared.runtime.kafka.producer import Record, event_record
from shared.runtime.tracing import continue_trace

REQUESTED_TYPE: Final = "sync.requested"


def chat_record(
    event_type: str, payload: Payload, channel: str, incoming: Incoming, leg: Leg, detail: str = ""
) -> Record:
    """Return the record of an event for the chat. `detail` tells events of one cause and type apart."""
    cause = incoming.event
    return inbound_record(
        event_type,
        payload,
        channel,
        event_id=f"evt_{derive(cause.id, event_type, leg.id, leg.conversation, detail)}",
        workspace=cause.workspace,
        time=cause.time,
        traceparent=cause.traceparent,
    )


def requested_record(
    kind: Kind,
    message: SyncedMessage,
    leg: Leg,
    incoming: Incoming,
    *,
    author: ChatAuthor,
    text: str = "",
    attachments: tuple[ChatAttachment, ...] = (),
    thread_id: str | None = None,
    reply_to_id: str | None = None,
    wait_until: str | None = None,
    revision: int = 0,
) -> Record:
    """Return the record of a change for a leg of a provider."""
    cause = incoming.event
    request = SyncRequested(
        request_id=f"req_{derive(cause.id, message.id, leg.id, kind)}",
        mapping_id=message.mapping_id,
        leg_id=leg.id,
        kind=kind,
        synced_id=message.id,
        source=SourceRef(
            provider=message.provider,
            account=message.account,
            conversation=message.conversation,
            external_id=message.external_id,
        ),
        author=author,
        text=text,
        attachments=list(attachments),
        thread_id=thread_id,
        reply_to_id=reply_to_id,
        wait_until=wait_until,
        revision=revision,
        occurred_at=cause.attributes.get("occurred_at") or cause.time,
        received_at=cause.time,
    )
    return request_record(request, cause.workspace, leg, continue_trace(cause.traceparent))


def signal_record(cause: Event, mapping: Mapping, leg: Leg, author: ChatAuthor) -> Record:
    """Return the record of a signal of the chat for a leg of a provider."""
    request = SyncRequested(
        request_id=f"req_{derive(cause.id, mapping.id, leg.id, 'signal')}",
        mapping_id=mapping.id,
        leg_id=leg.id,
        kind="signal",
        source=SourceRef(
            provider=CHAT, account=cause.workspace, conversation=cause.subject, external_id=cause.id
        ),
        author=author,
        occurred_at=cause.time,
        received_at=cause.time,
    )
    return request_record(request, cause.workspace, leg, continue_trace(cause.traceparent))


def request_record(request: SyncRequested, workspace: str, leg: Leg, traceparent: str) -> Record:
    """Return the record of a request."""
    event = Event(
        id=request.request_id,
        type=REQUESTED_TYPE,
        source=SOURCE,
        workspace=workspace,
        time=request.received_at,
        data=orjson.dumps(request.model_dump()),
        subject=request.synced_id,
        traceparent=traceparent,
    )
    return event_record(SYNC_REQUESTED, account_key(leg.provider, leg.account), event)


def chat_message(
    message: SyncedMessage,
    mapping: Mapping,
    leg: Leg,
    incoming: Incoming,
    *,
    author: ChatAuthor,
    text: str,
    attachments: tuple[ChatAttachment, ...],
    thread_id: str | None,
    reply_to_id: str | None,
    created_at: str,
    edited_at: str | None = None,
) -> ChatMessage:
    """Return a message as the chat gets it."""
    return ChatMessage(
        message_id=message.message_id,
        channel_id=leg.conversation,
        text=text,
        author=author,
        thread_id=thread_id,
        reply_to_id=reply_to_id,
        attachments=attachments,
        origin=origin_of(message, mapping, incoming),
        created_at=created_at,
        edited_at=edited_at,
    )


def origin_of(message: SyncedMessage, mapping: Mapping, incoming: Incoming) -> ChatOrigin:
    """Return where a message comes from."""
    endpoint = incoming.event.attributes.get("endpoint_id", "")
    return ChatOrigin(
        provider=message.provider,
        account=message.account,
        integration_id=endpoint if endpoint.startswith("int_") else None,
        mapping_id=mapping.id,
        conversation_id=message.conversation,
        external_id=message.external_id,
        permalink=message.permalink,
        event=incoming.event.attributes.get("event"),
        delivery_id=incoming.event.attributes.get("delivery_id"),
        occurred_at=incoming.event.attributes.get("occurred_at"),
    )


def deletion_record(message: SyncedMessage, mapping: Mapping, leg: Leg, incoming: Incoming) -> Record:
    """Return the deletion of a message for the chat."""
    payload = ChatMessageDeleted(
        message_id=message.message_id,
        channel_id=leg.conversation,
        origin=origin_of(message, mapping, incoming),
        deleted_at=incoming.event.time,
    )
    return chat_record(MESSAGE_DELETED, payload, leg.conversation, incoming, leg)


def reaction_record(
    message: SyncedMessage,
    mapping: Mapping,
    leg: Leg,
    incoming: Incoming,
    emoji: str,
    author: ChatAuthor,
    *,
    added: bool,
) -> Record:
    """Return the reaction of a person for the chat, which has the message under its own or the hub's id."""
    payload = ChatReaction(
        message_id=chat_id_of(message, leg),
        channel_id=leg.conversation,
        emoji=emoji,
        author=author,
        origin=origin_of(message, mapping, incoming),
        reacted_at=incoming.event.time,
    )
    event_type = REACTION_ADDED if added else REACTION_REMOVED
    return chat_record(event_type, payload, leg.conversation, incoming, leg, f"{author.id} {emoji}")


def chat_id_of(message: SyncedMessage, leg: Leg) -> str:
    """Return the id of a message in a channel of the chat: its own for what it wrote, else the hub's."""
    return message.external_id if message.leg == leg.id else message.message_id


def account_of(message: SyncedMessage) -> AccountRef:
    """Return the account where a message was written."""
    return AccountRef(message.workspace, message.provider, message.account)


def moment(unix: float, fallback: str) -> str:
    """Return a Unix time as text; `fallback` if it is 0."""
    return rfc3339(datetime.fromtimestamp(unix, UTC)) if unix else fallback
