"""Recovery over a real bus and store: by hand, as jobs, from the dead letters, and through kill -9."""

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from random import Random
from secrets import token_hex
from time import sleep
from typing import Any

import httpx
import pymongo
import pytest
from aiohttp import web

from interlink.embedded import EmbeddedPair
from services.delivery.log.recovery import replay_id
from services.delivery.log.recovery_jobs import MAX_RUNNING
from services.delivery.log.recovery_steps import sortable_prefix
from tests.support.backends import Store, embedded_bus
from tests.support.eventually import eventually
from tests.support.hub import Hub, hub_with
from tests.support.subscriber import Subscriber, WebhookRequest

ONCE = {"schedule": [0]}
LONG = {"schedule": [0, 3600]}
SOON_REPLACED = {"KAFKA_SESSION_TIMEOUT_MS": "3000"}
"""A process that was killed is missed within seconds, so the next one need not wait for long."""
SHORT_S = 2
"""The timeout of what is under way when delivery is killed: its lease ends five seconds later."""
MANY = 400
"""Deliveries of a job that is stopped in the middle: several steps of it."""
FEW = 50
"""More deliveries than these are counted before they are listed."""
PAGES = 1100
"""More than a job reads of the log at a time."""
LONG_AGO = "2020-01-01T00:00:00Z"
NEVER = "2100-01-01T00:00:00Z"

Job = dict[str, Any]


hub = hub_with(services=("gateway", "delivery"), env=SOON_REPLACED, workspace="recovery")


class Moody:
    """Answers with `status`, which a test changes in the middle."""

    def __init__(self, status: int) -> None:
        self.status = status

    def __call__(self, _got: WebhookRequest) -> web.Response:
        return web.Response(status=self.status)


def new_type() -> str:
    return f"t{token_hex(6)}.made"


def publish(hub: Hub, kind: str, count: int = 1) -> None:
    """Put events of one conversation on Kafka, numbered in their data."""
    events = [
        {
            "specversion": "1.0",
            "id": f"evt-{token_hex(8)}",
            "type": kind,
            "source": "/tests",
            "subject": kind,
            "data": {"n": number},
        }
        for number in range(count)
    ]
    for start in range(0, count, 500):
        hub.call("POST", "/api/events", events[start : start + 500], expect=202)


def n_of(got: WebhookRequest) -> int:
    return int(json.loads(got.body)["data"]["n"])


def counted(hub: Hub, webhook_id: str, count: int, within_s: float = 60, **query: str) -> None:
    """Wait until so many of the webhook's deliveries match, in the store: the log's pages are dear."""
    closed, log = log_of(hub)
    with closed:
        wanted = {"webhook_id": webhook_id, **query}
        eventually(lambda: log.count_documents(wanted) == count, within_s, 0.25)


def until(hub: Hub, webhook_id: str, count: int = 1, within_s: float = 60, **query: str) -> list[Any]:
    """The webhook's deliveries that match, newest first, once there are so many."""
    if count > FEW:
        counted(hub, webhook_id, count, within_s, **query)

    def check() -> list[Any] | None:
        """So many deliveries are as they should be."""
        found = hub.deliveries(webhook_id=webhook_id, **query)
        return found if len(found) == count else None

    return eventually(check, within_s, 0.2) or []


def ended(hub: Hub, job: Job, within_s: float = 60) -> Job:
    """The job, once it no longer runs."""

    def check() -> Job | None:
        """The job has ended."""
        now = dict(hub.call("GET", f"/api/delivery-jobs/{job['id']}"))
        return now if now["status"] != "running" else None

    return eventually(check, within_s) or {}


def begin(hub: Hub, webhook_id: str, kind: str, **body: Any) -> Job:
    path = f"/api/outgoing-webhooks/{webhook_id}/{kind}"
    return dict(hub.call("POST", path, {"since": LONG_AGO, **body}, expect=202)["job"])


def act(hub: Hub, delivery_id: str, what: str, expect: int | None = None) -> Any:
    return hub.call("POST", f"/api/deliveries/{delivery_id}/{what}", expect=expect)


def read(hub: Hub, delivery_id: str) -> dict[str, Any]:
    return dict(hub.call("GET", f"/api/deliveries/{delivery_id}"))


