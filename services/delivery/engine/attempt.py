"""One attempt: render the body, sign, POST, evaluate the response, count it."""

import asyncio
from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime
from time import thread_time
from typing import Final

from services.delivery.engine.attempt_spans import begin_attempt, end_attempt
from services.delivery.log.deliveries import ClaimedDelivery
from services.delivery.log.statistics import Statistics
from services.delivery.model.outgoing_webhook import OutgoingWebhook
from services.delivery.model.retry_policy import (
    CONDITION_TOO_EXPENSIVE,
    MAX_LOGGED_BODY_BYTES,
    Attempt,
    AttemptOutcome,
    evaluate_attempt,
)
from shared.runtime import metrics, tracing
from shared.runtime.clock import now_s, utcnow
from shared.runtime.daily_usage import DailyUsage
from shared.runtime.egress.client import EgressClient, EgressResponse
from shared.runtime.logs import Log
from shared.runtime.version import VERSION
from shared.webhooks.signatures import SIGNERS
from shared.wire.expressions import ExpressionError, project

_USER_AGENT: Final = f"Interlink/{VERSION}"
_REDACTED: Final = "[hidden]"
_CHEAP_TRANSFORM_S: Final = 0.001
"""A transform that takes no longer needs no pause after it."""


class Attempter:
    """Sends a delivery once and evaluates the result. It schedules and stores nothing."""

    def __init__(self, client: EgressClient, statistics: Statistics, usage: DailyUsage, log: Log) -> None:
        self._client = client
        self._usage = usage
        self._transform_locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._statistics = statistics
        self._log = log

    async def attempt(
        self, webhook: OutgoingWebhook, claimed: ClaimedDelivery
    ) -> tuple[Attempt, AttemptOutcome]:
        """Send the request once; return the attempt and its outcome.

        A failure of the endpoint is an outcome, not an exception.
        """
        started = utcnow()
        request, number = claimed.request, claimed.attempts + 1
        # The age of an event counts until its first attempt: later ones follow the schedule.
        if number == 1:
            metrics.EVENT_AGE_SECONDS.observe(_age_s(request.occurred_at, started))
        metrics.IN_FLIGHT.inc()
        span = None if tracing.tracer is None else begin_attempt(tracing.tracer, webhook, claimed)
        traceparent = request.traceparent if span is None else span.traceparent
        headers, response = await self._send(webhook, claimed, number, traceparent)
        metrics.IN_FLIGHT.dec()
        attempt = Attempt(number, started, headers, response)
        # Attempts are counted from the start of the present retry cycle.
        outcome = evaluate_attempt(
            attempt, number - claimed.cycle_start, webhook.policy, request.delivery_id, utcnow()
        )
        self._statistics.record(webhook.id, webhook.workspace, outcome.status, response.seconds, started)
        metrics.ATTEMPT_SECONDS.observe(response.seconds)
        metrics.deliveries(outcome.status).inc()
        self._usage.add(webhook.workspace, {"deliveries": 1})
        if span is not None:
            end_attempt(span, attempt, outcome)
        self._log.info(
            "delivery.attempted",
            trace_id=request.traceparent[3:35],
            delivery_id=request.delivery_id,
            webhook_id=webhook.id,
            type=request.event_type,
            attempt=number,
            outcome=outcome.status,
            status=response.status,
            error=response.failure,
            ms=round(response.seconds * 1000, 1),
        )
        return attempt, outcome

    async def _transform_body(self, webhook: OutgoingWebhook, body: bytes) -> bytes:
        """Return the body after the webhook's transform. Raises `ExpressionError`.

        One transform of a workspace runs at a time. A pause as long as the transform follows an expensive
        one: transforms run in the event loop, and other workspaces must get their share of it.
        """
        if webhook.transform is None:
            return body
        async with self._transform_locks[webhook.workspace]:
            started = thread_time()
            try:
                return project(webhook.transform, body)
            finally:
                cpu_s = thread_time() - started
                await asyncio.sleep(cpu_s if cpu_s > _CHEAP_TRANSFORM_S else 0)

    async def _send(
        self, webhook: OutgoingWebhook, claimed: ClaimedDelivery, number: int, traceparent: str
    ) -> tuple[Mapping[str, str], EgressResponse]:
        """Send one request; return its headers as the log may store them, and the response."""
        request = claimed.request
        # Only the first attempt fails with it: a manual retry sends the event.
        if request.fault and claimed.attempts == 0:
            return {}, EgressResponse(None, CONDITION_TOO_EXPENSIVE, request.fault, {}, b"", 0.0, None)
        try:
            body = await self._transform_body(webhook, request.body)
        except ExpressionError as error:
            return {}, EgressResponse(None, "transform_failed", str(error), {}, b"", 0.0, None)
        headers = {
            "Content-Type": "application/json",
            "User-Agent": _USER_AGENT,
            "traceparent": traceparent,
            **SIGNERS[webhook.profile](
                webhook.valid_keys(), request.delivery_id, request.event_type, number, now_s(), body
            ),
        }
        if request.replay_no:
            headers["X-Interlink-Replay"] = str(request.replay_no)
        # The log has the names of the webhook's own headers, never their values.
        logged_headers: Mapping[str, str] = headers
        if webhook.headers or webhook.auth.headers:
            secret_headers = {**webhook.headers, **webhook.auth.headers}
            logged_headers = headers | dict.fromkeys(secret_headers, _REDACTED)
            headers |= secret_headers
        response = await self._client.post(
            webhook.url,
            headers,
            body,
            timeout_s=webhook.timeout_s,
            workspace=webhook.workspace,
            certificate=webhook.auth.certificate,
            max_bytes=MAX_LOGGED_BODY_BYTES,
            status_decides=True,
        )
        return logged_headers, response


def _age_s(occurred_at: str, now: datetime) -> float:
    """Return the age of an event in seconds; 0 if its time is unreadable."""
    try:
        return max(0.0, (now - datetime.fromisoformat(occurred_at)).total_seconds())
    except (ValueError, TypeError):
        return 0.0
