"""Which share of the attempts under way a workspace may have."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from services.delivery.engine.endpoint_states import EndpointStates
from services.delivery.log.due_deliveries import DueDeliveries
from services.delivery.log.endpoint_health import EndpointHealthRecords
from services.delivery.model.outgoing_webhook import OutgoingWebhook
from services.delivery.settings import DeliverySettings

SLOTS = 1_000


def endpoint_states() -> EndpointStates:
    """Return endpoint states without any loaded webhook."""
    settings = DeliverySettings(most_in_flight=SLOTS)
    return EndpointStates(cast("DueDeliveries", None), cast("EndpointHealthRecords", None), settings)


def taken(states: EndpointStates, workspace: str) -> int:
    """How many attempts of a workspace start that has more than enough due, one after the other."""
    webhook: Any = SimpleNamespace(workspace=workspace, rate_limit=None)
    state = states.state(workspace, 0)
    count = 0
    while states.available_permits(workspace):
        states.acquire(state, cast("OutgoingWebhook", webhook))
        count += 1
    return count


def test_one_workspace_has_half_and_the_next_ones_less() -> None:
    async def check() -> None:
        states = endpoint_states()
        assert [taken(states, name) for name in "abc"] == [500, 250, 125]

    asyncio.run(check())


def test_whoever_has_nothing_under_way_finds_a_slot_while_those_of_many_hang() -> None:
    async def check() -> None:
        states = endpoint_states()
        hanging = [taken(states, f"hanging-{number}") for number in range(40)]
        assert sum(hanging) < SLOTS
        assert taken(states, "late") == 1

    asyncio.run(check())