def dead_ones(hub: Hub, subscriber: Subscriber, count: int, **fields: Any) -> tuple[str, list[str]]:
    """A webhook with so many dead letters: its id, and theirs in the order of their events."""
    kind = fields.pop("kind", None) or new_type()
    webhook = hub.outgoing_webhook(subscriber.url, events=[kind], **({"retry": ONCE} | fields))["id"]
    publish(hub, kind, count)
    found = until(hub, webhook, count, status="dead_letter")
    return webhook, [delivery["id"] for delivery in found]


def log_of(hub: Hub) -> Any:
    """The collection itself, for what no call does yet."""
    client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(hub.env["MONGODB_URI"])
    return closing(client), client.get_default_database()["webhook_deliveries"]


# One delivery


def test_a_retried_dead_letter_restarts_its_schedule_under_the_same_id(hub: Hub) -> None:
    mood = Moody(500)
    with Subscriber(mood) as subscriber:
        webhook, [name] = dead_ones(hub, subscriber, 1, retry={"schedule": [0, 0.2]})
        assert act(hub, name, "retry", 202)["id"] == name
        subscriber.wait_for(4)
        [again] = until(hub, webhook, status="dead_letter")
        assert (again["id"], again["attempt_count"]) == (name, 4)
        assert again["finished_at"] is not None
        mood.status = 204
        act(hub, name, "retry", 202)
        until(hub, webhook, status="delivered")
        delivery = read(hub, name)
        assert [attempt["number"] for attempt in delivery["attempts"]] == [1, 2, 3, 4, 5]
        assert {got.headers["webhook-id"] for got in subscriber.wait_for(5)} == {name}
        assert "replay" in act(hub, name, "retry", 409)["detail"]


def test_what_waits_for_its_next_attempt_is_due_at_once(hub: Hub) -> None:
    mood = Moody(503)
    with Subscriber(mood) as subscriber:
        kind = new_type()
        webhook = hub.outgoing_webhook(subscriber.url, events=[kind], retry=LONG)["id"]
        publish(hub, kind)
        [waiting] = until(hub, webhook, status="retrying")
        mood.status = 204
        act(hub, waiting["id"], "retry", 202)
        [delivered] = until(hub, webhook, status="delivered")
        assert (delivered["id"], delivered["attempt_count"]) == (waiting["id"], 2)


def test_what_cannot_be_sent_again_has_a_reason(hub: Hub) -> None:
    with Subscriber(Moody(500)) as subscriber:
        webhook, [name] = dead_ones(hub, subscriber, 1)
        act(hub, "dlv_nobody", "retry", 404)
        act(hub, "dlv_nobody", "cancel", 404)
        other = hub.other_workspace()
        for what in ("retry", "cancel"):
            eventually(partial(_is_hidden, hub, f"/api/deliveries/{name}/{what}", other))
        hub.call("POST", f"/api/outgoing-webhooks/{webhook}/disable")
        assert "disabled" in act(hub, name, "retry", 409)["detail"]
        for kind in ("recover", "replay"):
            path = f"/api/outgoing-webhooks/{webhook}/{kind}"
            assert "disabled" in hub.call("POST", path, {"since": LONG_AGO}, expect=409)["detail"]
        hub.call("POST", f"/api/outgoing-webhooks/{webhook}/enable")
        closed, log = log_of(hub)
        with closed:  # as an erasure leaves it
            log.update_one(
                {"_id": name}, {"$unset": {"body": ""}, "$set": {"erased_at": log.find_one()["created_at"]}}
            )
        assert "erased" in act(hub, name, "retry", 409)["detail"]
        assert ended(hub, begin(hub, webhook, "replay"))["skipped"] == 1
        hub.call("DELETE", f"/api/outgoing-webhooks/{webhook}")
        assert act(hub, name, "retry", 409)["detail"]
        hub.call("POST", f"/api/outgoing-webhooks/{webhook}/replay", {"since": LONG_AGO}, expect=404)
        assert len(subscriber.got) == 1


def _is_hidden(hub: Hub, path: str, key: str) -> bool:
    return _status(hub, path, key) == 404


def _status(hub: Hub, path: str, key: str) -> int:
    headers = {"authorization": f"Bearer {key}"}
    return httpx.post(hub.url("delivery") + path, headers=headers, timeout=30).status_code


