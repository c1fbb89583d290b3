"""A chat service of somebody else: it publishes on `chat.events` and journals what became of each event.

`python -m tests.support.external_producer BOOTSTRAP JOURNAL RUN --conversations 8 --rate 50`, until its input
ends. Before an event goes out, its `intent` is on disk; after the broker's answer, `acknowledged` with the
place on the topic, or `failed`: then the same event is sent again, as a careful producer does, so that a
conversation's events stand in order. An intent without an outcome may have arrived or not. Every other
conversation is of `message.created`, the rest of a type of its own.
"""

import argparse
import asyncio
import sys
from datetime import UTC, datetime
from itertools import cycle
from pathlib import Path
from time import monotonic

import orjson
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from tests.support.journal import Journal

TOPIC = "chat.events"
TYPES = ("message.created", "numbers.counted")
_ANSWER_S = 10.0
_PAUSE_S = 0.2
_LAST_TRIES_S = 60.0


class Publisher:
    """Publishes for one run: a conversation's events one after the other, the conversations side by side."""

    def __init__(self, producer: AIOKafkaProducer, journal: Journal, run: str, every_s: float) -> None:
        self._producer = producer
        self._journal = journal
        self._run = run
        self._every_s = every_s
        self.over = asyncio.Event()

    async def converse(self, conversation: str, kind: str) -> None:
        """Publish the numbers 1, 2, 3 ... of a conversation, all of one type, until it is over."""
        number = 0
        due = monotonic()
        while not self.over.is_set():
            number += 1
            name = f"{self._run}.{conversation}.{number}"
            await self._publish(name, kind, f"{self._run}.{conversation}", number)
            due = max(due + self._every_s, monotonic())  # an outage is not made up for by a burst
            await asyncio.sleep(due - monotonic())

    async def _publish(self, name: str, kind: str, conversation: str, number: int) -> None:
        """Until it is acknowledged, each time with an intent before and an outcome after."""
        data, headers = _data(name, conversation, number), _headers(name, kind, conversation)
        facts = {"event": name, "type": kind, "conversation": conversation, "number": number}
        while True:
            self._journal.write("intent", **facts)
            try:
                async with asyncio.timeout(_ANSWER_S):
                    stands = await self._producer.send_and_wait(
                        TOPIC, data, key=conversation.encode(), headers=headers
                    )
            except (KafkaError, TimeoutError) as error:
                self._journal.write("failed", **facts, error=repr(error))
                await asyncio.sleep(_PAUSE_S)
            else:
                self._journal.write("acknowledged", **facts, partition=stands.partition, offset=stands.offset)
                return


def _headers(name: str, kind: str, conversation: str) -> list[tuple[str, bytes]]:
    attributes = {
        "ce_specversion": "1.0",
        "ce_id": name,
        "ce_type": kind,
        "ce_source": "/tests/outside",
        "ce_time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "ce_subject": conversation,
        "content-type": "application/json",
        "workspace": "default",
    }
    return [(header, text.encode()) for header, text in attributes.items()]


def _data(name: str, conversation: str, number: int) -> bytes:
    author = {"id": "u1", "username": "counter"}
    return orjson.dumps(
        {"messageId": name, "channelId": conversation, "content": f"number {number}", "author": author}
    )


async def main(bootstrap: str, journal: Path, run: str, conversations: int, rate: float) -> None:
    """Publish until the input ends; then every conversation gets its last outcome, within a minute."""
    # Not idempotent: that kind may hang for good after an outage. A conversation has one event under way,
    # so a repeat cannot overtake.
    async with AIOKafkaProducer(
        bootstrap_servers=bootstrap, acks="all", retry_backoff_ms=100, metadata_max_age_ms=5_000
    ) as producer:
        publisher = Publisher(producer, Journal(journal), run, conversations / rate)
        talks = [
            asyncio.create_task(publisher.converse(f"c{number}", kind))
            for number, kind in zip(range(conversations), cycle(TYPES))
        ]
        await asyncio.to_thread(sys.stdin.buffer.read)
        publisher.over.set()
        async with asyncio.timeout(_LAST_TRIES_S):
            await asyncio.gather(*talks)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser()
    arguments.add_argument("bootstrap")
    arguments.add_argument("journal", type=Path)
    arguments.add_argument("run")
    arguments.add_argument("--conversations", type=int, default=8)
    arguments.add_argument(
        "--rate", type=float, default=50, help="events per second, all conversations together"
    )
    asyncio.run(main(**vars(arguments.parse_args())))
