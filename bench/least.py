"""The least Python that keeps the promises of gateway and delivery, a lower bound for both.

`accept` answers a webhook after its signature was checked, its body parsed and its event acknowledged by
Kafka. `deliver` takes events through two hops of Kafka to an HTTP request and a row of the log. Both do so
for one secret and one URL without conditions, limits, order, retries, metrics or errors.
"""

import asyncio
import hashlib
import hmac
import json
import socket
from secrets import token_hex
from time import perf_counter, process_time, time
from typing import Any, Final

import aiohttp
import uvicorn
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from pymongo import AsyncMongoClient
from pymongo.asynchronous.collection import AsyncCollection

from bench.bare import start, tune_collector
from bench.remote import Command, answer

_PARTITIONS: Final = 12
_COMMIT_INTERVAL_S: Final = 0.2
_IN_FLIGHT: Final = 64
_TIMEOUT_S: Final = 20.0


async def accept(bootstrap: str, secret: str, *, embedded: bool) -> dict[str, Any]:
    """Serve webhooks of GitHub; return the port."""
    topic = f"least-accepted-{token_hex(4)}"
    await _create(bootstrap, topic)
    producer = await _producer(bootstrap, embedded=embedded)
    _producers.append(producer)
    key = secret.encode()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        headers = dict(scope["headers"])
        signature = "sha256=" + hmac.new(key, body, hashlib.sha256).hexdigest()
        if not hmac.compare_digest(signature.encode(), headers[b"x-hub-signature-256"]):
            raise ValueError("the signature is wrong")
        sender = json.loads(body)["repository"]["full_name"]
        delivery = headers[b"x-github-delivery"]
        record = await producer.send_and_wait(
            topic,
            body,
            key=b"endpoint",
            headers=[
                ("ce_specversion", b"1.0"),
                ("ce_id", delivery),
                ("ce_type", b"github." + headers[b"x-github-event"]),
                ("ce_source", b"/webhooks/github/endpoint"),
                ("ce_subject", sender.encode()),
                ("ce_time", str(time()).encode()),
                ("ce_workspace", b"workspace"),
                ("traceparent", f"00-{token_hex(16)}-{token_hex(8)}-01".encode()),
            ],
        )
        content = json.dumps({"id": delivery.decode(), "offset": record.offset}).encode()
        await send(
            {
                "type": "http.response.start",
                "status": 202,
                "headers": [
                    (b"content-type", b"application/json"),
                    (b"content-length", b"%d" % len(content)),
                ],
            }
        )
        await send({"type": "http.response.body", "body": content})

    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    config = uvicorn.Config(
        app, http="httptools", loop="none", lifespan="off", access_log=False, log_config=None
    )
    await start(uvicorn.Server(config), listening)
    return {"port": listening.getsockname()[1]}