def test_a_cancelled_delivery_is_not_sent_until_it_is_retried(hub: Hub) -> None:
    mood = Moody(503)
    with Subscriber(mood) as subscriber:
        kind = new_type()
        webhook = hub.outgoing_webhook(subscriber.url, events=[kind], retry={"schedule": [0, 1]})["id"]
        publish(hub, kind)
        [waiting] = until(hub, webhook, status="retrying")
        assert act(hub, waiting["id"], "cancel", 200)["status"] == "cancelled"
        assert act(hub, waiting["id"], "cancel", 200)["status"] == "cancelled"
        sleep(1.5)  # past the time that it was due
        assert len(subscriber.got) == 1
        cancelled = read(hub, waiting["id"])
        assert cancelled["finished_at"] is not None
        assert cancelled["next_attempt_at"] is None
        mood.status = 204
        act(hub, waiting["id"], "retry", 202)
        until(hub, webhook, status="delivered")
        assert "nothing to cancel" in act(hub, waiting["id"], "cancel", 409)["detail"]


def test_cancelling_the_head_of_a_strict_webhook_lets_the_next_go(hub: Hub) -> None:
    with Subscriber(lambda got: web.Response(status=204 if n_of(got) else 503)) as subscriber:
        kind = new_type()
        webhook = hub.outgoing_webhook(subscriber.url, events=[kind], retry=LONG, ordering="strict")["id"]
        publish(hub, kind, 3)
        [head] = until(hub, webhook, status="retrying")
        until(hub, webhook, 2, status="pending")
        act(hub, head["id"], "cancel", 200)
        until(hub, webhook, 2, status="delivered")
        assert [n_of(got) for got in subscriber.got] == [0, 1, 2]


def test_what_is_under_way_is_left_alone(hub: Hub) -> None:
    with Subscriber(delay_s=3) as subscriber:
        kind = new_type()
        webhook = hub.outgoing_webhook(subscriber.url, events=[kind])["id"]
        publish(hub, kind)
        [sent] = until(hub, webhook, status="delivering")
        for what in ("retry", "cancel"):
            assert "under way" in act(hub, sent["id"], what, 409)["detail"]
        until(hub, webhook, status="delivered")
        assert len(subscriber.got) == 1


def test_hands_and_engine_at_the_same_delivery_at_the_same_time(hub: Hub) -> None:
    """Whoever comes first: what was cancelled is not sent afterwards, and nothing is sent unlogged."""
    with Subscriber(Moody(503)) as subscriber:
        kind = new_type()
        webhook = hub.outgoing_webhook(
            subscriber.url, events=[kind], retry={"schedule": [0] + [0.05] * 30}, max_in_flight=50
        )["id"]
        publish(hub, kind, 20)
        names = [delivery["id"] for delivery in until(hub, webhook, 20)]

        def meddle(number: int) -> None:
            what = "cancel" if number % 3 == 0 else "retry"
            answer = httpx.post(
                f"{hub.url('delivery')}/api/deliveries/{names[number % 20]}/{what}",
                headers={"authorization": f"Bearer {hub.admin_key}"},
                timeout=30,
            )
            assert answer.status_code in (200, 202, 409), answer.text

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(meddle, range(80)))

        def cancelled() -> bool:
            """Everything is cancelled, a try at a time: what is under way refuses."""
            for item in hub.deliveries(webhook_id=webhook):
                if item["status"] != "cancelled":
                    _status(hub, f"/api/deliveries/{item['id']}/cancel", hub.admin_key)
                if item["status"] == "dead_letter":
                    return all(
                        item["status"] in ("cancelled", "dead_letter")
                        for item in hub.deliveries(webhook_id=webhook)
                    )
            return all(delivery["status"] == "cancelled" for delivery in hub.deliveries(webhook_id=webhook))

        eventually(cancelled, 120)
        sent = len(subscriber.got)
        sleep(0.5)  # ten times the pause between attempts
        assert len(subscriber.got) == sent
        for delivery in hub.deliveries(webhook_id=webhook):
            numbers = [attempt["number"] for attempt in read(hub, delivery["id"])["attempts"]]
            assert numbers == list(range(1, len(numbers) + 1))
            mine = sum(got.headers["webhook-id"] == delivery["id"] for got in subscriber.got)
            assert len(numbers) == delivery["attempt_count"] == mine


