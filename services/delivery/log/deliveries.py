"""The delivery log: one document per delivery with its attempts.

This file has the record, and what the engine reads and writes. `due_deliveries.py` claims what is due,
`delivery_changes.py` has what people change, `search.py` has the queries of API and jobs.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Final, Literal
from uuid import uuid4

from pydantic import Field

from services.delivery.log.statistics import Statistics
from services.delivery.model.delivery import DeliveryRequest
from services.delivery.model.delivery_status import DeliveryStatus
from services.delivery.model.retry_policy import MAX_LOGGED_BODY_BYTES, Attempt, AttemptOutcome
from services.delivery.settings import DeliverySettings
from shared.contracts.ids import DeliveryId, WebhookId
from shared.runtime.clock import utcnow
from shared.runtime.daily_usage import DailyUsage
from shared.runtime.due_work import OPEN, claimed_query
from shared.runtime.logs import Log
from shared.runtime.mongo import (
    Collection,
    Document,
    Duplicate,
    Index,
    InsertOne,
    Mongo,
    UpdateOne,
    Write,
    translate_errors,
)
from shared.runtime.records import Record, StoredPart

DELIVERIES: Final = "webhook_deliveries"
MAX_EXPIRED: Final = 1000
"""Deliveries that are dead-lettered at a time because they waited too long."""
WaitedFor = Literal["circuit_open", "stopped"]
"""The error class of a delivery that waited too long: behind an open circuit, or for a stopped webhook."""
_LOG_ORDER: Final = (("status", 1), ("created_at", -1), ("_id", -1))
"""The end of each index that `search.py` reads: the order of the log within one status."""

INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {
    # Every insert pays for each of these: MongoDB for the entries, the embedded database also for partial
    # indexes without an entry. `search.py` applies the other filters of the API to what it reads.
    DELIVERIES: (
        # The log, whole or of one webhook.
        Index((("workspace", 1), *_LOG_ORDER)),
        Index((("workspace", 1), ("webhook_id", 1), *_LOG_ORDER)),
        # One event, to show or to erase it.
        Index((("workspace", 1), ("event_id", 1), ("created_at", -1), ("_id", -1))),
        # Due deliveries. The embedded database uses a partial index for an equality and a range only if the
        # index's condition is in its key too.
        Index((("webhook_id", 1), ("open", 1), ("due_at", 1)), where=OPEN),
        Index((("webhook_id", 1), ("open", 1), ("order", 1)), where=OPEN),
        Index((("partition", 1), ("webhook_id", 1)), where=OPEN),
        Index((("expires_at", 1),), ttl_s=0),
        # Of earlier releases, which need them for nothing but speed.
        Index((("workspace", 1), ("event_type", 1), *_LOG_ORDER), retired=True),
        Index((("workspace", 1), ("webhook_id", 1), ("event_type", 1), *_LOG_ORDER), retired=True),
        Index((("workspace", 1), ("failed", 1), ("last_error", 1), *_LOG_ORDER), retired=True),
        Index(
            (("workspace", 1), ("webhook_id", 1), ("failed", 1), ("last_error", 1), *_LOG_ORDER),
            retired=True,
        ),
        Index((("workspace", 1), ("due_at", 1)), retired=True),
    ),
}

MAX_STORED_ATTEMPTS: Final = 60
"""The latest attempts of a delivery that are stored; manual retry cycles have no limit.

A document may have 16 MB: these of at most 115 KB, beside a body of 8 MB. A write beyond it fails for ever.
"""
_MAX_LOGGED_HEADERS: Final = 50
_MAX_HEADER_LENGTH: Final = 512
_WAITING: Final = ["pending", "retrying"]
_MAX_IDS_PER_QUERY: Final = 50
_LEASE_MARGIN: Final = timedelta(seconds=5)


class StoredAttempt(StoredPart):
    """One attempt, without secrets."""

    number: int
    started_at: datetime
    duration_ms: float
    request_headers: Mapping[str, str]
    status_code: int | None
    error: str | None
    """The error class; None for 2xx."""
    detail: str
    response_headers: tuple[tuple[str, str], ...]
    """Pairs, not a document: the subscriber's header names may be `$ref` or contain dots."""
    response_body: str | None = None
    """At most 4 KiB; None after an erasure."""
    address: str | None


