"""Fan-out: one event becomes one delivery request for every outgoing webhook that wants it.

What a workspace publishes within its fair share is fanned out at once, straight from the batch. What is
beyond it goes to the backlog (`backlog.py`), which `drain.py` works off in turns.
"""

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from time import thread_time
from typing import Any, Final

import orjson

from services.delivery.backlog import Backlog
from services.delivery.request import order_of, request_event
from services.delivery.shares import BURST, MOST_AT_ONCE, Shares, price_of
from services.delivery.subscriptions import Subscriptions, Webhook
from services.delivery.unmatched import Reason, Unmatched
from shared.catalog.registry import providers
from shared.contracts.envelope import Event
from shared.contracts.errors import Malformed, Rejected, TooLarge
from shared.contracts.event_types import canonical
from shared.contracts.ids import delivery_id_for
from shared.contracts.topics import DELIVERY_REQUESTED, WEBHOOKS_RECEIVED
from shared.runtime.crash import crash_point
from shared.runtime.kafka.consume import PartlyRejected, Received
from shared.runtime.kafka.produce import Producer, Record, record_of
from shared.wire.bodies import parse_json
from shared.wire.expressions import BudgetExceeded, Rest
from shared.wire.facts import Facts
from shared.wire.formats import Format, render_body
from shared.wire.tracing import child_of

WITHIN_S: Final = 30.0
_MOST_REQUEST: Final = DELIVERY_REQUESTED.max_message_bytes - (64 << 10)
"""Bytes of a body that Kafka takes, headers aside: a format may make a body larger than its event."""
_BATCH_COST: Final = 2 * BURST
"""What a batch may cost to be handled at once, over all workspaces."""
_LOOP_SLICE: Final = 1_000.0
"""Microseconds of processing after which other tasks have a turn."""


@dataclass(slots=True)
class _Plan:
    """What becomes of a batch."""

    records: list[Record] = field(default_factory=list)
    deferred: list[Received] = field(default_factory=list)
    rejected: list[tuple[Received, Rejected]] = field(default_factory=list)
    cost: float = 0.0
    rested: float = 0.0
    """The cost when other tasks last had a turn."""


class Expansion:
    """The requests of one event, made one webhook at a time; `cost` is what it has cost so far."""

    def __init__(self, steps: Iterator[Record | None], webhooks: Sequence[Webhook]) -> None:
        self._steps = steps
        self._webhooks = webhooks
        self._judged = 0
        self.cost = 0.0
        self.done = False

    @property
    def is_slow(self) -> bool:
        """Whether the next step evaluates a condition. It may run in a thread."""
        if self._judged == len(self._webhooks):
            return False
        wanted = self._webhooks[self._judged].filter
        return wanted is not None and wanted.has_condition

    def step(self) -> Record | None:
        """Judge one webhook: its request, or None when it gets none. Raises `Malformed`, `TooLarge`."""
        started = thread_time()
        try:
            record = next(self._steps)
        except StopIteration:
            self.done = True
            record = None
        self._judged += 1
        self.cost += (thread_time() - started) * 1e6
        if record is not None:
            self.cost += price_of(record.value)
            if len(record.value) > _MOST_REQUEST:
                raise TooLarge(f"a request for it has {len(record.value)} bytes: at most {_MOST_REQUEST}")
        return record


