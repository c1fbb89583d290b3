"""What a consumer group has not handled, as the broker says."""

import asyncio

from aiokafka import AIOKafkaConsumer, TopicPartition

from shared.contracts.topics import CHAT_EVENTS, DELIVERY_REQUESTED, WEBHOOKS_RECEIVED, Topic
from tests.support.backends import Bus

DELIVERY_READS = (
    ("delivery-fanout", CHAT_EVENTS),
    ("delivery-fanout", WEBHOOKS_RECEIVED),
    ("delivery-attempt", DELIVERY_REQUESTED),
)
"""The groups of delivery, with a topic of each."""


def delivery_is_behind(bus: Bus) -> bool:
    """Return whether a record waits for delivery, or is in its hands."""
    return any(asyncio.run(_behind(bus, group, topic)) for group, topic in DELIVERY_READS)


async def _behind(bus: Bus, group: str, topic: Topic) -> int:
    """Return the records of a topic that a group has not committed."""
    partitions = [TopicPartition(topic.name, number) for number in range(topic.partitions)]
    async with AIOKafkaConsumer(
        bootstrap_servers=bus.env["KAFKA_BOOTSTRAP_SERVERS"], group_id=group, enable_auto_commit=False
    ) as consumer:
        ends = await consumer.end_offsets(partitions)
        return sum([ends[each] - (await consumer.committed(each) or 0) for each in partitions])