class Delivery(Record):
    """A delivery as it is stored. Queries that leave out `attempts` or `body` return None for them."""

    webhook_id: str
    workspace: str
    event_id: str
    event_type: str
    occurred_at: str
    traceparent: str
    partition: int
    order: int
    body: bytes | None = None
    """None after an erasure."""
    replay_of: str | None = None
    replay_no: int | None = None
    fault: str = ""
    created_at: datetime
    status: DeliveryStatus
    open: bool = False
    """True until it is finished. `due_at` is the time of its next attempt, or the end of its lease."""
    due_at: datetime | None = None
    fence: int
    attempt_count: int
    attempts: tuple[StoredAttempt, ...] | None = None
    cycle_start: int = Field(default=0, alias="round_start")
    """Attempts before the present retry cycle."""
    failed: bool = False
    last_error: str | None = None
    """The error class of the last attempt, or of a wait that was too long."""
    finished_at: datetime | None = None
    expires_at: datetime | None = None
    erased_at: datetime | None = None
    job: str | None = None
    """The last job that changed it."""

    @property
    def request(self) -> DeliveryRequest:
        """The request that it was made from. Its body is empty after an erasure."""
        return DeliveryRequest(
            delivery_id=DeliveryId(self.id),
            webhook_id=WebhookId(self.webhook_id),
            workspace=self.workspace,
            event_id=self.event_id,
            event_type=self.event_type,
            occurred_at=self.occurred_at,
            body=self.body or b"",
            traceparent=self.traceparent,
            partition=self.partition,
            order=self.order,
            replay_of=self.replay_of or "",
            replay_no=self.replay_no or 0,
            fault=self.fault,
        )


@dataclass(frozen=True, slots=True)
class ClaimedDelivery:
    """A delivery that this process may attempt. A write with an older fence changes nothing."""

    request: DeliveryRequest
    attempts: int = 0
    fence: int = 0
    cycle_start: int = 0
    """Attempts before the present retry cycle: a manual retry starts the schedule again."""
    manual: bool = False
    """True if a person requested it.

    It goes past hold and open circuit, and its result decides about them.
    """
    first_attempt: str = ""
    """The `traceparent` that the first attempt in the log had."""

    @property
    def id(self) -> str:
        return self.request.delivery_id


