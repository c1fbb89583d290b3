"""What attempts teach about an endpoint: slow or not, the breaker, and when to give it up.

An endpoint that answers 410, or that did nothing but fail for `disable_after_days`, is disabled: an event
says so on `integration.events`, and one warns when four fifths of that time are over. So is a webhook whose
condition exceeded its budget at least ten times over at least ten minutes (`condition_too_expensive`).
"""

import asyncio
from collections.abc import Coroutine, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

import orjson

from services.delivery.engine.endpoint_state import SLOW_THRESHOLD_S, EndpointState
from services.delivery.engine.subscriptions import OutgoingWebhook, OutgoingWebhooks
from services.delivery.log.deliveries import Deliveries
from services.delivery.model.flow_control import Recurrence
from services.delivery.model.retry_policy import CONDITION_TOO_EXPENSIVE, Attempt, AttemptOutcome
from shared.contracts.envelope import Event, now, rfc3339
from shared.contracts.errors import RetryLater
from shared.contracts.ids import EventId, derive
from shared.contracts.topics import INTEGRATION_EVENTS
from shared.runtime.kafka.producer import Producer, event_record
from shared.runtime.logs import Log
from shared.runtime.mongo import translate_errors, utcnow
from shared.wire.tracing import child_traceparent

_RECORD_DELAY: Final = timedelta(seconds=60)
"""A failure that is over sooner costs no write."""
_WARNING_SHARE: Final = 0.8
_MIN_EXPENSIVE_CASES: Final = 10
_MAX_EXPENSIVE_WEBHOOKS: Final = 10_000
_PUBLISH_TIMEOUT_S: Final = 10.0
_SHUTDOWN_TIMEOUT_S: Final = 5.0


