"""Recovery jobs, erasures and endpoint health of an earlier release are read, and go on where they were.

The file is from `write_delivery.py`, run by release 0.4.0: a hub that was killed in the middle of a job.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from bson import json_util
from pymongo import MongoClient

from services.delivery.log.statistics import HourCounts, HourRecord
from tests.support.backends import Bus, Store
from tests.support.eventually import eventually
from tests.support.hub import Hub
from tests.support.outgoing import publish
from tests.support.recorded_secrets import record_secret
from tests.support.subscriber import Subscriber
from tests.upgrade.test_records import _load
from tests.upgrade.write_delivery import MANY

FILE = Path(__file__).parent / "delivery-0.4.0.json"
LATER = {"any": ["value"]}
"""The field of a later release that each document has."""


@dataclass
class Upgraded:
    """A hub of this release on the database of an earlier one."""

    hub: Hub
    known: dict[str, Any]
    database: Any
    subscriber: Subscriber

    def job(self, name: str) -> dict[str, Any]:
        return dict(self.hub.call("GET", f"/api/delivery-jobs/{self.known[name]}"))

    def webhook(self, name: str) -> dict[str, Any]:
        return dict(self.hub.call("GET", f"/api/outgoing-webhooks/{self.known['webhooks'][name]}"))


@pytest.fixture(scope="module")
def upgraded(tmp_path_factory: pytest.TempPathFactory, bus: Bus, store: Store) -> Iterator[Upgraded]:
    with Subscriber() as subscriber:
        text = FILE.read_text(encoding="utf-8").replace("{subscriber}", subscriber.url)
        document = json_util.loads(text, json_options=json_util.JSONOptions(tz_aware=True))
        known = document["known"]
        for name in ("encryption_key", "admin_key"):
            record_secret("a secret of stored records", known[name])
        hub = Hub(
            tmp_path_factory.mktemp("hub"),
            bus,
            store,
            services=("gateway", "delivery"),
            env={
                "INTERLINK_ENCRYPTION_KEY": known["encryption_key"],
                "INTERLINK_BOOTSTRAP_ADMIN_KEY": known["admin_key"],
            },
        )
        hub.admin_key = known["admin_key"]
        # The killed hub's leases, of 35 s, are about to end.
        _load(hub, document, ago=timedelta(seconds=33))
        hub.init(hub.workspace)
        client: MongoClient[Any] = MongoClient(hub.env["MONGODB_URI"], tz_aware=True)
        try:
            with client:
                database = client.get_default_database()
                yield Upgraded(hub.start(), known, database, subscriber)
        finally:
            hub.stop()


def test_a_job_that_was_running_goes_on_to_its_end(upgraded: Upgraded) -> None:
    job = eventually(lambda: (found := upgraded.job("running_job"))["status"] == "done" and found, 60)
    assert job
    assert (job["done"], job["skipped"], job["total"]) == (MANY, 0, MANY)
    stored = upgraded.database["delivery_jobs"].find_one({"_id": job["id"]})
    assert stored["field_of_a_later_release"] == LATER
    webhook = upgraded.known["webhooks"]["recovered"]
    deliveries = upgraded.database["webhook_deliveries"]
    eventually(
        lambda: deliveries.count_documents({"webhook_id": webhook, "status": "delivered"}) == MANY, 60, 0.2
    )
    delivered = deliveries.find_one({"webhook_id": webhook})
    assert delivered["field_of_a_later_release"] == LATER
    assert [attempt["number"] for attempt in delivered["attempts"]] == [1, 2]
    assert delivered["round_start"] == 1
    requests = [got for got in upgraded.subscriber.got if got.path == "/hook/recovered"]
    assert len({got.headers["webhook-id"] for got in requests}) == len(requests) == MANY


def test_jobs_that_ended_are_shown(upgraded: Upgraded) -> None:
    jobs = {job["id"]: job for job in upgraded.hub.call("GET", "/api/delivery-jobs")["items"]}
    discard, cancelled = jobs[upgraded.known["discard_job"]], upgraded.job("cancelled_job")
    assert (discard["kind"], discard["status"], discard["done"]) == ("discard", "done", 2)
    assert (cancelled["kind"], cancelled["status"], cancelled["replay_no"]) == ("replay", "cancelled", 1)
    assert cancelled["finished_at"] is not None
    assert cancelled == jobs[upgraded.known["cancelled_job"]]


def test_a_new_job_has_the_fields_of_an_earlier_one(upgraded: Upgraded) -> None:
    """A process of the earlier release reads it, and finds null where it stored null."""
    hub, jobs = upgraded.hub, upgraded.database["delivery_jobs"]
    discarded, recovered = (upgraded.known["webhooks"][name] for name in ("discarded", "recovered"))
    new = {
        "discard_job": hub.call("POST", "/api/dead-letters/discard", {"webhook_id": discarded}, expect=202),
        "cancelled_job": hub.call(
            "POST",
            f"/api/outgoing-webhooks/{recovered}/replay",
            {"since": "2020-01-01T00:00:00Z", "events": ["none.*"]},
            expect=202,
        ),
    }
    for name, started in new.items():
        job = eventually(partial(jobs.find_one, {"_id": started["job"]["id"], "status": "done"}))
        earlier = jobs.find_one({"_id": upgraded.known[name]})
        assert job
        assert job.keys() == earlier.keys() - {"field_of_a_later_release"}
        scope = ("statuses", "until", "events", "event_type", "last_error", "webhook_id")
        assert {field: job.get(field) for field in scope} == {field: earlier.get(field) for field in scope}


def test_the_circuit_of_an_endpoint_stays_open(upgraded: Upgraded) -> None:
    """Its owner has the pause that was stored: what is published now is not sent."""
    assert upgraded.webhook("open")["health"]["circuit"] == "open"
    [event_id] = publish(upgraded.hub, "old.open", {"number": 5})
    eventually(
        lambda: (
            [(item["status"], item["waiting_reason"]) for item in upgraded.hub.deliveries(event_id=event_id)]
            == [("pending", "circuit_open")]
        )
    )
    assert not [got for got in upgraded.subscriber.got if got.path == "/hook/open"]


def test_an_erasure_is_repeated(upgraded: Upgraded) -> None:
    marks = upgraded.database["erased_events"]
    query = {"event_id": upgraded.known["erased_event"], "passes": 1}
    mark = eventually(lambda: marks.find_one(query), 30)
    assert mark
    assert mark["again_at"] - mark["erased_at"] == timedelta(seconds=120)
    assert mark["field_of_a_later_release"] == LATER
    [delivery] = upgraded.hub.deliveries(event_id=upgraded.known["erased_event"])
    assert (delivery["status"], delivery["erased_at"] is not None) == ("cancelled", True)
    shown = upgraded.hub.call("GET", f"/api/deliveries/{delivery['id']}")
    assert shown["body"] is None


def test_counts_of_an_earlier_release_are_read() -> None:
    """Hours are found by ids, which have their times in them: so they are read from the file."""
    document = json_util.loads(FILE.read_text(encoding="utf-8"))
    known, records = document["known"], document["records"]["delivery_stats"]
    hours = {
        record["_id"].split("/")[0]: HourRecord.from_document(record | {"more": 1}) for record in records
    }
    counts = HourCounts.of(hours[known["webhooks"]["discarded"]])
    assert (counts.attempts, counts.dead_letters, counts.delivered) == (2, 2, 0)
    assert counts.percentile_ms(0.5) is not None
    assert HourCounts.of(hours["workspace:default"]).attempts == sum(
        HourCounts.of(hour).attempts for hour in hours.values() if hour.webhook_id
    )
