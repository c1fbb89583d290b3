"""Fan-out: one delivery request for each outgoing webhook that wants an event.

Events within a workspace's fair share are fanned out at once, straight from the batch. Further events go to
the backlog (`backlog.py`), and `backlog_worker.py` expands them.
"""

import asyncio
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from time import thread_time
from typing import Any, Final

import orjson

from services.delivery.engine.backlog import Backlog
from services.delivery.engine.direct_requests import DirectRequests, Requests
from services.delivery.engine.fair_share import BURST, MAX_IMMEDIATE_COST, FairShares, request_cost
from services.delivery.log.unmatched import UnmatchedEventLog, UnmatchedReason
from services.delivery.model.delivery import order_of, request_event
from services.delivery.model.outgoing_webhook import OutgoingWebhook
from services.delivery.webhooks.outgoing_webhooks import OutgoingWebhooks
from shared.contracts.chat import INBOUND
from shared.contracts.envelope import Event
from shared.contracts.errors import Malformed, Rejected, TooLarge
from shared.contracts.event_types import canonical
from shared.contracts.ids import delivery_id_for
from shared.contracts.topics import CHAT_INBOUND, DELIVERY_REQUESTED, WEBHOOKS_RECEIVED
from shared.manifests.registry import Provider
from shared.runtime.failpoints import failpoint
from shared.runtime.hourly_counts import HourlyCounts
from shared.runtime.kafka.batch import Batch, ConsumedEvent
from shared.runtime.kafka.producer import Producer
from shared.runtime.tracing import continue_trace
from shared.webhooks.event_fields import EventFields
from shared.webhooks.formats import BodyFormat, render_body
from shared.wire.bodies import parse_json
from shared.wire.expressions import BudgetExceeded, Checkpoint

PUBLISH_TIMEOUT_S: Final = 30.0
_MAX_REQUEST_BYTES: Final = DELIVERY_REQUESTED.max_message_bytes - (64 << 10)
"""Bytes of a request body that Kafka takes. A format can make a body larger than its event."""
_MAX_BATCH_COST: Final = 2 * BURST
"""The cost of a batch that may be fanned out at once, over all workspaces."""
_LOOP_SLICE: Final = 1_000.0
"""Microseconds of processing after which other tasks run."""


@dataclass(slots=True)
class _BatchPlan:
    """The result of deciding on a batch: requests of events, events to defer, events to reject."""

    expanded: list[Requests] = field(default_factory=list)
    deferred: list[ConsumedEvent] = field(default_factory=list)
    rejected: list[tuple[ConsumedEvent, Rejected]] = field(default_factory=list)
    cost: float = 0.0
    yielded_at_cost: float = 0.0
    """The cost at which other tasks last ran."""


class Expansion:
    """The requests of one event, made one webhook at a time.

    `cost` is the cost so far in microseconds; `done` is set after the last webhook.
    """

    def __init__(self, steps: Iterator[Event | None], webhooks: Sequence[OutgoingWebhook]) -> None:
        self._steps = steps
        self._webhooks = webhooks
        self._evaluated = 0
        self.cost = 0.0
        self.done = False

    @property
    def is_slow(self) -> bool:
        """True if the next step evaluates a condition. Then it should run in a thread."""
        if self._evaluated == len(self._webhooks):
            return False
        event_filter = self._webhooks[self._evaluated].filter
        return event_filter is not None and event_filter.has_condition

    def step(self) -> Event | None:
        """Evaluate one webhook; return its request, or None if it does not want the event.

        Raises `Malformed` if the event's data is not JSON, `TooLarge` if the request exceeds Kafka's limit.
        """
        started = thread_time()
        try:
            request = next(self._steps)
        except StopIteration:
            self.done = True
            request = None
        # Charge this thread's CPU time, not wall time: other threads may run in between.
        self._evaluated += 1
        self.cost += (thread_time() - started) * 1e6
        if request is not None:
            self.cost += request_cost(request.data)
            if len(request.data) > _MAX_REQUEST_BYTES:
                raise TooLarge(
                    f"a request for it has {len(request.data)} bytes: at most {_MAX_REQUEST_BYTES}"
                )
        return request


