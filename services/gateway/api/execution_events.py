"""The events of an execution as they are on Kafka, and why some of them cannot be read."""

from collections import Counter
from collections.abc import Mapping
from typing import Final

from services.gateway.ingest.execution_records import ExecutionRecord, ExecutionRepository
from services.gateway.ingest.executions import MAX_LISTED_EVENTS
from shared.contracts.envelope import Event, parse_event
from shared.contracts.errors import Conflict
from shared.contracts.topics import DAY_MS, WEBHOOKS_RECEIVED
from shared.runtime.kafka.producer import RecordPosition
from shared.runtime.kafka.reader import StoredRecord, read_records
from shared.runtime.settings import KafkaSettings
from shared.verification.batch import MAX_DOCUMENTS_BYTES

_READ_TIMEOUT_S: Final = 10.0
_MAX_BYTES: Final = MAX_DOCUMENTS_BYTES
"""All events of one request have fewer. A repeat may be of the events of many requests."""
_UNLISTED: Final = f"not among the first {MAX_LISTED_EVENTS}, which an execution lists"
_UNPUBLISHED: Final = "published neither by this request nor by a known one before it"
_GONE: Final = f"no longer on Kafka, which stores them for {WEBHOOKS_RECEIVED.retention_ms // DAY_MS} days"
_TOO_LARGE: Final = f"beyond {_MAX_BYTES // 1024**2} MiB together"


class ExecutionEvents:
    """Reads the events of executions. Raises `BrokerUnavailable` and `DatabaseUnavailable`."""

    def __init__(self, executions: ExecutionRepository, kafka: KafkaSettings) -> None:
        self._executions = executions
        self._kafka = kafka

    async def read_first(self, execution: ExecutionRecord, count: int) -> list[Event]:
        """Return those of the first `count` events that can be read. Raises `Conflict` if there is none."""
        events, missing = await self._read(execution, count)
        if not events:
            raise _conflict(execution, missing)
        return events

    async def read_all(self, execution: ExecutionRecord) -> list[Event]:
        """Return all events, in order. Raises `Conflict` if one cannot be read."""
        events, missing = await self._read(execution, None)
        if missing or not events:
            raise _conflict(execution, missing)
        return events

    async def _read(self, execution: ExecutionRecord, count: int | None) -> tuple[list[Event], Counter[str]]:
        """Return events, each once, and how many cannot be read by the reason."""
        listed = execution.event_ids or ()
        ids = list(dict.fromkeys(listed))[:count]
        positions = await self._executions.find_positions(execution, ids)
        wanted = [positions[event_id] for event_id in ids if event_id in positions]
        records: Mapping[RecordPosition, StoredRecord | None] = {}
        if wanted:
            records = await read_records(
                self._kafka, WEBHOOKS_RECEIVED, wanted, max_bytes=_MAX_BYTES, timeout_s=_READ_TIMEOUT_S
            )
        missing = Counter[str]()
        events: list[Event] = []
        for event_id in ids:
            position = positions.get(event_id)
            if position is None:
                missing[_UNPUBLISHED] += 1
            elif position not in records:
                missing[_TOO_LARGE] += 1
            else:
                record = records[position]
                event = parse_event(record.headers, record.value) if record else None
                if event is None or event.id != event_id:  # another one, after a broker has lost its data
                    missing[_GONE] += 1
                else:
                    events.append(event)
        if (unlisted := (execution.events or 0) - len(listed)) > 0:
            missing[_UNLISTED] = unlisted
        return events, missing


def _conflict(execution: ExecutionRecord, missing: Counter[str]) -> Conflict:
    if not missing:
        return Conflict("this execution has no events")
    reasons = "; ".join(f"{count} {reason}" for reason, count in missing.items())
    return Conflict(
        f"{missing.total()} of the {execution.events} events of this execution cannot be read: {reasons}. "
        "Have the provider send them again."
    )
