"""Show how a chat service works with the hub: four topics, and nothing imported from the hub.

It consumes `chat.inbound` (messages from elsewhere, and what became of its own), publishes what its people
do on `chat.events`, does both with typing on `chat.signals`, and stores what an import brings on
`chat.history`. docs/reference/chat-contract.md has an example of every event. Copy this file, and use
`inbound`, `signals`, `history`, `publish`, `signal` and `confirm` in your service.

A chat that stores messages under ids of its own publishes `message.created` for each message of
`chat.inbound`, with the hub's id in `origin.message_id`. This one uses the hub's ids, so it says nothing.
"""

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from os import environ
from pathlib import Path
from typing import Annotated, Any

from aiokafka import ConsumerRecord
from aiokafka.errors import KafkaError
from faststream import AckPolicy, Context
from faststream.exceptions import FastStreamException
from faststream.kafka import KafkaBroker
from faststream.security import SASLPlaintext

WORKSPACE = environ.get("MINICHAT_WORKSPACE", "default")
ACK_TIMEOUT_S = 5
SIGNAL_TTL_S = 10
SESSION_MS = int(environ.get("KAFKA_SESSION_TIMEOUT_MS", "10000"))

Workspace = Annotated[str, Context("message.headers.workspace")]
EventType = Annotated[str, Context("message.headers.ce_type")]
Data = dict[str, Any]
"""The data of an event, snake_case. `text` is untrusted Markdown."""


def login() -> SASLPlaintext | None:
    """Return the login for the broker; None if the environment has none."""
    if "KAFKA_SASL_USERNAME" not in environ:
        return None
    password = Path(environ["KAFKA_SASL_PASSWORD_FILE"]).read_text("utf-8").strip()
    return SASLPlaintext(environ["KAFKA_SASL_USERNAME"], password)


broker = KafkaBroker(
    environ.get("KAFKA_BOOTSTRAP_SERVERS", "localhost:9092").split(","),
    security=login(),
    client_id="minichat",
    acks="all",  # by every in-sync replica; the default is one
    enable_idempotence=environ.get("KAFKA_ENABLE_IDEMPOTENCE", "true") == "true",
    allow_auto_create_topics=False,  # the hub creates them, with their partitions and retention
)


async def parse_readable(record: ConsumerRecord, parse: Any) -> Any:
    """Replace headers that are null or not text: because of one, FastStream would lose the whole message."""
    record.headers = [(name, (raw or b"").decode(errors="replace").encode()) for name, raw in record.headers]
    return await parse(record)


# Decorates the handler. Delivery is at least once: an event that was handled before must change nothing.
inbound = broker.subscriber(
    "chat.inbound",
    # A page without a database reads everything again at each start, so its group is new each time. A service
    # that stores messages has one fixed group: its replicas share the work and continue where they stopped.
    group_id=f"minichat-{uuid.uuid4()}",
    auto_offset_reset="earliest",  # the default, latest, skips what was published before the group joined
    ack_policy=AckPolicy.ACK,  # commit after the handler: store first, then return
    parser=parse_readable,
    session_timeout_ms=SESSION_MS,
    heartbeat_interval_ms=SESSION_MS // 4,
)
# Decorates the handler of imports, which stores a batch and then calls `confirm`. A batch that comes again is
# confirmed again: the import waits for it.
history = broker.subscriber(
    "chat.history",
    group_id=f"minichat-{uuid.uuid4()}",  # new each time, as above
    auto_offset_reset="earliest",
    ack_policy=AckPolicy.ACK,
    parser=parse_readable,
    session_timeout_ms=SESSION_MS,
    heartbeat_interval_ms=SESSION_MS // 4,
)
# Without a group: every process shows who types, and nobody needs to know later.
signals = broker.subscriber("chat.signals", auto_offset_reset="latest", parser=parse_readable)


def is_current(signal: Mapping[str, Any]) -> bool:
    """Return whether a signal is young enough to be shown."""
    try:
        age = datetime.now(UTC) - datetime.fromisoformat(signal["at"])
    except (KeyError, TypeError, ValueError):
        return False
    return age.total_seconds() < SIGNAL_TTL_S


async def connect() -> None:
    """Start the Kafka clients as soon as there is a broker. Afterwards they reconnect by themselves."""
    while True:
        try:
            return await broker.start()
        except (KafkaError, OSError):
            await broker.stop()
            await asyncio.sleep(1)


def now() -> str:
    """Return the current time as the contract writes times."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


async def publish(event_type: str, data: Data) -> bool:
    """Publish an event of the chat, in order per channel. Return False if Kafka did not acknowledge it."""
    return await _publish("chat.events", event_type, data, key=data["channel_id"])


async def signal(author: Mapping[str, str], channel: str) -> bool:
    """Publish that somebody types in a channel. Return False if Kafka did not acknowledge it."""
    data = {"kind": "typing", "channel_id": channel, "author": author, "state": "started", "at": now()}
    return await _publish("chat.signals", "chat.signal", data, key=channel)


async def confirm(batch: Mapping[str, Any], duplicates: Sequence[str], rejected: Mapping[str, str]) -> None:
    """Confirm a batch of an import, after it is stored. It returns when Kafka has acknowledged that.

    `duplicates` are the ids of messages that the chat had already, live or from another import; `rejected`
    has those that it did not store, or did not remove, with the reason.
    """
    data = {
        "import_id": batch["import_id"],
        "batch_id": batch["batch_id"],
        "duplicates": duplicates,
        "rejected": [{"message_id": key, "reason": reason} for key, reason in rejected.items()],
    }
    while True:
        if await _publish("chat.events", "history.stored", data, key=batch["import_id"]):
            return
        await asyncio.sleep(1)


async def _publish(topic: str, event_type: str, data: Data, *, key: str) -> bool:
    headers = {  # a CloudEvent in Kafka's binary mode
        "ce_specversion": "1.0",
        "ce_id": f"evt_{uuid.uuid4().hex}",  # unique within ce_source: consumers recognise duplicates by it
        "ce_type": event_type,
        "ce_source": "/minichat",
        "ce_time": now(),
        "ce_subject": key,
        "workspace": WORKSPACE,
    }
    try:
        async with asyncio.timeout(ACK_TIMEOUT_S):
            await broker.publish(data, topic=topic, key=key.encode(), headers=headers)
    except (KafkaError, FastStreamException, TimeoutError):
        return False
    return True