def test_a_retry_while_the_broker_hangs_is_completed_afterwards(
    tmp_path_factory: pytest.TempPathFactory, store: Store
) -> None:
    own = EmbeddedPair(tmp_path_factory.mktemp("own-broker"))
    own.broker.start()
    hub = Hub(tmp_path_factory.mktemp("still"), embedded_bus(own), store, services=("gateway", "delivery"))
    mood = Moody(500)
    try:
        hub.start()
        with Subscriber(mood) as subscriber:
            webhook, [name] = dead_ones(hub, subscriber, 1)
            mood.status = 204
            pid = own.broker.child.pid
            assert pid
            os.kill(pid, signal.SIGSTOP)
            try:
                assert act(hub, name, "retry", 202)["status"] == "pending"
                assert len(subscriber.got) == 1
            finally:
                os.kill(pid, signal.SIGCONT)
            until(hub, webhook, status="delivered")
    finally:
        hub.stop()
        own.broker.stop()


# Many deliveries


def test_recover_sends_what_failed_again_and_nothing_else(hub: Hub) -> None:
    mood = Moody(500)
    with Subscriber(mood) as subscriber:
        webhook, names = dead_ones(hub, subscriber, 250, max_in_flight=50)
        hub.call("POST", "/api/dead-letters/discard", {"ids": names[:5]})
        act(hub, names[5], "retry", 202)
        counted(hub, webhook, 245, status="dead_letter")
        mood.status = 204
        act(hub, names[6], "retry", 202)
        until(hub, webhook, 1, status="delivered")
        sent = len(subscriber.got)
        job = ended(hub, begin(hub, webhook, "recover"))
        assert (job["status"], job["total"], job["done"], job["skipped"]) == ("done", 244, 244, 0)
        assert (job["kind"], job["webhook_id"], job["error"]) == ("recover", webhook, None)
        counted(hub, webhook, 245, status="delivered")
        assert {got.headers["webhook-id"] for got in subscriber.got[sent:]} == set(names[5:]) - {names[6]}
        assert len(subscriber.got) == sent + 244
        again = ended(hub, begin(hub, webhook, "recover"))
        assert (again["done"], again["total"]) == (0, 0)
        named = ended(hub, begin(hub, webhook, "recover", statuses=["discarded"]))
        assert named["done"] == 5
        counted(hub, webhook, 250, status="delivered")


def test_recover_hastens_what_waits_and_keeps_to_its_time(hub: Hub) -> None:
    mood = Moody(503)
    with Subscriber(mood) as subscriber:
        kind = new_type()
        webhook = hub.outgoing_webhook(subscriber.url, events=[kind], retry=LONG)["id"]
        publish(hub, kind, 3)
        made = sorted(delivery["created_at"] for delivery in until(hub, webhook, 3, status="retrying"))
        mood.status = 204
        nothing = ended(hub, begin(hub, webhook, "recover", until=made[0]))
        assert (nothing["total"], nothing["done"]) == (0, 0)
        assert ended(hub, begin(hub, webhook, "recover"))["done"] == 3
        until(hub, webhook, 3, status="delivered")


def test_replay_sends_everything_again_in_order_under_new_ids(hub: Hub) -> None:
    with Subscriber() as subscriber:
        kind = new_type()
        fields: dict[str, Any] = {"events": [f"{kind}.*"], "ordering": "strict"}
        webhook = hub.outgoing_webhook(subscriber.url, **fields)["id"]
        publish(hub, f"{kind}.one", 150)
        # Conversations have no order among them: the second begins when the first is through.
        until(hub, webhook, 150, status="delivered")
        publish(hub, f"{kind}.two", 10)
        first = until(hub, webhook, 160, status="delivered")
        originals = {delivery["id"]: delivery["event_id"] for delivery in first}

        job = ended(hub, begin(hub, webhook, "replay", events=[f"{kind}.one"]))
        assert (job["status"], job["done"], job["replay_no"]) == ("done", 150, 1)
        got = subscriber.wait_for(310)[160:]
        assert [n_of(request) for request in got] == list(range(150))
        log = {
            delivery["id"]: delivery["event_id"] for delivery in until(hub, webhook, 310, status="delivered")
        }
        ones = {name for name in originals if f"{kind}.one" in _types(first, name)}
        assert {got.headers["webhook-id"] for got in got} == {replay_id(name, 1) for name in ones}
        for name in ones:
            assert log[replay_id(name, 1)] == originals[name]

        second = ended(hub, begin(hub, webhook, "replay"))
        assert (second["done"], second["replay_no"]) == (310, 2)
        found = until(hub, webhook, 470, status="delivered")
        assert {delivery["id"] for delivery in found} - log.keys() == {
            replay_id(name, 2) for name in originals
        }
        assert [n_of(request) for request in subscriber.wait_for(470)[310:]] == [*range(150), *range(10)]


