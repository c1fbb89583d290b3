"""Growth of the embedded broker's memory with its records: `python -m bench.broker_memory [messages]`.

Produces a million records of 1 KB by default, with acks=all and in batches. Prints the broker's resident
memory after every tenth. Stops early at 8 GB, or when the machine has less than 1 GB left.
"""

import os
import sys
from functools import partial
from time import perf_counter
from typing import Final

import psutil

from bench.new_broker import measure_on_new_broker
from interlink.embedded import EmbeddedServer
from shared.contracts.topics import CHAT_EVENTS
from shared.runtime.kafka.admin import ensure_topics
from shared.runtime.kafka.producer import Producer, Record
from shared.runtime.logs import configure
from shared.runtime.settings import KafkaSettings, load

_BATCH: Final = 500
_VALUE_BYTES: Final = 1024
_STEPS: Final = 10
_MAX_BYTES: Final = 8 * 1024**3
_MIN_FREE_BYTES: Final = 1024**3


async def measure(server: EmbeddedServer, messages: int) -> None:
    """Produce records, and print the broker's resident memory after each step."""
    settings = load(KafkaSettings)
    await ensure_topics(settings)
    producer = Producer(settings, configure("bench", "error"), client_id="bench")
    producer.start()
    await producer.wait_ready(10)
    assert server.child.pid
    process, produced = psutil.Process(server.child.pid), 0
    print(f"{'messages':>10} {'RSS MB':>8} {'bytes per message':>18} {'messages/s':>11}")
    empty = process.memory_info().rss
    print(f"{0:>10} {empty / 2**20:>8.0f}")
    try:
        for _ in range(_STEPS):
            started, target = perf_counter(), produced + messages // _STEPS
            while produced < target:
                count = min(_BATCH, target - produced)
                records = [Record(CHAT_EVENTS, b"%d" % n, os.urandom(_VALUE_BYTES), []) for n in range(count)]
                await producer.publish_all(records, timeout_s=30)
                produced += count
            rss, elapsed = process.memory_info().rss, perf_counter() - started
            per_message, rate = (rss - empty) / produced, messages / _STEPS / elapsed
            print(f"{produced:>10} {rss / 2**20:>8.0f} {per_message:>18.0f} {rate:>11.0f}", flush=True)
            if rss > _MAX_BYTES or psutil.virtual_memory().available < _MIN_FREE_BYTES:
                print("stopped here: the memory limit is reached")
                break
    finally:
        await producer.stop()


if __name__ == "__main__":
    messages = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    measure_on_new_broker(partial(measure, messages=messages))
