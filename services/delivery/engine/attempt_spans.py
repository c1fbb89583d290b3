"""Spans of delivery attempts, and of the log entries about them."""

from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from services.delivery.log.deliveries import DELIVERIES, ClaimedDelivery
from services.delivery.model.outgoing_webhook import OutgoingWebhook
from services.delivery.model.retry_policy import Attempt, AttemptOutcome

if TYPE_CHECKING:
    from shared.runtime.spans import Span, Tracer

OnWritten = Callable[[Exception | None], None]
"""Called when a write is in the log. Otherwise with the error: `LostPartition`; `DatabaseUnavailable` if the
service stops first; any other if MongoDB or its driver rejects this write."""


def begin_attempt(tracer: "Tracer", webhook: OutgoingWebhook, claimed: ClaimedDelivery) -> "Span | None":
    """Start the span of an attempt, if its trace is recorded. A retry is linked to the first attempt.

    Of the URL it has the host only: tokens of receivers are in paths and query strings.
    """
    request = claimed.request
    attributes: dict[str, str | int | bool] = {
        "http.request.method": "POST",
        "server.address": urlsplit(webhook.url).hostname or "",
        "interlink.workspace": webhook.workspace,
        "interlink.webhook_id": webhook.id,
        "interlink.delivery_id": request.delivery_id,
        "interlink.attempt": claimed.attempts + 1,
        "cloudevents.event_id": request.event_id,
        "cloudevents.event_type": request.event_type,
    }
    if claimed.attempts:
        attributes["http.request.resend_count"] = claimed.attempts
    if request.replay_of:
        attributes["interlink.replay_of"] = request.replay_of
    return tracer.start("attempt", "client", request.traceparent, attributes, link=claimed.first_attempt)


def end_attempt(span: "Span", attempt: Attempt, outcome: AttemptOutcome) -> None:
    """End the span of an attempt with its outcome."""
    span.set({"interlink.outcome": outcome.status})
    status = attempt.response.status
    if status is None:
        span.end(attempt.error)
    else:
        span.set({"http.response.status_code": status})
        span.end(None if attempt.ok else str(status))


def trace_write(tracer: "Tracer", on_written: OnWritten, traceparent: str) -> OnWritten:
    """Start the span of a write to the log, which ends when `on_written` is called."""
    attributes = {
        "db.system.name": "mongodb",
        "db.collection.name": DELIVERIES,
        "db.operation.name": "bulk_write",
    }
    span = tracer.start(f"bulk_write {DELIVERIES}", "client", traceparent, attributes)
    if span is None:
        return on_written

    def end(error: Exception | None) -> None:
        span.end(type(error).__name__ if error else None)
        on_written(error)

    return end