def _types(deliveries: list[Any], name: str) -> set[str]:
    return {delivery["event_type"] for delivery in deliveries if delivery["id"] == name}


def test_two_replays_at_once_are_two(hub: Hub) -> None:
    with Subscriber() as subscriber:
        kind = new_type()
        webhook = hub.outgoing_webhook(subscriber.url, events=[kind])["id"]
        publish(hub, kind, 5)
        names = [delivery["id"] for delivery in until(hub, webhook, 5, status="delivered")]
        with ThreadPoolExecutor(4) as pool:
            jobs = list(pool.map(lambda _: begin(hub, webhook, "replay"), range(4)))
        assert sorted(job["replay_no"] for job in jobs) == [1, 2, 3, 4]
        for job in jobs:
            assert ended(hub, job)["status"] == "done"
        wanted = {replay_id(name, number) for name in names for number in range(1, 5)}
        found = until(hub, webhook, 25, status="delivered")
        assert {delivery["id"] for delivery in found} == wanted | set(names)


def test_killed_in_the_middle_of_a_replay_nothing_is_missing_and_nothing_is_made_twice(hub: Hub) -> None:
    with Subscriber() as subscriber:
        kind = new_type()
        fields: dict[str, Any] = {"ordering": "strict", "timeout_s": SHORT_S}
        webhook = hub.outgoing_webhook(subscriber.url, events=[kind], **fields)["id"]
        publish(hub, kind, MANY)
        originals = [
            delivery["id"] for delivery in until(hub, webhook, MANY, within_s=60, status="delivered")
        ]
        job = begin(hub, webhook, "replay")
        eventually(lambda: _job_document(hub, job)["done"] >= 100, every_s=0.01)
        hub.kill("delivery")
        halfway = _job_document(hub, job)
        assert halfway["status"] == "running"
        assert 100 <= halfway["done"] < MANY
        hub.start_service("delivery")
        hub.wait_ready("delivery")
        done = ended(hub, job, within_s=90)
        assert (done["status"], done["done"], done["skipped"]) == ("done", MANY, 0)
        found = until(hub, webhook, 2 * MANY, within_s=60, status="delivered")
        assert {delivery["id"] for delivery in found} - set(originals) == {
            replay_id(name, 1) for name in originals
        }
        got = subscriber.got[MANY:]
        assert {request.headers["webhook-id"] for request in got} == {
            replay_id(name, 1) for name in originals
        }
        numbers = list(dict.fromkeys(n_of(request) for request in got))
        assert all(earlier < later for earlier, later in pairwise(numbers))


def test_killed_in_the_middle_of_a_recovery_each_has_one_new_round(hub: Hub) -> None:
    """The receiver still refuses: a second round for what had one already would show in the log."""
    with Subscriber(Moody(500)) as subscriber:
        webhook, names = dead_ones(hub, subscriber, MANY, max_in_flight=50, timeout_s=SHORT_S)
        job = begin(hub, webhook, "recover")
        eventually(lambda: 100 <= _job_document(hub, job)["done"] < MANY, every_s=0.01)
        hub.kill("delivery")
        assert _job_document(hub, job)["status"] == "running"
        hub.start_service("delivery")
        hub.wait_ready("delivery")
        done = ended(hub, job, within_s=90)
        assert (done["status"], done["done"], done["skipped"]) == ("done", MANY, 0)
        found = until(hub, webhook, MANY, within_s=60, status="dead_letter")
        assert {delivery["id"] for delivery in found} == set(names)
        assert {delivery["attempt_count"] for delivery in found} == {2}


@cache
def _client(uri: str) -> pymongo.MongoClient[dict[str, Any]]:
    """One client for all looks: each would log in."""
    return pymongo.MongoClient(uri)


def _job_document(hub: Hub, job: Job) -> dict[str, Any]:
    """The job as it stands in the store, also while no service answers."""
    found = (
        _client(hub.env["MONGODB_URI"]).get_default_database()["delivery_jobs"].find_one({"_id": job["id"]})
    )
    assert found
    return found


