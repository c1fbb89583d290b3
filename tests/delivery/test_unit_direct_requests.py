"""Requests that go from fan-out to the attempts of the same process, and what is open at a rebalance."""

import asyncio
from collections.abc import Callable, Sequence
from itertools import count
from time import time
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from aiokafka import TopicPartition

from services.delivery.engine import direct_requests as module
from services.delivery.engine.direct_requests import DirectRequests
from services.delivery.model.delivery import DUE_TYPE, REQUESTED_TYPE, request_event
from shared.contracts.envelope import Event
from shared.contracts.errors import BrokerUnavailable, TooLarge
from shared.contracts.ids import DeliveryId, EventId, WebhookId, WorkspaceId
from shared.contracts.topics import CHAT_EVENTS
from shared.runtime.kafka.batch import Completion, ConsumedEvent, OpenRecord
from shared.runtime.kafka.producer import Record
from shared.runtime.kafka.watermark import PartitionTracker
from tests.delivery.test_unit_first_attempts import FAILS, TRACE, Log, Partition, handler

LATER_MS = 60_000
"""After the assignment: nobody else can have had such an event."""


class Rig:
    """Direct requests of one webhook, of events from one partition; the process owns both partitions."""

    def __init__(self) -> None:
        self.log = Log()
        self.assignment = 0
        self.owned = [0]
        self.published: list[dict[str, str]] = []
        """The headers of each record."""
        self.broker_is_away = False
        self.failed_publishes = 0
        self.too_large = ""
        """The delivery whose request Kafka does not accept."""
        self.errors: list[str] = []
        """Of events."""
        self._offsets = count()
        self.tracker = PartitionTracker(
            TopicPartition(CHAT_EVENTS.name, 0), 0, max_bytes=1 << 20, on_progress=lambda *_: None
        )

    async def start(self, *, strict: bool = False, logged: Sequence[str] = ()) -> None:
        """Build the parts, and wait until the log's ids are loaded."""
        self.first = await handler(
            self.log, strict=strict, assignment=lambda: (self.assignment, self.owned), logged=logged
        )
        backlog: Any = SimpleNamespace(begin_direct=lambda *_: None, end_direct=lambda *_: None)
        producer: Any = SimpleNamespace(partition_count=lambda _: 1, publish_all=self._publish_all)
        self.direct = DirectRequests(
            self.first._webhooks,
            producer,
            self.first,
            backlog,
            structlog.get_logger(),
            assignment=lambda: (self.assignment, self.owned),
        )
        await self.follow_assignment()

    async def follow_assignment(self) -> None:
        """Load what the scheduler loads after each assignment, and the filter."""
        await self.first._endpoint_states.follow_assignment(self.assignment, self.owned)
        assert self.first.is_ready(self.assignment)
        await until(lambda: self.first.is_new(DeliveryId("dlv_none"), self.now_ms()))

    def now_ms(self) -> int:
        return int(time() * 1000) + LATER_MS

    def requests(self, *deliveries: str, at_ms: int = 0) -> tuple[ConsumedEvent, list[Event]]:
        """Return an event, and the requests that were made of it."""
        offset = next(self._offsets)
        source = Event(EventId(f"e{offset}"), "t.made", "/s", WorkspaceId("w"), "2026-01-01T00:00:00Z", b"{}")
        made = [
            request_event(DeliveryId(name), WebhookId("wh_1"), source, "t.made", b"{}", TRACE)
            for name in deliveries
        ]
        received = ConsumedEvent(source, CHAT_EVENTS.name, 0, offset, at_ms or self.now_ms(), b"")
        return received, made

    def send(self, *deliveries: str) -> None:
        """Begin the direct requests of an event, which a record of the partition has."""
        received, made = self.requests(*deliveries)
        records, direct = self.direct.split([(received, made)])
        assert (records, direct) == ([], [(received, made)])
        raw: Any = SimpleNamespace(offset=received.offset, value=b"", key=b"")
        record = OpenRecord(self.tracker, raw, self._finish)
        self.tracker.add(record)
        self.direct.begin(Completion(record), received, made, asyncio.get_running_loop().time())

    def is_published(self, delivery: str, *, at_ms: int = 0) -> bool:
        """Return whether the request of a new event goes by Kafka."""
        records, direct = self.direct.split([self.requests(delivery, at_ms=at_ms)])
        assert bool(records) != bool(direct)
        return bool(records)

    def lose(self) -> None:
        """Have another process own the webhook's partition."""
        self.assignment += 1
        self.owned = []

    def _finish(self, record: OpenRecord, error: Exception | None) -> None:
        if error is not None:
            self.errors.append(str(error))
        record.tracker.complete(record)

    async def _publish_all(self, records: Sequence[Record], *, timeout_s: float) -> list[tuple[int, int]]:
        if self.broker_is_away:
            self.failed_publishes += 1
            raise BrokerUnavailable(f"no acknowledgement within {timeout_s} s")
        events = [{name: raw.decode() for name, raw in record.headers} for record in records]
        if any(event["ce_id"] == self.too_large for event in events):
            raise TooLarge("the event is larger than Kafka accepts")
        self.published += events
        return [(0, 0)] * len(records)


