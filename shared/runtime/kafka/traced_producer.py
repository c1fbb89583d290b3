"""A producer with a span for each record of a recorded trace."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from shared.runtime.kafka.producer import Producer, Record, RecordPosition
from shared.runtime.logs import Log
from shared.runtime.settings import KafkaSettings

if TYPE_CHECKING:
    from shared.runtime.spans import Attributes, Span, Tracer

_TRACEPARENT: Final = "traceparent"


class TracedProducer(Producer):
    """Sends records whose `traceparent` is the context of their span."""

    def __init__(self, settings: KafkaSettings, log: Log, *, client_id: str, tracer: "Tracer") -> None:
        super().__init__(settings, log, client_id=client_id)
        self._tracer = tracer

    async def publish(self, record: Record, *, timeout_s: float) -> RecordPosition:
        """Publish one record; see `Producer.publish`."""
        span = self._start(record)
        if span is None:
            return await super().publish(record, timeout_s=timeout_s)
        with span:
            return await super().publish(_with_context(record, span), timeout_s=timeout_s)

    async def publish_all(self, records: Sequence[Record], *, timeout_s: float) -> list[RecordPosition]:
        """Publish records in order; see `Producer.publish_all`."""
        spans: list[Span | None] = []
        sent: list[Record] = []
        for record in records:
            span = self._start(record)
            spans.append(span)
            sent.append(record if span is None else _with_context(record, span))
        with ExitStack() as started:
            for span in filter(None, spans):
                started.enter_context(span)
            return await super().publish_all(sent, timeout_s=timeout_s)

    def _start(self, record: Record) -> "Span | None":
        headers = dict(record.headers)
        parent = headers.get(_TRACEPARENT)
        if parent is None:
            return None  # a record that begins nothing, such as a dead letter of a foreign one
        attributes: Attributes = {
            "messaging.system": "kafka",
            "messaging.operation.type": "send",
            "messaging.operation.name": "send",
            "messaging.destination.name": record.topic.name,
            "messaging.message.id": headers.get("ce_id", b"").decode("utf-8", "replace"),
            "messaging.message.body.size": len(record.value),
            "cloudevents.event_type": headers.get("ce_type", b"").decode("utf-8", "replace"),
        }
        name = f"send {record.topic.name}"
        return self._tracer.start(name, "producer", parent.decode("latin-1"), attributes)


def _with_context(record: Record, span: "Span") -> Record:
    """Return the record with the context of its span. The given one may be published again."""
    headers = [
        (name, span.traceparent.encode() if name == _TRACEPARENT else value) for name, value in record.headers
    ]
    return record._replace(headers=headers)
