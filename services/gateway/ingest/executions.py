"""Executions: the records of requests to endpoints, written beside the hot path twice a second.

Executions are for people who look for an error. They are not a ledger: the events themselves are on Kafka,
and a process that is killed loses the executions of its last half second.

Every request to an endpoint is counted, in total and by the hour, but not every one is stored: up to 200
accepted requests per second and 60 rejected requests per minute of one endpoint, the latter with the start of
their body. Requests to an app webhook are stored for the accounts that they are for, and counted by the hour
only.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from time import monotonic
from typing import Final, NamedTuple

from services.gateway.ingest.diagnostics import MAX_DIAGNOSED_BYTES, SignatureFailure, diagnose_signature
from services.gateway.ingest.endpoint import INTEGRATION_ID_PREFIX, InboundEndpoint
from services.gateway.ingest.endpoint_records import EndpointRepository
from services.gateway.ingest.execution_records import ExecutionRecord, ExecutionRepository
from services.gateway.ingest.request_counts import RequestCounts
from shared.contracts.errors import InterlinkError, OverQuota
from shared.contracts.ids import EventId, new_execution_id
from shared.runtime import metrics
from shared.runtime.hourly_counts import CountKind, HourlyCounts
from shared.runtime.kafka.producer import RecordPosition
from shared.runtime.logs import Log
from shared.runtime.periodic_task import PeriodicTask
from shared.verification.scheme import VerificationResult

_FLUSH_INTERVAL_S: Final = 0.5
_MAX_PENDING: Final = 20_000
_MAX_REJECTED_PENDING: Final = 2_000
"""Pending executions of rejected requests. Anybody can cause these, and they must not displace the others."""
_MAX_ACCEPTED_PER_FLUSH: Final = 100
"""Accepted requests of one endpoint that a flush stores: storing a flood costs as much as serving it."""
REJECTED_RETENTION_DAYS: Final = 2
MAX_STORED_BODY_BYTES: Final = 2_048
"""Bytes of a rejected body that are stored."""
_OVER_QUOTA: Final = OverQuota.reason
_HUB_OUTCOMES: Final = frozenset(
    {"rate_limited", _OVER_QUOTA, "bus_unavailable", "unavailable", "source_refused"}
)
"""Outcomes that the hub causes, not the request: not counted as errors.

Only those over a quota are stored: a sender may not repeat them, and a person asks which ones they were.
"""
_MAX_DIAGNOSED_PER_FLUSH_BYTES: Final = 2 * MAX_DIAGNOSED_BYTES
"""Bytes of rejected bodies that are diagnosed per flush; the rest gets the plain verdict."""
_MAX_DETAIL_LENGTH: Final = 500
MAX_LISTED_EVENTS: Final = 100
"""Events of one request that its execution lists."""
_MAX_RELATED: Final = 20
"""Events, and ids of the provider, by which an execution is found: each costs an entry of the index."""
_MAX_RELATED_LENGTH: Final = 200
"""Longer ids are not searched for."""


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
    """Positions on Kafka of this request's events, by their index in `events`; not those of a repeat."""
    body: bytes = b""
    content_type: str = ""
    signature_failure: SignatureFailure | None = None
    test: bool = False
    trace_id: str = ""


