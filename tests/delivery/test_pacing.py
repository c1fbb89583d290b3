"""When a delivery is tried again and how fast an endpoint is sent to: retries, limits, pause and resume."""

import re
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web

from tests.support.backends import Bus, Store
from tests.support.eventually import eventually
from tests.support.hub import Hub, hub_with
from tests.support.outgoing import (
    ONCE,
    QUICK,
    Moody,
    finished,
    in_turn,
    n_of,
    new_type,
    numbered,
    path_of,
    read,
    stats,
)
from tests.support.second_process import second_process
from tests.support.subscriber import Subscriber, WebhookRequest

FORTY = {"schedule": [0] + [0.1] * 39, "jitter": 0}


# Members that leave or join are noticed within seconds: two tests wait for that.
hub = hub_with(services=("gateway", "delivery"), env={"KAFKA_SESSION_TIMEOUT_MS": "3000"}, workspace="pacing")


def waiting(hub: Hub, webhook: dict[str, Any], **counts: int) -> None:
    """Until so many of the webhook's deliveries are in these states."""
    eventually(lambda: counts.items() <= stats(hub, webhook).items())


# Retries


@pytest.mark.parametrize(
    ("client_errors", "answered"), [("retry", [404, 401, 204]), ("final", [404])], ids=["retry", "final"]
)
def test_client_errors_are_final_or_not_as_the_owner_says(
    hub: Hub, client_errors: str, answered: list[int]
) -> None:
    with Subscriber(in_turn(404, 401, 204)) as subscriber:
        kind = new_type()
        webhook = hub.outgoing_webhook(
            subscriber.url, events=[kind], retry={**QUICK, "client_errors": client_errors}
        )
        numbered(hub, kind)
        [delivery] = finished(hub, webhook["id"])
    assert [attempt["status_code"] for attempt in delivery["attempts"]] == answered


@pytest.mark.parametrize("status", [408, 425, 429, 502])
def test_a_status_that_may_pass_is_tried_again(hub: Hub, status: int) -> None:
    with Subscriber(in_turn(status, 204)) as subscriber:
        kind = new_type()
        webhook = hub.outgoing_webhook(subscriber.url, events=[kind], retry=QUICK)
        numbered(hub, kind)
        [delivery] = finished(hub, webhook["id"])
    assert [attempt["status_code"] for attempt in delivery["attempts"]] == [status, 204]


def test_a_timeout_is_tried_again(hub: Hub) -> None:
    with Subscriber(delay_s=30) as subscriber:
        kind = new_type()
        webhook = hub.outgoing_webhook(subscriber.url, events=[kind], timeout_s=1, retry=QUICK)
        numbered(hub, kind)
        subscriber.wait_for(1)
        subscriber.delay_s = 0
        [delivery] = finished(hub, webhook["id"])
    assert [attempt["error"] for attempt in delivery["attempts"]] == ["timeout", None]
    assert 900 <= delivery["attempts"][0]["duration_ms"] <= 2500


def until(delivery: dict[str, Any]) -> float:
    """Seconds from the end of the last attempt until the next."""
    last = delivery["attempts"][-1]
    ended = datetime.fromisoformat(last["started_at"]) + timedelta(milliseconds=last["duration_ms"])
    return (datetime.fromisoformat(delivery["next_attempt_at"]) - ended).total_seconds()


def test_jitter_lengthens_each_wait_by_up_to_its_share_and_not_all_by_the_same(hub: Hub) -> None:
    with Subscriber(Moody(500)) as subscriber:
        kind = new_type()
        hooks = {
            jitter: hub.outgoing_webhook(
                subscriber.url, events=[kind], retry={"schedule": [0, 100], "jitter": jitter}
            )
            for jitter in (0, 0.5)
        }
        numbered(hub, kind, 20)
        waits: dict[float, list[float]] = {}
        for jitter, webhook in hooks.items():
            waiting(hub, webhook, delayed=20)
            deliveries = [read(hub, delivery["id"]) for delivery in hub.deliveries(webhook_id=webhook["id"])]
            waits[jitter] = sorted(map(until, deliveries))
            hub.call("DELETE", path_of(webhook), expect=204)
    assert all(99.9 <= wait < 102 for wait in waits[0]), "to judge an answer takes time"
    assert all(99.9 <= wait < 152 for wait in waits[0.5])
    assert waits[0.5][-1] - waits[0.5][0] > 10


