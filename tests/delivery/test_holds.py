"""What holds deliveries back (`Retry-After`, circuit, limits) is bounded, shown, and ended by a person."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event
from time import monotonic, sleep
from typing import Any

import pytest
from pymongo import MongoClient

from services.delivery.log.deliveries import DELIVERIES
from tests.support.backends import Bus, Store
from tests.support.eventually import eventually
from tests.support.hub import Hub, hub_with
from tests.support.misbehaving_server import MisbehavingServer
from tests.support.outgoing import (
    ONCE,
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
from tests.support.subscriber import Subscriber

DAY = "86400"
LATER = {"schedule": [0, 600], "jitter": 0}
SOON = {"schedule": [0, 0.1], "jitter": 0}
OPENS_AT_ONCE = {"failures": 1, "failing_s": 0, "pause_s": 600}
"""A circuit that opens with the first failure and does not probe while a test looks."""


# The circuit breaker as it is by default.
hub = hub_with(services=("gateway", "delivery"), env={"INTERLINK_BREAKER_FAILURES": "10"}, workspace="holds")


def health(hub: Hub, webhook: dict[str, Any]) -> dict[str, Any]:
    return dict(hub.call("GET", path_of(webhook))["health"])


def in_s(moment: str | None) -> float:
    """Seconds from now until a time of the API."""
    assert moment, "there is none"
    return (datetime.fromisoformat(moment) - datetime.now(UTC)).total_seconds()


def nothing_waits_for_the_hub(hub: Hub) -> None:
    """What is due waits for its endpoint: nobody is woken for it, and no process is added."""
    sleep(1)
    assert hub.metric("delivery", "interlink_oldest_due_seconds") == 0


def waiting(hub: Hub, webhook: dict[str, Any], reason: str | None, count: int) -> list[dict[str, Any]]:
    """The webhook's deliveries that wait for this reason, once there are so many."""

    def check() -> list[dict[str, Any]]:
        """They wait, and the API says why."""
        listed = hub.deliveries(webhook_id=webhook["id"])
        matching = [delivery for delivery in listed if delivery["status"] in ("pending", "retrying")]
        matching = [item for item in matching if item["waiting_reason"] == reason]
        return matching if len(matching) == count else []

    return eventually(check) or []


def held(hub: Hub, subscriber: Subscriber, retry_after: str = DAY, **fields: Any) -> dict[str, Any]:
    """A webhook whose endpoint sent `Retry-After`: one delivery with that response, and two behind it."""
    kind = new_type()
    subscriber.answer = Moody(429, Retry_After=retry_after)
    webhook = hub.outgoing_webhook(subscriber.url, events=[kind], **{"retry": SOON, **fields})
    numbered(hub, kind)
    eventually(lambda: health(hub, webhook)["held_until"])
    numbered(hub, kind, 2, first=1)
    waiting(hub, webhook, "held", 3)
    return webhook


def opened(hub: Hub, subscriber: Subscriber, **fields: Any) -> dict[str, Any]:
    """A webhook with an open circuit: one delivery that failed, and two behind it."""
    kind = new_type()
    subscriber.answer = Moody(500)
    webhook = hub.outgoing_webhook(
        subscriber.url, events=[kind], **{"retry": SOON, "circuit_breaker": OPENS_AT_ONCE, **fields}
    )
    numbered(hub, kind)
    eventually(lambda: health(hub, webhook)["circuit"] == "open")
    numbered(hub, kind, 2, first=1)
    waiting(hub, webhook, "circuit_open", 3)
    return webhook


# Bounds, and what is shown


@pytest.mark.parametrize(("settings", "max_s"), [({}, 900), ({"max_retry_after_s": 20}, 20)])
def test_a_retry_after_is_bounded_and_shown(hub: Hub, settings: dict[str, Any], max_s: float) -> None:
    with Subscriber() as subscriber:
        webhook = held(hub, subscriber, retry={"schedule": [0, 0], "jitter": 0, **settings})
        assert hub.call("GET", path_of(webhook))["retry"]["max_retry_after_s"] == max_s
        assert max_s - 20 < in_s(health(hub, webhook)["held_until"]) <= max_s
        for delivery in waiting(hub, webhook, "held", 3):
            assert max_s - 20 < in_s(delivery["next_attempt_at"]) <= max_s + 1
            assert read(hub, delivery["id"])["waiting_reason"] == "held"
        assert len(subscriber.got) == 1