class Executions:
    """Collects executions in memory and writes them to MongoDB periodically."""

    def __init__(
        self,
        repository: ExecutionRepository,
        endpoints: EndpointRepository,
        hours: HourlyCounts,
        log: Log,
        *,
        retention_days: int,
        workers: int = 1,
    ) -> None:
        """Set where executions are written, and as `endpoints` and `hours` where counts are.

        Each of the service's `workers` stores an equal part of the executions of a flood.
        """
        self._repository = repository
        self._endpoints = endpoints
        self._hours = hours
        self._retention_days = retention_days
        self._max_accepted = max(1, _MAX_ACCEPTED_PER_FLUSH // workers)
        self._log = log
        self._pending: list[Execution] = []
        self._rejected_pending = 0
        self._counts: dict[str, RequestCounts] = {}
        self._flushing = PeriodicTask(self.flush, _FLUSH_INTERVAL_S, log)

    async def start(self) -> None:
        await self._flushing.start()

    async def stop(self) -> None:
        """Write the pending executions a last time."""
        await self._flushing.stop()

    def count(
        self,
        endpoint: InboundEndpoint,
        outcome: str,
        events: int,
        seconds: float,
        *,
        rejected: bool,
        authenticated: bool,
    ) -> bool:
        """Count a request with `events` events; return whether it has to be stored too, with `add`.

        `seconds` is the time from its first byte to the response. `authenticated` says that the request is
        from the sender, and not from anybody who knows the address. Does no I/O: it runs on the hot path.
        """
        counts = self._counts.get(endpoint.id)
        if counts is None:
            counts = self._counts[endpoint.id] = RequestCounts(endpoint.workspace)
        if rejected and outcome in _HUB_OUTCOMES:
            counts.limited += 1
            return outcome == _OVER_QUOTA and endpoint.recorded_rejections.try_take() == 0
        counts.add_time(seconds)
        if not rejected:
            counts.accepted += 1
            counts.triggered += events
            if events:
                counts.streak, counts.is_streak_reset = 0, True
                counts.last_accepted = monotonic()
            counts.stored += 1
            return counts.stored <= self._max_accepted
        counts.rejected += 1
        counts.streak += authenticated
        return endpoint.recorded_rejections.try_take() == 0

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
            if pending:
                await self._repository.insert(await self._records(pending))
            await self._endpoints.add_counts(
                {
                    endpoint_id: endpoint_counts
                    for endpoint_id, endpoint_counts in counts.items()
                    if not endpoint_id.startswith(INTEGRATION_ID_PREFIX)  # it has no document to count in
                }
            )
            self._count_hours(counts)
        except InterlinkError as error:
            metrics.EXECUTIONS_DROPPED.inc(len(pending))
            self._log.warning("executions.write_failed", count=len(pending), error=str(error))
            for endpoint_id, later in self._counts.items():
                counts.setdefault(endpoint_id, RequestCounts(later.workspace)).add(later)
            self._counts = counts

    def _count_hours(self, counts: Mapping[str, RequestCounts]) -> None:
        """Count the requests of the present hour: twice a second for an endpoint, not for each request."""
        for endpoint_id, added in counts.items():
            kinds: Mapping[CountKind, int] = {
                "requests_accepted": added.accepted,
                "requests_refused": added.rejected,
                "requests_limited": added.limited,
                "requests_ms": round(added.seconds * 1000),
            }
            for kind, number in kinds.items():
                if number:
                    self._hours.add(added.workspace, kind, endpoint_id, number)
            for bucket, number in added.latency.items():
                self._hours.add(added.workspace, "requests_latency", endpoint_id, number, bucket=bucket)

    async def _records(self, executions: Sequence[Execution]) -> list[ExecutionRecord]:
        """Return the records to write, with signature failures diagnosed as far as the limit allows."""
        records: list[ExecutionRecord] = []
        remaining = _MAX_DIAGNOSED_PER_FLUSH_BYTES
        for execution in executions:
            verdict = execution.verdict.value if execution.verdict else None
            if execution.signature_failure:
                remaining -= len(execution.signature_failure.request.body)
                verdict = diagnose_signature(
                    execution.endpoint, execution.signature_failure, thorough=remaining >= 0
                )
                await asyncio.sleep(0)  # a diagnosis takes milliseconds: let requests run in between
            records.append(self._record(execution, verdict))
        return records

    def _record(self, execution: Execution, verdict: str | None) -> ExecutionRecord:
        days = self._retention_days
        if execution.rejected:
            days = min(days, REJECTED_RETENTION_DAYS)
        events = execution.events[:MAX_LISTED_EVENTS]
        has_events, has_body = bool(events), execution.rejected and bool(execution.body)
        positions = execution.positions
        related_ids = [
            execution.trace_id,
            *execution.event_ids[:_MAX_RELATED],
            *(item.delivery_id for item in events[:_MAX_RELATED]),
        ]
        return ExecutionRecord(
            id=new_execution_id(),
            endpoint_id=execution.endpoint.id,
            workspace=execution.endpoint.workspace,
            created_at=execution.at,
            expires_at=execution.at + timedelta(days=days),
            outcome=execution.outcome,
            status=execution.status,
            duration_ms=round(execution.seconds * 1000, 1),
            size=execution.size,
            verdict=verdict,
            detail=execution.detail[:_MAX_DETAIL_LENGTH] or None,
            test=execution.test or None,
            events=len(execution.events) or None,
            types=_distinct(item.event for item in events) if has_events else None,
            event_ids=tuple(execution.event_ids[:MAX_LISTED_EVENTS]) if has_events else None,
            triggers=_distinct(name for item in events for name in item.triggers) if has_events else None,
            accounts=_distinct(item.account for item in events if item.account) or None,
            occurred_at=min((item.occurred_at for item in events if item.occurred_at), default=None),
            delivery_ids=_distinct(item.delivery_id for item in events if item.delivery_id) or None,
            places=tuple(positions.get(index, ()) for index in range(len(events))) if positions else None,
            body=execution.body if has_body else None,
            content_type=execution.content_type if has_body else None,
            trace_id=execution.trace_id or None,
            related_ids=_searchable(related_ids),
        )


def _searchable(ids: Iterable[str | None]) -> tuple[str, ...] | None:
    """Return the distinct ids that are short enough to be searched for; None if there are none."""
    return tuple(dict.fromkeys(one for one in ids if one and len(one) <= _MAX_RELATED_LENGTH)) or None


def _distinct(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(names)))
