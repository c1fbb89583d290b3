"""Show how a chat service works with the hub: consume `chat.inbound`, publish on `chat.events`.

The two topics are the whole interface; `/api/asyncapi.json` describes them. Nothing is imported from the hub:
copy this file, and use `inbound` and `publish` in your own service.
"""

import asyncio
import uuid
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
from pydantic import BaseModel

WORKSPACE = environ.get("MINICHAT_WORKSPACE", "default")
ACK_TIMEOUT_S = 5
SESSION_MS = int(environ.get("KAFKA_SESSION_TIMEOUT_MS", "10000"))

Workspace = Annotated[str, Context("message.headers.workspace")]
EventType = Annotated[str, Context("message.headers.ce_type")]
CREATED = "inbound.message.created"


def login() -> SASLPlaintext | None:
    """Return the login for the broker; None if the environment has none."""
    if "KAFKA_SASL_USERNAME" not in environ:
        return None
    password = Path(environ["KAFKA_SASL_PASSWORD_FILE"]).read_text("utf-8").strip()
    return SASLPlaintext(environ["KAFKA_SASL_USERNAME"], password)


broker = KafkaBroker(
    environ.get("KAFKA_BOOTSTRAP_SERVERS", "localhost:9092"),
    security=login(),
    client_id="minichat",
    acks="all",  # by every in-sync replica; the default is one
    enable_idempotence=environ.get("KAFKA_ENABLE_IDEMPOTENCE", "true") == "true",
    allow_auto_create_topics=False,  # the hub creates them, with their partitions and retention
)


class Inbound(BaseModel):
    """An event of `chat.inbound`: the fields that this service needs. `text` is untrusted Markdown.

    A deletion and a state have only the ids.
    """

    message_id: str
    channel_id: str
    text: str = ""
    sent_at: str | None = None
    author: dict[str, Any] = {}
    thread_id: str | None = None
    embeds: list[dict[str, Any]] = []
    attachments: list[dict[str, Any]] = []
    origin: dict[str, Any] = {}


async def parse_readable(record: ConsumerRecord, parse: Any) -> Any:
    """Replace headers that are null or not text: because of one, FastStream would lose the whole message."""
    record.headers = [(name, (raw or b"").decode(errors="replace").encode()) for name, raw in record.headers]
    return await parse(record)


# Decorates the handler. Delivery is at least once: `message_id` identifies a duplicate.
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


async def connect() -> None:
    """Start the Kafka clients as soon as there is a broker. Afterwards they reconnect by themselves."""
    while True:
        try:
            return await broker.start()
        except (KafkaError, OSError):
            await broker.stop()
            await asyncio.sleep(1)


async def publish(channel: str, author: str, text: str) -> Inbound | None:
    """Publish `message.created`, in order per channel. Return None if Kafka did not acknowledge it."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    message = Inbound(
        message_id=f"msg_{uuid.uuid4().hex}",
        channel_id=channel,
        text=text,
        sent_at=now,
        author={"name": author},
    )
    data = {
        "messageId": message.message_id,
        "channelId": channel,
        "content": text,
        "author": {"id": author.lower(), "username": author},
    }
    headers = {  # a CloudEvent in Kafka's binary mode
        "ce_specversion": "1.0",
        "ce_id": f"evt_{uuid.uuid4().hex}",  # unique within ce_source: consumers recognise duplicates by it
        "ce_type": "message.created",
        "ce_source": "/minichat",
        "ce_time": now,
        "ce_subject": channel,
        "workspace": WORKSPACE,
    }
    try:
        async with asyncio.timeout(ACK_TIMEOUT_S):
            await broker.publish(data, topic="chat.events", key=channel.encode(), headers=headers)
    except (KafkaError, FastStreamException, TimeoutError):
        return None
    return message