@pytest.mark.parametrize("status", [410, 429])
def test_the_response_of_an_earlier_url_decides_nothing(hub: Hub, status: int) -> None:
    """It came after the change: neither is the webhook disabled, nor are its deliveries held back."""

    def answer_late(connection: Any) -> None:
        changed.wait(60)
        connection.sendall(b"HTTP/1.1 %d X\r\nRetry-After: 900\r\nContent-Length: 0\r\n\r\n" % status)

    changed = Event()
    with MisbehavingServer(answer_late) as earlier, Subscriber() as subscriber:
        kind = new_type()
        webhook = hub.outgoing_webhook(earlier.url, events=[kind], retry=SOON, ordering="strict")
        numbered(hub, kind)
        eventually(lambda: earlier.requests == 1)
        hub.call("PATCH", path_of(webhook), {"url": subscriber.url})
        changed.set()
        eventually(lambda: stats(hub, webhook)["active"] == 0)
        numbered(hub, kind, first=1)
        subscriber.wait_for(1 if status == 410 else 2)
        sleep(1)
        shown = hub.call("GET", path_of(webhook))
    assert (shown["enabled"], shown["health"]["held_until"]) == (True, None)


def test_what_is_held_back_is_not_given_up_behind_the_circuit(hub: Hub) -> None:
    """The endpoint said when to come again, and the API said so: the circuit's patience does not count."""
    kind = new_type()
    with Subscriber(in_turn(Moody(503, Retry_After="6"), 204)) as subscriber:
        webhook = hub.outgoing_webhook(
            subscriber.url,
            events=[kind],
            retry=ONCE,
            circuit_breaker={"failures": 1, "failing_s": 0, "pause_s": 1, "max_pause_s": 1, "max_wait_s": 1},
        )
        numbered(hub, kind)
        eventually(lambda: health(hub, webhook)["circuit"] == "open")
        numbered(hub, kind, 2, first=1)
        deliveries = finished(hub, webhook["id"], 3)
    assert [delivery["status"] for delivery in deliveries] == ["dead_letter", "delivered", "delivered"]


def test_a_retry_after_can_be_ignored(hub: Hub) -> None:
    with Subscriber(in_turn(Moody(503, Retry_After=DAY), 204)) as subscriber:
        kind = new_type()
        webhook = hub.outgoing_webhook(
            subscriber.url,
            events=[kind],
            retry={"schedule": [0, 0.1], "jitter": 0, "max_retry_after_s": 0},
        )
        numbered(hub, kind)
        [delivery] = finished(hub, webhook["id"])
    assert delivery["status"] == "delivered"


def test_an_open_circuit_is_shown_with_its_next_probe(hub: Hub) -> None:
    with Subscriber() as subscriber:
        webhook = opened(hub, subscriber)
        assert 500 < in_s(health(hub, webhook)["next_probe_at"]) <= 600
        listed = waiting(hub, webhook, "circuit_open", 3)
        assert all(500 < in_s(delivery["next_attempt_at"]) <= 601 for delivery in listed)
        assert sorted(delivery["attempt_count"] for delivery in listed) == [0, 0, 1]
        nothing_waits_for_the_hub(hub)


@pytest.mark.parametrize("action", ["pause", "disable"])
def test_what_is_paused_or_disabled_says_so_and_promises_no_time(hub: Hub, action: str) -> None:
    with Subscriber(Moody(500)) as subscriber:
        kind = new_type()
        webhook = hub.outgoing_webhook(subscriber.url, events=[kind], retry=LATER)
        numbered(hub, kind)
        [delivery] = waiting(hub, webhook, None, 1)
        assert 500 < in_s(delivery["next_attempt_at"]) <= 600, "its schedule"
        hub.call("POST", f"{path_of(webhook)}/{action}")
        [delivery] = waiting(hub, webhook, action + "d", 1)
        assert delivery["next_attempt_at"] is None


