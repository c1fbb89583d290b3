"""One attempt: sign, POST, judge the answer, count it."""

from datetime import datetime
from time import time

from services.delivery.request import Request
from services.delivery.retry import Attempt, Step, step_after
from services.delivery.subscriptions import Webhook
from shared.runtime import metrics
from shared.runtime.guarded import GuardedClient
from shared.runtime.logs import Log
from shared.runtime.mongo import utcnow
from shared.wire.signatures import PROFILES

_USER_AGENT = "Interlink/0.1"


class Attempter:
    """Makes attempts; knows nothing of queues."""

    def __init__(self, client: GuardedClient, log: Log) -> None:
        self._client = client
        self._log = log

    async def attempt(self, webhook: Webhook, request: Request, number: int) -> tuple[Attempt, Step]:
        """Send the request once. A failure of the other side is a result, not an error."""
        started = utcnow()
        headers = {
            "Content-Type": "application/json",
            "User-Agent": _USER_AGENT,
            "traceparent": request.traceparent,
            **PROFILES[webhook.profile](
                webhook.valid_keys(),
                request.delivery_id,
                request.event_type,
                number,
                int(time()),
                request.body,
            ),
        }
        if number == 1:
            metrics.EVENT_AGE_SECONDS.observe(_age(request.occurred_at, started))
        metrics.IN_FLIGHT.inc()
        answer = await self._client.post(webhook.url, headers, request.body, timeout_s=webhook.timeout_s)
        metrics.IN_FLIGHT.dec()
        step = step_after(answer, number, webhook.schedule, utcnow())
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
        return Attempt(number, started, headers, answer), step


def _age(occurred_at: str, now: datetime) -> float:
    try:
        return max(0.0, (now - datetime.fromisoformat(occurred_at)).total_seconds())
    except (ValueError, TypeError):
        return 0.0