class Fanout:
    """The handler of `chat.events`, `chat.inbound`, `integration.events` and `webhooks.received`."""

    def __init__(
        self,
        webhooks: OutgoingWebhooks,
        producer: Producer,
        direct: DirectRequests,
        backlog: Backlog,
        shares: FairShares,
        unmatched: UnmatchedEventLog,
        providers: Mapping[str, Provider],
        counts: HourlyCounts,
    ) -> None:
        self._webhooks = webhooks
        self._producer = producer
        self._direct = direct
        self._backlog = backlog
        self._shares = shares
        self._unmatched = unmatched
        self._providers = providers
        self._counts = counts

    async def handle(self, batch: Batch) -> None:
        """Publish the requests of a batch, in order, and defer events beyond a fair share.

        Deferred events are complete when the backlog has worked them off or stored them. Raises
        `BrokerUnavailable`, `DatabaseUnavailable`.
        """
        failpoint("fanout.read")
        await asyncio.gather(
            self._backlog.follow_assignment(), self._backlog.wait_for_space(), self.ensure_current()
        )
        # Until here nothing was published: after a failure, the consumer repeats all events.
        plan = await self._plan(batch)
        records, direct = self._direct.split(plan.expanded)
        if records:
            await self._producer.publish_all(records, timeout_s=PUBLISH_TIMEOUT_S)
        failpoint("fanout.published")
        if direct:
            # Attempts follow at once: the webhooks may have changed while others were published.
            await self.ensure_current()
            now = asyncio.get_running_loop().time()
            for received, requests in direct:
                self._direct.begin(batch.take(received), received, requests, now)
        # Published first: what is deferred must come after the earlier events of its workspace.
        if plan.deferred:
            self._backlog.append([(received, batch.take(received)) for received in plan.deferred])
            failpoint("fanout.deferring")
        for received, error in plan.rejected:
            batch.take(received).fail(error)
        for received in batch:  # now that nothing can fail any more, which would repeat the batch
            self._counts.add(received.event.workspace, "events", canonical(received.event.type))

    async def _plan(self, batch: Sequence[ConsumedEvent]) -> _BatchPlan:
        """Decide on each event, one of each workspace in turn.

        After a workspace's first deferred event, its later ones are deferred too, to keep their order.
        """
        plan = _BatchPlan()
        deferred_workspaces: set[str] = set()
        queues: dict[str, deque[ConsumedEvent]] = {}
        for received in batch:
            # After a crash, Kafka repeats events whose offset was not committed but which are stored.
            if not self._is_unwanted_inbound(received) and not self._backlog.contains(received):
                queues.setdefault(received.event.workspace, deque()).append(received)
        # One event of each workspace in turn, so that a workspace's burst does not delay the others' events.
        while queues:
            for workspace in list(queues):
                received = queues[workspace].popleft()
                if not queues[workspace]:
                    del queues[workspace]
                if (
                    workspace in deferred_workspaces
                    or self._backlog.is_backlogged(workspace)
                    or not await self._fan_out_immediately(received, plan)
                ):
                    deferred_workspaces.add(workspace)
                    plan.deferred.append(received)
        return plan

    def _is_unwanted_inbound(self, received: ConsumedEvent) -> bool:
        """Return whether an event of `chat.inbound` matches no webhook.

        Most chats read that topic themselves: then its events cost one look-up each, and are not recorded as
        unmatched.
        """
        return received.topic == CHAT_INBOUND.name and not self._matching(received, ())

    async def _fan_out_immediately(self, received: ConsumedEvent, plan: _BatchPlan) -> bool:
        """Fan an event out if the workspace can afford it; return False to defer the event.

        Requests of a deferred event are discarded: the backlog makes them again.
        """
        loop, workspace = asyncio.get_running_loop(), received.event.workspace
        if plan.cost > _MAX_BATCH_COST or not self._shares.can_afford(workspace, loop.time()):
            return False
        requests: list[Event] = []
        expansion = self.expand(received)
        try:
            # An expensive event is abandoned halfway: its cost is charged, and the backlog takes it over.
            while not expansion.done and expansion.cost <= MAX_IMMEDIATE_COST:
                request = expansion.step()
                if request is not None:
                    requests.append(request)
                if plan.cost + expansion.cost - plan.yielded_at_cost > _LOOP_SLICE:
                    plan.yielded_at_cost = plan.cost + expansion.cost
                    await asyncio.sleep(0)
        except Rejected as error:
            plan.rejected.append((received, error))
            return True
        finally:
            plan.cost += expansion.cost
            self._shares.charge(workspace, expansion.cost, loop.time())
        # Requests of one event go together: a partial fan-out would be repeated in part.
        if expansion.done:
            plan.expanded.append((received, requests))
        return expansion.done

    def expand(self, received: ConsumedEvent, checkpoint: Checkpoint | None = None) -> Expansion:
        """Return the expansion of an event. `checkpoint` is called repeatedly while a condition runs."""
        event = received.event
        triggers = triggers_of(event) if received.topic == WEBHOOKS_RECEIVED.name else ()
        webhooks = self._matching(received, triggers)
        return Expansion(self._requests(received, webhooks, checkpoint), webhooks)

    def _matching(self, received: ConsumedEvent, triggers: tuple[str, ...]) -> Sequence[OutgoingWebhook]:
        event_type = canonical(received.event.type)
        # Only the hub writes to `chat.inbound`: a chat that repeats such an event elsewhere gets no loop.
        if event_type.startswith(INBOUND) is not (received.topic == CHAT_INBOUND.name):
            return ()
        return self._webhooks.matching(received.event.workspace, event_type, triggers)

    async def ensure_current(self) -> None:
        """Bring the webhooks in memory up to date. Raises `DatabaseUnavailable`."""
        await self._webhooks.ensure_current()

    def record_cost(self, workspace: str, cost: float) -> None:
        """Record the cost of an event that was fanned out from the backlog."""
        self._shares.record_cost(workspace, cost, asyncio.get_running_loop().time())

    def _requests(
        self, received: ConsumedEvent, webhooks: Sequence[OutgoingWebhook], checkpoint: Checkpoint | None
    ) -> Iterator[Event | None]:
        """Yield a request, or None if the filter rejects the event, for each matching webhook.

        An event without any request is recorded as unmatched.
        """
        event = received.event
        event_type = canonical(event.type)
        from_provider = received.topic == WEBHOOKS_RECEIVED.name
        triggers = triggers_of(event) if from_provider else ()
        reason: UnmatchedReason | None = "filtered"
        if not webhooks:
            reason = self._webhooks.unmatched_reason(event.workspace, event_type, triggers)
        else:
            event_fields = event_fields_of(
                event, event_type, str(order_of(received)), self._providers if from_provider else None
            )
            traceparent = continue_trace(event.traceparent)
            bodies: dict[BodyFormat, bytes] = {}
            for webhook in webhooks:
                fault = ""
                if webhook.filter is not None:
                    try:
                        is_wanted, _ = webhook.filter.evaluate(
                            event_fields, webhook.integration_id, checkpoint
                        )
                    except BudgetExceeded as error:  # log a failed delivery, so that the owner sees it
                        is_wanted, fault = True, str(error)
                    if not is_wanted:
                        yield None
                        continue
                reason = None
                # Webhooks with the same format share one rendered body.
                body = bodies.get(webhook.format)
                if body is None:
                    body = bodies[webhook.format] = render_body(webhook.format, event_fields)
                # Derived from event and webhook: publishing the event again gives the same delivery.
                delivery_id = delivery_id_for(event.workspace, event.source, event.id, webhook.id)
                yield request_event(
                    delivery_id,
                    webhook.id,
                    event,
                    event_type,
                    body,
                    traceparent,
                    fault=fault,
                    # The backlog passes a checkpoint. What waited there for its workspace's share must not
                    # raise the alert on late first attempts.
                    accepted_ms=received.at_ms if checkpoint is None else 0,
                )
        # No request was yielded: neither a pattern nor a filter let the event through.
        if reason:
            self._unmatched.record(event.workspace, event.id, event_type, event.source, reason)


