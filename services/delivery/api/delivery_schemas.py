"""The response models of the delivery log's API, of statistics and of erasures."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from services.delivery.model.delivery_status import DeliveryStatus, WaitingReason


class AttemptOut(BaseModel):
    """One logged attempt; `response_body` is null after an erasure."""

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


class DeliveryOut(BaseModel):
    """One delivery; `attempts` and `body` only when it is read on its own.

    `error` is the error class of the last attempt, or `circuit_open` if it waited too long behind an open
    circuit. An erased delivery has `erased_at` and no `body`. A waiting delivery is not attempted before
    `next_attempt_at`, because of `waiting_reason` (null: its schedule). `next_attempt_at` is null if a person
    has to act first (`paused`, `disabled`, `unreadable`). `occurred_at` is when the hub received the event;
    the body has the provider's own time.
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
    attempts: list[AttemptOut] | None = None
    body: str | None = None


class QueueStatsOut(BaseModel):
    """Deliveries by state; `oldest_due_s` is the seconds since the longest overdue one became due."""

    total: int
    pending: int
    active: int
    completed: int
    failed: int
    delayed: int
    oldest_due_s: float | None


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


class WebhookStatsOut(BaseModel):
    """A webhook's hours with attempts, oldest first, and their sum (`hour`: the first one)."""

    hours: list[HourStatsOut]
    together: HourStatsOut


class ErasureCreate(BaseModel):
    """The event whose payload is to be erased."""

    model_config = ConfigDict(extra="forbid")

    event_id: Annotated[str, Field(min_length=1, max_length=1000)]


class ErasureOut(BaseModel):
    """How many deliveries lost their payload, and how many of them were open and are cancelled."""

    erased: int
    cancelled: int
