"""What an endpoint's answers teach: the breaker, 410, and giving up one that does nothing but fail."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import pairwise
from secrets import token_hex
from typing import Any

import pytest
from aiohttp import web

from tests.support.backends import Bus
from tests.support.eventually import eventually
from tests.support.hub import Hub, hub_with
from tests.support.outgoing import (
    ONCE,
    Moody,
    finished,
    n_of,
    new_type,
    numbered,
    path_of,
    publish,
    read,
    stats,
)
from tests.support.subscriber import Subscriber, WebhookRequest
from tests.support.tap import Tap

FAILURES, OPEN_S = 3, 0.5
LATER = {"schedule": [0, 600], "jitter": 0}
OFTEN = {"schedule": [0] + [0.2] * 49, "jitter": 0, "client_errors": "retry"}
"""Tried again and again, also when it is refused: an endpoint that answers 404 works, so no breaker opens."""
SOON = 0.00003
"""Days: 2.6 seconds."""


# A breaker that is quick to open and to probe.
hub = hub_with(
    services=("gateway", "delivery"),
    env={
        "INTERLINK_BREAKER_FAILURES": str(FAILURES),
        "INTERLINK_BREAKER_FAILING_S": "0",
        "INTERLINK_BREAKER_OPEN_S": str(OPEN_S),
    },
    workspace="health",
)


def read_webhook(hub: Hub, webhook: dict[str, Any]) -> dict[str, Any]:
    return dict(hub.call("GET", path_of(webhook)))


def circuit(hub: Hub, webhook: dict[str, Any]) -> str:
    return str(read_webhook(hub, webhook)["health"]["circuit"])


def circuits_logged(hub: Hub, webhook: dict[str, Any]) -> list[str]:
    """How the webhook's circuit changed, from the service's log."""
    lines = [line for line in hub.log_lines("delivery") if line["event"] == "circuit.changed"]
    return [line["state"] for line in lines if line["webhook_id"] == webhook["id"]]


def is_logged_as_disabled(hub: Hub, webhook: dict[str, Any]) -> bool:
    lines = [line for line in hub.log_lines("delivery") if line["event"] == "webhook.disabled"]
    return any(line["webhook_id"] == webhook["id"] for line in lines)


def waiting(hub: Hub, webhook: dict[str, Any], **counts: int) -> None:
    """Until so many of the webhook's deliveries are in these states."""
    eventually(lambda: counts.items() <= stats(hub, webhook).items())


# The breaker


def test_the_circuit_opens_probes_and_closes_and_the_backlog_drains(hub: Hub) -> None:
    mood = Moody(500)
    with Subscriber(mood) as subscriber:
        kind = new_type()
        webhook = hub.outgoing_webhook(subscriber.url, events=[kind], max_in_flight=1, retry=LATER)
        numbered(hub, kind, 20)
        got = subscriber.wait_for(FAILURES + 2)
        assert circuit(hub, webhook) == "open"
        gaps = [later.at - earlier.at for earlier, later in pairwise(got)]
        assert gaps[FAILURES - 1] >= OPEN_S - 0.02
        assert gaps[FAILURES] >= 2 * OPEN_S - 0.02
        counts = stats(hub, webhook)
        assert (counts["failed"], counts["completed"]) == (0, 0), "nothing is dead for the breaker's sake"
        untouched = hub.deliveries(webhook_id=webhook["id"], status="pending")
        assert len(untouched) >= 12
        assert {delivery["attempt_count"] for delivery in untouched} == {0}

        mood.status = 204
        eventually(lambda: circuit(hub, webhook) == "closed")
        tried = 20 - len(hub.deliveries(webhook_id=webhook["id"], status="delivered"))
        eventually(lambda: stats(hub, webhook)["pending"] == 0)
        failed = hub.deliveries(webhook_id=webhook["id"], status="retrying")
        assert FAILURES + 2 <= len(failed) <= tried
        for delivery in failed:
            hub.call("POST", f"/api/deliveries/{delivery['id']}/retry", expect=202)
        done = finished(hub, webhook["id"], 20)
    assert {delivery["status"] for delivery in done} == {"delivered"}
    assert circuits_logged(hub, webhook) == ["open", "closed"]


