"""Executions: the records of requests to endpoints, written beside the hot path twice a second.

Executions are for people who look for an error. They are not a ledger: the events themselves are on Kafka,
and a process that is killed loses the executions of its last half second.

Every request to an endpoint is counted, but not every one is stored: up to 200 accepted requests per second
and 60 rejected requests per minute of one endpoint, the latter with the start of their body. Requests to an
app webhook are stored for the accounts that they are for, and not counted.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from time import monotonic
from typing import Any, Final, NamedTuple

from services.gateway.ingest.diagnostics import MAX_DIAGNOSED_BYTES, SignatureFailure, diagnose_signature
from services.gateway.ingest.endpoint import INTEGRATION_ID_PREFIX, InboundEndpoint
from services.gateway.ingest.endpoints import ENDPOINTS
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
"""Pending executions of rejected requests. Anybody can cause these, and they must not displace the others."""
_MAX_ACCEPTED_PER_FLUSH: Final = 100
"""Accepted requests of one endpoint that a flush stores: storing a flood costs as much as serving it."""
_REJECTED_RETENTION_DAYS: Final = 2
MAX_STORED_BODY_BYTES: Final = 2_048
"""Bytes of a rejected body that are stored."""
_HUB_OUTCOMES: Final = frozenset({"rate_limited", "bus_unavailable", "unavailable", "source_refused"})
"""Outcomes that the hub causes, not the request: neither counted as errors nor stored."""
_MAX_DIAGNOSED_PER_FLUSH_BYTES: Final = 2 * MAX_DIAGNOSED_BYTES
"""Bytes of rejected bodies that are diagnosed per flush; the rest gets the plain verdict."""
_MAX_LISTED_EVENTS: Final = 100
"""Events of one request that its execution lists."""


class ExecutionEvent(NamedTuple):
    """An event of a request, without its data."""

    event: str
    delivery_id: str
    triggers: tuple[str, ...]
    account: str = ""
    occurred_at: str = ""


@dataclass(slots=True)
class Execution:
    """One request to an endpoint. `seconds` is the time from its first byte to the response."""

    endpoint: InboundEndpoint
    at: datetime
    outcome: str
    status: int
    rejected: bool
    seconds: float
    size: int = 0
    verdict: VerificationResult | None = None
    detail: str = ""
    events: Sequence[ExecutionEvent] = ()
    event_ids: Sequence[EventId] = ()
    positions: Mapping[int, RecordPosition] | None = None
    """Where events of this request are on Kafka, by their index in `events`; not those of a repeat."""
    body: bytes = b""
    content_type: str = ""
    signature_failure: SignatureFailure | None = None
    test: bool = False


@dataclass(slots=True)
class _EndpointCounts:
    """What one endpoint's counters grow by at the next flush."""

    triggered: int = 0
    stored: int = 0
    rejected: int = 0
    streak: int = 0
    is_streak_reset: bool = False
    last_accepted: float = 0.0
    """On the monotonic clock; 0 if no event was accepted."""

    def add(self, later: "_EndpointCounts") -> None:
        """Add counts of a later time."""
        self.triggered += later.triggered
        self.rejected += later.rejected
        self.stored = max(self.stored, later.stored)
        self.streak = later.streak if later.is_streak_reset else self.streak + later.streak
        self.is_streak_reset |= later.is_streak_reset
        self.last_accepted = later.last_accepted or self.last_accepted


