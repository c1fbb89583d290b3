"""The response models of the delivery log's API, of statistics and of erasures."""

from typing import Annotated, Final, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from services.delivery.api.fields import optional_rfc3339
from services.delivery.engine.waiting_reasons import WaitingState
from services.delivery.log.deliveries import Delivery, StoredAttempt
from services.delivery.log.statistics import HourCounts
from services.delivery.model.delivery_status import DeliveryStatus, WaitingReason
from shared.contracts.envelope import rfc3339

T = TypeVar("T", bound="PayloadOut")
MASK: Final = "***"
_PLAIN_HEADERS: Final = frozenset(
    (
        "accept",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "date",
        "retry-after",
        "server",
        "traceparent",
        "transfer-encoding",
        "user-agent",
        "webhook-id",
        "webhook-timestamp",
    )
)
"""Headers that callers without the scope `payloads:read` see too. Any other may have a secret."""


class AttemptOut(BaseModel):
    """One logged attempt; `response_body` is null after an erasure, and if it is masked."""

    number: int
    started_at: str
    duration_ms: float
    status_code: int | None
    error: str | None
    detail: str
    address: str | None
    request_headers: dict[str, str]
    response_headers: dict[str, str]
    response_body: str | None

    @classmethod
    def of(cls, attempt: StoredAttempt) -> Self:
        """Return a stored attempt as the API shows it."""
        changed = {
            "started_at": rfc3339(attempt.started_at),
            # Of several headers of the same name, the last one is shown.
            "response_headers": dict(attempt.response_headers),
        }
        return cls(**dict(attempt) | changed)

    def masked(self) -> "AttemptOut":
        """Return the attempt without the response body, and without the values of most headers."""
        return self.model_copy(
            update={
                "request_headers": _masked_headers(self.request_headers),
                "response_headers": _masked_headers(self.response_headers),
                "response_body": None,
            }
        )


class PayloadOut(BaseModel):
    """The fields with payloads of `DeliveryOut` and `DeadLetterOut`."""

    attempts: list[AttemptOut] | None = None
    body: str | None = None
    masked: bool = False


class DeliveryOut(PayloadOut):
    """One delivery; `attempts` and `body` only when it is read on its own.

    `error` is the error class of the last attempt, or `circuit_open` if it waited too long behind an open
    circuit, or `stopped` if it waited too long for a webhook that was paused, disabled or unreadable. An
    erased delivery has `erased_at` and no `body`. A waiting delivery is not attempted before
    `next_attempt_at`, because of `waiting_reason` (null: its schedule). `next_attempt_at` is null if a person
    has to act first (`paused`, `disabled`, `unreadable`). `occurred_at` is the time that the publisher gave
    the event, else when the hub received it; of a provider's event always the latter, and the body has the
    provider's own time. If it is `masked`, because the caller lacks the scope `payloads:read`, there are no
    bodies, and most headers have no values.
    """

    id: str
    webhook_id: str
    event_id: str
    event_type: str
    status: DeliveryStatus
    attempt_count: int
    trace_id: str
    occurred_at: str
    created_at: str
    finished_at: str | None
    next_attempt_at: str | None
    waiting_reason: WaitingReason | None
    error: str | None
    replay_of: str | None
    replay_no: int | None
    erased_at: str | None

    @classmethod
    def of(cls, delivery: Delivery, waiting: WaitingState | None) -> Self:
        """Return a delivery as the API shows it; `waiting` says why it waits, if it does."""
        return cls(
            id=delivery.id,
            webhook_id=delivery.webhook_id,
            event_id=delivery.event_id,
            event_type=delivery.event_type,
            status=delivery.status,
            attempt_count=delivery.attempt_count,
            trace_id=delivery.traceparent[3:35],
            occurred_at=delivery.occurred_at,
            created_at=rfc3339(delivery.created_at),
            finished_at=optional_rfc3339(delivery.finished_at),
            next_attempt_at=optional_rfc3339(waiting.at if waiting else None),
            waiting_reason=waiting.reason if waiting else None,
            error=delivery.last_error,
            replay_of=delivery.replay_of,
            replay_no=delivery.replay_no,
            erased_at=optional_rfc3339(delivery.erased_at),
            attempts=attempts_out(delivery),
            body=body_out(delivery),
        )


def attempts_out(delivery: Delivery) -> list[AttemptOut] | None:
    """Return a delivery's attempts as the API shows them; None if they were not read."""
    return None if delivery.attempts is None else [AttemptOut.of(attempt) for attempt in delivery.attempts]


def body_out(delivery: Delivery) -> str | None:
    """Return a delivery's body as text; None if it was erased or not read."""
    return None if delivery.body is None else delivery.body.decode("utf-8", "replace")


def masked(shown: T) -> T:
    """Return a delivery or dead letter for a caller who may not see payloads."""
    attempts = None if shown.attempts is None else [attempt.masked() for attempt in shown.attempts]
    return shown.model_copy(update={"attempts": attempts, "body": None, "masked": True})


def _masked_headers(headers: dict[str, str]) -> dict[str, str]:
    return {name: value if name.lower() in _PLAIN_HEADERS else MASK for name, value in headers.items()}


class DeliveryCountOut(BaseModel):
    """The number of deliveries that match; null if counting takes too long."""

    count: int | None


class QueueStatsOut(BaseModel):
    """Deliveries by state, as counted at `counted_at`.

    `oldest_due_s` is the seconds from when the longest overdue one became due until then.
    """

    total: int
    pending: int
    active: int
    completed: int
    failed: int
    delayed: int
    oldest_due_s: float | None
    counted_at: str


class HourStatsOut(BaseModel):
    """Outcomes and durations of the attempts of one hour.

    `success_rate` is the share of attempts with a 2xx response. The percentiles are over all attempts, and
    within 9.1 % of the true value.
    """

    hour: str
    attempts: int
    delivered: int
    failed_attempts: int
    dead_letters: int
    success_rate: float | None
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None

    @classmethod
    def of(cls, hour: HourCounts) -> Self:
        """Return the counts of an hour as the API shows them."""
        return cls(
            hour=rfc3339(hour.hour),
            attempts=hour.attempts,
            delivered=hour.delivered,
            failed_attempts=hour.failed_attempts,
            dead_letters=hour.dead_letters,
            success_rate=round(hour.delivered / hour.attempts, 4) if hour.attempts else None,
            p50_ms=hour.percentile_ms(0.5),
            p95_ms=hour.percentile_ms(0.95),
            p99_ms=hour.percentile_ms(0.99),
        )


class WebhookStatsOut(BaseModel):
    """A webhook's hours with attempts, oldest first, and their sum (`hour`: the first one)."""

    hours: list[HourStatsOut]
    together: HourStatsOut


class ErasureCreate(BaseModel):
    """The event whose payload is to be erased."""

    model_config = ConfigDict(extra="forbid")

    event_id: Annotated[str, Field(min_length=1, max_length=1000)]


class ErasureOut(BaseModel):
    """Number of deliveries that lost their payload, and of those that were open and are cancelled."""

    erased: int
    cancelled: int