def test_a_dead_letter_is_made_by_attempts_alone(hub: Hub) -> None:
    """With a single attempt each, a probe costs a delivery; what waits costs nothing."""
    mood = Moody(500)
    with Subscriber(mood) as subscriber:
        kind = new_type()
        webhook = hub.outgoing_webhook(subscriber.url, events=[kind], max_in_flight=1, retry=ONCE)
        numbered(hub, kind, 12)
        subscriber.wait_for(FAILURES + 1)
        mood.status = 204
        done = finished(hub, webhook["id"], 12)
    dead = [delivery for delivery in done if delivery["status"] == "dead_letter"]
    assert FAILURES + 1 <= len(dead) <= FAILURES + 2
    assert {delivery["attempt_count"] for delivery in done} == {1}
    assert len(subscriber.got) == 12


def test_strict_order_holds_through_an_open_circuit(hub: Hub) -> None:
    with Subscriber() as subscriber:

        def answer(_got: WebhookRequest) -> web.Response | None:
            return web.Response(status=500) if len(subscriber.got) <= FAILURES + 1 else None

        subscriber.answer = answer
        kind = new_type()
        webhook = hub.outgoing_webhook(
            subscriber.url, events=[kind], ordering="strict", retry={"schedule": [0] + [0.1] * 9, "jitter": 0}
        )
        numbered(hub, kind, 5)
        subscriber.wait_for(FAILURES)
        numbered(hub, kind, 5, first=5)
        finished(hub, webhook["id"], 10)
        order = [n_of(got) for got in subscriber.got]
    assert order == [0] * (FAILURES + 1) + list(range(10))
    assert circuits_logged(hub, webhook) == ["open", "closed"]


@pytest.mark.parametrize("status", [404, 302, 429])
def test_an_endpoint_that_refuses_is_not_a_dead_one(hub: Hub, status: int) -> None:
    with Subscriber(Moody(status)) as subscriber:
        kind = new_type()
        webhook = hub.outgoing_webhook(subscriber.url, events=[kind], retry=ONCE)
        numbered(hub, kind, 10)
        finished(hub, webhook["id"], 10)
        assert len(subscriber.got) == 10
    assert circuits_logged(hub, webhook) == []
    assert circuit(hub, webhook) == "closed"


def test_a_body_that_could_not_be_made_says_nothing_of_the_endpoint(hub: Hub) -> None:
    with Subscriber(Moody(500)) as subscriber:
        kind = new_type()
        webhook = hub.outgoing_webhook(
            subscriber.url, events=[kind], max_in_flight=1, retry=LATER, transform="max(data.numbers)"
        )
        publish(hub, kind, *[{"numbers": "none"}] * (FAILURES + 2))
        finished(hub, webhook["id"], FAILURES + 2)
        assert circuits_logged(hub, webhook) == [], "it did not open for that"
        publish(hub, kind, *[{"numbers": [1]}] * FAILURES)
        subscriber.wait_for(FAILURES)
        eventually(lambda: circuit(hub, webhook) == "open")
        publish(hub, kind, {"numbers": "none"})
        waiting(hub, webhook, failed=FAILURES + 3)
        assert circuits_logged(hub, webhook) == ["open"], "it did not close for that"
        hub.call("DELETE", path_of(webhook), expect=204)


def test_another_url_is_probed_at_once(hub: Hub) -> None:
    with Subscriber(Moody(500)) as dead, Subscriber() as alive:
        kind = new_type()
        webhook = hub.outgoing_webhook(dead.url, events=[kind], max_in_flight=1, retry=LATER)
        numbered(hub, kind, 12)
        dead.wait_for(FAILURES + 2)  # the next probe is 4 x 0.5 s away
        last = dead.got[-1].at
        hub.call("PATCH", path_of(webhook), {"url": alive.url})
        got = alive.wait_for(12 - len(dead.got))
        assert got[0].at - last < 4 * OPEN_S - 0.1
        eventually(lambda: circuit(hub, webhook) == "closed")


# Told by events


@contextmanager
def notice_listener(hub: Hub, webhook: dict[str, Any]) -> Iterator[Subscriber]:
    """What another outgoing webhook hears of this one."""
    with Subscriber() as listener:
        other = hub.outgoing_webhook(
            listener.url,
            events=["webhook.failing", "webhook.disabled"],
            filter={"condition": f"data.webhook_id == '{webhook['id']}'"},
        )
        listener.secret = other["secret"]
        yield listener
        hub.call("DELETE", path_of(other), expect=204)