def test_what_waits_for_its_rate_limit_says_so(hub: Hub) -> None:
    with Subscriber() as subscriber:
        kind = new_type()
        webhook = hub.outgoing_webhook(
            subscriber.url, events=[kind], rate_limit={"requests": 1, "period_s": 600}
        )
        numbered(hub, kind, 3)
        for delivery in waiting(hub, webhook, "rate_limited", 2):
            assert 500 < in_s(delivery["next_attempt_at"]) <= 600
        nothing_waits_for_the_hub(hub)


def test_what_waits_for_its_turn_says_so(hub: Hub) -> None:
    with Subscriber(delay_s=5) as subscriber:
        kind = new_type()
        webhook = hub.outgoing_webhook(subscriber.url, events=[kind], max_in_flight=1)
        numbered(hub, kind, 3)
        for delivery in waiting(hub, webhook, "queued", 2):
            assert -2 < in_s(delivery["next_attempt_at"]) <= 0
        nothing_waits_for_the_hub(hub)


def test_another_process_and_the_next_owner_know_it(hub: Hub, tmp_path: Path, bus: Bus, store: Store) -> None:
    with (
        Subscriber() as held_subscriber,
        Subscriber() as broken_subscriber,
        Subscriber() as third_subscriber,
        Subscriber() as limited_subscriber,
    ):
        quiet, broken = held(hub, held_subscriber), opened(hub, broken_subscriber)
        limit = {"requests": 2, "period_s": 600}
        limited = hub.outgoing_webhook(limited_subscriber.url, events=[new_type()], rate_limit=limit)
        numbered(hub, limited["events"][0], 3)
        waiting(hub, limited, "rate_limited", 1)
        paused = hub.outgoing_webhook(third_subscriber.url, events=[new_type()])
        hub.call("POST", f"{path_of(paused)}/pause")
        numbered(hub, paused["events"][0], 2)
        recent, old = waiting(hub, paused, "paused", 2)
        with MongoClient[dict[str, Any]](hub.env["MONGODB_URI"]) as client:
            log = client.get_default_database()[DELIVERIES]
            for delivery, days in ((recent, 29), (old, 31)):
                due_at = datetime.now(UTC) - timedelta(days=days)
                log.update_one({"_id": delivery["id"]}, {"$set": {"due_at": due_at}})
        with second_process("delivery", hub, tmp_path, bus, store) as second:
            assert in_s(health(second, quiet)["held_until"]) > 500
            assert health(second, broken)["circuit"] == "open"
            waiting(second, quiet, "held", 3)
        hub.kill("delivery")
        hub.start_service("delivery")
        hub.wait_ready("delivery")
        assert in_s(health(hub, quiet)["held_until"]) > 500
        assert health(hub, broken)["circuit"] == "open"
        # What comes now waits too, and is not tried because a process is new.
        for webhook, reason, count in (
            (quiet, "held", 4),
            (broken, "circuit_open", 4),
            (limited, "rate_limited", 2),
        ):
            numbered(hub, webhook["events"][0], first=3)
            waiting(hub, webhook, reason, count)
        assert (len(held_subscriber.got), len(broken_subscriber.got)) == (1, 1)
        assert len(limited_subscriber.got) == 2
        # A higher limit holds at once.
        hub.call("PATCH", path_of(limited), {"rate_limit": limit | {"requests": 3}})
        limited_subscriber.wait_for(3)
        waiting(hub, limited, "rate_limited", 1)
        # What has waited for a month is given up; a person can still send it.
        [waits] = waiting(hub, paused, "paused", 1)
        assert waits["id"] == recent["id"]
        dead = read(hub, old["id"])
        assert (dead["status"], dead["error"], dead["attempt_count"]) == ("dead_letter", "stopped", 0)
        assert dead["finished_at"]
        assert third_subscriber.got == []
        hub.call("POST", f"{path_of(paused)}/resume")
        hub.call("POST", f"/api/deliveries/{old['id']}/retry", expect=202)
        eventually(lambda: {n_of(got) for got in third_subscriber.got} == {0, 1})


# Ended by a person


@pytest.mark.parametrize("action", ["enable", "resume", "url", "retry_after"])
def test_a_person_ends_a_hold(hub: Hub, action: str) -> None:
    with Subscriber() as subscriber:
        webhook = held(hub, subscriber)
        subscriber.answer = None
        lift(hub, webhook, action)
        assert health(hub, webhook)["held_until"] is None
        eventually(lambda: {n_of(got) for got in subscriber.got[1:]} == {0, 1, 2})


