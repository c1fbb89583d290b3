"""CPU time of a bare Kafka hop and a bare insert, a lower bound for the hub: `python -m bench.hops`.

A hop is a record of 1.5 KB through a broker with aiokafka and nothing around it: produced with acks=all,
fetched, its offset committed each 0.2 s. An insert is a document of 3 KB in the embedded database. Each is
measured one at a time at 100 a second, and in a burst with 64 under way. An event of the hub takes two hops
and its part of an insert, beside two HTTP requests.
"""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from secrets import token_hex
from time import perf_counter, process_time
from typing import Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from bench.log import mongo_at
from bench.machine import cpu_seconds, described
from interlink.embedded import EmbeddedPair
from tests.support.apache_kafka import ApacheKafka
from tests.support.apache_kafka import available as missing_kafka

_RATE: Final = 100.0
_SECONDS: Final = 10.0
_BURST: Final = 5_000
_AT_ONCE: Final = 64
_WARM_UP: Final = 2_000
_VALUE: Final = b"x" * 1_500
_PARTITIONS: Final = 12

Step = Callable[[int], Awaitable[None]]
"""One hop or one insert; it gets a number."""


async def _burst(step: Step, count: int) -> None:
    numbers = iter(range(count))

    async def work() -> None:
        for number in numbers:
            await step(number)

    await asyncio.gather(*(work() for _ in range(_AT_ONCE)))


async def _steady(step: Step) -> None:
    started = perf_counter()
    for number in range(int(_RATE * _SECONDS)):
        await asyncio.sleep(max(0.0, started + number / _RATE - perf_counter()))
        await step(number)


async def _measure(name: str, pid: int, step: Step) -> None:
    """Print the CPU time of a step, of this process and of the server."""
    await _burst(step, _WARM_UP)
    for kind, count in (("100/s", int(_RATE * _SECONDS)), ("burst", _BURST)):
        own, server = process_time(), cpu_seconds(pid)
        await (_steady(step) if kind == "100/s" else _burst(step, count))
        own_us = (process_time() - own) / count * 1e6
        server_us = (cpu_seconds(pid) - server) / count * 1e6
        print(f"{name:<28} {kind:<6} client {own_us:>6,.0f} us   server {server_us:>6,.0f} us", flush=True)


@asynccontextmanager
async def _hop(bootstrap: str, *, embedded: bool) -> AsyncIterator[Step]:
    """Yield a function that takes one record through a new topic and returns when it has arrived."""
    topic = f"hops-{token_hex(4)}"
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    await admin.create_topics([NewTopic(topic, _PARTITIONS, 1)])
    await admin.close()
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", enable_idempotence=not embedded)
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=bootstrap,
        group_id=topic,
        auto_offset_reset="earliest",
        enable_auto_commit=True,
        auto_commit_interval_ms=200,
        fetch_max_wait_ms=5 if embedded else 500,
    )
    arrived: dict[int, asyncio.Event] = {}

    async def consume() -> None:
        async for record in consumer:
            if event := arrived.pop(int(record.key), None):
                event.set()

    async def step(number: int) -> None:
        event = arrived[number] = asyncio.Event()
        await producer.send_and_wait(topic, _VALUE, key=str(number).encode(), partition=number % _PARTITIONS)
        await event.wait()

    await producer.start()
    await consumer.start()
    task = asyncio.create_task(consume())
    try:
        yield step
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await consumer.stop()
        await producer.stop()


async def _run(folder: Path) -> None:
    pair = EmbeddedPair(folder / "pair")
    async with AsyncExitStack() as stack:
        if reason := missing_kafka():
            print(f"Apache Kafka left out: {reason}")
        else:
            kafka = ApacheKafka(folder / "kafka", load=True)
            stack.callback(kafka.stop)
            kafka.start()
            async with _hop(kafka.bootstrap, embedded=False) as step:
                await _measure("hop, Apache Kafka", kafka.pid or 0, step)
        stack.callback(pair.broker.stop)
        pair.broker.start()
        async with _hop(pair.kafka_bootstrap, embedded=True) as step:
            await _measure("hop, embedded broker", pair.broker.child.pid or 0, step)
        stack.callback(pair.database.stop)
        pair.database.start()
        mongo = mongo_at(pair.mongodb_uri)
        collection = mongo.collection("hops")

        async def insert(_: int) -> None:
            await collection.insert_one({"body": _VALUE * 2})

        await _measure("insert, embedded database", pair.database.child.pid or 0, insert)
        mongo.close()


def main() -> None:
    """Measure on new brokers and a new database, in a folder that is removed afterwards."""
    print(described())
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_run(Path(folder)))


if __name__ == "__main__":
    main()
