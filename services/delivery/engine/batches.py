"""Batches of delivery requests whose results are not in the delivery log yet."""

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from services.delivery.engine.endpoint_state import EndpointState
from services.delivery.model.delivery import DeliveryRequest
from services.delivery.model.outgoing_webhook import OutgoingWebhook
from shared.runtime.kafka.batch import Completion
from shared.runtime.mongo import Write


class WebhookBatch:
    """The requests of a batch that go to one webhook."""

    def __init__(
        self, webhook: OutgoingWebhook, endpoint_state: EndpointState, requests: Sequence[DeliveryRequest]
    ) -> None:
        self.webhook = webhook
        self.endpoint_state = endpoint_state
        self.queue = deque(requests)
        self.in_flight: dict[str, DeliveryRequest] = {}
        self.writes: list[tuple[DeliveryRequest, Write]] = []
        self.next_due: datetime | None = None
        """When the first open delivery of `writes` is due.

        The endpoint state gets it only after `writes` are in the log: an earlier search would not find the
        delivery.
        """
        self.previous: WebhookBatch | None = None
        """For a strict webhook, the webhook batch whose end this one waits for."""
        self.ended = asyncio.Event()
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether the batch takes no more results: an attempt that ends later writes its own."""
        return self._closed

    @property
    def is_complete(self) -> bool:
        """Whether every delivery is finished."""
        return self.ended.is_set() and not (self.queue or self.in_flight or self.next_due)

    def close(self) -> None:
        """Take no more results: the batch waits no longer for the attempts in flight."""
        self._closed = True
        self.ended.set()

    def note_due(self, at: datetime) -> None:
        """Note that one of `writes` is open and due at this time."""
        if self.next_due is None or at < self.next_due:
            self.next_due = at


@dataclass(slots=True)
class RecordBatch:
    """The requests of a poll whose results are not in the log."""

    batches: list[WebhookBatch] = field(default_factory=list)
    completions: dict[str, list[Completion]] = field(default_factory=dict)
    """By delivery id: of the request's record, and of its repeats that came before it was saved."""
    workers_done: asyncio.Task[None] | None = None
    """Ends when the batch no longer waits for attempts."""
    saved: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_ready(self) -> bool:
        """Whether the batch can be written."""
        return self.workers_done is None or self.workers_done.done()

    def complete(self, rejected: Mapping[str, Exception]) -> None:
        """Complete the records: all are in the log, except the deliveries that MongoDB rejected."""
        for delivery_id, completions in self.completions.items():
            *repeats, last = completions
            for repeat in repeats:
                repeat.done()
            # One dead letter is enough. The last record is of the current assignment, if one of them is.
            if (error := rejected.get(delivery_id)) is not None:
                last.fail(error)
            else:
                last.done()
        self.saved.set()
