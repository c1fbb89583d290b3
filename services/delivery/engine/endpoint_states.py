"""The endpoint states of the partitions that this process owns, and the permits that they share."""

from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from typing import Final

from services.delivery.engine.clock import loop_time
from services.delivery.engine.endpoint_state import EndpointState
from services.delivery.log.deliveries import Deliveries
from services.delivery.log.endpoint_health import EndpointHealthRecords
from services.delivery.model.outgoing_webhook import OutgoingWebhook
from services.delivery.settings import DeliverySettings
from shared.runtime.mongo import utcnow

_RESERVED_DIVISOR: Final = 10
"""One slot in so many is for workspaces with nothing under way."""


class EndpointStates:
    """The lanes of the partitions that this process owns, and the room that they share."""

    def __init__(
        self, deliveries: Deliveries, endpoint_health: EndpointHealthRecords, settings: DeliverySettings
    ) -> None:
        self._deliveries = deliveries
        self._endpoint_health = endpoint_health
        self._settings = settings
        self._owned: set[int] = set()
        self._assignment = -1
        self._states: dict[str, EndpointState] = {}
        self._in_flight = 0
        self._in_flight_by_workspace: Counter[str] = Counter()

    def available_permits(self, workspace: str) -> int:
        """How many more attempts of a workspace this process may start.

        A workspace has no more under way than are free for others then: one alone gets half of all, two get
        a third each. The last tenth is for workspaces with nothing under way, one attempt each: halves of
        halves would leave none for the eleventh that comes while the attempts of ten hang.
        """
        free = max(0, self._settings.most_in_flight - self._in_flight)
        own_in_flight = self._in_flight_by_workspace[workspace]
        reserved = self._settings.most_in_flight // _RESERVED_DIVISOR
        first_permit = 1 if own_in_flight == 0 and free else 0
        return max(first_permit, min((free - own_in_flight + 1) // 2, free - reserved))

    def acquire(self, state: EndpointState, webhook: OutgoingWebhook, count: int = 1) -> None:
        """These many attempts of a lane start now."""
        state.workspace = webhook.workspace
        self._in_flight += count
        self._in_flight_by_workspace[webhook.workspace] += count
        state.acquire(webhook, count)

    def release(self, state: EndpointState, count: int) -> None:
        """These many of them were not needed."""
        self._release_permits(state, count)
        state.release(count)

    def finish(self, state: EndpointState) -> None:
        """One of them has ended, however it did."""
        self._release_permits(state, 1)
        state.finish()

    def _release_permits(self, state: EndpointState, count: int) -> None:
        self._in_flight -= count
        self._in_flight_by_workspace[state.workspace] -= count
        if self._in_flight_by_workspace[state.workspace] <= 0:
            del self._in_flight_by_workspace[state.workspace]

    def state(self, webhook_id: str, partition: int) -> EndpointState:
        state = self._states.get(webhook_id)
        if state is None:
            state = self._states[webhook_id] = EndpointState(webhook_id, partition, self._settings.breaker)
        return state

    async def follow_assignment(self, assignment: int, partitions: Iterable[int]) -> None:
        """Follow the assignment: forget lanes that went away, load what is open of those that came.

        With a new number of the assignment, all may have come: whoever owned a partition in between may have
        left something open, also if this process has the partition again by the time that it looks.
        """
        assigned = set(partitions)
        lost, gained = self._owned - assigned, assigned - self._owned
        if lost:
            for state in [state for state in self._states.values() if state.partition in lost]:
                state.lost = True
                del self._states[state.webhook_id]
            self._owned -= lost
        to_load = assigned if assignment != self._assignment else gained
        if to_load:
            health_documents = await self._endpoint_health.unhealthy(gained) if gained else []
            open_webhooks = await self._deliveries.open_webhooks(to_load)
            await self._deliveries.release_leases(open_webhooks)
            for health in health_documents:
                self.state(health["_id"], health["partition"]).restore(health)
            for webhook_id, partition in open_webhooks.items():
                self.state(webhook_id, partition).note_due(utcnow())
            self._owned |= gained
        self._assignment = assignment

    def due_states(self, now: datetime) -> list[EndpointState]:
        """Lanes with something due that nobody is draining, the longest due first."""
        loop_now = loop_time()
        due = [
            state
            for state in self._states.values()
            if state.next_due is not None
            and state.next_due <= now
            and state.not_before <= loop_now
            and not state.draining
        ]
        return sorted(due, key=lambda state: state.next_due or now)

    def seconds_until_next_poll(self, max_s: float) -> float:
        """Seconds until a lane that rests may go on, at most so many."""
        loop_now = loop_time()
        waits = (
            state.not_before - loop_now
            for state in self._states.values()
            if state.not_before > loop_now and state.next_due is not None
        )
        return min(max_s, min(waits, default=max_s))