def test_a_job_that_is_cancelled_stops_and_says_how_far_it_was(hub: Hub) -> None:
    with Subscriber() as subscriber:
        kind = new_type()
        webhook = hub.outgoing_webhook(subscriber.url, events=[kind], max_in_flight=50)["id"]
        publish(hub, kind, MANY)
        counted(hub, webhook, MANY, within_s=60, status="delivered")
        job = begin(hub, webhook, "replay")
        eventually(lambda: _job_document(hub, job)["done"] >= 100, every_s=0.01)
        stopped = hub.call("POST", f"/api/delivery-jobs/{job['id']}/cancel", expect=200)
        assert stopped["status"] == "cancelled"
        assert stopped["finished_at"] is not None
        eventually(lambda: _settled(hub, job, len(subscriber.got) - MANY))
        assert 100 <= len(subscriber.got) - MANY < MANY
        again = hub.call("POST", f"/api/delivery-jobs/{job['id']}/cancel", expect=200)
        assert again["finished_at"] == stopped["finished_at"]
        hub.call("POST", "/api/delivery-jobs/job_nobody/cancel", expect=404)


def _settled(hub: Hub, job: Job, replayed: int) -> bool:
    return bool(hub.call("GET", f"/api/delivery-jobs/{job['id']}")["done"] == replayed)


def test_a_job_waits_for_a_webhook_that_is_disabled_and_ends_with_one_that_is_gone(hub: Hub) -> None:
    with Subscriber() as subscriber:
        kind = new_type()
        webhook = hub.outgoing_webhook(subscriber.url, events=[kind], max_in_flight=50)["id"]
        path = f"/api/outgoing-webhooks/{webhook}"
        publish(hub, kind, PAGES)
        counted(hub, webhook, PAGES, within_s=60, status="delivered")
        job = begin(hub, webhook, "replay")
        hub.call("POST", f"{path}/disable")

        def waits() -> bool:
            """The job says what it waits for."""
            now = hub.call("GET", f"/api/delivery-jobs/{job['id']}")
            return "disabled" in (now["waiting_for"] or "") and now["status"] == "running"

        eventually(waits)
        hub.call("POST", f"{path}/enable")
        done = ended(hub, job)
        assert (done["status"], done["done"], done["waiting_for"]) == ("done", PAGES, None)
        counted(hub, webhook, 2 * PAGES, within_s=60, status="delivered")
        other = begin(hub, webhook, "replay")
        hub.call("DELETE", path)
        failed = ended(hub, other)
        assert failed["status"] == "failed"
        assert "deleted" in failed["error"]


def test_jobs_are_listed_and_are_nobody_elses(hub: Hub) -> None:
    with Subscriber(Moody(500)) as subscriber:
        webhook, _ = dead_ones(hub, subscriber, 1)
        jobs = [ended(hub, begin(hub, webhook, "recover", statuses=["cancelled"])) for _ in range(3)]
        listed = hub.call("GET", "/api/delivery-jobs", params={"webhook_id": webhook, "limit": "2"})
        assert [item["id"] for item in listed["items"]] == [jobs[2]["id"], jobs[1]["id"]]
        rest = hub.call(
            "GET", "/api/delivery-jobs", params={"webhook_id": webhook, "cursor": listed["next_cursor"]}
        )
        assert [item["id"] for item in rest["items"]] == [jobs[0]["id"]]
        other = hub.other_workspace()
        eventually(lambda: _get(hub, "/api/delivery-jobs", other).status_code == 200)
        assert _get(hub, "/api/delivery-jobs", other).json()["items"] == []
        assert _get(hub, f"/api/delivery-jobs/{jobs[0]['id']}", other).status_code == 404
        assert _status(hub, f"/api/delivery-jobs/{jobs[0]['id']}/cancel", other) == 404


def _get(hub: Hub, path: str, key: str) -> httpx.Response:
    return httpx.get(hub.url("delivery") + path, headers={"authorization": f"Bearer {key}"}, timeout=30)


def test_a_workspace_has_so_many_jobs_at_a_time(hub: Hub) -> None:
    with Subscriber() as subscriber:
        kind = new_type()
        webhook = hub.outgoing_webhook(subscriber.url, events=[kind])["id"]
        publish(hub, kind, 200)
        counted(hub, webhook, 200, status="delivered")
        path = f"/api/outgoing-webhooks/{webhook}/replay"
        with hub.client("delivery") as client:
            refused = None
            jobs = []
            for _ in range(MAX_RUNNING * 10):
                answer = client.post(path, json={"since": LONG_AGO})
                if answer.status_code == 409:
                    refused = answer.json()["detail"]
                    break
                jobs.append(answer.json()["job"])
            assert refused
            assert str(MAX_RUNNING) in refused
            for job in jobs:
                client.post(f"/api/delivery-jobs/{job['id']}/cancel")


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("recover", {}),
        ("recover", {"since": "yesterday"}),
        ("recover", {"since": LONG_AGO, "until": LONG_AGO}),
        ("recover", {"since": LONG_AGO, "statuses": ["delivered"]}),
        ("recover", {"since": LONG_AGO, "statuses": []}),
        ("replay", {"since": LONG_AGO, "events": ["a b"]}),
        ("replay", {"since": LONG_AGO, "statuses": ["pending"]}),
        ("replay", {"since": LONG_AGO, "more": 1}),
    ],
)
def test_bodies_of_jobs_are_checked(hub: Hub, kind: str, body: dict[str, Any]) -> None:
    hub.call("POST", f"/api/outgoing-webhooks/wh_x/{kind}", body, expect=422)


