"""Failure monitor: what follows from an attempt for its endpoint and its webhook.

The endpoint's state learns whether it asked for a hold or failed, which may open its circuit.

An endpoint that answers 410, or that only failed for `disable_after_days`, is disabled. An event on
`integration.events` reports it; another event warns when four fifths of that time are over. A webhook whose
condition exceeded its budget at least ten times over at least ten minutes is disabled, too
(`condition_too_expensive`).
"""

import asyncio
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, Final

import orjson

from services.delivery.engine.endpoint_state import EndpointState
from services.delivery.log.endpoint_health import EndpointHealthRecords
from services.delivery.model.delivery import DeliveryRequest
from services.delivery.model.outgoing_webhook import OutgoingWebhook
from services.delivery.model.recurrence import Recurrence
from services.delivery.model.retry_policy import CONDITION_TOO_EXPENSIVE, Attempt, AttemptOutcome
from services.delivery.webhooks.outgoing_webhooks import OutgoingWebhooks
from shared.contracts.envelope import Event, now, rfc3339
from shared.contracts.errors import RetryLater
from shared.contracts.ids import EventId, derive
from shared.contracts.topics import INTEGRATION_EVENTS
from shared.runtime.clock import utcnow
from shared.runtime.kafka.producer import Producer, event_record
from shared.runtime.logs import Log
from shared.runtime.tracing import continue_trace

_RECORD_DELAY: Final = timedelta(seconds=60)
"""A failure that ends sooner is not written."""
_WARNING_SHARE: Final = 0.8
_MIN_EXPENSIVE_CASES: Final = 10
_MAX_EXPENSIVE_WEBHOOKS: Final = 10_000
_PUBLISH_TIMEOUT_S: Final = 10.0
_MAX_PAYLOAD_BYTES: Final = 16 * 1024
"""Of the payload that a warning repeats: warnings of failing subscribers to warnings contain one another."""
_SHUTDOWN_TIMEOUT_S: Final = 5.0


