"""The endpoint states of the partitions that this process owns, and the permits that they share."""

from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from typing import Final

from services.delivery.engine.clock import loop_time
from services.delivery.engine.endpoint_state import EndpointState
from services.delivery.log.due_deliveries import DueDeliveries
from services.delivery.log.endpoint_health import EndpointHealthRecords
from services.delivery.model.outgoing_webhook import OutgoingWebhook
from services.delivery.settings import DeliverySettings
from shared.runtime import metrics
from shared.runtime.clock import utcnow

_BUSY_INTERVAL_S: Final = 0.25
_RESERVED_DIVISOR: Final = 10
"""One permit in so many is reserved for workspaces without attempts in flight."""


class EndpointStates:
    """The endpoint states by webhook."""

    def __init__(
        self,
        due_deliveries: DueDeliveries,
        endpoint_health: EndpointHealthRecords,
        settings: DeliverySettings,
    ) -> None:
        self._due_deliveries = due_deliveries
        self._endpoint_health = endpoint_health
        self._settings = settings
        self._owned: set[int] = set()
        self._assignment = -1
        self._states: dict[str, EndpointState] = {}
        self._in_flight = 0
        self._in_flight_by_workspace: Counter[str] = Counter()
        metrics.OLDEST_DUE.set_function(self.oldest_due_s)

    def available_permits(self, workspace: str) -> int:
        """Return how many more attempts of a workspace this process may start.

        A workspace may have as many attempts in flight as permits stay free for others: one workspace alone
        gets half of all, two get a third each. A tenth is reserved for workspaces without attempts in flight,
        one attempt each. Without it, ten workspaces with hanging attempts would leave nothing for the
        eleventh.
        """
        free = max(0, self._settings.most_in_flight - self._in_flight)
        own_in_flight = self._in_flight_by_workspace[workspace]
        reserved = self._settings.most_in_flight // _RESERVED_DIVISOR
        # A workspace without attempts in flight always gets one.
        first_permit = 1 if own_in_flight == 0 and free else 0
        return max(first_permit, min((free - own_in_flight + 1) // 2, free - reserved))

    def acquire(self, state: EndpointState, webhook: OutgoingWebhook, count: int = 1) -> None:
        """Take permits for `count` attempts that start now."""
        state.workspace = webhook.workspace
        self._in_flight += count
        self._in_flight_by_workspace[webhook.workspace] += count
        state.acquire(webhook, count)

    def release(self, state: EndpointState, count: int) -> None:
        """Return `count` unused permits."""
        self._release_permits(state, count)
        state.release(count)

    def finish(self, state: EndpointState) -> None:
        """Return the permit of an attempt that ended, whatever its outcome."""
        self._release_permits(state, 1)
        state.finish()

    def _release_permits(self, state: EndpointState, count: int) -> None:
        self._in_flight -= count
        self._in_flight_by_workspace[state.workspace] -= count
        if self._in_flight_by_workspace[state.workspace] <= 0:
            del self._in_flight_by_workspace[state.workspace]

    def state(self, webhook_id: str, partition: int) -> EndpointState:
        """Return the state of a webhook's endpoint; create it if there is none."""
        state = self._states.get(webhook_id)
        if state is None:
            state = self._states[webhook_id] = EndpointState(webhook_id, partition, self._settings.breaker)
        return state

    async def follow_assignment(self, assignment: int, partitions: Iterable[int]) -> None:
        """Drop the states of lost partitions, and load open deliveries of gained ones.

        With a new assignment number, open deliveries of all partitions are loaded: another process may have
        owned a partition in between, even if this process had it before and has it again. Raises
        `DatabaseUnavailable`.
        """
        assigned = set(partitions)
        lost, gained = self._owned - assigned, assigned - self._owned
        if lost:
            # Tasks that still use a state see `lost` and end.
            for state in [state for state in self._states.values() if state.partition in lost]:
                state.lost = True
                del self._states[state.webhook_id]
            self._owned -= lost
        # A partition of both assignments may have had another owner in between.
        to_load = assigned if assignment != self._assignment else gained
        if to_load:
            health_records = await self._endpoint_health.unhealthy(gained) if gained else []
            open_webhooks = await self._due_deliveries.open_webhooks(to_load)
            # Leases of a killed predecessor in this process's place need not be waited for.
            await self._due_deliveries.release_leases(open_webhooks)
            # Restore holds and circuits before anything may start.
            for health in health_records:
                self.state(health.id, health.partition).restore(health)
            for webhook_id, partition in open_webhooks.items():
                self.state(webhook_id, partition).note_due(utcnow())
            self._owned |= gained
        self._assignment = assignment

    def is_loaded(self, assignment: int) -> bool:
        """Return whether the open deliveries of this assignment are loaded."""
        return self._assignment == assignment

    def due_states(self, now: datetime) -> list[EndpointState]:
        """Return the states with due deliveries that no task drains, the longest overdue first."""
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

    def oldest_due_s(self) -> float:
        """Return the age of the oldest due delivery that waits for the hub, in seconds; 0 if none does."""
        now = utcnow()
        return max((state.overdue_s(now) for state in self._states.values() if state.next_due), default=0.0)

    def seconds_until_next_poll(self, max_s: float) -> float:
        """Return the seconds until a delivery is due or a paused state may continue, at most `max_s`."""
        now, loop_now = utcnow(), loop_time()
        wait_s = max_s
        for state in self._states.values():
            if state.next_due is None:
                continue
            state_wait_s = max((state.next_due - now).total_seconds(), state.not_before - loop_now)
            # A search that is in progress changes these times. After one, what is overdue is not searched
            # again at once.
            if state.draining or state_wait_s <= 0:
                state_wait_s = _BUSY_INTERVAL_S
            wait_s = min(wait_s, state_wait_s)
        return wait_s
