"""The delivery requests in memory: of one webhook, from their records until the log has them."""

import asyncio
from collections import deque
from time import thread_time
from typing import Final

from services.delivery.engine.clock import loop_time
from services.delivery.engine.direct_request import DirectRequest
from services.delivery.engine.endpoint_state import EndpointState
from services.delivery.model.delivery import DeliveryRequest
from services.delivery.model.outgoing_webhook import OutgoingWebhook
from shared.runtime.kafka.batch import Completion

_MIN_PATIENCE: Final = 0.25
"""The share of the time that counts even if this process had no processor for all of it."""


class OpenDelivery:
    """One request. `since` is the loop time of the arrival of its record, or of its event's."""

    __slots__ = ("completions", "lease", "request", "since", "started_at")

    def __init__(self, request: DeliveryRequest, since: float) -> None:
        self.request = request
        self.since = since
        self.completions: list[Completion | DirectRequest] = []
        """Of the request's record, and of its repeats that came before the log had it."""
        self.started_at = 0.0
        """The patience clock's time at which its attempt started."""
        self.lease: asyncio.Future[bool] | None = None
        """None without a lease. Ends when the lease of its attempt was written: True if the log has it."""

    def is_lost(self) -> bool:
        """Return whether another process handles the request now: its partition was revoked."""
        return all(completion.is_revoked for completion in self.completions)

    def give_back(self) -> None:
        """Leave the request to the next owner of its partition: the log does not have it."""
        for completion in self.completions:
            if isinstance(completion, DirectRequest):
                completion.give_back()

    def complete(self, error: Exception | None) -> None:
        """Complete the records. One dead letter is enough for an error."""
        *repeats, last = self.completions
        for repeat in repeats:
            repeat.done()
        # The last record is of the current assignment, if one of them is.
        if error is None:
            last.done()
        else:
            last.fail(error)


class EndpointQueue:
    """The open requests of one webhook, in the order of their records."""

    __slots__ = ("in_flight", "progress_at", "state", "unacknowledged", "waiting", "webhook")

    def __init__(self, webhook: OutgoingWebhook, state: EndpointState) -> None:
        self.webhook = webhook
        self.state = state
        self.waiting: deque[OpenDelivery] = deque()
        self.in_flight: dict[str, OpenDelivery] = {}
        self.progress_at = 0.0
        """The patience clock's time at which an attempt last ended, or started as the only one."""
        self.unacknowledged = 0
        """Entries on their way to the log that later requests have to wait for if the webhook is strict.

        They are counted for each webhook: it can become strict at any time.
        """

    @property
    def is_empty(self) -> bool:
        """True if nothing depends on it any more."""
        return not (self.waiting or self.in_flight or self.unacknowledged)

    @property
    def goes_to_log(self) -> bool:
        """True if a strict webhook's requests have to wait in the log, behind an earlier open delivery."""
        return self.state.next_due is not None or any(
            delivery.lease is not None for delivery in self.in_flight.values()
        )


class PatienceClock:
    """Measures how long endpoints were waited for: time in which this process could have heard them.

    The processor time of this thread does not count, and neither does the time by which a tick was late: a
    machine that is short of processors is not a slow endpoint.
    """

    def __init__(self, interval_s: float) -> None:
        """Initialise; `interval_s` is the time in which the next call of `tick` is due."""
        self.now = 0.0
        self._interval_s = interval_s
        self._at = self._cpu = 0.0

    def start(self) -> None:
        """Measure from now on."""
        self._at, self._cpu = loop_time(), thread_time()

    def tick(self) -> None:
        """Add the time since `start` or the last tick."""
        at, cpu = self._at, self._cpu
        self.start()
        elapsed = self._at - at
        own = max(self._cpu - cpu, elapsed - self._interval_s)
        self.now += max(elapsed - own, elapsed * _MIN_PATIENCE)
