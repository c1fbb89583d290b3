"""What must exist before a service starts: MongoDB, and the topics and indexes that `interlink init` creates.

Each wait is 30 s: the database may start later than the hub, and `interlink init` may run beside it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from time import monotonic
from typing import Final

from shared.contracts.errors import BrokerUnavailable, DatabaseRefused, DatabaseUnavailable, Misconfigured
from shared.contracts.topics import topics_of
from shared.runtime.kafka.admin import AbsentTopics, absent_topics
from shared.runtime.kafka.refusals import ADD_ACLS
from shared.runtime.logs import Log
from shared.runtime.mongo import Index, Mongo
from shared.runtime.settings import KafkaSettings

WAIT_S: Final = 30.0
_RETRY_INTERVAL_S: Final = 0.5
_MAX_LISTED: Final = 4
_INIT: Final = "run 'interlink init' of this release, which creates them"


async def wait_for_database(mongo: Mongo) -> None:
    """Wait until MongoDB answers. Raises `Misconfigured` if it refuses, or after 30 s."""
    deadline = monotonic() + WAIT_S
    while True:
        try:
            return await mongo.ping()
        except DatabaseRefused as error:
            raise Misconfigured(str(error)) from None
        except DatabaseUnavailable as error:
            if monotonic() > deadline:
                raise Misconfigured(
                    f"MONGODB_URI: MongoDB did not answer within {WAIT_S:.0f} s ({error})"
                ) from None
            await asyncio.sleep(_RETRY_INTERVAL_S)


async def wait_for_topics_and_indexes(
    service: str,
    kafka: KafkaSettings,
    mongo: Mongo,
    indexes: Iterable[Mapping[str, Sequence[Index]]],
    log: Log,
) -> None:
    """Wait until the topics and the indexes of a service exist. Raises `Misconfigured` after 30 s.

    A broker that does not answer is no reason to stop: the service starts, and is not ready.
    """
    own = topics_of(service)
    required = list(indexes)

    async def topics() -> str:
        absent = await absent_topics(kafka, own) if own else AbsentTopics((), ())
        if absent.missing:
            return f"topics are missing ({shorten(absent.missing)}): {_INIT}"
        if absent.hidden:
            return f"the Kafka user may not see topics ({shorten(absent.hidden)}): {ADD_ACLS}"
        return ""

    async def complete_indexes() -> str:
        missing = [name for group in required for name in await mongo.missing_indexes(group)]
        return f"indexes are missing ({shorten(missing)}): {_INIT}" if missing else ""

    errors = await asyncio.gather(
        _wait_until_complete("topics", topics, log), _wait_until_complete("indexes", complete_indexes, log)
    )
    if error := "; ".join(filter(None, errors)):
        raise Misconfigured(error)


async def _wait_until_complete(kind: str, find_problem: Callable[[], Awaitable[str]], log: Log) -> str:
    """Wait until there is no problem. Return the error after 30 s, else an empty text."""
    deadline = monotonic() + WAIT_S
    has_waited = False
    while True:
        try:
            problem = await find_problem()
        except DatabaseRefused as error:
            return str(error)
        except (BrokerUnavailable, DatabaseUnavailable) as error:
            log.warning("service.start_unchecked", kind=kind, error=str(error))
            return ""
        if not problem or monotonic() > deadline:
            return problem
        if not has_waited:
            log.warning("service.start_waits", kind=kind, problem=problem)
            has_waited = True
        await asyncio.sleep(_RETRY_INTERVAL_S)


def shorten(names: Sequence[str]) -> str:
    """Return the first names, and how many more there are."""
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return ", ".join(names[:_MAX_LISTED]) + more
