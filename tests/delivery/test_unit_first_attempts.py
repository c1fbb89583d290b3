"""Polls beside each other: order of a strict webhook, repeats, and what stays in memory."""

import asyncio
import gc
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import structlog
from aiokafka import TopicPartition

from services.delivery.engine.endpoint_queue import OpenDelivery
from services.delivery.engine.endpoint_states import EndpointStates
from services.delivery.engine.fair_share import FairShares
from services.delivery.engine.first_attempts import FirstAttemptHandler
from services.delivery.engine.results import ResultWriter
from services.delivery.model.delivery import request_event
from services.delivery.settings import DeliverySettings
from shared.contracts.envelope import Event
from shared.contracts.ids import DeliveryId, EventId, WebhookId, WorkspaceId
from shared.contracts.topics import DELIVERY_REQUESTED
from shared.runtime import metrics
from shared.runtime.clock import now_ms, utcnow
from shared.runtime.kafka.batch import ConsumedEvent, OpenRecord
from shared.runtime.kafka.handling import RecordHandling
from shared.runtime.kafka.watermark import PartitionTracker

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
FAILS = "dlv_3"


class Log:
    """The delivery log, and the subscriber whose answers it records."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.entries: list[tuple[str, str]] = []
        self.bulks: list[list[str]] = []
        self.answer = asyncio.Event()
        self.answer.set()
        self.write = asyncio.Event()
        self.write.set()
        self.started_writes = 0
        self.unwritable = self.dead = ""

    async def attempt(self, _webhook: Any, claimed: Any) -> tuple[Any, Any]:
        self.sent.append(claimed.request.delivery_id)
        await self.answer.wait()
        failed = claimed.request.delivery_id == FAILS
        status = "dead_letter" if claimed.request.delivery_id == self.dead else "delivered"
        due_at = utcnow() if failed else None
        outcome = SimpleNamespace(due_at=due_at, status="retrying" if failed else status)
        return SimpleNamespace(traceparent=""), outcome

    async def write_entries(self, entries: Sequence[tuple[str, str]]) -> None:
        self.started_writes += 1
        await self.write.wait()
        if any(delivery_id == self.unwritable for _, delivery_id in entries):
            raise ValueError("the document is too large")
        self.entries += entries
        self.bulks.append([delivery_id for _, delivery_id in entries])


async def handler(
    log: Log,
    *,
    strict: bool = True,
    assignment: Callable[[], tuple[int, list[int]]] = lambda: (0, []),
    logged: Sequence[str] | None = None,
) -> FirstAttemptHandler:
    """Return a handler for one webhook whose collaborators are `log`.

    `logged` are the deliveries of an earlier time; if they are None, there is no filter of them.
    """
    webhook = SimpleNamespace(
        id="wh_1",
        workspace="w",
        url="https://example.com",
        strict=strict,
        policy=SimpleNamespace(schedule=(0.0,)),
        rate_limit=None,
        max_in_flight=1 if strict else 2,
        timeout_s=1.0,
        breaker=None,
        resets=0,
    )

    async def nothing(*_: Any) -> Any:
        return {}

    async def count(_: float) -> int | None:
        return None if logged is None else len(logged)

    async def between(*_: Any) -> Sequence[str]:
        return logged or ()

    async def find(_: str) -> Any:
        return webhook

    def entry(kind: str) -> Any:
        return lambda request, *_: (kind, request.delivery_id)

    deliveries: Any = SimpleNamespace(
        open_by_id=nothing,
        are_indexed=nothing,
        count_within=count,
        between=between,
        open_webhooks=nothing,
        release_leases=nothing,
        attempted_entry=entry("attempted"),
        leased_entry=entry("leased"),
        waiting_entry=entry("waiting"),
        result_update=lambda claimed, *_: ("result", claimed.request.delivery_id),
        write=log.write_entries,
    )
    states = EndpointStates(deliveries, cast("Any", SimpleNamespace(unhealthy=nothing)), DeliverySettings())
    webhooks: Any = SimpleNamespace(
        ensure_current=nothing,
        find=find,
        loaded=lambda _: webhook,
        may_send=lambda _: True,
    )
    results = ResultWriter(deliveries, structlog.get_logger())
    await results.start()
    return FirstAttemptHandler(
        webhooks,
        deliveries,
        deliveries,
        cast("Any", SimpleNamespace(is_erased=lambda *_: False)),
        states,
        cast("Any", log),
        cast("Any", SimpleNamespace(record_attempt=lambda *_, **__: None)),
        results,
        structlog.get_logger(),
        assignment=assignment,
        shares=FairShares(),
    )


class Partition:
    """A partition of which records are polled, as the consumer tracks them."""

    def __init__(self, first: FirstAttemptHandler) -> None:
        self.tracker = PartitionTracker(
            TopicPartition(DELIVERY_REQUESTED.name, 0), 0, max_bytes=1 << 20, on_progress=lambda *_: None
        )
        self._dead_letters = DeadLetters()
        self.dead = self._dead_letters.errors
        self._handling = RecordHandling(
            first.handle, cast("Any", self._dead_letters), structlog.get_logger(), group="g", max_records=500
        )
        self._offset = 0

    async def poll(self, number: int, at_ms: int = 0, accepted_ms: int = 0) -> None:
        """Hand over the next record: a request for a delivery of this number, with the broker's times."""
        source = Event(EventId(f"e{number}"), "t.made", "/s", WorkspaceId("w"), "2026-01-01T00:00:00Z", b"{}")
        event = request_event(
            DeliveryId(f"dlv_{number}"),
            WebhookId("wh_1"),
            source,
            "t.made",
            b"{}",
            TRACE,
            accepted_ms=accepted_ms,
        )
        at_ms = at_ms or 1_700_000_000_000 + number
        raw: Any = SimpleNamespace(offset=self._offset, value=b"", key=b"wh_1")
        record = OpenRecord(self.tracker, raw, self._handling.finish)
        record.event = ConsumedEvent(event, DELIVERY_REQUESTED.name, 0, self._offset, at_ms, b"wh_1")
        self._offset += 1
        self.tracker.add(record)
        await self._handling.handle([record])

    def reassign(self) -> None:
        """Take the partition away and give it back: it is polled from its start again."""
        self.tracker.revoke()
        self.tracker = PartitionTracker(
            self.tracker.partition, 0, max_bytes=1 << 20, on_progress=lambda *_: None
        )
        self._offset = 0

    async def saved(self) -> None:
        """Wait until all of it may be committed."""
        async with asyncio.timeout(60):
            while self.tracker.watermark < self._offset:  # noqa: ASYNC110 -- it looks at what came out
                await asyncio.sleep(0)


