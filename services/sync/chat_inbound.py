"""Build the records of `chat.inbound`: the key is the channel, which keeps the order of its events."""

from typing import Final

from shared.contracts.envelope import Event
from shared.contracts.messages import Payload
from shared.contracts.topics import CHAT_INBOUND
from shared.runtime.kafka.producer import Record, event_record

SOURCE: Final = "/sync"


def inbound_record(
    event_type: str,
    payload: Payload,
    channel: str,
    *,
    event_id: str,
    workspace: str,
    time: str,
    traceparent: str,
) -> Record:
    """Return the record of an event for a channel of the chat.

    `time` is in RFC 3339. `traceparent` is that of the cause, so that a repeat has the same headers.
    """
    event = Event(
        id=event_id,
        type=event_type,
        source=SOURCE,
        workspace=workspace,
        time=time,
        data=payload.model_dump_json().encode(),
        subject=channel,
        traceparent=traceparent,
    )
    return event_record(CHAT_INBOUND, channel, event)
