"""Executions: what arrived at an endpoint and what became of it. Written beside the hot path, twice a second.

They are for people who look for what went wrong, not a ledger: the events themselves are on Kafka, and a
process that is killed takes its last half second of executions with it. Of endpoints all requests are
counted, not those at the address of a whole app. Kept are up to 200 accepted ones a second for an
endpoint, and 60 refused ones a minute, with the start of their body.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from time import monotonic
from typing import Any, Final, NamedTuple

from services.gateway.ingest.diagnostics import MAX_DIAGNOSED_BYTES, SignatureFailure, diagnose_signature
from services.gateway.ingest.endpoints import ENDPOINTS, INTEGRATION_ID_PREFIX, InboundEndpoint
from services.gateway.settings import GatewaySettings
from shared.contracts.errors import InterlinkError
from shared.contracts.ids import EventId, new_execution_id
from shared.runtime import metrics
from shared.runtime.kafka.producer import RecordPosition
from shared.runtime.logs import Log
from shared.runtime.mongo import Collection, Document, Index, Mongo, UpdateOne, translate_errors, utcnow
from shared.runtime.periodic_task import PeriodicTask
from shared.verification.scheme import VerificationResult

EXECUTIONS: Final = "webhook_executions"
INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {
    EXECUTIONS: (
        Index((("endpoint_id", 1), ("created_at", -1), ("_id", -1))),
        Index((("endpoint_id", 1), ("event_ids", 1))),
        Index((("expires_at", 1),), ttl_s=0),
    )
}

_FLUSH_INTERVAL_S: Final = 0.5
_MAX_PENDING: Final = 20_000
_MAX_REJECTED_PENDING: Final = 2_000
"""Of those, refused ones: strangers make as many of them as they like, and must not push out the others."""
_MAX_ACCEPTED_PER_FLUSH: Final = 100
"""Of one endpoint, in one flush: writing down every request of a flood would cost as much as taking it."""
_REJECTED_RETENTION_DAYS: Final = 2
MAX_STORED_BODY_BYTES: Final = 2_048
"""Bytes of a refused body that are kept."""
_HUB_OUTCOMES: Final = frozenset({"rate_limited", "bus_unavailable", "unavailable", "source_refused"})
"""Outcomes that say nothing of the request: a limit, or a part of the hub that is away or cannot be used."""
_MAX_DIAGNOSED_PER_FLUSH_BYTES: Final = 2 * MAX_DIAGNOSED_BYTES
"""Bytes of refused bodies that are looked into in one flush; of others it is not found out what is wrong."""
_MAX_LISTED_EVENTS: Final = 100
"""Events of one request that are named in its execution."""


class ExecutionEvent(NamedTuple):
    """An event of a request, without its data."""

    event: str
    delivery_id: str
    triggers: tuple[str, ...]
    account: str = ""
    occurred_at: str = ""


@dataclass(slots=True)
class Execution:
    """One request at an endpoint. `seconds` is from its first byte to its answer."""

    endpoint: InboundEndpoint
    at: datetime
    outcome: str
    status: int
    refused: bool
    seconds: float
    size: int = 0
    verdict: VerificationResult | None = None
    detail: str = ""
    events: Sequence[ExecutionEvent] = ()
    event_ids: Sequence[EventId] = ()
    places: Mapping[int, RecordPosition] | None = None
    body: bytes = b""
    content_type: str = ""
    signature_failure: SignatureFailure | None = None
    test: bool = False


@dataclass(slots=True)
class _EndpointCounts:
    triggered: int = 0
    kept: int = 0
    refused: int = 0
    streak: int = 0
    is_streak_reset: bool = False
    last: float = 0.0
    """When an event was last accepted, on the monotonic clock."""

    def add(self, later: "_EndpointCounts") -> None:
        """Count in what came after."""
        self.triggered += later.triggered
        self.refused += later.refused
        self.kept = max(self.kept, later.kept)
        self.streak = later.streak if later.is_streak_reset else self.streak + later.streak
        self.is_streak_reset |= later.is_streak_reset
        self.last = later.last or self.last


class Executions:
    """Takes executions in memory and writes them."""

    def __init__(self, mongo: Mongo, settings: GatewaySettings, log: Log) -> None:
        self.collection: Collection = mongo.collection(EXECUTIONS)
        self._endpoints: Collection = mongo.collection(ENDPOINTS)
        self._days = settings.executions_days
        self._log = log
        self._waiting: list[Execution] = []
        self._refused_waiting = 0
        self._counts: dict[str, _EndpointCounts] = {}
        self._writing = PeriodicTask(self.flush, _FLUSH_INTERVAL_S, log)

    async def start(self) -> None:
        await self._writing.start()

    async def stop(self) -> None:
        """Write what is there, once, and end."""
        await self._writing.stop()

    def count(
        self, endpoint: InboundEndpoint, outcome: str, events: int, *, refused: bool, proven: bool
    ) -> bool:
        """Count a request; return whether it is to be kept too, with `keep`. For the hot path: no I/O.

        `proven` says that it is the sender's own, and not anybody's who knows the address.
        """
        count = self._counts.get(endpoint.id)
        if count is None:
            count = self._counts[endpoint.id] = _EndpointCounts()
        if not refused:
            count.triggered += events
            if events:
                count.streak, count.is_streak_reset = 0, True
                count.last = monotonic()
            count.kept += 1
            return count.kept <= _MAX_ACCEPTED_PER_FLUSH
        if outcome in _HUB_OUTCOMES:
            return False
        count.refused += 1
        count.streak += proven
        if endpoint.recorded_rejections.wait() > 0:
            return False
        endpoint.recorded_rejections.take()
        return True

    def keep(self, execution: Execution) -> None:
        """Take one that is to be written. Bounded in memory."""
        self._refused_waiting += execution.refused
        if len(self._waiting) >= _MAX_PENDING or (
            execution.refused and self._refused_waiting > _MAX_REJECTED_PENDING
        ):
            metrics.EXECUTIONS_DROPPED.inc()
        else:
            self._waiting.append(execution)

    async def flush(self) -> None:
        """Write what waits. Executions that the store does not take are dropped; their counts are not."""
        waiting, self._waiting, self._refused_waiting = self._waiting, [], 0
        counts, self._counts = self._counts, {}
        try:
            with translate_errors():
                if waiting:
                    documents = await self._documents(waiting)
                    await self.collection.insert_many(documents, ordered=False)
                writes = [
                    _count_update(name, count)
                    for name, count in counts.items()
                    if not name.startswith(INTEGRATION_ID_PREFIX)
                ]
                if writes:
                    await self._endpoints.bulk_write(writes, ordered=False)
        except InterlinkError as error:
            metrics.EXECUTIONS_DROPPED.inc(len(waiting))
            self._log.warning("executions not written", count=len(waiting), error=str(error))
            for name, later in self._counts.items():
                counts.setdefault(name, _EndpointCounts()).add(later)
            self._counts = counts  # for the next time

    async def _documents(self, waiting: Sequence[Execution]) -> list[Document]:
        """What is written; requests have their turn between the refused bodies that are looked into."""
        documents: list[Document] = []
        left = _MAX_DIAGNOSED_PER_FLUSH_BYTES
        for each in waiting:
            document = self._document(each)
            if each.signature_failure:
                left -= len(each.signature_failure.request.body)
                document["verdict"] = diagnose_signature(
                    each.endpoint, each.signature_failure, thorough=left >= 0
                )
                await asyncio.sleep(0)
            documents.append(document)
        return documents

    def _document(self, each: Execution) -> Document:
        days = min(self._days, _REJECTED_RETENTION_DAYS) if each.refused else self._days
        document: Document = {
            "_id": new_execution_id(),
            "endpoint_id": each.endpoint.id,
            "workspace": each.endpoint.workspace,
            "created_at": each.at,
            "expires_at": each.at + timedelta(days=days),
            "outcome": each.outcome,
            "status": each.status,
            "ms": round(each.seconds * 1000, 1),
            "bytes": each.size,
        }
        if each.verdict:
            document["verdict"] = each.verdict.value
        if each.detail:
            document["detail"] = each.detail[:500]
        if each.test:
            document["test"] = True
        if each.events:
            document |= _event_fields(each)
        if each.refused and each.body:
            document |= {"body": each.body, "content_type": each.content_type}
        return document


def _event_fields(each: Execution) -> Document:
    named = each.events[:_MAX_LISTED_EVENTS]
    document: Document = {
        "events": len(each.events),
        "types": sorted({seen.event for seen in named}),
        "event_ids": list(each.event_ids[:_MAX_LISTED_EVENTS]),
        "triggers": sorted({trigger for seen in named for trigger in seen.triggers}),
    }
    accounts = sorted({seen.account for seen in named if seen.account})
    if accounts:
        document["accounts"] = accounts
    if occurred := [seen.occurred_at for seen in named if seen.occurred_at]:
        document["occurred_at"] = min(occurred)
    deliveries = sorted({seen.delivery_id for seen in named if seen.delivery_id})
    if deliveries:
        document["delivery_ids"] = deliveries
    if each.places:
        document["places"] = [list(each.places.get(position, ())) for position in range(len(named))]
    return document


def _count_update(name: str, count: _EndpointCounts) -> UpdateOne:
    increments: dict[str, Any] = {}
    if count.triggered:
        increments["trigger_count"] = count.triggered
    if count.refused:
        increments["error_count"] = count.refused
    settings: dict[str, Any] = {}
    if count.is_streak_reset:
        settings["error_streak"] = count.streak
    elif count.streak:
        increments["error_streak"] = count.streak
    if count.last:
        settings["last_triggered"] = utcnow() - timedelta(seconds=monotonic() - count.last)
    update = {"$inc": increments, "$set": settings or {"counted_at": utcnow()}}
    return UpdateOne({"_id": name}, {operator: what for operator, what in update.items() if what})