@pytest.mark.parametrize("action", ["enable", "resume", "url", "circuit_breaker"])
def test_a_person_closes_a_circuit(hub: Hub, action: str) -> None:
    with Subscriber() as subscriber:
        webhook = opened(hub, subscriber)
        subscriber.answer = None
        lift(hub, webhook, action)
        assert health(hub, webhook)["circuit"] == "closed"
        eventually(lambda: {n_of(got) for got in subscriber.got[1:]} == {0, 1, 2})


def lift(hub: Hub, webhook: dict[str, Any], action: str) -> None:
    changes: dict[str, Any] = {
        "url": {"url": webhook["url"] + "/other"},
        "retry_after": {"retry": {**SOON, "max_retry_after_s": 0}},
        "circuit_breaker": {"circuit_breaker": {"enabled": False}},
    }
    if action in changes:
        hub.call("PATCH", path_of(webhook) + "?force=true", changes[action])
    else:
        hub.call("POST", f"{path_of(webhook)}/{action}")


@pytest.mark.parametrize("make", [held, opened])
@pytest.mark.parametrize("ordering", ["none", "strict"])
def test_a_test_passes_alone_and_its_failure_changes_nothing(hub: Hub, make: Any, ordering: str) -> None:
    with Subscriber() as subscriber:
        webhook = make(hub, subscriber, ordering=ordering)
        subscriber.answer = Moody(500)
        made = hub.call("POST", f"{path_of(webhook)}/test", expect=202)["delivery_id"]
        assert subscriber.wait_for(2)[1].headers["webhook-id"] == made
        eventually(lambda: read(hub, made)["attempt_count"] == 1)
        assert make_reason(health(hub, webhook)) == make
        waiting(hub, webhook, "held" if make is held else "circuit_open", 4)
        assert len(subscriber.got) == 2


def make_reason(health: dict[str, Any]) -> Any:
    """Which of the two helpers made the webhook that has this health."""
    return held if health["held_until"] else opened if health["circuit"] == "open" else None


@pytest.mark.parametrize("make", [held, opened])
@pytest.mark.parametrize("by", ["test", "retry", "resend"])
def test_a_success_of_what_a_person_sent_ends_it_for_all(hub: Hub, make: Any, by: str) -> None:
    with Subscriber() as subscriber:
        webhook = make(hub, subscriber)
        subscriber.answer = None
        oldest = hub.deliveries(webhook_id=webhook["id"])[-1]
        if by == "test":
            hub.call("POST", f"{path_of(webhook)}/test", expect=202)
        elif by == "retry":
            hub.call("POST", f"/api/deliveries/{oldest['id']}/retry", expect=202)
        else:
            hub.call("POST", f"/api/deliveries/{oldest['id']}/cancel")
            hub.call("POST", f"/api/deliveries/{oldest['id']}/resend", expect=202)
        eventually(lambda: make_reason(health(hub, webhook)) is None)
        eventually(lambda: {n_of(got) for got in subscriber.got if b'"n":' in got.body} >= {1, 2})


@pytest.mark.parametrize("make", [held, opened])
def test_jobs_do_not_pass(hub: Hub, make: Any) -> None:
    with Subscriber() as subscriber:
        webhook = make(hub, subscriber)
        subscriber.answer = None
        since = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
        ids = [delivery["id"] for delivery in hub.deliveries(webhook_id=webhook["id"])]
        job = hub.call("POST", f"{path_of(webhook)}/recover", {"since": since}, expect=202)["job"]
        eventually(lambda: hub.call("GET", f"/api/delivery-jobs/{job['id']}")["status"] == "done")
        hub.call("POST", f"/api/deliveries/{ids[0]}/cancel")
        job = hub.call("POST", f"{path_of(webhook)}/replay", {"since": since}, expect=202)["job"]
        eventually(lambda: hub.call("GET", f"/api/delivery-jobs/{job['id']}")["status"] == "done")
        waiting(hub, webhook, "held" if make is held else "circuit_open", 3)
        assert len(subscriber.got) == 1
        assert make_reason(health(hub, webhook)) == make


# The circuit's time


