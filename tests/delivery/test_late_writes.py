"""A partition's last owner writes to the log after the next owner has looked at it."""

from datetime import timedelta
from secrets import token_hex
from time import sleep
from typing import Any

from aiohttp import web
from pymongo import MongoClient

from services.delivery.log.deliveries import DELIVERIES
from services.delivery.model.due_cursor import ORDER_BITS
from shared.runtime.clock import utcnow
from tests.support.backends import Bus
from tests.support.eventually import eventually
from tests.support.hub import Hub, hub_with
from tests.support.subscriber import Subscriber
from tests.support.tap import RawRecord, Tap, TopicRecord, put

REQUESTED = "delivery.requested"


hub = hub_with(services=("gateway", "delivery"), workspace="late")


def test_what_a_strict_webhook_gets_waits_behind_what_was_written_late(hub: Hub, bus: Bus) -> None:
    tap = Tap(bus, REQUESTED)
    with Subscriber() as subscriber:
        kind = f"late{token_hex(4)}.made"
        webhook = hub.outgoing_webhook(subscriber.url, events=[kind], ordering="strict")
        event = {"specversion": "1.0", "id": token_hex(8), "type": kind, "source": "/t", "data": {}}
        hub.call("POST", "/api/events", event, expect=202)
        subscriber.wait_for(1)
        [first] = [record for record in tap.look() if record.key == webhook["id"].encode()]

        late, later = [f"dlv_{token_hex(16)}" for _ in range(2)]
        opened: MongoClient[dict[str, Any]] = MongoClient(hub.env["MONGODB_URI"], tz_aware=True)
        with opened as client:
            log = client.get_default_database()[DELIVERIES]
            eventually(lambda: log.find_one({"_id": first.attributes["ce_id"], "status": "delivered"}))
            entry = log.find_one({"_id": first.attributes["ce_id"]})
            assert entry
            waiting = {
                name: value
                for name, value in entry.items()
                if name not in ("attempts", "delivered_at", "finished_at", "expires_at")
            }
            log.insert_one(
                waiting
                | {
                    "_id": late,
                    "status": "pending",
                    "open": True,
                    "due_at": utcnow(),
                    "attempt_count": 0,
                    "fence": 0,
                    "order": entry["order"] + (1 << ORDER_BITS),
                }
            )
        put(bus, REQUESTED, [again(first, late), again(first, later)], partition=first.partition)
        ids = [got.headers["webhook-id"] for got in subscriber.wait_for(3)]
        assert ids[1:] == [late, later]


def test_what_was_due_before_the_owner_last_looked_is_sent(hub: Hub, bus: Bus) -> None:
    """MongoDB took the last owner's write ten minutes after it was made."""
    tap = Tap(bus, REQUESTED)
    with Subscriber(lambda _: web.Response(status=204 if len(subscriber.got) > 1 else 500)) as subscriber:
        kind = f"late{token_hex(4)}.made"
        retry = {"schedule": [0, 0.2], "jitter": 0}
        webhook = hub.outgoing_webhook(subscriber.url, events=[kind], retry=retry)
        hub.call("POST", f"/api/outgoing-webhooks/{webhook['id']}/test", expect=202)
        subscriber.wait_for(2)
        [first] = [record for record in tap.look() if record.key == webhook["id"].encode()]
        late = f"dlv_{token_hex(16)}"
        opened: MongoClient[dict[str, Any]] = MongoClient(hub.env["MONGODB_URI"], tz_aware=True)
        with opened as client:
            log = client.get_default_database()[DELIVERIES]
            eventually(lambda: log.find_one({"webhook_id": webhook["id"], "status": "delivered"}))
            sleep(1)  # the owner has looked for more
            entry = log.find_one({"webhook_id": webhook["id"]})
            assert entry
            done = ("attempts", "failed", "last_error", "finished_at", "expires_at")
            waiting = {name: value for name, value in entry.items() if name not in done}
            due_at = utcnow() - timedelta(minutes=10)
            state = {"status": "pending", "open": True, "due_at": due_at, "attempt_count": 0, "fence": 0}
            log.insert_one(waiting | {"_id": late} | state)
        put(bus, REQUESTED, [again(first, late)], partition=first.partition)
        assert subscriber.wait_for(3)[2].headers["webhook-id"] == late


def again(record: TopicRecord, delivery_id: str) -> RawRecord:
    """The same request for another delivery."""
    headers = [(name, delivery_id.encode() if name == "ce_id" else raw) for name, raw in record.headers]
    return RawRecord(record.key, record.value, headers)