def event_fields_of(
    event: Event, event_type: str, sequence: str, providers: Mapping[str, Provider] | None = None
) -> EventFields:
    """Return the event fields for filters and formats. Raises `Malformed` if the data is not JSON.

    `providers` are only given for a provider's event. Its data is a `ProviderEvent`: the provider's
    `payload`, byte for byte, and the fields of the headers. Its time is the provider's if a header has one,
    else the time of receipt.
    """
    raw, data = _json_data(event.data) if providers is None else _provider_data(event, providers)
    occurred = None if providers is None else event.attributes.get("occurred_at")
    return EventFields(
        event.id, event_type, event.workspace, occurred or event.time, event.subject, sequence, raw, data
    )


def triggers_of(event: Event) -> tuple[str, ...]:
    """Return the triggers of the catalogue that a provider's event fires."""
    triggers = event.attributes.get("triggers")
    return tuple(triggers.split(",")) if triggers else ()


def _provider_data(event: Event, providers: Mapping[str, Provider]) -> tuple[bytes, Any]:
    required = ("provider", "endpoint_id", "event", "delivery_id")
    try:
        fields: dict[str, Any] = {name: event.attributes[name] for name in required}
    except KeyError as error:
        raise Malformed(f"header {error.args[0]} is missing from a received webhook") from None
    fields |= {
        "triggers": list(triggers_of(event)),
        "account": event.attributes.get("account") or None,
        "received_at": event.time,
        "test": event.attributes.get("test") == "true",
        "replay_of": event.attributes.get("replay_of") or None,
    }
    provider = providers.get(event.attributes["provider"])
    # The payload's bytes stay as received: only the fields around it are rendered.
    raw, payload = _json_data(provider.payload(event.content_type, event.data) if provider else event.data)
    return orjson.dumps(fields)[:-1] + b',"payload":' + raw + b"}", {**fields, "payload": payload}


def _json_data(raw: bytes) -> tuple[bytes, Any]:
    """Return JSON text and its value. Not only the gateway publishes events, so the text is checked here."""
    return (raw, parse_json(raw)) if raw else (b"null", None)