class DeadLetters:
    """The queue of dead letters: each is published at once."""

    def __init__(self) -> None:
        self.errors: list[Exception] = []

    def put(self, record: OpenRecord, error: Exception) -> None:
        self.errors.append(error)
        record.tracker.complete(record)


async def test_batches_beside_each_other_keep_a_strict_webhook_in_order() -> None:
    log = Log()
    log.answer.clear()
    partition = Partition(await handler(log))
    for number in range(3):
        await partition.poll(number)
        await asyncio.sleep(0)
    assert log.sent == ["dlv_0"], "the others wait for it"
    assert partition.tracker.watermark == 0
    log.answer.set()
    await partition.saved()
    assert log.sent == ["dlv_0", "dlv_1", "dlv_2"]
    assert log.entries == [("attempted", f"dlv_{number}") for number in range(3)]


async def test_what_follows_a_failure_waits_in_the_log() -> None:
    log = Log()
    partition = Partition(await handler(log))
    log.answer.clear()
    for number in range(3, 6):
        await partition.poll(number)
        await asyncio.sleep(0)
    log.answer.set()
    await partition.saved()
    assert log.sent == [FAILS]
    assert log.entries == [("attempted", FAILS), ("waiting", "dlv_4"), ("waiting", "dlv_5")]
    assert log.bulks == [[FAILS], ["dlv_4", "dlv_5"]], "not open in the log before what it waits for"


async def test_what_follows_a_slow_attempt_waits_in_the_log_behind_its_lease() -> None:
    log = Log()
    partition = Partition(await handler(log))
    log.answer.clear()
    for number in range(2):
        await partition.poll(number)
    await partition.saved()
    assert log.bulks == [["dlv_0"], ["dlv_1"]]
    assert log.entries == [("leased", "dlv_0"), ("waiting", "dlv_1")]
    log.answer.set()
    async with asyncio.timeout(60):
        while len(log.entries) < 3:  # noqa: ASYNC110 -- it looks at what came out
            await asyncio.sleep(0)
    assert log.entries[2] == ("result", "dlv_0")
    assert log.sent == ["dlv_0"]


