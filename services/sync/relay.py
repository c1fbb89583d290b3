"""Relay of webhook events to the chat: from `webhooks.received` to `chat.inbound`, in order, at least once.

A repeated event produces the same message, byte for byte: ids and times are derived from the event, so that
the chat recognizes and skips it.
"""

from collections.abc import Mapping, Sequence
from typing import Final, Literal

from services.sync.chat_inbound import inbound_record
from services.sync.endpoint_messages import DescribedEndpoint, EndpointMessages, sender_messages
from shared.contracts.chat import (
    MESSAGE_CREATED,
    ChatAttachment,
    ChatAuthor,
    ChatMessage,
    ChatOrigin,
)
from shared.contracts.envelope import Event
from shared.contracts.errors import Invalid, Malformed
from shared.contracts.ids import attachment_id_for, derive, message_id_for
from shared.contracts.messages import Attachment, Author, Embed
from shared.manifests.registry import Provider, dialects
from shared.runtime import metrics
from shared.runtime.kafka.batch import Batch
from shared.runtime.kafka.producer import Producer, Record
from shared.runtime.logs import Log
from shared.webhooks.incoming import INCOMING_PROVIDER, MASS_MENTIONS_ATTRIBUTE, parse_incoming_message
from shared.wire.bodies import parse_object
from shared.wire.message_template import MessageTemplateError

DEFAULT_AUTHOR: Final = "Incoming webhook"
"""The author of a message to an incoming webhook whose caller gives no `username`."""

_ACK_TIMEOUT_S: Final = 10.0

Providers = Mapping[str, Provider]
RelayOutcome = Literal["relayed", "unknown", "ignored", "no_channel"]


class Relay:
    """The handler of events on `webhooks.received`."""

    def __init__(
        self, providers: Providers, endpoints: EndpointMessages, producer: Producer, log: Log
    ) -> None:
        self._providers = providers
        self._endpoints = endpoints
        self._producer = producer
        self._log = log

    async def handle(self, batch: Batch) -> None:
        """Publish the messages of a batch on `chat.inbound`, in the order of the batch.

        An event that cannot become a message becomes a dead letter. Raises `BrokerUnavailable` if Kafka does
        not acknowledge the messages.
        """
        if any(_describing_provider(received.event, self._providers) for received in batch):
            await self._endpoints.current()
        outcomes: list[RelayOutcome] = []
        relayed: list[tuple[Event, ChatMessage]] = []
        for received in batch:
            event = received.event
            outcome = outcome_of(event, self._providers)
            if outcome == "relayed":
                endpoint = self._endpoints.get(event.attributes.get("endpoint_id", ""))
                try:
                    message, problem = message_of(event, self._providers, endpoint)
                except (Malformed, Invalid, MessageTemplateError) as error:
                    # The others of the batch are not handled again for it.
                    batch.take(received).fail(error)
                    continue
                if message is None:
                    outcome = "ignored"
                else:
                    relayed.append((event, message))
                if problem:
                    self._log.info("message.incomplete", event_id=event.id, type=event.type, reason=problem)
            outcomes.append(outcome)
            if outcome == "unknown":
                self._log.warning(
                    "event.unknown_type", trace_id=event.trace_id, event_id=event.id, type=event.type
                )
            elif outcome == "ignored":
                self._log.debug("event.ignored", trace_id=event.trace_id, event_id=event.id, type=event.type)
        if relayed:
            records = [_record(event, message) for event, message in relayed]
            await self._producer.publish_all(records, timeout_s=_ACK_TIMEOUT_S)
        for outcome in outcomes:
            metrics.RELAYED.labels(outcome).inc()
        for event, message in relayed:
            self._log.info(
                "message.relayed",
                trace_id=event.trace_id,
                event_id=event.id,
                message_id=message.message_id,
                type=event.type,
            )


def outcome_of(event: Event, providers: Providers) -> RelayOutcome:
    """Return `relayed` if events of this name become messages, or why this one becomes none."""
    name = event.attributes.get("provider", "")
    if name != INCOMING_PROVIDER:
        provider = providers.get(name)
        event_name = event.attributes.get("event", "")
        if provider is not None and provider.takes_description:
            return "relayed" if event.attributes.get("channel_id") else "no_channel"
        if provider is None or not (event_name in provider.handled or event_name in provider.ignored):
            return "unknown"
        if event_name not in provider.messages:
            return "ignored"
    return "relayed" if event.attributes.get("channel_id") else "no_channel"