def notices(got: list[WebhookRequest]) -> list[tuple[str, Any]]:
    """Types and data."""
    bodies = [json.loads(request.body) for request in got]
    return [(body["type"], body["data"]) for body in bodies]


def with_status(hub: Hub, status: str) -> set[str]:
    """The ids of the webhooks with a status."""
    page = hub.call("GET", f"/api/outgoing-webhooks?status={status}&limit=500")
    return {item["id"] for item in page["items"]}


def test_410_disables_at_once_and_says_so_without_the_url(hub: Hub, bus: Bus) -> None:
    integration_events = Tap(bus, "integration.events")
    with Subscriber(Moody(410)) as subscriber:
        kind = new_type()
        webhook = hub.outgoing_webhook(f"{subscriber.url}/{token_hex(8)}", events=[kind], retry=OFTEN)
        with notice_listener(hub, webhook) as listener:
            numbered(hub, kind)
            [heard] = listener.wait_for(1)
            eventually(lambda: not read_webhook(hub, webhook)["enabled"])
            assert read_webhook(hub, webhook)["disabled_reason"] == "gone"
            eventually(lambda: webhook["id"] in with_status(hub, "failing") & with_status(hub, "disabled"))
            [(what, data)] = notices([heard])
            [delivery] = finished(hub, webhook["id"])
            assert (delivery["status"], delivery["attempt_count"]) == ("dead_letter", 1)
            assert what == "webhook.disabled"
            notice = (what, webhook["id"])
            [record] = [
                record
                for record in integration_events.look()
                if (record.attributes["ce_type"], record.data.get("webhook_id")) == notice
            ]
            assert record.key == webhook["id"].encode(), "the events of a webhook stay in order"
            assert (data["webhook_id"], data["reason"]) == (webhook["id"], "gone")
            assert webhook["url"].encode() not in heard.body

            [event_id] = numbered(hub, kind, first=1)  # nobody listens any more
            eventually(lambda: event_id in json.dumps(hub.call("GET", "/api/events/unmatched")))
            subscriber.answer = None
            enabled = hub.call("POST", f"{path_of(webhook)}/enable")
            assert (enabled["enabled"], enabled["disabled_reason"]) == (True, None)
            hub.call("POST", f"{path_of(webhook)}/test", expect=202)
            after = subscriber.wait_for(2)[1]
            assert json.loads(after.body)["type"] == "webhook.test"


def test_nothing_but_failures_is_warned_of_once_then_disables(hub: Hub) -> None:
    mood = Moody(404)
    with Subscriber(mood) as subscriber, Subscriber() as witness:
        kind = new_type()
        hub.outgoing_webhook(witness.url, events=[kind])
        webhook = hub.outgoing_webhook(
            subscriber.url,
            events=[kind],
            retry=OFTEN,
            disable_after_days=SOON,
            ordering="strict",
            metadata={"customer": "c_7"},
        )
        with notice_listener(hub, webhook) as listener:
            before = datetime.now(UTC)
            numbered(hub, kind)
            heard = notices(listener.wait_for(2))
            assert [what for what, _ in heard] == ["webhook.failing", "webhook.disabled"]
            (_, warning), (_, end) = heard
            since = datetime.fromisoformat(warning["failing_since"])
            assert abs((since - before).total_seconds()) < 5
            assert warning["webhook_id"] == end["webhook_id"] == webhook["id"]
            assert end["failing_since"] == warning["failing_since"]
            assert end["reason"] == "failing"
            [delivery] = hub.deliveries(webhook_id=webhook["id"])
            assert (warning["delivery_id"], warning["event_id"]) == (delivery["id"], delivery["event_id"])
            assert warning["event_type"] == warning["payload"]["type"] == kind
            assert warning["payload"] == json.loads(subscriber.got[0].body)
            assert warning["metadata"] == end["metadata"] == {"customer": "c_7"}
            # Logged when it is in effect; a moment earlier it can be read.
            eventually(lambda: is_logged_as_disabled(hub, webhook))
            now = read_webhook(hub, webhook)
            assert now["disabled_reason"] == "failing"
            assert datetime.fromisoformat(now["health"]["failing_since"]) == since
            assert subscriber.got[-1].at - subscriber.got[0].at >= 2.5

            # Enabling it sends what waited, and nothing of what happened meanwhile; the clock starts anew.
            numbered(hub, kind, 3, first=10)
            witness.wait_for(4)  # they were fanned out before it is enabled
            count = len(subscriber.got)
            enabled_at = datetime.now(UTC)
            hub.call("POST", f"{path_of(webhook)}/enable")
            heard = notices(listener.wait_for(4))[2:]
            assert [what for what, _ in heard] == ["webhook.failing", "webhook.disabled"]
            assert all(datetime.fromisoformat(data["failing_since"]) >= enabled_at for _, data in heard)
            eventually(lambda: not read_webhook(hub, webhook)["enabled"])
            assert subscriber.got[-1].at - subscriber.got[count].at >= 2.5

            # One more failure and then a success: it is well again, also for who asks.
            count = len(subscriber.got)
            hub.call("POST", f"{path_of(webhook)}/enable")
            subscriber.wait_for(count + 1)
            mood.status = 204
            numbered(hub, kind, first=20)
            eventually(lambda: n_of(subscriber.got[-1]) == 20)
            eventually(lambda: read_webhook(hub, webhook)["health"]["failing_since"] is None)
            assert {n_of(got) for got in subscriber.got} == {0, 20}
            assert len(listener.got) == 4