async def test_a_dead_head_is_in_the_log_before_the_next_is_attempted() -> None:
    log = Log()
    log.write.clear()
    log.dead = "dlv_0"
    partition = Partition(await handler(log))
    for number in range(2):
        await partition.poll(number)
    await asyncio.sleep(0.05)
    assert log.sent == ["dlv_0"]
    log.write.set()
    await partition.saved()
    assert log.sent == ["dlv_0", "dlv_1"]


async def test_a_first_attempt_is_late_by_the_age_of_its_event_also_where_the_fan_out_stood_still() -> None:
    partition = Partition(await handler(Log()))
    before = _late_attempts()
    await partition.poll(0, at_ms=now_ms(), accepted_ms=now_ms() - 60_000)
    await partition.poll(1, at_ms=now_ms(), accepted_ms=now_ms())
    await partition.poll(2, at_ms=now_ms())
    await partition.saved()
    assert _late_attempts() == before + 1
    await partition.poll(4, at_ms=now_ms() - 60_000)
    await partition.saved()
    assert _late_attempts() == before + 2, "without an event's time, by the age of the request"


def _late_attempts() -> float:
    [late] = [
        sample.value
        for family in metrics.FIRST_ATTEMPTS.collect()
        for sample in family.samples
        if sample.name.endswith("_total") and sample.labels["outcome"] == "late"
    ]
    return float(late)


async def test_a_revoked_partition_gets_no_open_entry_and_no_further_attempt() -> None:
    log = Log()
    log.write.clear()
    partition = Partition(await handler(log))
    for number in (3, 4):
        await partition.poll(number)
    await asyncio.sleep(0.05)
    await partition.poll(5)
    partition.tracker.revoke()
    log.write.set()
    await asyncio.sleep(0.05)
    assert log.sent == [FAILS]
    assert log.bulks == [[FAILS]], "only the write that was under way"


async def test_a_repeat_of_what_is_not_saved_is_not_sent_again() -> None:
    log = Log()
    log.write.clear()
    partition = Partition(await handler(log))
    for _ in range(2):
        await partition.poll(0)
        await asyncio.sleep(0.01)
    assert log.sent == ["dlv_0"]
    await asyncio.sleep(0.01)
    assert (partition.tracker.watermark, partition.tracker.open_count) == (0, 2), (
        "the offset of the repeat waits for the first one too"
    )
    assert metrics.UNACKNOWLEDGED_RESULTS._value.get() == 1
    log.write.set()
    await partition.saved()
    await asyncio.sleep(0)
    assert metrics.UNACKNOWLEDGED_RESULTS._value.get() == 0
    assert log.entries == [("attempted", "dlv_0")]


async def test_a_partition_that_comes_back_completes_its_records_once_they_are_logged() -> None:
    log = Log()
    log.write.clear()
    partition = Partition(await handler(log))
    await partition.poll(0)
    await asyncio.sleep(0.05)
    await partition.poll(3)
    await asyncio.sleep(0.05)
    partition.reassign()
    await partition.poll(0)
    await partition.poll(3)
    assert partition.tracker.watermark == 0
    log.write.set()
    await partition.saved()
    assert log.sent == ["dlv_0", FAILS]
    assert log.entries == [("attempted", "dlv_0"), ("attempted", FAILS)]


async def test_a_result_that_cannot_be_written_is_dead_lettered_alone() -> None:
    log = Log()
    log.unwritable = "dlv_1"
    partition = Partition(await handler(log))
    for number in range(3):
        await partition.poll(number)
    await partition.poll(1)
    await partition.saved()
    assert [str(error) for error in partition.dead] == ["the document is too large"], "once, with its repeat"
    assert log.entries == [("attempted", "dlv_0"), ("attempted", "dlv_2")]


async def test_steady_traffic_leaves_no_deliveries_in_memory() -> None:
    log = Log()
    partition = Partition(await handler(log))
    for number in range(100, 300):
        log.write.clear()
        await partition.poll(number)
        await asyncio.sleep(0)
        log.write.set()
        await partition.saved()
    # By type: `isinstance` would ask a weak proxy of another test for its class, and its object may be gone.
    held = sum(type(thing) is OpenDelivery for thing in gc.get_objects())
    assert len(log.entries) == 200
    assert held < 20