def message_of(
    event: Event, providers: Providers, endpoint: DescribedEndpoint
) -> tuple[ChatMessage | None, str]:
    """Return the message of a handled event that has a channel, and what it does not show ('' for nothing).

    There is no message if the manifest has none for it.

    `endpoint` is the event's, if its owner describes the sender. Raises `Malformed` or `Invalid` if a header
    is missing or the body is not valid, and `MessageTemplateError` if the manifest's template does not fit
    the body.
    """
    parts = _message_parts(event, providers, endpoint)
    if parts is None:
        return None, ""
    author, text, embeds, attachments, thread, problem = parts
    message_id = message_id_for(event.id)
    message = ChatMessage(
        message_id=message_id,
        channel_id=_attribute(event, "channel_id"),
        thread_id=thread or None,
        author=_chat_author(_attribute(event, "endpoint_id"), author),
        text=text,
        attachments=_chat_attachments(message_id, attachments),
        embeds=tuple(embeds),
        origin=ChatOrigin(
            provider=_attribute(event, "provider"),
            endpoint_id=_attribute(event, "endpoint_id"),
            event=_attribute(event, "event"),
            delivery_id=_attribute(event, "delivery_id"),
            account=event.attributes.get("account") or None,
            occurred_at=event.attributes.get("occurred_at") or None,
        ),
        created_at=event.time,
    )
    return message, problem


def _message_parts(
    event: Event, providers: Providers, endpoint: DescribedEndpoint
) -> tuple[Author, str, list[Embed], list[Attachment], str | None, str] | None:
    """Return author, text, embeds, attachments, thread id, and what the message does not show.

    None if there is no message.
    """
    name = _attribute(event, "provider")
    if name == INCOMING_PROVIDER:
        allowed = event.attributes.get(MASS_MENTIONS_ATTRIBUTE) == "true"
        message, warnings = parse_incoming_message(
            event.content_type, event.data, dialects(), mass_mentions=allowed
        )
        author = Author(name=message.username or DEFAULT_AUTHOR, icon_url=message.icon_url)
        return (
            author,
            message.text,
            message.embeds,
            message.attachments,
            message.thread_id,
            "; ".join(warnings),
        )
    provider = providers[name]
    if provider.takes_description:
        described, problem = sender_messages(provider, endpoint.source).message(
            _attribute(event, "event"),
            event.content_type,
            event.data,
            endpoint.name or provider.manifest.name,
        )
        return described.author, described.text, described.embeds, [], None, problem
    payload = parse_object(provider.payload(event.content_type, event.data))
    templates = provider.messages[_attribute(event, "event")]
    if not templates.applies(payload):
        return None
    rendered = templates.message(payload)
    return rendered.author, rendered.text, rendered.embeds, [], None, ""


def _chat_author(endpoint: str, author: Author) -> ChatAuthor:
    """Return the author of a message without a person: the id is derived from endpoint and name."""
    avatar = str(author.icon_url) if author.icon_url else None
    author_id = f"author_{derive(endpoint, author.name)}"
    return ChatAuthor(id=author_id, name=author.name, avatar_url=avatar, bot=author.bot)


def _chat_attachments(message_id: str, files: Sequence[Attachment]) -> tuple[ChatAttachment, ...]:
    return tuple(
        ChatAttachment(
            id=attachment_id_for(message_id, index),
            url=str(file.url),
            filename=file.filename or "file",
            content_type=file.content_type,
        )
        for index, file in enumerate(files)
    )


def _describing_provider(event: Event, providers: Providers) -> bool:
    provider = providers.get(event.attributes.get("provider", ""))
    return provider is not None and provider.takes_description


def _attribute(event: Event, name: str) -> str:
    """Return an attribute that must not be empty. Raises `Malformed`."""
    value = event.attributes.get(name)
    if not value:
        raise Malformed(f"header {name} is missing: the gateway sets it on every webhook")
    return value


def _record(event: Event, message: ChatMessage) -> Record:
    return inbound_record(
        MESSAGE_CREATED,
        message,
        message.channel_id,
        event_id=f"evt_{derive(event.id, MESSAGE_CREATED)}",
        workspace=event.workspace,
        time=event.time,
        traceparent=event.traceparent,
    )
