"""Puts verified webhooks on Kafka as the gateway would, as fast as it can, for delivery to work off."""

import asyncio
from time import monotonic_ns
from typing import Any

from aiokafka import AIOKafkaProducer

from bench.remote import answer
from bench.webhook import EVENTS, delivery_id
from shared.contracts.envelope import Event, now
from shared.contracts.topics import WEBHOOKS_RECEIVED


async def feed(bootstrap: str, workspace: str, body: str, total: int) -> dict[str, Any]:
    """`total` webhooks of four endpoints, each endpoint with an event type of its own."""
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap,
        acks="all",
        max_batch_size=256 * 1024,
        linger_ms=5,
        max_request_size=2**23,
    )
    await producer.start()
    raw = body.encode()
    try:
        for number in range(total):
            kind = EVENTS[number % len(EVENTS)]
            endpoint = f"ep_bench_{kind}"
            delivery = delivery_id(monotonic_ns(), number).decode()
            event = Event(
                id=f"evt_{delivery}",
                type=f"github.{kind}",
                source=f"/webhooks/github/{endpoint}",
                workspace=workspace,
                time=now(),
                data=raw,
                traceparent=f"00-{number + 1:032x}-{number + 1:016x}-01",
                attributes={
                    "provider": "github",
                    "event": kind,
                    "delivery_id": delivery,
                    "endpoint_id": endpoint,
                },
            )
            await producer.send(WEBHOOKS_RECEIVED.name, raw, key=endpoint.encode(), headers=event.headers())
        await producer.flush()
    finally:
        await producer.stop()
    return {}


if __name__ == "__main__":
    asyncio.run(answer({"feed": feed}))
