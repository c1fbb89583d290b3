"""A helper process that publishes webhook events on Kafka, as the gateway does, for delivery to process."""

import asyncio
from collections.abc import Sequence
from time import monotonic_ns
from typing import Any, Final

from aiokafka import AIOKafkaProducer

from bench.remote import answer
from bench.webhook import EVENTS, delivery_id
from shared.contracts.envelope import Event, now
from shared.contracts.topics import WEBHOOKS_RECEIVED

_TICK_S: Final = 0.001


async def feed(
    bootstrap: str,
    workspace: str,
    body: str,
    total: int,
    kinds: Sequence[str] = EVENTS,
    rate: float = 0.0,
    topic: str = WEBHOOKS_RECEIVED.name,
) -> dict[str, Any]:
    """Publish `total` webhook events of these types in turn, each type from its own endpoint.

    At a `rate` per second, each is published when it is due, and its age counts from that time. At 0 all are
    published at once.
    """
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap,
        acks="all",
        max_batch_size=256 * 1024,
        linger_ms=0 if rate else 5,
        max_request_size=2**23,
    )
    await producer.start()
    raw = body.encode()
    try:
        await producer.partitions_for(topic)  # otherwise the first events wait for the metadata
        started, sent = monotonic_ns(), 0
        while sent < total:
            due = min(total, int((monotonic_ns() - started) * rate / 1e9) + 1) if rate else total
            for number in range(sent, due):
                due_ns = started + int(number * 1e9 / rate) if rate else monotonic_ns()
                event = _webhook(workspace, raw, kinds[number % len(kinds)], due_ns, number)
                key = event.attributes["endpoint_id"].encode()
                await producer.send(topic, raw, key=key, headers=event.headers())
            sent = max(sent, due)
            if sent < total:
                await asyncio.sleep(_TICK_S)
        await producer.flush()
    finally:
        await producer.stop()
    return {}


def _webhook(workspace: str, raw: bytes, kind: str, due_ns: int, number: int) -> Event:
    endpoint = f"ep_bench_{kind}"
    delivery = delivery_id(due_ns, number).decode()
    return Event(
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


if __name__ == "__main__":
    asyncio.run(answer({"feed": feed}))