class Deliveries:
    """The engine's reads and writes. Every method with I/O raises `DatabaseUnavailable`.

    Its documents are built without a model: this is the hot path.
    """

    def __init__(
        self,
        mongo: Mongo,
        settings: DeliverySettings,
        statistics: Statistics,
        usage: DailyUsage,
        log: Log,
        *,
        instance: str,
    ) -> None:
        """Open the log.

        `instance` names this process and its predecessor in the same place, so that the leases of a killed
        process can be released.
        """
        self._collection: Collection = mongo.collection(DELIVERIES)
        self.holder: Mapping[str, str] = {"holder": instance, "holder_run": uuid4().hex}
        """The fields that name this process in a lease."""
        self._statistics = statistics
        self._usage = usage
        self._log = log
        self.retention: Mapping[str, timedelta] = {
            "delivered": timedelta(days=settings.delivered_days),
            "dead_letter": timedelta(days=settings.dead_letter_days),
        }
        """The retention of finished deliveries; `dead_letter` is for all that were not delivered."""

    async def open_by_id(self, ids: Sequence[str]) -> dict[str, bool]:
        """Return for each of these deliveries that is in the log whether it is open."""
        with translate_errors():
            documents = await self._collection.find({"_id": {"$in": list(ids)}}, {"open": 1}).to_list(
                len(ids)
            )
        return {document["_id"]: "open" in document for document in documents}

    def attempted_entry(self, request: DeliveryRequest, attempt: Attempt, outcome: AttemptOutcome) -> Write:
        """Return the log entry of a first attempt that ended."""
        entry = self._entry(request, delivered=outcome.status == "delivered")
        entry |= {"attempts": [_attempt_fields(attempt)]} | self._outcome_fields(outcome, 1)
        return InsertOne(entry if attempt.ok else entry | _failure_fields(attempt))

    def waiting_entry(self, request: DeliveryRequest, due_at: datetime) -> Write:
        """Return the log entry of a delivery without attempts."""
        return InsertOne(self._entry(request) | _open_fields("pending", due_at))

    def leased_entry(self, request: DeliveryRequest, timeout_s: float) -> Write:
        """Return the log entry of a first attempt in flight: due again when its lease expires."""
        lease = _open_fields("delivering", utcnow() + attempt_lease(timeout_s))
        return InsertOne({**self._entry(request), **lease, **self.holder})

    def result_update(self, claimed: ClaimedDelivery, attempt: Attempt, outcome: AttemptOutcome) -> Write:
        """Return the update with the result of a claimed delivery."""
        state = self._outcome_fields(outcome, claimed.attempts + 1)
        # A finished delivery leaves the partial indexes of open ones.
        unset = {} if outcome.due_at is not None else {"due_at": "", "open": ""}
        if attempt.ok:
            unset |= {"failed": "", "last_error": ""}
        else:
            state |= _failure_fields(attempt)
        change: dict[str, Any] = {
            "$set": state,
            "$push": {"attempts": {"$each": [_attempt_fields(attempt)], "$slice": -MAX_STORED_ATTEMPTS}},
        }
        if unset:
            change["$unset"] = unset
        return UpdateOne(claimed_query(claimed), change)

    async def write(self, writes: Sequence[Write]) -> None:
        """Write entries and updates. An entry that is in the log already stays unchanged."""
        if not writes:
            return
        try:
            with translate_errors():
                await self._collection.bulk_write(list(writes), ordered=False)
        # A batch was repeated after a crash: its entries were written before.
        except Duplicate:
            self._log.info("delivery.already_logged", writes=len(writes))

    async def dead_letter_expired(self, webhook_id: str, due_before: datetime, error: WaitedFor) -> int:
        """Dead-letter deliveries that were due before this time, at most `MAX_EXPIRED`; return how many."""
        overdue: Document = {**OPEN, "due_at": {"$lte": due_before}}
        with translate_errors():
            # The embedded database would scan the log if the query had other fields than its index. A webhook
            # has few expired leases, which are left out here.
            found = self._collection.find({"webhook_id": webhook_id, **overdue}, {"status": 1})
            documents = await found.limit(2 * MAX_EXPIRED).to_list(2 * MAX_EXPIRED)
            ids = [document["_id"] for document in documents if document["status"] in _WAITING][:MAX_EXPIRED]
            # The conditions are repeated: a delivery may have been claimed since it was found.
            results = [
                await self._collection.update_many(
                    {"_id": {"$in": batch}, **overdue, "status": {"$in": _WAITING}},
                    self._ending({"status": "dead_letter", "failed": True, "last_error": error}),
                )
                for batch in batches_of_ids(ids)
            ]
        return sum(result.modified_count for result in results)

    async def cancel_all(self, webhook_id: str) -> None:
        """Cancel every open delivery of a deleted webhook."""
        with translate_errors():
            await self._collection.update_many(
                {"webhook_id": webhook_id, **OPEN}, self._ending({"status": "cancelled"})
            )

    def _ending(self, state: Document) -> Document:
        """Return the update that ends open deliveries in this state without another attempt."""
        now = utcnow()
        state |= {"finished_at": now, "expires_at": now + self.retention["dead_letter"]}
        return {"$set": state, "$unset": {"due_at": "", "open": ""}, "$inc": {"fence": 1}}

    def _entry(self, request: DeliveryRequest, *, delivered: bool = False) -> Document:
        """Return the common fields of a new entry, and count it."""
        created_at = utcnow()
        self._statistics.record_entry(request.webhook_id, request.workspace, created_at, delivered=delivered)
        # Once, whatever the attempts: what waits for its first one is stored, too.
        self._usage.add(request.workspace, {"stored_bytes": len(request.body)})
        state = {"created_at": created_at, "fence": 0, "attempt_count": 0, "attempts": []}
        return _request_fields(request) | state

    def _outcome_fields(self, outcome: AttemptOutcome, attempts: int) -> Document:
        state: Document = {"status": outcome.status, "attempt_count": attempts}
        if outcome.due_at is not None:
            state |= {"due_at": outcome.due_at, **OPEN}
        else:
            now = utcnow()
            state |= {"finished_at": now, "expires_at": now + self.retention[outcome.status]}
        return state


