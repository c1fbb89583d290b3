"""Open deliveries, inserted into the log by delivery's own code: faster than publishing their events."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from itertools import islice
from time import perf_counter
from typing import Final

from pydantic import SecretStr

from services.delivery.log.deliveries import DELIVERIES, Deliveries
from services.delivery.log.statistics import Statistics
from services.delivery.model.delivery import DeliveryRequest
from services.delivery.settings import DeliverySettings
from shared.contracts.envelope import now
from shared.contracts.ids import WebhookId, delivery_id_for
from shared.contracts.topics import DELIVERY_REQUESTED
from shared.runtime.clock import utcnow
from shared.runtime.daily_usage import DailyUsage
from shared.runtime.due_work import OPEN
from shared.runtime.kafka.producer import partition_of
from shared.runtime.logs import configure
from shared.runtime.mongo import Mongo
from shared.runtime.settings import MongoSettings

_BATCH: Final = 1_000
_WRITERS: Final = 2
_TYPE: Final = "github.issues"
_BODY: Final = (
    b'{"id":"evt_bench","type":"github.issues","version":"1","workspace":"default","occurred_at":'
    b'"2026-05-04T10:20:30Z","sequence":"1","data":{"action":"opened"}}'
)


@asynccontextmanager
async def database_at(uri: str) -> AsyncIterator[Mongo]:
    """Open a database in this process."""
    mongo = Mongo(MongoSettings(uri=SecretStr(uri), timeout_ms=60_000), app="bench")
    try:
        yield mongo
    finally:
        mongo.close()


def fill(
    uri: str,
    workspace: str,
    webhooks: Sequence[str],
    count: int,
    first: int = 0,
    *,
    due_in: timedelta = timedelta(),
) -> float:
    """Insert `count` deliveries, for each webhook in turn, due now or in some time; return the seconds.

    `first` is the number of the first delivery, which its id is derived from.
    """
    return asyncio.run(_fill(uri, workspace, webhooks, count, first, due_in))


async def _fill(
    uri: str, workspace: str, webhooks: Sequence[str], count: int, first: int, due_in: timedelta
) -> float:
    requests = _requests(workspace, webhooks, count, first)

    async def insert(deliveries: Deliveries) -> None:
        while batch := list(islice(requests, _BATCH)):
            due = utcnow() + due_in
            await deliveries.write([deliveries.waiting_entry(request, due) for request in batch])

    started = perf_counter()
    async with database_at(uri) as mongo:
        log = configure("bench", "error")
        statistics = Statistics(mongo, log)
        deliveries = Deliveries(
            mongo, DeliverySettings(), statistics, DailyUsage(mongo, log), log, instance="bench"
        )
        await asyncio.gather(*(insert(deliveries) for _ in range(_WRITERS)))
    return perf_counter() - started


def still_waiting(uri: str, webhooks: Sequence[str]) -> int:
    """Return the number of open deliveries of these webhooks."""

    async def count() -> int:
        async with database_at(uri) as mongo:
            query = {"webhook_id": {"$in": list(webhooks)}, **OPEN}
            return int(await mongo.collection(DELIVERIES).count_documents(query))

    return asyncio.run(count())


def _requests(workspace: str, webhooks: Sequence[str], count: int, first: int) -> Iterator[DeliveryRequest]:
    count_of_partitions = DELIVERY_REQUESTED.partitions
    partitions = {webhook: partition_of(webhook.encode(), count_of_partitions) for webhook in webhooks}
    occurred_at = now()
    for number in range(first, first + count):
        webhook = WebhookId(webhooks[number % len(webhooks)])
        event = f"evt_bench_{number}"
        yield DeliveryRequest(
            delivery_id=delivery_id_for(workspace, "/bench", event, webhook),
            webhook_id=webhook,
            workspace=workspace,
            event_id=event,
            event_type=_TYPE,
            occurred_at=occurred_at,
            body=_BODY,
            traceparent=f"00-{number + 1:032x}-{number + 1:016x}-01",
            partition=partitions[webhook],
            order=number,
        )
