"""A partition's last owner writes to the log after the next owner has looked at it."""

from secrets import token_hex
from typing import Any

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


def again(record: TopicRecord, delivery_id: str) -> RawRecord:
    """The same request for another delivery."""
    headers = [(name, delivery_id.encode() if name == "ce_id" else raw) for name, raw in record.headers]
    return RawRecord(record.key, record.value, headers)