async def until(look: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not look():  # noqa: ASYNC110 -- it looks at what came out
            await asyncio.sleep(0.005)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RETRY_INTERVAL_S", 0.01)


async def test_an_event_is_complete_when_the_log_has_all_of_its_requests() -> None:
    rig = Rig()
    await rig.start()
    rig.log.write.clear()
    rig.send("dlv_1", "dlv_2")
    await until(lambda: len(rig.log.sent) == 2)
    assert rig.tracker.watermark == 0
    rig.log.write.set()
    await until(lambda: rig.tracker.watermark == 1)
    assert rig.log.entries == [("attempted", "dlv_1"), ("attempted", "dlv_2")]
    assert rig.published == []


async def test_what_is_open_when_its_partition_is_lost_is_published_before_the_event_is_complete() -> None:
    rig = Rig()
    await rig.start()
    rig.log.answer.clear()
    rig.send("dlv_1", FAILS, "dlv_4")
    await until(lambda: len(rig.log.sent) == 2)
    rig.lose()
    rig.broker_is_away = True
    rig.log.answer.set()
    # One was sent and is not to be repeated; one failed, and one waits for its attempt.
    await until(lambda: len(rig.log.entries) == 1)
    await until(lambda: rig.failed_publishes > 1)
    assert rig.tracker.watermark == 0, "neither in the log nor on Kafka"
    rig.broker_is_away = False
    await until(lambda: rig.tracker.watermark == 1)
    requested = [event["ce_id"] for event in rig.published if event["ce_type"] == REQUESTED_TYPE]
    assert sorted(requested) == [FAILS, "dlv_4"], "neither of them is in the log"
    assert rig.log.sent == ["dlv_1", FAILS], "the next owner attempts the last one"
    assert rig.log.entries == [("attempted", "dlv_1")]


async def test_what_is_written_after_its_partition_was_lost_makes_the_next_owner_look_again() -> None:
    """It has looked for open deliveries before, and would not know of this one."""
    rig = Rig()
    await rig.start()
    rig.log.write.clear()
    rig.send(FAILS)
    await until(lambda: rig.log.sent == [FAILS])
    await until(lambda: rig.log.started_writes == 1)
    rig.lose()
    rig.log.write.set()
    await until(lambda: rig.tracker.watermark == 1)
    assert rig.log.entries == [("attempted", FAILS)]
    assert [(event["ce_type"], event["ce_subject"]) for event in rig.published] == [(DUE_TYPE, "wh_1")]


async def test_a_request_that_kafka_does_not_accept_ends_its_event_and_no_other_one() -> None:
    rig = Rig()
    await rig.start()
    rig.log.answer.clear()
    rig.send("dlv_1")
    rig.send("dlv_2")
    for name in ("dlv_5", "dlv_6", "dlv_7"):
        rig.send(name)
    await until(lambda: len(rig.log.sent) == 2)
    rig.lose()
    rig.too_large = "dlv_6"
    rig.log.answer.set()
    await until(lambda: rig.tracker.watermark == 5)
    requested = [event["ce_id"] for event in rig.published if event["ce_type"] == REQUESTED_TYPE]
    assert requested == ["dlv_5", "dlv_7"]
    assert rig.errors == ["the event is larger than Kafka accepts"]
    await rig.direct.drain()


async def test_an_erased_event_is_not_logged_though_it_has_to_wait() -> None:
    rig = Rig()
    await rig.start()
    webhooks: Any = rig.first._webhooks
    webhooks.may_send = lambda _: False
    erasures: Any = rig.first._erasures
    erasures.is_erased = lambda *_: True
    rig.send("dlv_1")
    await until(lambda: rig.tracker.watermark == 1)
    assert rig.log.entries == []
    assert [event["ce_id"] for event in rig.published] == ["dlv_1"], "for who drops it"


async def test_what_comes_after_a_webhook_became_strict_waits_behind_an_entry_that_is_not_written() -> None:
    rig = Rig()
    await rig.start()
    rig.log.write.clear()
    rig.send(FAILS)
    await until(lambda: rig.log.sent == [FAILS])
    await until(lambda: rig.log.started_writes == 1)
    webhook: Any = rig.first._webhooks.loaded("wh_1")
    webhook.strict = True
    requested = Partition(rig.first)
    await requested.poll(1)
    await asyncio.sleep(0.05)
    assert rig.log.sent == [FAILS]
    rig.log.write.set()
    await requested.saved()
    assert rig.log.sent == [FAILS]
    assert rig.log.entries == [("attempted", FAILS), ("waiting", "dlv_1")]


async def test_nothing_is_published_for_an_event_that_another_process_repeats() -> None:
    rig = Rig()
    await rig.start()
    rig.log.answer.clear()
    rig.send(FAILS)
    await until(lambda: rig.log.sent == [FAILS])
    rig.lose()
    rig.tracker.revoke()
    rig.log.answer.set()
    await rig.direct.drain()
    assert (rig.published, rig.log.entries) == ([], [])


async def test_a_drain_waits_for_the_log_and_lets_nothing_start_before_the_next_assignment() -> None:
    rig = Rig()
    await rig.start()
    rig.log.answer.clear()
    rig.send("dlv_1")
    drained = asyncio.create_task(rig.direct.drain())
    await asyncio.sleep(0.05)
    assert not drained.done()
    assert rig.is_published("dlv_2")
    rig.log.answer.set()
    await drained
    assert rig.log.entries == [("attempted", "dlv_1")]
    assert rig.is_published("dlv_2")
    rig.assignment += 1
    await rig.follow_assignment()
    assert not rig.is_published("dlv_2")


async def test_only_what_is_certainly_new_and_own_goes_directly() -> None:
    rig = Rig()
    await rig.start(logged=["dlv_logged"])
    assert not rig.is_published("dlv_1")
    assert rig.is_published("dlv_logged")
    assert rig.is_published("dlv_1", at_ms=int(time() * 1000)), "an earlier owner may have it in hand"
    rig.log.write.clear()
    rig.send("dlv_1")
    assert rig.is_published("dlv_1"), "it is in hand"
    rig.log.write.set()
    await until(lambda: rig.tracker.open_count == 0)
    assert rig.is_published("dlv_1"), "it is in the log"
    rig.owned = []
    assert rig.is_published("dlv_2")
    rig.owned, rig.assignment = [0], 1
    assert rig.is_published("dlv_2"), "open deliveries of this assignment are not loaded"


async def test_a_strict_webhook_goes_by_kafka() -> None:
    rig = Rig()
    await rig.start(strict=True)
    assert rig.is_published("dlv_1")


async def test_the_requests_in_memory_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig()
    await rig.start()
    names = [f"dlv_{number}" for number in range(10, 15)]
    monkeypatch.setattr(module, "_MAX_OPEN", 3)
    records, [(_, made)] = rig.direct.split([rig.requests(*names)])
    assert (len(records), len(made)) == (2, 3)
    monkeypatch.setattr(module, "_MAX_OPEN_BYTES", 2 * len(b"{}"))
    records, [(_, made)] = rig.direct.split([rig.requests(*names)])
    assert (len(records), len(made)) == (3, 2)


async def test_a_record_of_a_direct_request_waits_for_it_and_is_not_attempted_again() -> None:
    """An event that was published twice, or repeated by the next owner of its partition."""
    rig = Rig()
    await rig.start()
    rig.log.answer.clear()
    rig.send("dlv_1")
    requested = Partition(rig.first)
    await requested.poll(1)
    assert requested.tracker.watermark == 0
    rig.lose()
    rig.log.answer.set()
    await requested.saved()
    await until(lambda: rig.tracker.watermark == 1)
    assert rig.log.sent == ["dlv_1"]
