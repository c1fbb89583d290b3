"""The table of all Kafka topics. Their creation, the AsyncAPI document and the docs are derived from it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import BaseModel

from shared.contracts.chat import (
    MESSAGE_CREATED,
    MESSAGE_DELETED,
    MESSAGE_UPDATED,
    REACTION_ADDED,
    REACTION_REMOVED,
    STATUS_CHANGED,
    ChatSignal,
)
from shared.contracts.history import (
    HISTORY_CHANNELS,
    HISTORY_MESSAGES,
    HISTORY_STORED,
    HISTORY_USERS,
    HISTORY_WITHDRAWN,
)
from shared.contracts.messages import DeadLetter
from shared.contracts.sync import SyncRequested

DAY_MS = 24 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class Topic:
    """A Kafka topic. Records with the same `key` stay in order; `payload` is None for opaque data.

    `types` are the event types of the table whose data the document shows, for a topic with several.
    `about` and the values of `attributes` (headers beside those of the envelope) are published descriptions.
    """

    name: str
    key: str
    about: str
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    payload: type[BaseModel] | None = None
    types: tuple[str, ...] = ()
    partitions: int = 6
    retention_ms: int = 7 * DAY_MS
    max_message_bytes: int = 8 * 1024 * 1024
    attributes: Mapping[str, str] = field(default_factory=dict)


WEBHOOKS_RECEIVED = Topic(
    name="webhooks.received",
    key="endpoint id, or integration id",
    about="A verified webhook: the body as the provider sent it, type <provider>.<event>.",
    producers=("gateway",),
    consumers=("sync", "delivery"),
    attributes={
        "provider": "The provider's id.",
        "endpoint_id": "The id of the inbound endpoint, or of the integration for an app webhook.",
        "event": "The provider's name of the event.",
        "delivery_id": "The provider's id of the delivery; without one, ce_id.",
        "channel_id": "The channel that shows the event; absent if none does.",
        "account": "The provider's account that the event is about; absent if the event does not say.",
        "occurred_at": "When the event happened (RFC 3339); absent if the provider does not say. ce_time "
        "is when the hub received it.",
        "triggers": "The ids of the triggers that the event fires, separated by commas; absent if none.",
        "test": "true for a test event.",
        "replay_of": "ce_id of the event that this one repeats; absent for a new event.",
    },
)
CHAT_EVENTS = Topic(
    name="chat.events",
    key="conversation or channel id",
    about="Events of the chat, published by its own services (or POST /api/events).",
    producers=("chat services", "gateway"),
    consumers=("delivery", "sync", "importer"),
    types=(
        *("message.created", "message.updated", "message.deleted"),
        *("message.reaction.added", "message.reaction.removed"),
        *("channel.deleted", "channel.archived", "user.updated", HISTORY_STORED),
    ),
)
INTEGRATION_EVENTS = Topic(
    name="integration.events",
    key="integration id; outgoing webhook id for webhook.* events, endpoint id for endpoint.* events",
    about="Events of an integration: connected, refreshed, disconnected, webhook failing, secret rotated.",
    producers=("internal services", "delivery", "oauth", "sync", "importer", "gateway"),
    consumers=("delivery",),
)
DELIVERY_REQUESTED = Topic(
    name="delivery.requested",
    key="outgoing webhook id",
    about="One event for one outgoing webhook: the body to sign and send; or a signal to read its log.",
    producers=("delivery",),
    consumers=("delivery",),
    partitions=12,
)
CHAT_INBOUND = Topic(
    name="chat.inbound",
    key="channel id",
    about="Messages for channels of the chat, from a provider or an incoming webhook, and their changes.",
    producers=("sync",),
    consumers=("chat services", "delivery"),
    types=(
        *(MESSAGE_CREATED, MESSAGE_UPDATED, MESSAGE_DELETED),
        *(REACTION_ADDED, REACTION_REMOVED, STATUS_CHANGED),
    ),
)
SYNC_REQUESTED = Topic(
    name="sync.requested",
    key="the target's account: provider and account id",
    about="One change of a message for one target of a mapping.",
    producers=("sync",),
    consumers=("sync",),
    payload=SyncRequested,
    partitions=12,
)
CHAT_SIGNALS = Topic(
    name="chat.signals",
    key="channel id",
    about="Typing and presence (chat.signal), of the chat and of providers. A signal older than ten seconds "
    "is dropped.",
    producers=("chat services", "sync"),
    consumers=("chat services", "sync"),
    payload=ChatSignal,
    retention_ms=10 * 60 * 1000,
)
CHAT_HISTORY = Topic(
    name="chat.history",
    key="channel id; the import's id for people and channels",
    about="Batches of an import: people, channels and messages to add, and messages to take away again. The "
    "chat confirms each batch by history.stored on chat.events.",
    producers=("importer",),
    consumers=("chat services",),
    types=(HISTORY_USERS, HISTORY_CHANNELS, HISTORY_MESSAGES, HISTORY_WITHDRAWN),
    retention_ms=30 * DAY_MS,
)
DEAD_LETTERS = Topic(
    name="dead.letters",
    key="as in the original topic",
    about="Records that no retry can process, with the reason, original topic, partition and offset.",
    producers=("delivery", "sync", "importer"),
    consumers=("operators",),
    payload=DeadLetter,
    partitions=1,
    retention_ms=30 * DAY_MS,
)

TOPICS: tuple[Topic, ...] = (
    WEBHOOKS_RECEIVED,
    CHAT_EVENTS,
    INTEGRATION_EVENTS,
    DELIVERY_REQUESTED,
    CHAT_INBOUND,
    CHAT_SIGNALS,
    SYNC_REQUESTED,
    CHAT_HISTORY,
    DEAD_LETTERS,
)


def topics_of(service: str) -> list[Topic]:
    """Return the topics that a service publishes to or consumes."""
    return [topic for topic in TOPICS if service in (*topic.producers, *topic.consumers)]