class FailureMonitor:
    """Updates endpoint states after every attempt; warns of failing webhooks and disables them.

    Writes run in background tasks, so that attempts do not wait.
    """

    def __init__(
        self,
        webhooks: OutgoingWebhooks,
        endpoint_health: EndpointHealthRecords,
        producer: Producer,
        log: Log,
        *,
        suspend_after: timedelta,
    ) -> None:
        self._suspend_after = suspend_after
        self._expensive_cases: dict[str, Recurrence] = {}
        self._webhooks = webhooks
        self._endpoint_health = endpoint_health
        self._producer = producer
        self._log = log
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def stop(self) -> None:
        """Wait for writes in progress."""
        if self._tasks:
            await asyncio.wait(set(self._tasks.values()), timeout=_SHUTDOWN_TIMEOUT_S)

    def record_attempt(
        self,
        endpoint_state: EndpointState,
        webhook: OutgoingWebhook,
        request: DeliveryRequest,
        attempt: Attempt,
        outcome: AttemptOutcome,
        *,
        manual: bool = False,
    ) -> None:
        """Record an attempt at a request. The success of a manual one also ends the hold."""
        # What says nothing about the endpoint only frees the probe. So does the response of an earlier URL.
        if attempt.is_hub_failure or webhook.url != endpoint_state.url:
            endpoint_state.breaker.release()
            return
        if attempt.response.failure == CONDITION_TOO_EXPENSIVE:
            endpoint_state.breaker.release()
            self._record_expensive_condition(webhook, attempt)
            return
        if outcome.retry_after_s:
            endpoint_state.hold(outcome.retry_after_s)
        elif manual and attempt.ok:
            endpoint_state.held_until = endpoint_state.not_before = 0.0
        if attempt.is_not_sent:
            endpoint_state.breaker.release()
        elif endpoint_state.record_result(succeeded=not attempt.is_endpoint_failure):
            self._log.warning("circuit.changed", state=endpoint_state.breaker.circuit, webhook_id=webhook.id)
        self.write_hold_state(endpoint_state)
        if attempt.ok:
            endpoint_state.failing_since, endpoint_state.warned = None, False
            if endpoint_state.recorded_since is not None:
                self._run_in_background(webhook.id, self._clear_failing(endpoint_state, webhook))
        else:
            self._record_failure(endpoint_state, webhook, request, attempt, outcome)

    def write_hold_state(self, endpoint_state: EndpointState) -> None:
        """Write the hold state if it changed, for the API and for the partition's next owner."""
        if endpoint_state.written_hold_state != endpoint_state.hold_state:
            self._run_in_background(
                f"{endpoint_state.webhook_id}/hold_state", self._write_hold_state(endpoint_state)
            )

    def _record_failure(
        self,
        endpoint_state: EndpointState,
        webhook: OutgoingWebhook,
        request: DeliveryRequest,
        attempt: Attempt,
        outcome: AttemptOutcome,
    ) -> None:
        if outcome.gone:
            self._run_in_background(
                webhook.id, self._disable(webhook, attempt.started_at, "gone", attempt.error)
            )
            return
        # 410 disables at once; other failures must last for days.
        since = endpoint_state.failing_since
        if since is None or since < webhook.enabled_at:
            endpoint_state.failing_since, endpoint_state.warned = attempt.started_at, False
            return
        at, disable_after = utcnow(), webhook.disable_after
        if disable_after is not None and endpoint_state.warned and at >= since + disable_after:
            self._run_in_background(webhook.id, self._disable(webhook, since, "failing", attempt.error))
        elif (
            disable_after is not None
            and not endpoint_state.warned
            and at >= since + disable_after * _WARNING_SHARE
        ):
            until = max(at, since + disable_after)
            self._run_in_background(
                webhook.id, self._warn(endpoint_state, webhook, request, since, until, attempt.error)
            )
        elif endpoint_state.recorded_since != since and at >= since + _RECORD_DELAY:
            self._run_in_background(webhook.id, self._record_failing(endpoint_state, webhook, since))

    def _record_expensive_condition(self, webhook: OutgoingWebhook, attempt: Attempt) -> None:
        """Disable a webhook whose condition exceeds its budget often and for long."""
        if len(self._expensive_cases) > _MAX_EXPENSIVE_WEBHOOKS:
            self._expensive_cases.clear()
        cases = self._expensive_cases.setdefault(
            webhook.id, Recurrence(_MIN_EXPENSIVE_CASES, self._suspend_after)
        )
        since = cases.record_case(attempt.started_at, not_before=webhook.enabled_at)
        if since is not None:
            self._run_in_background(
                webhook.id, self._disable(webhook, since, CONDITION_TOO_EXPENSIVE, attempt.response.detail)
            )

    def _run_in_background(self, key: str, work: Coroutine[Any, Any, None]) -> None:
        """Run one such task at a time per key. The next failure repeats a task that failed."""
        # Something of this webhook is being written: the next failure triggers it again.
        if key in self._tasks:
            work.close()
            return
        task = asyncio.create_task(self._run_logged(key, work))
        self._tasks[key] = task
        task.add_done_callback(lambda _: self._tasks.pop(key, None))

    async def _run_logged(self, key: str, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except RetryLater as error:
            self._log.warning("endpoint_health.write_failed", key=key, error=str(error))

    async def _write_hold_state(self, endpoint_state: EndpointState) -> None:
        # The state may change while it is written: repeat until MongoDB has the last one.
        while not endpoint_state.lost and endpoint_state.written_hold_state != (
            hold_state := endpoint_state.hold_state
        ):
            await self._endpoint_health.write_hold_state(
                endpoint_state.webhook_id, endpoint_state.partition, endpoint_state.stored_hold_state()
            )
            endpoint_state.written_hold_state = hold_state

    async def _record_failing(
        self, endpoint_state: EndpointState, webhook: OutgoingWebhook, since: datetime
    ) -> None:
        await self._endpoint_health.write_failing(webhook.id, endpoint_state.partition, since, warned=False)
        endpoint_state.recorded_since = since

    async def _clear_failing(self, endpoint_state: EndpointState, webhook: OutgoingWebhook) -> None:
        await self._endpoint_health.clear_failing(webhook.id)
        endpoint_state.recorded_since = None

    async def _warn(
        self,
        endpoint_state: EndpointState,
        webhook: OutgoingWebhook,
        request: DeliveryRequest,
        since: datetime,
        until: datetime,
        error: str | None,
    ) -> None:
        fields = {"disables_at": rfc3339(until), "last_error": error, **_failed_event(request)}
        await self._publish_notice(webhook, "webhook.failing", since, fields)
        endpoint_state.warned = True
        await self._endpoint_health.write_failing(webhook.id, endpoint_state.partition, since, warned=True)
        endpoint_state.recorded_since = since

    async def _disable(
        self, webhook: OutgoingWebhook, since: datetime, reason: str, error: str | None
    ) -> None:
        """Publish the event, then disable the webhook.

        If the process dies in between, the next failure publishes the event again under the same id.
        """
        await self._webhooks.ensure_current()
        current = self._webhooks.loaded(webhook.id)
        # A person deleted, disabled or enabled the webhook since the failures began, or changed its URL.
        if current is None or not current.enabled or current.enabled_at > since or current.url != webhook.url:
            return
        await self._publish_notice(
            webhook, "webhook.disabled", since, {"reason": reason, "last_error": error}
        )
        if await self._webhooks.disable(webhook.id, reason):
            self._log.warning("webhook.disabled", webhook_id=webhook.id, reason=reason)

    async def _publish_notice(
        self, webhook: OutgoingWebhook, event_type: str, since: datetime, fields: Mapping[str, Any]
    ) -> None:
        since_text = rfc3339(since)
        # The name, not the URL: URLs often contain secrets.
        data = {
            "webhook_id": webhook.id,
            "name": webhook.name,
            "metadata": dict(webhook.metadata),
            "failing_since": since_text,
            **fields,
        }
        event = Event(
            # Derived: a notice that is published twice has the same id.
            id=EventId(f"evt_{derive(webhook.id, event_type, since_text)}"),
            type=event_type,
            source="/delivery",
            workspace=webhook.workspace,
            time=now(),
            data=orjson.dumps(data),
            subject=webhook.id,
            traceparent=continue_trace(""),
        )
        await self._producer.publish(
            event_record(INTEGRATION_EVENTS, webhook.id, event), timeout_s=_PUBLISH_TIMEOUT_S
        )


def _failed_event(request: DeliveryRequest) -> dict[str, Any]:
    """Return the event of a delivery that failed, for a warning; without its payload if that is large."""
    payload = None
    if len(request.body) <= _MAX_PAYLOAD_BYTES:
        with suppress(orjson.JSONDecodeError):
            payload = orjson.loads(request.body)
    return {
        "delivery_id": request.delivery_id,
        "event_id": request.event_id,
        "event_type": request.event_type,
        "payload": payload,
    }
