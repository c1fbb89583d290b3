"""One attempt: make the body, sign, POST, judge the answer, count it."""

import asyncio
from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime
from time import thread_time, time
from typing import Final

from services.delivery.engine.subscriptions import OutgoingWebhook
from services.delivery.log.deliveries import ClaimedDelivery
from services.delivery.log.statistics import Statistics
from services.delivery.model.retry_policy import (
    CONDITION_TOO_EXPENSIVE,
    MAX_LOGGED_BODY_BYTES,
    Attempt,
    AttemptOutcome,
    evaluate_attempt,
)
from shared.runtime import metrics
from shared.runtime.egress.client import EgressClient, EgressResponse
from shared.runtime.logs import Log
from shared.runtime.mongo import utcnow
from shared.runtime.version import VERSION
from shared.webhooks.signatures import SIGNERS
from shared.wire.expressions import ExpressionError, project

_USER_AGENT: Final = f"Interlink/{VERSION}"
_REDACTED: Final = "[hidden]"
_CHEAP_TRANSFORM_S: Final = 0.001
"""A projection that takes no longer needs no pause."""


class Attempter:
    """Makes attempts; knows nothing of queues."""

    def __init__(self, client: EgressClient, statistics: Statistics, log: Log) -> None:
        self._client = client
        self._projecting: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._statistics = statistics
        self._log = log

    async def attempt(
        self, webhook: OutgoingWebhook, claimed: ClaimedDelivery
    ) -> tuple[Attempt, AttemptOutcome]:
        """Send the request once. A failure of the other side is a result, not an error."""
        started = utcnow()
        request, number = claimed.request, claimed.attempts + 1
        if number == 1:
            metrics.EVENT_AGE_SECONDS.observe(_age(request.occurred_at, started))
        metrics.IN_FLIGHT.inc()
        headers, answer = await self._send(webhook, claimed, number)
        metrics.IN_FLIGHT.dec()
        attempt = Attempt(number, started, headers, answer)
        step = evaluate_attempt(
            attempt, number - claimed.cycle_start, webhook.policy, request.delivery_id, utcnow()
        )
        self._statistics.record(webhook.id, webhook.workspace, step.status, answer.seconds, started)
        metrics.ATTEMPT_SECONDS.observe(answer.seconds)
        metrics.deliveries(step.status).inc()
        self._log.info(
            "delivery attempted",
            trace_id=request.traceparent[3:35],
            delivery_id=request.delivery_id,
            webhook_id=webhook.id,
            type=request.event_type,
            attempt=number,
            outcome=step.status,
            status=answer.status,
            error=answer.failure,
            ms=round(answer.seconds * 1000, 1),
        )
        return attempt, step

    async def _projected(self, webhook: OutgoingWebhook, body: bytes) -> bytes:
        """The body as the webhook wants it; one projection of a workspace at a time.

        Raises `ExpressionError`.
        """
        if webhook.transform is None:
            return body
        async with self._projecting[webhook.workspace]:
            started = thread_time()
            try:
                return project(webhook.transform, body)
            finally:
                spent = thread_time() - started
                await asyncio.sleep(spent if spent > _CHEAP_TRANSFORM_S else 0)  # others have a turn

    async def _send(
        self, webhook: OutgoingWebhook, claimed: ClaimedDelivery, number: int
    ) -> tuple[Mapping[str, str], EgressResponse]:
        """The headers as the log may keep them, and the answer."""
        request = claimed.request
        if request.fault and claimed.attempts == 0:
            return {}, EgressResponse(None, CONDITION_TOO_EXPENSIVE, request.fault, {}, b"", 0.0, None)
        try:
            body = await self._projected(webhook, request.body)
        except ExpressionError as error:
            return {}, EgressResponse(None, "transform_failed", str(error), {}, b"", 0.0, None)
        headers = {
            "Content-Type": "application/json",
            "User-Agent": _USER_AGENT,
            "traceparent": request.traceparent,
            **SIGNERS[webhook.profile](
                webhook.valid_keys(), request.delivery_id, request.event_type, number, int(time()), body
            ),
        }
        if request.replay_no:
            headers["X-Interlink-Replay"] = str(request.replay_no)
        shown: Mapping[str, str] = headers
        if webhook.headers or webhook.auth.headers:
            secret = {**webhook.headers, **webhook.auth.headers}
            shown = headers | dict.fromkeys(secret, _REDACTED)
            headers |= secret
        answer = await self._client.post(
            webhook.url,
            headers,
            body,
            timeout_s=webhook.timeout_s,
            workspace=webhook.workspace,
            certificate=webhook.auth.certificate,
            max_bytes=MAX_LOGGED_BODY_BYTES,
            status_decides=True,
        )
        return shown, answer


def _age(occurred_at: str, now: datetime) -> float:
    try:
        return max(0.0, (now - datetime.fromisoformat(occurred_at)).total_seconds())
    except (ValueError, TypeError):
        return 0.0
