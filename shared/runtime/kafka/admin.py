"""Create the hub's topics, from `TOPICS` of the contracts. Nothing else creates topics."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import (
    KafkaError,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    for_code,
)
from aiokafka.protocol.metadata import MetadataRequest

from shared.contracts.errors import BrokerUnavailable
from shared.contracts.topics import TOPICS, Topic
from shared.runtime.kafka.connection import connection
from shared.runtime.kafka.refusals import explain, missing_right
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
        raise BrokerUnavailable(await explain(settings, error, "Create on the hub's topics")) from None
    finally:
        await admin.close()
    created: list[str] = []
    for name, code, *_ in response.topic_errors:
        if code == 0:
            created.append(name)
        elif code != TopicAlreadyExistsError.errno:
            refused = for_code(code)()
            reason = missing_right(settings, refused, f"Create on topic {name}") or type(refused).__name__
            raise BrokerUnavailable(f"topic {name} was not created: {reason}")
    return created


@dataclass(frozen=True, slots=True)
class AbsentTopics:
    """The topics of the hub that a client does not see: `missing`, or `hidden` by a lack of rights."""

    missing: Sequence[str]
    hidden: Sequence[str]


async def absent_topics(settings: KafkaSettings, topics: Iterable[Topic] = TOPICS) -> AbsentTopics:
    """Return which of the topics `interlink init` would create, or are hidden from this user.

    Raises `BrokerUnavailable`.
    """
    admin = AIOKafkaAdminClient(**connection(settings), request_timeout_ms=5_000)
    try:
        await admin.start()
        existing = set(await admin.list_topics())
        absent = [topic.name for topic in topics if topic.name not in existing]
        codes: dict[str, int] = {}
        if absent:
            request = MetadataRequest(absent, allow_auto_topic_creation=False)
            response = await admin._send_request(request)
            codes = {name: code for code, name, *_ in response.topics}
    except (KafkaError, OSError) as error:
        raise BrokerUnavailable(await explain(settings, error, "Describe on the hub's topics")) from None
    finally:
        await admin.close()
    hidden = [name for name in absent if codes.get(name) == TopicAuthorizationFailedError.errno]
    return AbsentTopics([name for name in absent if name not in hidden], hidden)
