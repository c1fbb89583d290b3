"""The dead-letter topic: a copy of each record that no retry can help, with its reason and its position."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from aiokafka import ConsumerRecord

from shared.contracts.envelope import now
from shared.contracts.errors import OverLimit, Rejected, TooLarge
from shared.contracts.topics import DEAD_LETTERS
from shared.runtime import metrics
from shared.runtime.kafka.batch import OpenRecord
from shared.runtime.kafka.producer import Producer, Record
from shared.runtime.logs import Log
from shared.runtime.retry import Backoff

_PUBLISH_TIMEOUT_S: Final = 10.0
_BATCH_SIZE: Final = 50
"""Dead letters that are published at the same time."""
_BACKOFF: Final = Backoff(first_s=0.2, max_s=10.0)
_MAX_ERROR_LENGTH: Final = 1000
_MAX_LOGGED_ERROR_LENGTH: Final = 300


@dataclass(frozen=True, slots=True)
class RecordCopy:
    """The parts of a record that a dead letter needs, for an event whose record is no longer in memory."""

    topic: str
    partition: int
    offset: int
    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]


def reason_and_error(error: Exception) -> tuple[str, str]:
    """Return the reason and the error text of a dead letter: what is wrong with the input, or what failed."""
    if isinstance(error, OverLimit):
        return error.reason, error.detail
    if isinstance(error, Rejected):
        fields = "; ".join(f"{field_error.field}: {field_error.message}" for field_error in error.errors)
        return "malformed", f"{error.detail} ({fields})" if fields else error.detail
    return "failed", f"{type(error).__name__}: {error}"


class DeadLetterWriter:
    """Publishes dead letters of one consumer group."""

    def __init__(self, producer: Producer, group: str, log: Log) -> None:
        self._producer = producer
        self._group = group
        self._log = log

    async def write(self, record: ConsumerRecord | RecordCopy, reason: str, error: str) -> None:
        """Publish one dead letter and wait for the acknowledgement. Raises `BrokerUnavailable`."""
        marks: dict[str, Any] = {
            "dl_reason": reason,
            "dl_error": error[:_MAX_ERROR_LENGTH],
            "dl_topic": record.topic,
            "dl_partition": record.partition,
            "dl_offset": record.offset,
            "dl_group": self._group,
            "dl_time": now(),
        }
        # A replayed dead letter that fails again gets new marks, not both.
        headers = [(name, value or b"") for name, value in record.headers if not name.startswith("dl_")]
        try:
            await self._publish(record.key, record.value, marks, headers)
        except TooLarge:
            # A record that its producer compressed can be larger than what this one may send. Then only its
            # position is published, which leads to the record as long as the topic retains it.
            marks["dl_error"] = f"{error[:_MAX_ERROR_LENGTH]} (too large to copy: left where it is)"
            await self._publish(None, None, marks, [])
        metrics.DEAD_LETTERED.labels(record.topic, self._group, reason).inc()
        self._log.error(
            "event.dead_lettered",
            reason=reason,
            error=error[:_MAX_LOGGED_ERROR_LENGTH],
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
        )

    async def _publish(
        self,
        key: bytes | None,
        value: bytes | None,
        marks: Mapping[str, Any],
        headers: Sequence[tuple[str, bytes]],
    ) -> None:
        marked = [*headers, *((name, str(mark).encode()) for name, mark in marks.items())]
        record = Record(DEAD_LETTERS, key or b"", value or b"", marked)
        await self._producer.publish(record, timeout_s=_PUBLISH_TIMEOUT_S)


class DeadLetterQueue:
    """Records that become dead letters, published in their order in the background.

    A record is complete when its dead letter is acknowledged: then it is published once, and until then no
    later offset is committed. The bounds of what is open in a partition bound the queue.
    """

    def __init__(self, writer: DeadLetterWriter, log: Log) -> None:
        self._writer = writer
        self._log = log
        self._waiting: list[tuple[OpenRecord, Exception]] = []
        self._task: asyncio.Task[None] | None = None

    def put(self, record: OpenRecord, error: Exception) -> None:
        """Have a record published with the error that its handling ended with, however long that takes."""
        self._waiting.append((record, error))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._publish())

    async def stop(self) -> None:
        """Publish no more. Records without an acknowledgement stay open."""
        self._waiting.clear()
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _publish(self) -> None:
        failures = 0
        while True:
            # The next owner of a revoked partition handles its records again.
            self._waiting = [item for item in self._waiting if not item[0].tracker.is_revoked]
            batch = self._waiting[:_BATCH_SIZE]
            if not batch:
                return
            errors = await asyncio.gather(
                *(self._writer.write(record.source, *reason_and_error(error)) for record, error in batch),
                return_exceptions=True,
            )
            failed = [(item, error) for item, error in zip(batch, errors, strict=True) if error is not None]
            self._waiting[: len(batch)] = [item for item, _ in failed]
            for (record, _), error in zip(batch, errors, strict=True):
                if error is None:
                    record.tracker.complete(record)
            failures = failures + 1 if failed else 0
            if failed:
                self._log.warning("dead_letter.publish_retried", count=len(failed), error=str(failed[0][1]))
                await asyncio.sleep(_BACKOFF.pause_s(failures))