# Dead letters


def test_dead_letters_are_listed_with_their_last_error_and_read_singly(hub: Hub) -> None:
    with Subscriber(Moody(418)) as subscriber:
        webhook, names = dead_ones(hub, subscriber, 3)
        listed = hub.call("GET", "/api/dead-letters", params={"webhook_id": webhook, "limit": "2"})
        assert [item["id"] for item in listed["items"]] == names[:2]
        rest = hub.call(
            "GET", "/api/dead-letters", params={"webhook_id": webhook, "cursor": listed["next_cursor"]}
        )
        assert [item["id"] for item in rest["items"]] == names[2:]
        shown = listed["items"][0]
        assert (shown["error"], shown["status_code"], shown["attempt_count"]) == ("status", 418, 1)
        assert shown["attempts"] is shown["body"] is None
        single = hub.call("GET", f"/api/dead-letters/{names[0]}")
        assert [attempt["status_code"] for attempt in single["attempts"]] == [418]
        assert json.loads(single["body"])["type"] == shown["event_type"]
        assert {name: single[name] for name in shown if name not in ("attempts", "body")} == {
            name: shown[name] for name in shown if name not in ("attempts", "body")
        }

        def found(**query: str) -> list[str]:
            items = hub.call("GET", "/api/dead-letters", params={"webhook_id": webhook, **query})["items"]
            return [item["id"] for item in items]

        assert found(error="status", event_type=shown["event_type"]) == names
        assert found(error="timeout") == []
        assert found(event_type="another") == []
        assert found(since=shown["created_at"])[0] == names[0]
        assert found(until=LONG_AGO) == []
        hub.call("GET", "/api/dead-letters/dlv_nobody", expect=404)


def test_dead_letters_are_distinguished_by_id(hub: Hub) -> None:
    mood = Moody(500)
    with Subscriber(mood) as subscriber:
        webhook, names = dead_ones(hub, subscriber, 6)
        mood.status = 204
        again = hub.call("POST", "/api/deliveries/retry", {"ids": [*names[4:], "dlv_x"]})
        assert [(item["id"], item["done"]) for item in again["results"]] == [
            *((name, True) for name in names[4:]),
            ("dlv_x", False),
        ]
        until(hub, webhook, 2, status="delivered")
        assert [
            item["reason"]
            for item in hub.call("POST", "/api/deliveries/retry", {"ids": names[4:5]})["results"]
        ] == ["it was delivered: a resend or a replay of its webhook sends it again, under a new id"]
        put_away = hub.call("POST", "/api/dead-letters/discard", {"ids": [names[0], names[0], "dlv_x"]})
        assert put_away["job"] is None
        assert [(item["id"], item["done"]) for item in put_away["results"]] == [
            (names[0], True),
            ("dlv_x", False),
        ]
        assert read(hub, names[0])["status"] == "discarded"
        hub.call("GET", f"/api/dead-letters/{names[0]}", expect=404)
        mood.status = 204
        replayed = hub.call("POST", "/api/dead-letters/replay", {"ids": names[:3]})["results"]
        assert [(item["id"], item["done"]) for item in replayed] == [
            (names[0], False),
            (names[1], True),
            (names[2], True),
        ]
        assert "discarded" in replayed[0]["reason"]
        until(hub, webhook, 4, status="delivered")
        until(hub, webhook, 1, status="dead_letter")
        other = hub.other_workspace()
        for path in ("/api/dead-letters/discard", "/api/deliveries/retry"):
            theirs = hub.call("POST", path, {"ids": [names[3]]}, key=other)["results"]
            assert [item["done"] for item in theirs] == [False]
        until(hub, webhook, 1, status="dead_letter")


