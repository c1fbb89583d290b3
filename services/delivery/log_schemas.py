"""The bodies of the delivery log's API: what a caller sees."""

from typing import Literal

from pydantic import BaseModel

DeliveryStatus = Literal["pending", "delivering", "retrying", "delivered", "dead_letter", "cancelled"]


class ShownAttempt(BaseModel):
    """One attempt as the log keeps it."""

    number: int
    started_at: str
    duration_ms: float
    status_code: int | None
    error: str | None
    detail: str
    address: str | None
    request_headers: dict[str, str]
    response_headers: dict[str, str]
    response_body: str


class ShownDelivery(BaseModel):
    """One delivery; `attempts` and `body` only when it is read singly."""

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
    attempts: list[ShownAttempt] | None = None
    body: str | None = None


class QueueStats(BaseModel):
    """How many deliveries are in which state; `oldest_due_s` is the age of the longest overdue one."""

    total: int
    pending: int
    active: int
    completed: int
    failed: int
    delayed: int
    oldest_due_s: float | None
