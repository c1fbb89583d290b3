"""`interlink send`: publish a test event on a topic, as a chat service would."""

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


def read_data(argument: str) -> bytes:
    """Return the event's data: the argument itself, the content of `@file`, or standard input for `-`.

    Raises `Misconfigured` if it is not JSON or the file cannot be read.
    """
    if argument == "-":
        data = sys.stdin.buffer.read()
    elif argument.startswith("@"):
        try:
            data = Path(argument[1:]).read_bytes()
        except OSError as error:
            raise Misconfigured(f"--data {argument}: {error.strerror}") from None
    else:
        data = argument.encode()
    try:
        parse_json(data)
    except Malformed as error:
        raise Misconfigured(f"--data: {error}") from None
    return data


def new_event(event_type: str, data: bytes, *, subject: str, source: str, workspace: str) -> Event:
    """Return an event with a new id and the current time."""
    return Event(new_event_id(), event_type, source, workspace, now(), data, subject)


async def publish(topic_name: str, event: Event) -> None:
    """Publish the event with its subject as key, and wait for the broker's acknowledgement.

    Raises `Misconfigured` if the topic is unknown, and `BrokerUnavailable` if there is no broker or no
    acknowledgement.
    """
    topic = next((topic for topic in TOPICS if topic.name == topic_name), None)
    if topic is None:
        raise Misconfigured(
            f"--topic {topic_name}: has to be one of {', '.join(topic.name for topic in TOPICS)}"
        )
    producer = Producer(load(KafkaSettings), configure("send", "error"), client_id="interlink-send")
    producer.start()
    try:
        await producer.wait_ready(_CONNECT_TIMEOUT_S)
        await producer.publish(
            event_record(topic, event.subject or event.id, event), timeout_s=_ACK_TIMEOUT_S
        )
    finally:
        await producer.stop()
