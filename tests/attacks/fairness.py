"""A workspace that makes fan-out expensive does not make others wait: order and counts, never seconds."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from secrets import token_hex
from typing import Any

from tests.attacks.attack import Attack, Setup
from tests.support.eventually import eventually
from tests.support.hub import Hub
from tests.support.outgoing import finished, new_type, path_of, publish
from tests.support.subscriber import Subscriber

FEW_SLOTS = 20
SETUP = Setup(
    services=("gateway", "delivery"),
    env={"INTERLINK_MOST_IN_FLIGHT": str(FEW_SLOTS), "INTERLINK_CONDITION_SUSPEND_S": "3"},
)

NEIGHBOUR_EVENTS = 20


@contextmanager
def _webhooks(hub: Hub, count: int, url: str, **fields: Any) -> Iterator[list[dict[str, Any]]]:
    created = [hub.outgoing_webhook(f"{url}/{number}", **fields) for number in range(count)]
    try:
        yield created
    finally:
        for webhook in created:
            hub.call("DELETE", path_of(webhook))


def _race(hub: Hub, sink: Subscriber, kind: str, events: list[dict[str, Any]], limit: int) -> None:
    """Publish the attacker's events, then a neighbour's: at most so many requests of the attacker go first.

    All are of one conversation name, so they stand in one partition, the neighbour's behind the attacker's.
    """
    neighbour = hub.other_workspace()
    before = _handled(hub)
    subject = token_hex(4)
    with Subscriber() as beside:
        hub.call(
            "POST",
            "/api/outgoing-webhooks",
            {"name": "neighbour", "url": beside.url, "events": [kind]},
            key=neighbour,
        )
        for start in range(0, len(events), 50):
            publish(hub, kind, *events[start : start + 50], subject=subject)
        sink.wait_for(1)  # the attacker's batch is taken
        publish(
            hub, kind, *({"n": number} for number in range(NEIGHBOUR_EVENTS)), subject=subject, key=neighbour
        )
        beside.wait_for(NEIGHBOUR_EVENTS, within_s=60)
        handled = _handled(hub) - before - NEIGHBOUR_EVENTS
    assert handled <= limit, f"{handled} requests of the attacker went before the neighbour's last"


def _handled(hub: Hub) -> float:
    """Return the requests that were attempted from Kafka, and those that began without it."""
    handled = hub.metric("delivery", "interlink_handled_total", topic="delivery.requested")
    return handled + hub.metric("delivery", "interlink_direct_requests_total")


def _one_large_batch(hub: Hub) -> None:
    kind = new_type()
    events = [{"n": number, "text": "x" * 9_000} for number in range(200)]
    with Subscriber() as sink, _webhooks(hub, 20, sink.url, events=[kind]):
        _race(hub, sink, kind, events, limit=200)


def _expensive_conditions(hub: Hub) -> None:
    kind = new_type()
    events = [{"n": number, "rows": [{"a": 1}] * 950} for number in range(100)]
    condition = {"condition": "length(data.rows[?a == `1`]) == `0`"}
    with (
        Subscriber() as sink,
        _webhooks(hub, 1, sink.url, events=[kind]),
        _webhooks(hub, 40, f"{sink.url}/never", events=[kind], filter=condition),
    ):
        _race(hub, sink, kind, events, limit=50)


def _a_condition_over_its_budget(hub: Hub) -> None:
    """It is neither true nor false: an entry in the log says so, and a person can send the event."""
    kind = new_type()
    condition = {"condition": "length(data.rows[?a == `1`]) > `0`"}
    with Subscriber() as sink, _webhooks(hub, 1, sink.url, events=[kind], filter=condition) as (webhook,):
        publish(hub, kind, {"rows": [{"a": 1}] * 20_000})
        [delivery] = finished(hub, webhook["id"])
        assert delivery["status"] == "dead_letter"
        assert delivery["error"] == "condition_too_expensive"
        assert "condition: takes more than" in delivery["attempts"][0]["detail"]
        assert hub.call("GET", path_of(webhook))["enabled"], "one case is not a reason to suspend it"
        hub.call("POST", f"/api/deliveries/{delivery['id']}/retry")
        sink.wait_for(1)


def _hanging_webhooks(hub: Hub) -> None:
    """More attempts hang than there are slots: the neighbour's goes out while none of them has ended."""
    kind = new_type()
    neighbour = hub.other_workspace()
    with (
        Subscriber(delay_s=25) as hanging,
        Subscriber() as beside,
        _webhooks(hub, 30, hanging.url, events=[kind], timeout_s=20, retry={"schedule": [0]}),
    ):
        hub.call(
            "POST",
            "/api/outgoing-webhooks",
            {"name": "neighbour", "url": beside.url, "events": [kind]},
            key=neighbour,
        )
        publish(hub, kind, {"n": 1})
        eventually(lambda: hanging.in_progress >= FEW_SLOTS // 2)
        publish(hub, kind, {"n": 1}, key=neighbour)
        beside.wait_for(1, within_s=15)
        assert hanging.in_progress <= FEW_SLOTS // 2 + 1
        assert not [one for one in hub.deliveries(event_type=kind) if one["finished_at"]]


def _a_condition_that_is_over_its_budget_for_long(hub: Hub) -> None:
    """Its webhook is suspended, and an event says so; not for fewer cases."""
    kind = new_type()
    condition = {"condition": "length(data.rows[?a == `1`]) > `0`"}
    rows = {"rows": [{"a": 1}] * 3_000}
    with Subscriber() as sink, _webhooks(hub, 1, sink.url, events=[kind], filter=condition) as (webhook,):
        message = hub.outgoing_webhook(
            f"{sink.url}/told",
            events=["webhook.disabled"],
            filter={"condition": f"data.webhook_id == '{webhook['id']}'"},
        )
        publish(hub, kind, *[rows] * 5)
        finished(hub, webhook["id"], 5)
        assert hub.call("GET", path_of(webhook))["enabled"]

        def suspended() -> bool:
            """The webhook is suspended."""
            if hub.call("GET", path_of(webhook))["enabled"]:
                publish(hub, kind, rows)
                return False
            return True

        eventually(suspended, 40, every_s=0.3)
        assert hub.call("GET", path_of(webhook))["disabled_reason"] == "condition_too_expensive"
        [got] = sink.wait_for(1)
        assert json.loads(got.body)["data"]["reason"] == "condition_too_expensive"
        hub.call("DELETE", path_of(message))


ATTACKS = (
    Attack("one workspace's webhooks that hang", _hanging_webhooks, SETUP),
    Attack(
        "a condition that is over its budget for long", _a_condition_that_is_over_its_budget_for_long, SETUP
    ),
    Attack("one workspace's batch of large events to many webhooks", _one_large_batch, SETUP),
    Attack("one workspace's many expensive conditions", _expensive_conditions, SETUP),
    Attack("a condition that is over its budget", _a_condition_over_its_budget, SETUP),
)