# Retry-After


def as_a_date() -> str:
    """Four seconds at least: a date has whole seconds."""
    return format_datetime(datetime.now(UTC) + timedelta(seconds=5), usegmt=True)


@pytest.mark.parametrize(
    ("status", "asks"), [(429, lambda: "4"), (503, lambda: "4"), (429, as_a_date)], ids=("429", "503", "date")
)
def test_retry_after_holds_this_delivery_and_all_others_of_the_endpoint(
    hub: Hub, status: int, asks: Any
) -> None:
    def busy(_got: WebhookRequest) -> web.Response:
        return web.Response(status=status, headers={"Retry-After": asks()})

    with Subscriber(in_turn(busy, 204)) as subscriber, Subscriber() as neighbour:
        kind = new_type()
        webhook = hub.outgoing_webhook(
            subscriber.url, events=[kind], retry={"schedule": [0, 0, 0], "jitter": 0}
        )
        hub.outgoing_webhook(neighbour.url, events=[kind])
        numbered(hub, kind)
        [first] = subscriber.wait_for(1)
        waiting(hub, webhook, delayed=1)
        numbered(hub, kind, 3, first=1)
        beside = neighbour.wait_for(4)[3]
        waiting(hub, webhook, delayed=1, pending=3)
        assert len(subscriber.got) == 1
        done = finished(hub, webhook["id"], 4)
        got = subscriber.wait_for(5)
    released = min(request.at for request in got[1:])
    assert released - first.at >= 3.9
    assert beside.at < released, "others are not held"
    assert [delivery["attempt_count"] for delivery in done] == [2, 1, 1, 1]
    assert {delivery["status"] for delivery in done} == {"delivered"}


