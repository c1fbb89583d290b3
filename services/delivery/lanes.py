"""Lanes: what this process knows of each outgoing webhook whose partition it owns.

A partition has one owner, so the most attempts in flight, the order of a strict webhook and the next
due time need no lock across processes. A lane that was slow is never waited for.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Final

from services.delivery.store import Deliveries
from services.delivery.subscriptions import Webhook
from shared.runtime.mongo import utcnow

SLOW_S: Final = 0.2


class Lane:
    """One webhook's deliveries in this process; `next_due` is None while nothing is open in the log."""

    __slots__ = ("draining", "in_flight", "lost", "next_due", "partition", "slow", "version", "webhook_id")

    def __init__(self, webhook_id: str, partition: int) -> None:
        self.webhook_id = webhook_id
        self.partition = partition
        self.in_flight = 0
        self.slow = False
        self.draining = False
        self.lost = False
        self.version = 0
        self.next_due: datetime | None = None

    def free(self, webhook: Webhook) -> int:
        """How many more attempts may start now; a strict webhook has one at a time."""
        most = 1 if webhook.strict else webhook.max_in_flight
        return max(0, most - self.in_flight)

    def due(self, at: datetime) -> None:
        """Something in the log is open and due at this time."""
        self.version += 1
        if self.next_due is None or at < self.next_due:
            self.next_due = at


class Lanes:
    """The lanes of the partitions that this process owns."""

    def __init__(self, deliveries: Deliveries) -> None:
        self._deliveries = deliveries
        self._owned: set[int] = set()
        self._lanes: dict[str, Lane] = {}

    def lane(self, webhook_id: str, partition: int) -> Lane:
        lane = self._lanes.get(webhook_id)
        if lane is None:
            lane = self._lanes[webhook_id] = Lane(webhook_id, partition)
        return lane

    async def own(self, partitions: Iterable[int]) -> None:
        """Follow the assignment: forget lanes that went away, load what is open of those that came."""
        wanted = set(partitions)
        gone, came = self._owned - wanted, wanted - self._owned
        if gone:
            for lane in [lane for lane in self._lanes.values() if lane.partition in gone]:
                lane.lost = True
                del self._lanes[lane.webhook_id]
            self._owned -= gone
        if came:
            for webhook_id, partition in (await self._deliveries.backlogs(came)).items():
                self.lane(webhook_id, partition).due(utcnow())
            self._owned |= came

    def due(self, now: datetime) -> list[Lane]:
        """Lanes with something due that nobody is draining, the longest due first."""
        due = [
            lane
            for lane in self._lanes.values()
            if lane.next_due is not None and lane.next_due <= now and not lane.draining
        ]
        return sorted(due, key=lambda lane: lane.next_due or now)