def test_one_success_in_between_restarts_the_clock(hub: Hub) -> None:
    mood = Moody(404)
    with Subscriber(mood) as subscriber:
        kind = new_type()
        webhook = hub.outgoing_webhook(subscriber.url, events=[kind], retry=OFTEN, disable_after_days=SOON)
        with notice_listener(hub, webhook) as listener:
            numbered(hub, kind)
            eventually(lambda: subscriber.got[-1:] and subscriber.got[-1].at - subscriber.got[0].at > 1)
            mood.status = 204
            finished(hub, webhook["id"])
            well_at = datetime.now(UTC)
            mood.status = 404
            numbered(hub, kind, first=1)
            heard = notices(listener.wait_for(2))
    assert [what for what, _ in heard] == ["webhook.failing", "webhook.disabled"]
    assert all(datetime.fromisoformat(data["failing_since"]) >= well_at for _, data in heard)


def test_an_endpoint_that_is_rarely_called_is_warned_of_before_it_is_disabled(hub: Hub) -> None:
    """The second failure comes when the time is over: it warns, and the third one disables."""
    with Subscriber(Moody(404)) as subscriber:
        kind = new_type()
        webhook = hub.outgoing_webhook(subscriber.url, events=[kind], retry=ONCE, disable_after_days=SOON)
        with notice_listener(hub, webhook) as listener:
            numbered(hub, kind)
            [first] = finished(hub, webhook["id"])
            began = datetime.fromisoformat(first["attempts"][0]["started_at"])
            eventually(lambda: (datetime.now(UTC) - began).total_seconds() > 2.7)
            numbered(hub, kind)
            [(what, data)] = notices(listener.wait_for(1))
            assert what == "webhook.failing"
            assert datetime.fromisoformat(data["disables_at"]) >= began
            assert read_webhook(hub, webhook)["enabled"] is True
            eventually(lambda: read_webhook(hub, webhook)["health"]["failing_since"])
            eventually(lambda: webhook["id"] in with_status(hub, "failing") - with_status(hub, "active"))
            numbered(hub, kind)
            assert [what for what, _ in notices(listener.wait_for(2))] == [
                "webhook.failing",
                "webhook.disabled",
            ]


def test_no_end_is_set_when_the_owner_wants_none(hub: Hub) -> None:
    with Subscriber(Moody(404)) as subscriber, Subscriber(Moody(404)) as control:
        kind = new_type()
        for_ever = hub.outgoing_webhook(subscriber.url, events=[kind], retry=OFTEN, disable_after_days=0)
        soon = hub.outgoing_webhook(control.url, events=[kind], retry=OFTEN, disable_after_days=SOON)
        numbered(hub, kind)
        eventually(lambda: not read_webhook(hub, soon)["enabled"])
        count = len(subscriber.got)
        subscriber.wait_for(count + 3)
        assert read_webhook(hub, for_ever)["enabled"] is True
        [delivery] = hub.deliveries(webhook_id=for_ever["id"])
        hub.call("POST", f"{path_of(for_ever)}/pause")
        assert read(hub, delivery["id"])["status"] in ("retrying", "delivering")
