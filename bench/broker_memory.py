"""How the embedded broker's memory grows with what it holds: `python -m bench.broker_memory [messages]`.

A million records of 1 KB by default, with acks=all, in batches, on loopback only. The broker's
resident memory is printed at every tenth; the process is gone when the script ends. It stops early
at 8 GB, or when the machine has less than 1 GB left.
"""

import asyncio
import os
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Final

import psutil

from interlink.embedded import BROKER_SETTINGS, EmbeddedServer, broker, kafka_bootstrap
from interlink.supervise import ProcessGroup
from shared.contracts.topics import CHAT_EVENTS
from shared.runtime.kafka.admin import ensure_topics
from shared.runtime.kafka.producer import Producer, Record
from shared.runtime.logs import configure
from shared.runtime.settings import KafkaSettings, load

_BATCH: Final = 500
_VALUE_BYTES: Final = 1024
_STEPS: Final = 10
_MOST_BYTES: Final = 8 * 1024**3
_LEFT_BYTES: Final = 1024**3


async def measure(half: EmbeddedServer, messages: int) -> None:
    """Produce, and print the broker's resident memory on the way."""
    settings = load(KafkaSettings)
    await ensure_topics(settings)
    producer = Producer(settings, configure("bench", "error"), client_id="bench")
    producer.start()
    await producer.wait_ready(10)
    assert half.child.pid
    process, held = psutil.Process(half.child.pid), 0
    print(f"{'messages':>10} {'RSS MB':>8} {'bytes per message':>18} {'messages/s':>11}")
    empty = process.memory_info().rss
    print(f"{0:>10} {empty / 2**20:>8.0f}")
    try:
        for _ in range(_STEPS):
            started, aim = perf_counter(), held + messages // _STEPS
            while held < aim:
                count = min(_BATCH, aim - held)
                records = [Record(CHAT_EVENTS, b"%d" % n, os.urandom(_VALUE_BYTES), []) for n in range(count)]
                await producer.publish_all(records, timeout_s=30)
                held += count
            rss, elapsed = process.memory_info().rss, perf_counter() - started
            each, rate = (rss - empty) / held, messages / _STEPS / elapsed
            print(f"{held:>10} {rss / 2**20:>8.0f} {each:>18.0f} {rate:>11.0f}", flush=True)
            if rss > _MOST_BYTES or psutil.virtual_memory().available < _LEFT_BYTES:
                print("stopped here: enough memory taken")
                break
    finally:
        await producer.stop()


def main(messages: int) -> None:
    """Measure on a broker of our own, in a folder that is removed afterwards."""
    leash = ProcessGroup()
    with tempfile.TemporaryDirectory() as folder:
        half = broker(Path(folder), leash)
        os.environ |= {"KAFKA_BOOTSTRAP_SERVERS": kafka_bootstrap(half.port), **BROKER_SETTINGS}
        half.start()
        try:
            asyncio.run(measure(half, messages))
        finally:
            half.stop()
            leash.close()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
