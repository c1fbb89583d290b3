"""A test event onto a topic, as a chat service would publish it."""

import sys
from pathlib import Path
from typing import Final

from shared.contracts.envelope import Event, now
from shared.contracts.errors import Malformed, Misconfigured
from shared.contracts.ids import new_event_id
from shared.contracts.topics import TOPICS
from shared.runtime.kafka.producer import Producer, event_record
from shared.runtime.logs import configure
from shared.runtime.settings import KafkaSettings, load
from shared.wire.bodies import parse_json

_CONNECT_TIMEOUT_S: Final = 5.0
_ACK_TIMEOUT_S: Final = 10.0


def read_data(given: str) -> bytes:
    """The event's data: JSON text as it was given, from `@file`, or from standard input for `-`.

    Raises `Misconfigured` when it is not JSON or the file cannot be read.
    """
    if given == "-":
        data = sys.stdin.buffer.read()
    elif given.startswith("@"):
        try:
            data = Path(given[1:]).read_bytes()
        except OSError as error:
            raise Misconfigured(f"--data {given}: {error.strerror}") from None
    else:
        data = given.encode()
    try:
        parse_json(data)
    except Malformed as error:
        raise Misconfigured(f"--data: {error}") from None
    return data


def new_event(kind: str, data: bytes, *, subject: str, source: str, workspace: str) -> Event:
    """An event with a new id and the time of now."""
    return Event(new_event_id(), kind, source, workspace, now(), data, subject)


async def publish(topic_name: str, event: Event) -> None:
    """Put the event on the topic, keyed by its subject, and wait for the ack.

    Raises `Misconfigured` for an unknown topic, `BrokerUnavailable` when there is no broker or no ack.
    """
    topic = next((topic for topic in TOPICS if topic.name == topic_name), None)
    if topic is None:
        raise Misconfigured(f"--topic {topic_name}: one of {', '.join(each.name for each in TOPICS)}")
    producer = Producer(load(KafkaSettings), configure("send", "error"), client_id="interlink-send")
    producer.start()
    try:
        await producer.wait_ready(_CONNECT_TIMEOUT_S)
        await producer.publish(
            event_record(topic, event.subject or event.id, event), timeout_s=_ACK_TIMEOUT_S
        )
    finally:
        await producer.stop()
