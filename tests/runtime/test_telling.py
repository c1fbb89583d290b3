"""Telling what happened to integrations: what cannot be told stands in nobody's way."""

from typing import Any, cast

import structlog
from pymongo.errors import OperationFailure

from shared.connections.integrations import IntegrationRepository
from shared.contracts.errors import TooLarge
from shared.runtime.kafka.producer import Producer, Record
from shared.runtime.mongo import Document, Mongo, utcnow
from shared.runtime.secrets import LocalKeyProvider, Vault


class Store:
    """Notes what is written; may be told to refuse."""

    def __init__(self) -> None:
        self.written: list[Document] = []
        self.refuses = False

    def collection(self, _name: str) -> "Store":
        return self

    async def update_one(self, _query: Document, update: Document) -> None:
        if self.refuses:
            raise OperationFailure("not authorized", 13, {"errmsg": "not authorized"})
        self.written.append(update)


class Bus:
    """Refuses the first record for its size."""

    def __init__(self) -> None:
        self.published: list[Record] = []
        self.refused = 0

    async def publish(self, record: Record, *, timeout_s: float) -> None:
        assert timeout_s
        if not self.refused:
            self.refused += 1
            raise TooLarge("the event is larger than Kafka accepts")
        self.published.append(record)


def document() -> dict[str, Any]:
    events = [
        {"id": f"evt_{name}", "type": "integration.refreshed", "at": utcnow(), "data": {}} for name in "ab"
    ]
    return {"_id": "int_1", "workspace": "ws_1", "events": events}


def telling(store: Store, bus: Bus) -> IntegrationRepository:
    vault = Vault(LocalKeyProvider([b"k" * 32]))
    return IntegrationRepository(cast("Mongo", store), vault, cast("Producer", bus), structlog.get_logger())


async def test_an_event_that_kafka_never_takes_is_left_out_and_the_next_is_told() -> None:
    store, bus = Store(), Bus()
    assert await telling(store, bus).publish(document())
    assert len(bus.published) == 1
    assert store.written[0] == {"$pull": {"events": {"id": {"$in": ["evt_a", "evt_b"]}}}}


async def test_who_has_written_a_change_is_not_told_that_the_store_refuses_a_later_write() -> None:
    """A connection that is written would else be given back at the platform."""
    store, bus = Store(), Bus()
    store.refuses = True
    assert not await telling(store, bus).publish(document())