class EndpointHealth:
    """Learns from every attempt; what has to be written is written aside, so that no attempt waits."""

    def __init__(
        self,
        subscriptions: OutgoingWebhooks,
        deliveries: Deliveries,
        producer: Producer,
        log: Log,
        *,
        suspend_after: timedelta,
    ) -> None:
        self._suspend_after = suspend_after
        self._expensive: dict[str, Recurrence] = {}
        self._subscriptions = subscriptions
        self._deliveries = deliveries
        self._producer = producer
        self._log = log
        self._writing: dict[str, asyncio.Task[None]] = {}

    async def start(self) -> None:
        """Nothing to prepare."""

    async def stop(self) -> None:
        """Finish what is being written."""
        if self._writing:
            await asyncio.wait(set(self._writing.values()), timeout=_SHUTDOWN_TIMEOUT_S)

    def learn(
        self,
        lane: EndpointState,
        webhook: OutgoingWebhook,
        attempt: Attempt,
        step: AttemptOutcome,
        *,
        manual: bool = False,
    ) -> None:
        """Take in what an attempt shows. A success of one that a person asked for ends the hold, too."""
        lane.slow = attempt.answer.seconds > SLOW_THRESHOLD_S
        if attempt.is_hub_failure:
            lane.breaker.unused()
            return
        if attempt.answer.failure == CONDITION_TOO_EXPENSIVE:
            lane.breaker.unused()
            self._too_expensive(webhook, attempt)
            return
        if step.retry_after_s:
            lane.hold(step.retry_after_s)
        elif manual and attempt.ok:
            lane.held_until = lane.not_before = 0.0
        if attempt.is_not_sent:
            lane.breaker.unused()
        elif lane.answered(well=not attempt.is_endpoint_failure):
            self._log.warning("circuit", state=lane.breaker.circuit, webhook_id=webhook.id)
        self.publish(lane)
        if attempt.ok:
            lane.failing_since, lane.warned = None, False
            if lane.recorded is not None:
                self._run_in_background(webhook.id, self._clear_failing(lane, webhook))
        else:
            self._failed(lane, webhook, attempt, step)

    def publish(self, lane: EndpointState) -> None:
        """Write what of a lane makes deliveries wait, if it has changed, for the API and the next owner."""
        if lane.published != lane.standing:
            self._run_in_background(f"{lane.webhook_id}/standing", self._publish(lane))

    def _failed(
        self, lane: EndpointState, webhook: OutgoingWebhook, attempt: Attempt, step: AttemptOutcome
    ) -> None:
        if step.gone:
            self._run_in_background(
                webhook.id, self._disable(webhook, attempt.started_at, "gone", attempt.error)
            )
            return
        since = lane.failing_since
        if since is None or since < webhook.enabled_at:
            lane.failing_since, lane.warned = attempt.started_at, False
            return
        moment, after = utcnow(), webhook.disable_after
        if after is not None and lane.warned and moment >= since + after:
            self._run_in_background(webhook.id, self._disable(webhook, since, "failing", attempt.error))
        elif after is not None and not lane.warned and moment >= since + after * _WARNING_SHARE:
            until = max(moment, since + after)
            self._run_in_background(webhook.id, self._warn(lane, webhook, since, until, attempt.error))
        elif lane.recorded != since and moment >= since + _RECORD_DELAY:
            self._run_in_background(webhook.id, self._record(lane, webhook, since))

    def _too_expensive(self, webhook: OutgoingWebhook, attempt: Attempt) -> None:
        """Suspend a webhook whose condition exceeds its budget again and again, for long."""
        if len(self._expensive) > _MAX_EXPENSIVE_WEBHOOKS:
            self._expensive.clear()
        cases = self._expensive.setdefault(webhook.id, Recurrence(_MIN_EXPENSIVE_CASES, self._suspend_after))
        since = cases.record_case(attempt.started_at, not_before=webhook.enabled_at)
        if since is not None:
            self._run_in_background(
                webhook.id, self._disable(webhook, since, CONDITION_TOO_EXPENSIVE, attempt.answer.detail)
            )

    def _run_in_background(self, key: str, work: Coroutine[Any, Any, None]) -> None:
        """Do one such thing at a time per webhook; what fails is tried again at the next failure."""
        if key in self._writing:
            work.close()
            return
        task = asyncio.create_task(self._run_logged(key, work))
        self._writing[key] = task
        task.add_done_callback(lambda _: self._writing.pop(key, None))

    async def _run_logged(self, key: str, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except RetryLater as error:
            self._log.warning("health of an endpoint not written", key=key, error=str(error))

    async def _publish(self, lane: EndpointState) -> None:
        while not lane.lost and lane.published != (standing := lane.standing):
            await self._deliveries.standing(lane.webhook_id, lane.partition, lane.document())
            lane.published = standing

    async def _record(self, lane: EndpointState, webhook: OutgoingWebhook, since: datetime) -> None:
        await self._deliveries.failing_since(webhook.id, lane.partition, since, warned=False)
        lane.recorded = since

    async def _clear_failing(self, lane: EndpointState, webhook: OutgoingWebhook) -> None:
        await self._deliveries.clear_failing(webhook.id)
        lane.recorded = None

    async def _warn(
        self,
        lane: EndpointState,
        webhook: OutgoingWebhook,
        since: datetime,
        until: datetime,
        error: str | None,
    ) -> None:
        more = {"disables_at": rfc3339(until), "last_error": error}
        await self._publish_notice(webhook, "webhook.failing", since, more)
        lane.warned = True
        await self._deliveries.failing_since(webhook.id, lane.partition, since, warned=True)
        lane.recorded = since

    async def _disable(
        self, webhook: OutgoingWebhook, since: datetime, reason: str, error: str | None
    ) -> None:
        """Tell first: should we die in between, the next failure tells it again under the same id."""
        current = self._subscriptions.snapshot.items.get(webhook.id)
        if current is None or not current.enabled or current.enabled_at > since:
            return
        await self._publish_notice(
            webhook, "webhook.disabled", since, {"reason": reason, "last_error": error}
        )
        with translate_errors():
            document = await self._subscriptions.collection.find_one_and_update(
                {"_id": webhook.id, "deleted_at": None, "enabled": True},
                {"$set": {"enabled": False, "disabled_reason": reason, "changed_at": utcnow()}},
                return_document=True,
            )
        if document is not None:
            await self._subscriptions.snapshot.record(webhook.id)
            self._log.warning("webhook disabled", webhook_id=webhook.id, reason=reason)

    async def _publish_notice(
        self, webhook: OutgoingWebhook, kind: str, since: datetime, more: Mapping[str, str | None]
    ) -> None:
        moment = rfc3339(since)
        # The name, not the URL: many a URL is a secret.
        data = {"webhook_id": webhook.id, "name": webhook.name, "failing_since": moment, **more}
        event = Event(
            id=EventId(f"evt_{derive(webhook.id, kind, moment)}"),
            type=kind,
            source="/delivery",
            workspace=webhook.workspace,
            time=now(),
            data=orjson.dumps(data),
            subject=webhook.id,
            traceparent=child_traceparent(""),
        )
        await self._producer.publish(
            event_record(INTEGRATION_EVENTS, webhook.id, event), timeout_s=_PUBLISH_TIMEOUT_S
        )