def batches_of_ids(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield ids in batches for one query each: the embedded database takes quadratic time in their number."""
    for start in range(0, len(ids), _MAX_IDS_PER_QUERY):
        yield ids[start : start + _MAX_IDS_PER_QUERY]


def attempt_lease(timeout_s: float) -> timedelta:
    """Return the lease of an attempt with this timeout, a little longer than it."""
    return timedelta(seconds=timeout_s) + _LEASE_MARGIN


def request_of(document: Document) -> DeliveryRequest:
    """Return the request of a stored delivery. For the hot path: no model."""
    return DeliveryRequest(
        delivery_id=document["_id"],
        webhook_id=document["webhook_id"],
        workspace=document["workspace"],
        event_id=document["event_id"],
        event_type=document["event_type"],
        occurred_at=document["occurred_at"],
        body=bytes(document["body"]),
        traceparent=document["traceparent"],
        partition=document["partition"],
        order=document["order"],
        replay_of=document.get("replay_of", ""),
        replay_no=document.get("replay_no", 0),
        fault=document.get("fault", ""),
    )


def _request_fields(request: DeliveryRequest) -> Document:
    fields: Document = {
        "_id": request.delivery_id,
        "webhook_id": request.webhook_id,
        "workspace": request.workspace,
        "event_id": request.event_id,
        "event_type": request.event_type,
        "occurred_at": request.occurred_at,
        "body": request.body,
        "traceparent": request.traceparent,
        "partition": request.partition,
        "order": request.order,
    }
    if request.replay_of:
        fields |= {"replay_of": request.replay_of, "replay_no": request.replay_no}
    if request.fault:
        fields["fault"] = request.fault
    return fields


def _open_fields(status: str, due_at: datetime) -> Document:
    return {"status": status, "due_at": due_at, **OPEN}


def _failure_fields(attempt: Attempt) -> Document:
    """Return the fields by which failures are searched."""
    return {"failed": True, "last_error": attempt.error}


def _attempt_fields(attempt: Attempt) -> Document:
    """Return an attempt as `StoredAttempt` has it."""
    response = attempt.response
    return {
        "number": attempt.number,
        "started_at": attempt.started_at,
        "duration_ms": round(response.seconds * 1000, 1),
        "request_headers": dict(attempt.request_headers),
        "status_code": response.status,
        "error": attempt.error,
        "detail": response.detail,
        "response_headers": [
            [_header_text(name), _header_text(value)]
            for name, value in islice(response.headers.items(), _MAX_LOGGED_HEADERS)
        ],
        "response_body": response.body[:MAX_LOGGED_BODY_BYTES].decode("utf-8", "replace"),
        "address": response.address,
    }


def _header_text(text: str) -> str:
    """Return a response header as MongoDB can store it: truncated, and valid UTF-8."""
    return text[:_MAX_HEADER_LENGTH].encode("utf-8", "replace").decode()