class _Deliverer:
    """Two consumers with a topic between them, an HTTP client, and a log."""

    def __init__(
        self, bootstrap: str, rows: AsyncCollection[dict[str, Any]], url: str, *, embedded: bool
    ) -> None:
        self._bootstrap = bootstrap
        self._embedded = embedded
        self._rows = rows
        self._url = url
        self.events = f"least-events-{token_hex(4)}"
        self._requests = f"least-requests-{token_hex(4)}"
        self._ended: list[dict[str, Any]] = []
        self._has_ended = asyncio.Event()
        self._permits = asyncio.Semaphore(_IN_FLIGHT)
        self._attempts: set[asyncio.Task[None]] = set()
        self._work: list[asyncio.Task[None]] = []
        self._logged = 0
        self._total = 0
        self._enough: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def expect(self, total: int) -> None:
        """Count from here on; `total` more events come."""
        self._logged, self._total = 0, total
        self._enough = asyncio.get_running_loop().create_future()

    async def start(self) -> None:
        await _create(self._bootstrap, self.events, self._requests)
        self._producer = await _producer(self._bootstrap, embedded=self._embedded)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=_IN_FLIGHT), cookie_jar=aiohttp.DummyCookieJar()
        )
        self._consumers = [await self._consumer(self.events), await self._consumer(self._requests)]
        for work in (
            self._fan_out(self._consumers[0]),
            self._attempt_all(self._consumers[1]),
            self._write(),
            *(self._commit(consumer) for consumer in self._consumers),
        ):
            self._work.append(asyncio.create_task(work))

    async def stop(self) -> None:
        for task in self._work:
            task.cancel()
        await asyncio.gather(*self._work, return_exceptions=True)
        for consumer in self._consumers:
            await consumer.stop()
        await self._producer.stop()
        await self._session.close()

    async def wait_logged(self) -> None:
        """Wait until all expected events are in the log. Raises the error that stopped the work."""
        ends: list[asyncio.Future[None]] = [self._enough, self._failed, *self._work]
        done, _ = await asyncio.wait(ends, timeout=_TIMEOUT_S, return_when="FIRST_COMPLETED")
        for end in done:
            end.result()
        if not done:
            raise TimeoutError(f"{self._logged} of {self._total} events are in the log")

    async def _consumer(self, topic: str) -> AIOKafkaConsumer:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._bootstrap,
            group_id=topic,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            fetch_max_wait_ms=5 if self._embedded else 500,
        )
        await consumer.start()
        consumer.assign([TopicPartition(topic, number) for number in range(_PARTITIONS)])
        return consumer

    async def _commit(self, consumer: AIOKafkaConsumer) -> None:
        while True:
            await asyncio.sleep(_COMMIT_INTERVAL_S)
            await consumer.commit()

    async def _fan_out(self, consumer: AIOKafkaConsumer) -> None:
        while True:
            batches = await consumer.getmany(timeout_ms=1_000, max_records=500)
            sent = []
            for records in batches.values():
                for record in records:
                    headers = dict(record.headers)
                    event = {
                        name.removeprefix("ce_"): value.decode()
                        for name, value in headers.items()
                        if name.startswith("ce_")
                    }
                    body = json.dumps(event | {"data": json.loads(record.value)}).encode()
                    sent.append(
                        await self._producer.send(
                            self._requests, body, key=headers["ce_id"], headers=list(record.headers)
                        )
                    )
            if sent:
                await asyncio.gather(*sent)

    async def _attempt_all(self, consumer: AIOKafkaConsumer) -> None:
        while True:
            batches = await consumer.getmany(timeout_ms=1_000, max_records=500)
            for records in batches.values():
                for record in records:
                    await self._permits.acquire()
                    task = asyncio.create_task(self._attempt(dict(record.headers), record.value))
                    self._attempts.add(task)
                    task.add_done_callback(self._finish)

    async def _attempt(self, headers: dict[str, bytes], body: bytes) -> None:
        event_id, sent_at = headers["ce_id"].decode(), int(time())
        signed = f"{event_id}.{sent_at}.".encode() + body
        signature = hmac.new(b"secret", signed, hashlib.sha256).hexdigest()
        started = perf_counter()
        async with self._session.post(
            self._url,
            data=body,
            headers={
                "content-type": "application/json",
                "webhook-id": event_id,
                "webhook-timestamp": str(sent_at),
                "webhook-signature": f"v1,{signature}",
            },
        ) as response:
            text = await response.text()
        self._permits.release()
        self._ended.append(
            {
                "_id": token_hex(12),
                "event_id": event_id,
                "event_type": headers["ce_type"].decode(),
                "workspace": headers["workspace"].decode(),
                "state": "delivered",
                "body": body,
                "created_at": sent_at,
                "attempts": [
                    {
                        "at": sent_at,
                        "status": response.status,
                        "headers": dict(response.headers),
                        "body": text,
                        "duration_ms": (perf_counter() - started) * 1e3,
                    }
                ],
            }
        )
        self._has_ended.set()

    def _finish(self, task: asyncio.Task[None]) -> None:
        self._attempts.discard(task)
        if not task.cancelled() and (error := task.exception()) and not self._failed.done():
            self._failed.set_exception(error)

    async def _write(self) -> None:
        while True:
            await self._has_ended.wait()
            self._has_ended.clear()
            ended, self._ended = self._ended, []
            await self._rows.insert_many(ended, ordered=False)
            self._logged += len(ended)
            if self._logged >= self._total and not self._enough.done():
                self._enough.set_result(None)


_deliverers: list[_Deliverer] = []
_producers: list[AIOKafkaProducer] = []


async def deliver(bootstrap: str, uri: str, url: str, *, embedded: bool) -> dict[str, Any]:
    """Deliver events of a new topic to the URL; return the name of the topic."""
    client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(uri)
    rows = client["least"][f"rows-{token_hex(4)}"]
    await rows.create_index([("workspace", 1), ("created_at", -1)])
    await rows.create_index([("event_id", 1)])
    deliverer = _Deliverer(bootstrap, rows, url, embedded=embedded)
    await deliverer.start()
    _deliverers.append(deliverer)
    tune_collector()
    return {"topic": deliverer.events}


async def expect(total: int) -> dict[str, Any]:
    """Return the clocks of this process; `total` more events are to be delivered."""
    _deliverers[-1].expect(total)
    return {"cpu": process_time(), "at": perf_counter()}


async def logged() -> dict[str, Any]:
    """Wait until these events are in the log; return the clocks of this process."""
    await _deliverers[-1].wait_logged()
    return {"cpu": process_time(), "at": perf_counter()}


async def stop() -> dict[str, Any]:
    """Close the connections to the broker, which ends before this process."""
    for deliverer in _deliverers:
        await deliverer.stop()
    for producer in _producers:
        await producer.stop()
    _deliverers.clear()
    _producers.clear()
    return {}


async def _create(bootstrap: str, *topics: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    await admin.create_topics([NewTopic(topic, _PARTITIONS, 1) for topic in topics])
    await admin.close()


async def _producer(bootstrap: str, *, embedded: bool) -> AIOKafkaProducer:
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap,
        acks="all",
        enable_idempotence=not embedded,
        max_batch_size=256 * 1024,
    )
    await producer.start()
    return producer


if __name__ == "__main__":
    import uvloop

    commands: dict[str, Command] = {
        "accept": accept,
        "deliver": deliver,
        "expect": expect,
        "logged": logged,
        "stop": stop,
    }
    uvloop.run(answer(commands))
