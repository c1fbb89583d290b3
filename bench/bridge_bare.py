"""The baseline of sync, a helper process: its consumer, HTTP client and bulk writes, and nothing else.

A record is the call of a provider that it leads to. For each message it inserts a document and a link, marks
the document before the call, and inserts the link of the sent message and marks the document after it, as
sync does. There is no parsing, no order, no rate, no second hop, and nothing is published.
"""

import asyncio
import ssl
from collections.abc import Sequence
from secrets import token_hex
from typing import Any, Final

import aiohttp
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.structs import ConsumerRecord
from pymongo import AsyncMongoClient, InsertOne, UpdateOne

from bench.bare import tune_collector
from bench.remote import answer
from shared.contracts.topics import SYNC_REQUESTED
from shared.runtime.grouped import Grouped

_COMMIT_INTERVAL_S: Final = 0.2
_CONCURRENCY: Final = 50
_MAX_WRITES: Final = 200


class _Loop:
    """Consumes calls, makes them, and writes what sync writes."""

    def __init__(self, client: AsyncMongoClient[dict[str, Any]], proxy: str, ca_file: str) -> None:
        database = client["bridge_bare"]
        self._messages, self._links = database["messages"], database["links"]
        self._proxy = proxy
        self._tls = ssl.create_default_context(cafile=ca_file)
        self._slots = asyncio.Semaphore(_CONCURRENCY)
        self._message: dict[str, Any] = {}
        self._link: dict[str, Any] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._write = Grouped(self._write_all, max_items=_MAX_WRITES)
        self._add_link = Grouped(self._add_links, max_items=_MAX_WRITES)
        self.topic = f"bridge-bare-{token_hex(4)}"
        self.done = 0
        self.refused = 0

    async def start(self, bootstrap: str, message: dict[str, Any], link: dict[str, Any]) -> None:
        self._message, self._link = message, link
        for collection in (self._messages, self._links):
            await collection.create_index([("expires_at", 1)])
            await collection.create_index([("workspace", 1), ("received_at", -1)])
        await self._messages.create_index([("mapping_id", 1), ("received_at", -1)])
        partitions = SYNC_REQUESTED.partitions
        admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
        await admin.start()
        await admin.create_topics([NewTopic(self.topic, partitions, 1)])
        await admin.close()
        consumer = AIOKafkaConsumer(
            bootstrap_servers=bootstrap,
            group_id=self.topic,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            fetch_max_wait_ms=5,
        )
        await consumer.start()
        consumer.assign([TopicPartition(self.topic, number) for number in range(partitions)])
        self._consumer = consumer
        connector = aiohttp.TCPConnector(limit=_CONCURRENCY)
        self._session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
        self._running = [asyncio.create_task(self._consume()), asyncio.create_task(self._commit())]

    async def stop(self) -> None:
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await self._consumer.stop()
        await self._session.close()

    async def _commit(self) -> None:
        while True:
            await asyncio.sleep(_COMMIT_INTERVAL_S)
            await self._consumer.commit()

    async def _consume(self) -> None:
        while True:
            batches = await self._consumer.getmany(timeout_ms=1_000, max_records=500)
            records = [record for batch in batches.values() for record in batch]
            if not records:
                continue
            ids = [token_hex(16) for _ in records]
            await self._messages.bulk_write(
                [InsertOne({**self._message, "_id": one}) for one in ids], ordered=False
            )
            await self._links.bulk_write([InsertOne({**self._link, "_id": f"c{one}"}) for one in ids])
            for record, message_id in zip(records, ids, strict=True):
                await self._slots.acquire()
                task = asyncio.create_task(self._send(record, message_id))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _send(self, record: "ConsumerRecord[bytes, bytes]", message_id: str) -> None:
        try:
            await self._write(UpdateOne({"_id": message_id}, {"$set": {"state": "sending"}}))
            headers = {name: value.decode() for name, value in record.headers}
            url = headers.pop("url")
            async with self._session.post(
                url, data=record.value, headers=headers, proxy=self._proxy, ssl=self._tls
            ) as response:
                self.refused += response.status != 200
                await response.read()
            await self._add_link({**self._link, "_id": f"t{message_id}"})
            await self._write(UpdateOne({"_id": message_id}, {"$set": {"state": "sent", "part": "1"}}))
            self.done += 1
        finally:
            self._slots.release()

    async def _write_all(self, updates: Sequence[UpdateOne]) -> Sequence[None]:
        await self._messages.bulk_write(list(updates), ordered=True)
        return [None] * len(updates)

    async def _add_links(self, links: Sequence[dict[str, Any]]) -> Sequence[None]:
        await self._links.bulk_write([InsertOne(link) for link in links], ordered=False)
        return [None] * len(links)


_loops: list[_Loop] = []


async def start(
    bootstrap: str, uri: str, proxy: str, ca_file: str, message: dict[str, Any], link: dict[str, Any]
) -> dict[str, Any]:
    """Consume from a new topic. `message` and `link` are what is written, but for the ids."""
    loop = _Loop(AsyncMongoClient(uri), proxy, ca_file)
    await loop.start(bootstrap, message, link)
    _loops.append(loop)
    tune_collector()
    return {"topic": loop.topic}


async def count() -> dict[str, Any]:
    """Return the number of messages that are done, and of calls that were refused."""
    return {"done": _loops[-1].done, "refused": _loops[-1].refused}


async def stop() -> dict[str, Any]:
    """Close the connections to the broker, which ends before this process."""
    for loop in _loops:
        await loop.stop()
    _loops.clear()
    return {}


if __name__ == "__main__":
    import uvloop

    uvloop.run(answer({"start": start, "count": count, "stop": stop}))
