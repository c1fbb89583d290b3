"""Write what a hub of this release stores of recovery jobs, erasures and endpoint health.

`python -m tests.upgrade.write_delivery FILE`; `test_delivery_records.py` starts the present hub on it.
"""

import json
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aiohttp import web
from bson import json_util
from pymongo import MongoClient

from tests.support.backends import Store, embedded, embedded_bus
from tests.support.eventually import eventually
from tests.support.hub import Hub
from tests.support.outgoing import publish
from tests.support.subscriber import Subscriber, WebhookRequest
from tests.upgrade.write import ADMIN_KEY, ENCRYPTION_KEY

MANY = 130
"""Dead letters of the job that is stopped in the middle: two steps of it."""
LONG_AGO = "2020-01-01T00:00:00Z"


def main(path: Path) -> None:
    """Start a hub, make the records, kill it in the middle of a job, and write the database."""
    with tempfile.TemporaryDirectory() as folder, Subscriber(_refuse) as subscriber:
        pair = embedded(Path(folder, "pair"))
        try:
            hub = Hub(
                Path(folder, "hub"),
                embedded_bus(pair),
                Store("embedded", pair.mongodb_uri),
                services=("gateway", "delivery"),
                env={
                    "INTERLINK_ENCRYPTION_KEY": ENCRYPTION_KEY,
                    "INTERLINK_BOOTSTRAP_ADMIN_KEY": ADMIN_KEY,
                },
            )
            hub.admin_key = ADMIN_KEY
            hub.start()
            client: MongoClient[Any] = MongoClient(hub.env["MONGODB_URI"], tz_aware=True)
            with client:
                database = client.get_default_database()
                known = _records(hub, subscriber, database["delivery_jobs"])
                records = {
                    name: list(database[name].find())
                    for name in sorted(database.list_collection_names())
                    if not name.startswith("system.")
                }
            document = {"written_at": datetime.now(UTC), "known": known, "records": records}
            text = json_util.dumps(document, sort_keys=True).replace(subscriber.url, "{subscriber}")
            path.write_text(text + "\n", encoding="utf-8")
            print(json.dumps({name: len(found) for name, found in records.items()}))  # noqa: T201
        finally:
            pair.stop()


def _refuse(_got: WebhookRequest) -> Any:
    return web.Response(status=500)


def _webhook(hub: Hub, subscriber: Subscriber, name: str, **fields: Any) -> str:
    settings = {"events": [f"old.{name}"], "retry": {"schedule": [0]}} | fields
    return str(hub.outgoing_webhook(f"{subscriber.url}/{name}", **settings)["id"])


def _records(hub: Hub, subscriber: Subscriber, jobs: Any) -> dict[str, Any]:
    """Make the records; return their ids by name."""
    known: dict[str, Any] = {"encryption_key": ENCRYPTION_KEY, "admin_key": ADMIN_KEY}
    webhooks = {
        "recovered": _webhook(hub, subscriber, "recovered", circuit_breaker={"enabled": False}),
        "discarded": _webhook(hub, subscriber, "discarded"),
        "open": _webhook(
            hub,
            subscriber,
            "open",
            retry={"schedule": [0, 3600]},
            circuit_breaker={"failures": 1, "failing_s": 0, "pause_s": 3600, "max_pause_s": 3600},
        ),
    }
    known["webhooks"] = webhooks
    publish(hub, "old.recovered", *({"number": number} for number in range(MANY)))
    publish(hub, "old.discarded", {"number": 1}, {"number": 2})
    known["erased_event"] = publish(hub, "old.open", {"number": 3})[0]
    known["open_event"] = publish(hub, "old.open", {"number": 4})[0]

    def attempted() -> bool:
        stats = hub.call("GET", f"/api/queue/stats?webhook_id={webhooks['recovered']}")
        return bool(stats["failed"] == MANY)

    eventually(attempted, 60)
    eventually(lambda: len(hub.deliveries(webhook_id=webhooks["discarded"], status="dead_letter")) == 2)
    eventually(lambda: hub.deliveries(event_id=known["open_event"]))
    eventually(
        lambda: hub.call("GET", f"/api/outgoing-webhooks/{webhooks['open']}")["health"]["circuit"] == "open"
    )
    hub.call("POST", "/api/deliveries/erase", {"event_id": known["erased_event"]})
    known["discard_job"] = hub.call(
        "POST", "/api/dead-letters/discard", {"webhook_id": webhooks["discarded"]}, expect=202
    )["job"]["id"]
    eventually(lambda: jobs.find_one({"_id": known["discard_job"], "status": "done"}))
    path = f"/api/outgoing-webhooks/{webhooks['recovered']}"
    known["cancelled_job"] = hub.call(
        "POST", f"{path}/replay", {"since": LONG_AGO, "events": ["none.*"]}, expect=202
    )["job"]["id"]
    hub.call("POST", f"/api/delivery-jobs/{known['cancelled_job']}/cancel")
    known["running_job"] = hub.call("POST", f"{path}/recover", {"since": LONG_AGO}, expect=202)["job"]["id"]
    eventually(lambda: jobs.find_one({"_id": known["running_job"], "done": {"$gte": 100}}), every_s=0.002)
    for name in hub.services:
        hub.kill(name)
    job = jobs.find_one({"_id": known["running_job"]})
    assert job["status"] == "running", "it ended before the kill: run this again"
    known["done"] = job["done"]
    return known


if __name__ == "__main__":
    main(Path(sys.argv[1]))