@pytest.mark.parametrize("text", ["9" * 30, "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_a_huge_retry_after_is_bounded_and_another_url_does_not_wait_for_it(hub: Hub, text: str) -> None:
    with Subscriber(Moody(429, Retry_After=text)) as subscriber, Subscriber() as other:
        kind = new_type()
        webhook = hub.outgoing_webhook(subscriber.url, events=[kind], retry={"schedule": [0, 0], "jitter": 0})
        numbered(hub, kind)
        waiting(hub, webhook, delayed=1)
        [held] = hub.deliveries(webhook_id=webhook["id"])
        eventually(lambda: 899 <= until(read(hub, held["id"])) <= 902)
        numbered(hub, kind, first=1)
        waiting(hub, webhook, delayed=1, pending=1)
        hub.call("PATCH", path_of(webhook), {"url": other.url})
        assert {n_of(request) for request in other.wait_for(2)} == {0, 1}
        assert len(subscriber.got) == 1


# Limits


LATE_S = 0.5
"""How late an arrival may be seen on a busy machine: what follows it then seems to come early."""


def too_fast(subscriber: Subscriber, requests: int, period_s: float = 1) -> list[tuple[int, float]]:
    """Runs of arrivals that were more than the limit allows in their time: how many in how many seconds."""
    times = sorted(request.at for request in subscriber.got)
    runs = [
        (last - first + 1, times[last] - times[first])
        for first in range(len(times))
        for last in range(first, len(times))
    ]
    return [run for run in runs if run[0] > requests * (1 + (run[1] + LATE_S) // period_s)]


@pytest.mark.parametrize("backlog", [False, True], ids=["as they come", "from the backlog"])
@pytest.mark.parametrize("ordering", ["none", "strict"])
def test_a_rate_limit_holds_in_any_period_and_is_used(hub: Hub, ordering: str, backlog: bool) -> None:
    with Subscriber() as subscriber:
        kind = new_type()
        webhook = hub.outgoing_webhook(
            subscriber.url,
            events=[kind],
            ordering=ordering,
            max_in_flight=50,
            rate_limit={"requests": 5, "period_s": 1},
        )
        if backlog:
            hub.call("POST", f"{path_of(webhook)}/pause")
        numbered(hub, kind, 22)
        if backlog:
            waiting(hub, webhook, pending=22)
            hub.call("POST", f"{path_of(webhook)}/resume")
        got = subscriber.wait_for(22)
        finished(hub, webhook["id"], 22)
    times = [request.at for request in got]
    assert too_fast(subscriber, 5) == []
    assert 3.5 <= max(times) - min(times) <= 9, "22 need four periods more than the first"
    assert sorted(map(n_of, got)) == list(range(22)), "each once"
    if ordering == "strict":
        assert list(map(n_of, got)) == list(range(22))


def test_a_changed_rate_limit_does_not_wait_for_the_old_period(hub: Hub) -> None:
    with Subscriber() as subscriber:
        kind = new_type()
        webhook = hub.outgoing_webhook(
            subscriber.url, events=[kind], rate_limit={"requests": 1, "period_s": 3600}
        )
        numbered(hub, kind, 5)
        subscriber.wait_for(1)
        waiting(hub, webhook, completed=1, pending=4)
        assert hub.call("PATCH", path_of(webhook), {"rate_limit": None})["rate_limit"] is None
        subscriber.wait_for(5)


@pytest.mark.parametrize(("ordering", "max_in_flight"), [("none", 3), ("strict", 1)])
def test_no_more_are_under_way_than_may_be(hub: Hub, ordering: str, max_in_flight: int) -> None:
    with Subscriber(delay_s=0.3) as subscriber:
        kind = new_type()
        webhook = hub.outgoing_webhook(subscriber.url, events=[kind], ordering=ordering, max_in_flight=3)
        numbered(hub, kind, 10)
        finished(hub, webhook["id"], 10)
    assert (len(subscriber.got), subscriber.max_concurrent) == (10, max_in_flight)


# Pause and resume


def test_pause_loses_nothing_and_sends_nothing_also_through_a_restart(hub: Hub) -> None:
    with Subscriber() as subscriber, Subscriber() as neighbour:
        kind = new_type()
        webhook = hub.outgoing_webhook(subscriber.url, events=[kind], ordering="strict")
        hub.outgoing_webhook(neighbour.url, events=[kind])
        assert hub.call("POST", f"{path_of(webhook)}/pause")["paused"] is True
        numbered(hub, kind, 10)
        neighbour.wait_for(10)
        waiting(hub, webhook, pending=10)
        assert hub.stop_service("delivery") == 0
        numbered(hub, kind, 5, first=10)
        hub.start_service("delivery")
        hub.wait_ready("delivery")
        neighbour.wait_for(15)
        waiting(hub, webhook, pending=15)
        assert hub.call("GET", path_of(webhook))["paused"] is True
        assert stats(hub, webhook)["oldest_due_s"] > 0
        assert subscriber.got == []
        assert hub.call("POST", f"{path_of(webhook)}/resume")["paused"] is False
        done = finished(hub, webhook["id"], 15)
    assert [n_of(got) for got in subscriber.got] == list(range(15))
    assert {delivery["attempt_count"] for delivery in done} == {1}


def test_pause_holds_what_was_to_be_tried_again(hub: Hub) -> None:
    with Subscriber(in_turn(500, 204)) as subscriber:
        kind = new_type()
        webhook = hub.outgoing_webhook(
            subscriber.url, events=[kind], retry={"schedule": [0, 0.5], "jitter": 0}
        )
        numbered(hub, kind)
        subscriber.wait_for(1)
        hub.call("POST", f"{path_of(webhook)}/pause")
        eventually(lambda: (stats(hub, webhook)["oldest_due_s"] or 0) > 1.5)
        assert len(subscriber.got) == 1
        hub.call("POST", f"{path_of(webhook)}/resume")
        [delivery] = finished(hub, webhook["id"])
    assert (delivery["status"], delivery["attempt_count"]) == ("delivered", 2)


def test_a_paused_queue_is_its_workspaces_alone(hub: Hub) -> None:
    key = hub.other_workspace()
    with Subscriber() as subscriber_a, Subscriber() as subscriber_b, Subscriber() as elsewhere:
        kind = new_type()
        hooks = [hub.outgoing_webhook(item.url, events=[kind]) for item in (subscriber_a, subscriber_b)]
        other = {"name": "x", "url": elsewhere.url, "events": [kind]}
        hub.call("POST", "/api/outgoing-webhooks", other, key=key, expect=201)
        assert hub.call("POST", "/api/queue/pause") == {"paused": True}
        numbered(hub, kind, 5)
        for webhook in hooks:
            waiting(hub, webhook, pending=5)
        numbered(hub, kind, 5, key=key)
        elsewhere.wait_for(5)
        assert (subscriber_a.got, subscriber_b.got) == ([], [])
        assert hub.call("GET", path_of(hooks[0]))["paused"] is False, "the webhook itself is not"
        assert hub.call("POST", "/api/queue/resume") == {"paused": False}
        for webhook, subscriber in zip(hooks, (subscriber_a, subscriber_b), strict=True):
            finished(hub, webhook["id"], 5)
            assert sorted(map(n_of, subscriber.got)) == list(range(5))


def test_strict_order_holds_through_failures_a_rate_limit_and_a_pause(hub: Hub) -> None:
    with Subscriber() as subscriber:

        def flaky(_got: WebhookRequest) -> web.Response | None:
            return web.Response(status=503) if len(subscriber.got) % 4 == 0 else None

        subscriber.answer = flaky
        kind = new_type()
        webhook = hub.outgoing_webhook(
            subscriber.url,
            events=[kind],
            ordering="strict",
            retry=FORTY,
            rate_limit={"requests": 8, "period_s": 0.5},
        )
        for turn in range(4):
            numbered(hub, kind, 6, first=6 * turn)
            if turn % 2 == 0:
                hub.call("POST", f"{path_of(webhook)}/pause")
            else:
                hub.call("POST", f"{path_of(webhook)}/resume")
        finished(hub, webhook["id"], 24, within_s=40)
        order = [n_of(got) for got in subscriber.got]
    assert order == sorted(order)
    assert set(order) == set(range(24))
    assert len(order) > 24, "some were refused and sent again"


# Two processes


def test_what_is_asked_of_one_process_holds_in_the_other(
    hub: Hub, tmp_path: Path, bus: Bus, store: Store
) -> None:
    """The partitions are shared out: whichever is asked, it does not own some of these webhooks."""
    with second_process("delivery", hub, tmp_path / "two", bus, store) as second, ExitStack() as stack:
        kind, warm = new_type(), stack.enter_context(Subscriber())

        def shared() -> bool:
            """Both handle deliveries: of ever more webhooks, because chance may give the first few to one."""
            hub.outgoing_webhook(warm.url, events=[kind])
            numbered(hub, kind)
            return _handles(hub) and _handles(second)

        eventually(shared, 40, every_s=0.5)
        _across(hub, second, [stack.enter_context(Subscriber(Moody(500))) for _ in range(6)])


def _handles(hub: Hub) -> bool:
    """This process has taken requests from partitions that it owns now."""
    text = httpx.get(hub.url("delivery") + "/metrics", timeout=10).text
    return re.search(r'_lag\{.*topic="delivery\.requested"', text) is not None


def _across(hub: Hub, second: Hub, subscribers: list[Subscriber]) -> None:
    kind = new_type()
    hooks = [
        hub.outgoing_webhook(
            item.url, events=[kind], retry=ONCE, rate_limit={"requests": 2, "period_s": 1}, max_in_flight=9
        )
        for item in subscribers
    ]
    for webhook in hooks:
        second.call("POST", f"{path_of(webhook)}/pause")
    # A webhook that the first process does not know makes it look at what the other one wrote.
    stats(hub, second.outgoing_webhook("http://127.0.0.1:9/", events=["never.sent"]))
    numbered(hub, kind, 5)
    for webhook in hooks:
        waiting(hub, webhook, pending=5)
    assert not any(item.got for item in subscribers)
    for webhook in hooks:
        hub.call("POST", f"{path_of(webhook)}/resume")
    for webhook, subscriber in zip(hooks, subscribers, strict=True):
        dead = finished(hub, webhook["id"], 5, within_s=30)
        assert {delivery["status"] for delivery in dead} == {"dead_letter"}
        assert len(subscriber.got) == 5, "each once"
        subscriber.answer = None
        for each, asked in zip(dead, (hub, second, hub, second, hub), strict=True):
            asked.call("POST", f"/api/deliveries/{each['id']}/retry", expect=202)
    for webhook, subscriber in zip(hooks, subscribers, strict=True):
        done = finished(hub, webhook["id"], 5, within_s=30)
        assert {(delivery["status"], delivery["attempt_count"]) for delivery in done} == {("delivered", 2)}
        assert len(subscriber.got) == 10
        assert too_fast(subscriber, 2) == []
