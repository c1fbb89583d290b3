"""Batches of delivery requests whose results are not in the delivery log yet."""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from services.delivery.engine.endpoint_state import EndpointState
from services.delivery.model.delivery import DeliveryRequest
from services.delivery.model.outgoing_webhook import OutgoingWebhook
from shared.runtime.kafka.consumer import ConsumedEvent
from shared.runtime.mongo import Write


class WebhookBatch:
    """The part of a batch that goes to one webhook."""

    def __init__(
        self, webhook: OutgoingWebhook, endpoint_state: EndpointState, requests: Sequence[DeliveryRequest]
    ) -> None:
        self.webhook = webhook
        self.endpoint_state = endpoint_state
        self.queue = deque(requests)
        self.under_way: dict[str, DeliveryRequest] = {}
        self.writes: list[tuple[DeliveryRequest, Write]] = []
        self.next_due: datetime | None = None
        """Passed to the lane when `writes` are in the log: a look before that would find nothing due."""
        self.previous: WebhookBatch | None = None
        """Of a strict webhook, the run whose end this one waits for."""
        self.ended = asyncio.Event()
        self._closed = False

    @property
    def closed(self) -> bool:
        """The batch has ended: what is under way is in the log as leased."""
        return self._closed

    @property
    def is_complete(self) -> bool:
        """Every delivery of the run is finished."""
        return self.ended.is_set() and not (self.queue or self.under_way or self.next_due)

    def close(self) -> None:
        self._closed = True
        self.ended.set()

    def due(self, at: datetime) -> None:
        """One of `writes` is open and due at this time."""
        if self.next_due is None or at < self.next_due:
            self.next_due = at


@dataclass(slots=True)
class RecordBatch:
    """A batch whose results are not in the log."""

    received: dict[str, ConsumedEvent]
    """The records, by the id of their delivery."""
    size: int
    """Bytes of the records."""
    webhook_batches: list[WebhookBatch] = field(default_factory=list)
    attempted: asyncio.Task[None] | None = None
    """Ends when the batch no longer waits for attempts."""
    saved: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_ready(self) -> bool:
        return self.attempted is None or self.attempted.done()

    def first_offset(self, partition: int) -> int | None:
        """Return the lowest offset that the batch has of a partition."""
        offsets = (each.offset for each in self.received.values() if each.partition == partition)
        return min(offsets, default=None)
