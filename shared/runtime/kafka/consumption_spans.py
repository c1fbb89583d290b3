"""Spans of consumed records, from the poll until their effects are durable."""

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from shared.runtime.kafka.batch import OpenRecord

if TYPE_CHECKING:
    from shared.runtime.spans import Attributes, Tracer


def begin_consumption(tracer: "Tracer", record: OpenRecord, group: str) -> None:
    """Start the span of a record, if its trace is recorded, and give its event the span's context."""
    consumed = record.event
    if consumed is None:
        return
    event = consumed.event
    attributes: Attributes = {
        "messaging.system": "kafka",
        "messaging.operation.type": "process",
        "messaging.operation.name": "process",
        "messaging.destination.name": consumed.topic,
        "messaging.destination.partition.id": str(consumed.partition),
        "messaging.kafka.offset": consumed.offset,
        "messaging.consumer.group.name": group,
        "messaging.message.id": event.id,
        "messaging.message.body.size": len(event.data),
        "cloudevents.event_type": event.type,
        "interlink.workspace": event.workspace,
    }
    record.span = tracer.start(f"process {consumed.topic}", "consumer", event.traceparent, attributes)
    if record.span is not None:
        record.event = replace(consumed, event=event._replace(traceparent=record.span.traceparent))


def end_consumption(records: Iterable[OpenRecord]) -> None:
    """End the spans of records that are complete."""
    for record in records:
        if record.span is not None:
            record.span.end()
