"""Cost of the embedded broker's fetches as a partition grows: `python -m bench.broker_fetches [batches]`.

Fills one partition with batches of one record, as a producer at a moderate rate does. After each fifth it
produces and fetches single records, as the hub does, and prints the broker's CPU time for one of them.
"""

import os
import sys
from functools import partial
from time import perf_counter
from typing import Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from bench.machine import cpu_seconds
from bench.new_broker import measure_on_new_broker
from interlink.embedded import EmbeddedServer
from shared.contracts.topics import DELIVERY_REQUESTED
from shared.runtime.kafka.admin import ensure_topics
from shared.runtime.kafka.fetch_pacing import FetchPacing
from shared.runtime.kafka.wake_ups import WakeUpReceiver, WakeUpSender
from shared.runtime.logs import configure
from shared.runtime.settings import KafkaSettings, load

_PARTITION: Final = TopicPartition(DELIVERY_REQUESTED.name, 0)
_VALUE: Final = os.urandom(1500)
_STEPS: Final = 5
_MEASURED: Final = 200


async def measure(server: EmbeddedServer, batches: int) -> None:
    """Fill the partition, and print the cost of a record after each step."""
    settings = load(KafkaSettings)
    await ensure_topics(settings)
    producer = AIOKafkaProducer(bootstrap_servers=settings.bootstrap_servers, acks="all")
    consumer = AIOKafkaConsumer(bootstrap_servers=settings.bootstrap_servers, auto_offset_reset="earliest")
    folder = settings.wake_folder
    assert folder
    sender = WakeUpSender(folder)
    receiver = WakeUpReceiver(folder, [_PARTITION.topic], "bench", configure("bench", "error"))
    receiver.start()
    await producer.start()
    await consumer.start()
    FetchPacing(answers_held_fetches=settings.answers_held_fetches, wake_ups=receiver).install(consumer)
    consumer.assign([_PARTITION])
    produced = fetched = 0

    async def produce() -> None:
        nonlocal produced
        await producer.send_and_wait(_PARTITION.topic, _VALUE, partition=_PARTITION.partition)
        produced += 1
        sender.send(_PARTITION.topic, (_PARTITION.partition,))

    async def fetch_all() -> None:
        nonlocal fetched
        while fetched < produced:
            polled = await consumer.getmany(timeout_ms=1_000)
            fetched += sum(map(len, polled.values()))

    assert server.child.pid
    print(f"{'batches':>8} {'CPU us per record':>18} {'ms per record':>14}")
    try:
        for step in range(_STEPS + 1):
            while produced < batches * step // _STEPS:
                await produce()
            await fetch_all()
            before, cpu_before, started = produced, cpu_seconds(server.child.pid), perf_counter()
            for _ in range(_MEASURED):
                await produce()
                await fetch_all()
            cpu_us = (cpu_seconds(server.child.pid) - cpu_before) / _MEASURED * 1e6
            ms = (perf_counter() - started) / _MEASURED * 1e3
            print(f"{before:>8,} {cpu_us:>18,.0f} {ms:>14.1f}", flush=True)
    finally:
        await consumer.stop()
        await producer.stop()
        receiver.stop()
        sender.close()


if __name__ == "__main__":
    batches = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    measure_on_new_broker(partial(measure, batches=batches))