def test_failures_of_a_moment_end_as_dead_letters_that_recover_finds(hub: Hub) -> None:
    """The circuit does not open within 30 s, so the schedule decides."""
    with Subscriber(Moody(500)) as subscriber:
        kind, since = new_type(), datetime.now(UTC)
        webhook = hub.outgoing_webhook(
            subscriber.url, events=[kind], retry={"schedule": [0, 1, 1], "jitter": 0}
        )
        numbered(hub, kind, 8)
        dead = finished(hub, webhook["id"], 8)
        assert {(delivery["status"], delivery["attempt_count"]) for delivery in dead} == {("dead_letter", 3)}
        assert health(hub, webhook)["circuit"] == "closed"
        subscriber.answer = None
        hub.call("POST", f"{path_of(webhook)}/recover", {"since": since.isoformat()}, expect=202)
        eventually(lambda: stats(hub, webhook)["failed"] == 0)
        done = finished(hub, webhook["id"], 8)
    assert {delivery["status"] for delivery in done} == {"delivered"}


def test_what_waits_too_long_behind_a_circuit_is_a_dead_letter_that_used_no_attempt(hub: Hub) -> None:
    with Subscriber(Moody(500)) as subscriber:
        kind, since = new_type(), datetime.now(UTC)
        webhook = hub.outgoing_webhook(
            subscriber.url,
            events=[kind],
            max_in_flight=1,
            retry={"schedule": [0, 0.5, 0.5], "jitter": 0},
            circuit_breaker={"failures": 1, "failing_s": 0, "pause_s": 1, "max_pause_s": 1, "max_wait_s": 2},
        )
        numbered(hub, kind, 8)
        dead = finished(hub, webhook["id"], 8)
        assert {delivery["status"] for delivery in dead} == {"dead_letter"}
        waited = [delivery for delivery in dead if delivery["error"] == "circuit_open"]
        assert len(waited) >= 4
        assert any(delivery["attempt_count"] == 0 for delivery in waited)
        assert len(subscriber.got) == sum(delivery["attempt_count"] for delivery in dead)
        errors = hub.call("GET", f"/api/dead-letters?webhook_id={webhook['id']}&error=circuit_open")["items"]
        assert {item["id"] for item in errors} == {delivery["id"] for delivery in waited}
        subscriber.answer = None
        hub.call("POST", f"{path_of(webhook)}/recover", {"since": since.isoformat()}, expect=202)
        eventually(lambda: len(hub.deliveries(webhook_id=webhook["id"], status="delivered")) == 8)


def test_a_circuit_that_is_switched_off_costs_every_delivery_its_attempts(hub: Hub) -> None:
    with Subscriber(Moody(500)) as subscriber:
        kind = new_type()
        webhook = hub.outgoing_webhook(
            subscriber.url,
            events=[kind],
            retry=ONCE,
            circuit_breaker={"enabled": False, "failures": 1, "failing_s": 0},
        )
        began = monotonic()
        numbered(hub, kind, 20)
        finished(hub, webhook["id"], 20)
        assert monotonic() - began < 20
        assert len(subscriber.got) == 20
        assert health(hub, webhook)["circuit"] == "closed"


@pytest.mark.parametrize(
    "settings",
    [
        {"circuit_breaker": {"failures": 0}},
        {"circuit_breaker": {"pause_s": 0}},
        {"circuit_breaker": {"max_wait_s": 0.5}},
        {"circuit_breaker": {"other": 1}},
        {"retry": {"max_retry_after_s": 86_401}},
        {"retry": {"max_retry_after_s": -1}},
    ],
)
def test_settings_that_are_refused(hub: Hub, settings: dict[str, Any]) -> None:
    body = {"name": "x", "url": "http://127.0.0.1:9/", "events": ["*"], **settings}
    hub.call("POST", "/api/outgoing-webhooks?force=true", body, expect=422)


def test_the_circuit_breaker_of_a_webhook_is_shown_and_cleared(hub: Hub) -> None:
    webhook = hub.outgoing_webhook(
        "http://127.0.0.1:9/", events=[new_type()], circuit_breaker={"failures": 3}
    )
    assert webhook["circuit_breaker"]["failures"] == 3
    assert hub.call("PATCH", path_of(webhook), {"circuit_breaker": None})["circuit_breaker"] is None
    hub.call("DELETE", path_of(webhook), expect=204)
