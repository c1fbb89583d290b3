"""Webhooks become messages of the chat: `webhooks.received` in, `chat.inbound` out, in order, at least once.

What a repeat produces is the same to the byte: ids and times come from the event, so that the chat skips it.
"""

from collections.abc import Sequence
from typing import Final

from shared.contracts.envelope import Event
from shared.contracts.errors import Malformed
from shared.contracts.ids import derive, message_id_for
from shared.contracts.messages import Attachment, Author, Embed, InboundMessage, Origin
from shared.contracts.topics import CHAT_INBOUND
from shared.manifests.registry import providers
from shared.runtime import metrics
from shared.runtime.kafka.consumer import ConsumedEvent
from shared.runtime.kafka.producer import Producer, Record, event_record
from shared.runtime.logs import Log
from shared.webhooks.incoming import INCOMING_PROVIDER, MASS_MENTIONS_ATTRIBUTE, parse_incoming_message
from shared.wire.bodies import parse_object

MESSAGE_RECEIVED: Final = "message.received"
SOURCE: Final = "/sync"
DEFAULT_AUTHOR: Final = "Incoming webhook"
"""Who an incoming webhook's message is shown as from when its caller gives no `username`."""

_ACK_TIMEOUT_S: Final = 10.0


class Relay:
    """The stage: a handler for `webhooks.received`."""

    def __init__(self, producer: Producer, log: Log) -> None:
        self._producer = producer
        self._log = log

    async def handle(self, batch: Sequence[ConsumedEvent]) -> None:
        """Put the messages of a batch on `chat.inbound`, in the batch's order.

        Raises `BrokerUnavailable` when they were not acknowledged; `Malformed`, `Invalid` or
        `MessageTemplateError`
        when one of the events can make no message: nothing of the batch was published then, and the
        consumer tries the events one by one and dead-letters that one.
        """
        outcomes: list[str] = []
        relayed: list[tuple[Event, InboundMessage]] = []
        for received in batch:
            outcome = self._outcome(received.event)
            outcomes.append(outcome)
            if outcome == "relayed":
                relayed.append((received.event, message_of(received.event)))
        if relayed:
            records = [_record(event, message) for event, message in relayed]
            await self._producer.publish_all(records, timeout_s=_ACK_TIMEOUT_S)
        for outcome in outcomes:
            metrics.RELAYED.labels(outcome).inc()
        for event, message in relayed:
            self._log.info(
                "message relayed",
                trace_id=event.trace_id,
                event_id=event.id,
                message_id=message.message_id,
                type=event.type,
            )

    def _outcome(self, event: Event) -> str:
        """What becomes of an event: relayed, or why it is no message."""
        name = event.attributes.get("provider", "")
        if name != INCOMING_PROVIDER:
            provider = providers().get(name)
            kind = event.attributes.get("event", "")
            if provider is None or not (kind in provider.handled or kind in provider.ignored):
                self._log.warning(
                    "event is in no manifest", trace_id=event.trace_id, event_id=event.id, type=event.type
                )
                return "unknown"
            if kind not in provider.messages:
                self._log.debug("event ignored", trace_id=event.trace_id, event_id=event.id, type=event.type)
                return "ignored"
        return "relayed" if event.attributes.get("channel_id") else "no_channel"


def message_of(event: Event) -> InboundMessage:
    """The message that a handled event with a channel becomes.

    Raises `Malformed` or `Invalid` for a body that is not as promised, `MessageTemplateError` when the
    manifest's templates cannot make a message of it.
    """
    author, text, embeds, attachments, thread = _message_parts(event)
    return InboundMessage(
        message_id=message_id_for(event.id),
        channel_id=_attribute(event, "channel_id"),
        thread_id=thread,
        author=author,
        text=text,
        attachments=attachments,
        embeds=embeds,
        origin=Origin(
            provider=_attribute(event, "provider"),
            endpoint_id=_attribute(event, "endpoint_id"),
            event=_attribute(event, "event"),
            delivery_id=_attribute(event, "delivery_id"),
            account=event.attributes.get("account") or None,
            occurred_at=event.attributes.get("occurred_at") or None,
        ),
        sent_at=event.time,
    )


def _message_parts(event: Event) -> tuple[Author, str, list[Embed], list[Attachment], str | None]:
    name = _attribute(event, "provider")
    if name == INCOMING_PROVIDER:
        allowed = event.attributes.get(MASS_MENTIONS_ATTRIBUTE) == "true"
        given = parse_incoming_message(event.content_type, event.data, mass_mentions=allowed)
        author = Author(name=given.username or DEFAULT_AUTHOR, icon_url=given.icon_url)
        return author, given.text, given.embeds, given.attachments, given.thread_id
    provider = providers()[name]
    payload = parse_object(provider.payload(event.content_type, event.data))
    shown = provider.messages[_attribute(event, "event")].message(payload)
    return shown.author, shown.text, shown.embeds, [], None


def _attribute(event: Event, name: str) -> str:
    value = event.attributes.get(name)
    if not value:
        raise Malformed(f"header {name} is missing: the gateway sets it on every webhook")
    return value


def _record(event: Event, message: InboundMessage) -> Record:
    received = Event(
        id=f"evt_{derive(event.id, MESSAGE_RECEIVED)}",
        type=MESSAGE_RECEIVED,
        source=SOURCE,
        workspace=event.workspace,
        time=event.time,
        data=message.model_dump_json().encode(),
        subject=message.channel_id,
        traceparent=event.traceparent,
    )
    return event_record(CHAT_INBOUND, message.channel_id, received)
