"""Create the hub's topics, from `TOPICS` of the contracts. Nothing else creates topics."""

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from shared.contracts.errors import BrokerUnavailable
from shared.contracts.topics import TOPICS
from shared.runtime.kafka.connection import connection
from shared.runtime.settings import KafkaSettings


async def ensure_topics(settings: KafkaSettings) -> list[str]:
    """Create the topics that are missing and return their names.

    They have three replicas, or one per broker if there are fewer brokers. With three replicas, two must have
    a record before it is acknowledged. Raises `BrokerUnavailable`.
    """
    admin = AIOKafkaAdminClient(**connection(settings), request_timeout_ms=10_000)
    try:
        await admin.start()
        brokers = len((await admin.describe_cluster())["brokers"])
        replicas = settings.replication_factor or max(1, min(3, brokers))
        response = await admin.create_topics(
            [
                NewTopic(
                    name=topic.name,
                    num_partitions=topic.partitions,
                    replication_factor=replicas,
                    topic_configs={
                        "retention.ms": str(topic.retention_ms),
                        "max.message.bytes": str(topic.max_message_bytes),
                        # One clock per partition instead of one per producer: times rise with the offsets.
                        "message.timestamp.type": "LogAppendTime",
                        "min.insync.replicas": "2" if replicas >= 3 else "1",
                    },
                )
                for topic in TOPICS
            ]
        )
    except (KafkaError, OSError) as error:
        raise BrokerUnavailable(f"no Kafka broker at {settings.bootstrap_servers}: {error}") from None
    finally:
        await admin.close()
    created: list[str] = []
    for name, code, *_ in response.topic_errors:
        if code == 0:
            created.append(name)
        elif code != TopicAlreadyExistsError.errno:
            raise BrokerUnavailable(f"topic {name} was not created: {for_code(code).__name__}")
    return created


async def missing_topics(settings: KafkaSettings) -> list[str]:
    """Return the names of the topics that `interlink init` would create. Raises `BrokerUnavailable`."""
    admin = AIOKafkaAdminClient(**connection(settings), request_timeout_ms=5_000)
    try:
        await admin.start()
        existing = set(await admin.list_topics())
    except (KafkaError, OSError) as error:
        raise BrokerUnavailable(f"no Kafka broker at {settings.bootstrap_servers}: {error}") from None
    finally:
        await admin.close()
    return [topic.name for topic in TOPICS if topic.name not in existing]