class Fanout:
    """The handler of `chat.events`, `integration.events` and `webhooks.received`."""

    def __init__(
        self,
        subscriptions: Subscriptions,
        producer: Producer,
        backlog: Backlog,
        shares: Shares,
        unmatched: Unmatched,
    ) -> None:
        self._subscriptions = subscriptions
        self._producer = producer
        self._backlog = backlog
        self._shares = shares
        self._unmatched = unmatched

    async def handle(self, batch: Sequence[Received]) -> None:
        """Put the requests of a batch on Kafka, in order, and what is beyond a fair share into the backlog.

        The backlog's `stored` has to return before offsets are committed.
        Raises `BusUnavailable`, `StoreUnavailable`, `PartlyRejected`.
        """
        crash_point("fanout.read")
        await asyncio.gather(self._backlog.own(), self._backlog.room(), self.current())
        plan = await self._plan(batch)
        if plan.records:
            await self._producer.publish_all(plan.records, within_s=WITHIN_S)
        crash_point("fanout.published")
        if plan.deferred:
            plan.rejected += self._backlog.put(plan.deferred)
        if plan.rejected:
            raise PartlyRejected(plan.rejected)

    async def _plan(self, batch: Sequence[Received]) -> _Plan:
        """Decide on each event, one of each workspace in turn."""
        plan = _Plan()
        behind: set[str] = set()
        queues: dict[str, deque[Received]] = {}
        for received in batch:
            if not self._backlog.has(received):
                queues.setdefault(received.event.workspace, deque()).append(received)
        while queues:
            for workspace in list(queues):
                received = queues[workspace].popleft()
                if not queues[workspace]:
                    del queues[workspace]
                if (
                    workspace in behind
                    or self._backlog.holds(workspace)
                    or not await self._at_once(received, plan)
                ):
                    behind.add(workspace)
                    plan.deferred.append(received)
        return plan

    async def _at_once(self, received: Received, plan: _Plan) -> bool:
        """Fan an event out, if the workspace can afford it; otherwise nothing is left of the try."""
        loop, workspace = asyncio.get_running_loop(), received.event.workspace
        if plan.cost > _BATCH_COST or not self._shares.affords(workspace, loop.time()):
            return False
        records: list[Record] = []
        expansion = self.expand(received)
        try:
            while not expansion.done and expansion.cost <= MOST_AT_ONCE:
                record = expansion.step()
                if record is not None:
                    records.append(record)
                if plan.cost + expansion.cost - plan.rested > _LOOP_SLICE:
                    plan.rested = plan.cost + expansion.cost
                    await asyncio.sleep(0)
        except Rejected as error:
            plan.rejected.append((received, error))
            return True
        finally:
            plan.cost += expansion.cost
            self._shares.spend(workspace, expansion.cost, loop.time())
        if expansion.done:
            plan.records += records
        return expansion.done

    def expand(self, received: Received, rest: Rest | None = None) -> Expansion:
        """Return the requests of an event, made step by step.

        `rest` is called again and again while a condition is evaluated.
        """
        event = received.event
        triggers = triggers_of(event) if received.topic == WEBHOOKS_RECEIVED.name else ()
        webhooks = self._subscriptions.wanting(event.workspace, canonical(event.type), triggers)
        return Expansion(self._requests(received, webhooks, rest), webhooks)

    async def current(self) -> None:
        """Bring the webhooks that judge events up to date. Raises `StoreUnavailable`."""
        await self._subscriptions.current()

    def learn(self, workspace: str, cost: float) -> None:
        """An event of the workspace was fanned out from the backlog, at this cost."""
        self._shares.learn(workspace, cost, asyncio.get_running_loop().time())

    def _requests(
        self, received: Received, webhooks: Sequence[Webhook], rest: Rest | None
    ) -> Iterator[Record | None]:
        """For each webhook whose patterns cover the event: its request, or None if its filter fails."""
        event = received.event
        kind = canonical(event.type)
        from_provider = received.topic == WEBHOOKS_RECEIVED.name
        triggers = triggers_of(event) if from_provider else ()
        reason: Reason | None = "filtered"
        if not webhooks:
            reason = self._subscriptions.why_unwanted(event.workspace, kind, triggers)
        else:
            facts = facts_of(event, kind, str(order_of(received)), from_provider=from_provider)
            traceparent = child_of(event.traceparent)
            bodies: dict[Format, bytes] = {}
            for webhook in webhooks:
                fault = ""
                if webhook.filter is not None:
                    try:
                        wanted, _ = webhook.filter.judge(facts, webhook.integration_id, rest)
                    except BudgetExceeded as error:
                        wanted, fault = True, str(error)
                    if not wanted:
                        yield None
                        continue
                reason = None
                body = bodies.get(webhook.format)
                if body is None:
                    body = bodies[webhook.format] = render_body(webhook.format, facts)
                delivery_id = delivery_id_for(event.workspace, event.source, event.id, webhook.id)
                request = request_event(delivery_id, webhook.id, event, kind, body, traceparent, fault=fault)
                yield record_of(DELIVERY_REQUESTED, webhook.id, request)
        if reason:
            self._unmatched.note(event.workspace, event.id, kind, event.source, reason)


def facts_of(event: Event, kind: str, sequence: str, *, from_provider: bool = False) -> Facts:
    """An event as filters and formats see it. Raises `Malformed` when its data is not JSON.

    The data of a provider's event is a `ProviderEvent`: the platform's `payload`, whose bytes stay as they
    came, and what the headers say of it. It occurred when the platform says, else when the hub received it.
    """
    raw, data = _provider_data(event) if from_provider else _data(event.data)
    occurred = event.attributes.get("occurred_at") if from_provider else None
    return Facts(event.id, kind, event.workspace, occurred or event.time, event.subject, sequence, raw, data)


def triggers_of(event: Event) -> tuple[str, ...]:
    """The catalogue's triggers that a provider's event fires; none for a record that does not say."""
    told = event.attributes.get("triggers")
    return tuple(told.split(",")) if told else ()


def _provider_data(event: Event) -> tuple[bytes, Any]:
    names = ("provider", "endpoint_id", "event", "delivery_id")
    try:
        head: dict[str, Any] = {name: event.attributes[name] for name in names}
    except KeyError as error:
        raise Malformed(f"header {error.args[0]} is missing from a received webhook") from None
    head |= {
        "triggers": list(triggers_of(event)),
        "account": event.attributes.get("account") or None,
        "received_at": event.time,
        "test": event.attributes.get("test") == "true",
        "replay_of": event.attributes.get("replay_of") or None,
    }
    provider = providers().get(event.attributes["provider"])
    raw, payload = _data(provider.payload(event.content_type, event.data) if provider else event.data)
    return orjson.dumps(head)[:-1] + b',"payload":' + raw + b"}", {**head, "payload": payload}


def _data(raw: bytes) -> tuple[bytes, Any]:
    """JSON text that may stand inside a JSON text; the gateway's check does not cover other producers."""
    return (raw, parse_json(raw)) if raw else (b"null", None)