class Executions:
    """Collects executions in memory and writes them to MongoDB periodically."""

    def __init__(self, mongo: Mongo, settings: GatewaySettings, log: Log) -> None:
        self.collection: Collection = mongo.collection(EXECUTIONS)
        self._endpoints: Collection = mongo.collection(ENDPOINTS)
        self._retention_days = settings.executions_days
        self._log = log
        self._pending: list[Execution] = []
        self._rejected_pending = 0
        self._counts: dict[str, _EndpointCounts] = {}
        self._flushing = PeriodicTask(self.flush, _FLUSH_INTERVAL_S, log)

    async def start(self) -> None:
        await self._flushing.start()

    async def stop(self) -> None:
        """Write the pending executions a last time."""
        await self._flushing.stop()

    def count(
        self, endpoint: InboundEndpoint, outcome: str, events: int, *, rejected: bool, authenticated: bool
    ) -> bool:
        """Count a request with `events` events; return whether it has to be stored too, with `add`.

        `authenticated` says that the request is from the sender, and not from anybody who knows the address.
        Does no I/O: it runs on the hot path.
        """
        counts = self._counts.get(endpoint.id)
        if counts is None:
            counts = self._counts[endpoint.id] = _EndpointCounts()
        if not rejected:
            counts.triggered += events
            if events:
                counts.streak, counts.is_streak_reset = 0, True
                counts.last_accepted = monotonic()
            counts.stored += 1
            return counts.stored <= _MAX_ACCEPTED_PER_FLUSH
        if outcome in _HUB_OUTCOMES:
            return False
        counts.rejected += 1
        counts.streak += authenticated
        if endpoint.recorded_rejections.wait() > 0:
            return False
        endpoint.recorded_rejections.take()
        return True

    def add(self, execution: Execution) -> None:
        """Store an execution at the next flush; drop it if too many are pending."""
        self._rejected_pending += execution.rejected
        if len(self._pending) >= _MAX_PENDING or (
            execution.rejected and self._rejected_pending > _MAX_REJECTED_PENDING
        ):
            metrics.EXECUTIONS_DROPPED.inc()
        else:
            self._pending.append(execution)

    async def flush(self) -> None:
        """Write pending executions and counts.

        If MongoDB does not answer, the executions are dropped and the counts are added at the next flush.
        """
        pending, self._pending, self._rejected_pending = self._pending, [], 0
        counts, self._counts = self._counts, {}
        try:
            with translate_errors():
                if pending:
                    documents = await self._documents(pending)
                    await self.collection.insert_many(documents, ordered=False)
                updates = [
                    _count_update(endpoint_id, endpoint_counts)
                    for endpoint_id, endpoint_counts in counts.items()
                    if not endpoint_id.startswith(INTEGRATION_ID_PREFIX)  # it has no document to count in
                ]
                if updates:
                    await self._endpoints.bulk_write(updates, ordered=False)
        except InterlinkError as error:
            metrics.EXECUTIONS_DROPPED.inc(len(pending))
            self._log.warning("executions.write_failed", count=len(pending), error=str(error))
            for endpoint_id, later in self._counts.items():
                counts.setdefault(endpoint_id, _EndpointCounts()).add(later)
            self._counts = counts

    async def _documents(self, executions: Sequence[Execution]) -> list[Document]:
        """Return the documents to write, with signature failures diagnosed as far as the limit allows."""
        documents: list[Document] = []
        remaining = _MAX_DIAGNOSED_PER_FLUSH_BYTES
        for execution in executions:
            document = self._document(execution)
            if execution.signature_failure:
                remaining -= len(execution.signature_failure.request.body)
                document["verdict"] = diagnose_signature(
                    execution.endpoint, execution.signature_failure, thorough=remaining >= 0
                )
                await asyncio.sleep(0)  # a diagnosis takes milliseconds: let requests run in between
            documents.append(document)
        return documents

    def _document(self, execution: Execution) -> Document:
        days = self._retention_days
        if execution.rejected:
            days = min(days, _REJECTED_RETENTION_DAYS)
        document: Document = {
            "_id": new_execution_id(),
            "endpoint_id": execution.endpoint.id,
            "workspace": execution.endpoint.workspace,
            "created_at": execution.at,
            "expires_at": execution.at + timedelta(days=days),
            "outcome": execution.outcome,
            "status": execution.status,
            "ms": round(execution.seconds * 1000, 1),
            "bytes": execution.size,
        }
        if execution.verdict:
            document["verdict"] = execution.verdict.value
        if execution.detail:
            document["detail"] = execution.detail[:500]
        if execution.test:
            document["test"] = True
        if execution.events:
            document |= _event_fields(execution)
        if execution.rejected and execution.body:
            document |= {"body": execution.body, "content_type": execution.content_type}
        return document


def _event_fields(execution: Execution) -> Document:
    listed = execution.events[:_MAX_LISTED_EVENTS]
    document: Document = {
        "events": len(execution.events),
        "types": sorted({item.event for item in listed}),
        "event_ids": list(execution.event_ids[:_MAX_LISTED_EVENTS]),
        "triggers": sorted({trigger for item in listed for trigger in item.triggers}),
    }
    accounts = sorted({item.account for item in listed if item.account})
    if accounts:
        document["accounts"] = accounts
    if occurred := [item.occurred_at for item in listed if item.occurred_at]:
        document["occurred_at"] = min(occurred)
    deliveries = sorted({item.delivery_id for item in listed if item.delivery_id})
    if deliveries:
        document["delivery_ids"] = deliveries
    if execution.positions:
        document["places"] = [list(execution.positions.get(index, ())) for index in range(len(listed))]
    return document


def _count_update(endpoint_id: str, counts: _EndpointCounts) -> UpdateOne:
    increments: dict[str, Any] = {}
    if counts.triggered:
        increments["trigger_count"] = counts.triggered
    if counts.rejected:
        increments["error_count"] = counts.rejected
    fields: dict[str, Any] = {}
    if counts.is_streak_reset:
        fields["error_streak"] = counts.streak
    elif counts.streak:
        increments["error_streak"] = counts.streak
    if counts.last_accepted:
        fields["last_triggered"] = utcnow() - timedelta(seconds=monotonic() - counts.last_accepted)
    # MongoDB rejects an update without any operator, so one without changes sets the time of the count.
    update = {"$inc": increments, "$set": fields or {"counted_at": utcnow()}}
    return UpdateOne(
        {"_id": endpoint_id}, {operator: values for operator, values in update.items() if values}
    )