def test_dead_letters_by_filter_are_a_job(hub: Hub) -> None:
    mood = Moody(500)
    with Subscriber(mood) as subscriber:
        kind = new_type()
        webhook, _ = dead_ones(hub, subscriber, 20, kind=kind)
        other, _ = dead_ones(hub, subscriber, 20, kind=f"{kind}.more")
        mood.status = 204
        job = hub.call("POST", "/api/dead-letters/replay", {"event_type": kind}, expect=202)["job"]
        assert (ended(hub, job)["done"], job["webhook_id"]) == (20, None)
        until(hub, webhook, 20, status="delivered")
        until(hub, other, 20, status="dead_letter")
        # The job works on what the same filters count.
        query = {"webhook_id": other, "status": ["dead_letter", "retrying"], "until": NEVER}

        def count(**more: str) -> Any:
            return hub.call("GET", "/api/deliveries/count", params={**query, **more})["count"]

        assert (count(), count(event_type=kind), count(error="status"), count(since=NEVER)) == (20, 0, 20, 0)
        assert hub.call("GET", f"/api/deliveries/count?webhook_id={webhook}") == {"count": 20}
        assert hub.call("GET", "/api/deliveries/count", key=hub.other_workspace())["count"] == 0
        body = {"webhook_id": other, "statuses": ["retrying"]}
        none = hub.call("POST", "/api/deliveries/retry", body, expect=202)["job"]
        assert ended(hub, none)["done"] == 0
        mood.status = 500
        retried = hub.call("POST", "/api/deliveries/retry", {"event_type": f"{kind}.more"}, expect=202)["job"]
        assert (ended(hub, retried)["done"], retried["kind"]) == (20, "recover")
        until(hub, other, 20, status="dead_letter")
        assert [item["attempt_count"] for item in hub.deliveries(webhook_id=other)] == [2] * 20
        body = {"webhook_id": other, "error": "timeout"}
        none = hub.call("POST", "/api/dead-letters/discard", body, expect=202)["job"]
        assert ended(hub, none)["done"] == 0
        hub.call("DELETE", f"/api/outgoing-webhooks/{other}")
        body = {"webhook_id": other, "error": "status", "since": LONG_AGO}
        away = hub.call("POST", "/api/dead-letters/discard", body, expect=202)["job"]
        done = ended(hub, away)
        assert (done["kind"], done["status"], done["done"]) == ("discard", "done", 20)
        until(hub, other, 20, status="discarded")


@pytest.mark.parametrize("body", [{}, {"ids": []}, {"ids": ["a"], "error": "b"}, {"ids": ["a"] * 501}])
def test_the_dead_letters_must_be_named(hub: Hub, body: dict[str, Any]) -> None:
    for path in ("dead-letters/replay", "dead-letters/discard", "deliveries/retry"):
        hub.call("POST", f"/api/{path}", body, expect=422)
    hub.call("POST", "/api/deliveries/retry", {"statuses": ["delivered"]}, expect=422)


def test_repeated_with_an_idempotency_key_a_replay_is_one(hub: Hub) -> None:
    with Subscriber() as subscriber:
        kind = new_type()
        webhook = hub.outgoing_webhook(subscriber.url, events=[kind])["id"]
        headers = {"authorization": f"Bearer {hub.admin_key}", "idempotency-key": token_hex(8)}
        url = f"{hub.url('delivery')}/api/outgoing-webhooks/{webhook}/replay"
        answers = [httpx.post(url, json={"since": LONG_AGO}, headers=headers, timeout=30) for _ in range(2)]
        assert answers[0].status_code == answers[1].status_code == 202
        assert answers[0].json() == answers[1].json()


# Order


def test_a_cut_keeps_batches_whole() -> None:
    chance = Random(3)  # noqa: S311
    for _ in range(200):
        orders: list[int] = []
        while len(orders) < 60:
            batch = list(range(len(orders), len(orders) + chance.randint(1, 20)))
            chance.shuffle(batch)
            orders += batch
        at = sortable_prefix(orders, 20)
        assert 1 <= at <= len(orders) - 20
        assert max(orders[:at]) < min(orders[at:])
    assert sortable_prefix([3, 2, 1, 0], 2) == 2  # no order at all: as they stand


def test_the_log_of_these_tests_is_clean(hub: Hub, tmp_path: Path) -> None:
    """Nothing here is an error of ours."""
    assert "Traceback" not in hub.log_text("delivery")
    assert [
        line for line in hub.log_lines("delivery") if line["event"] in ("job.failed", "event.dead_lettered")
    ] == []
