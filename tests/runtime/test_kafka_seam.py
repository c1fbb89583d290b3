"""The consumer on a real broker: records that cannot be handled, and what is tried again.

The records are put there with plain aiokafka, as any service of the chat may do it.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from secrets import token_hex
from time import sleep

import httpx
import pytest
import structlog
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from pydantic import SecretStr
from starlette.types import Receive, Scope, Send
from structlog.testing import ReturnLogger

from shared.contracts.errors import OverLimit, RetryLater
from shared.contracts.topics import CHAT_EVENTS, DEAD_LETTERS, Topic
from shared.runtime import health
from shared.runtime.health import HealthChecks
from shared.runtime.kafka import consumer as consumer_module
from shared.runtime.kafka import watermark
from shared.runtime.kafka.admin import ensure_topics
from shared.runtime.kafka.batch import Batch, BatchHandler, Completion, ConsumedEvent
from shared.runtime.kafka.consumer import Consumer
from shared.runtime.kafka.producer import Producer
from shared.runtime.logs import Log
from shared.runtime.mongo import Mongo
from shared.runtime.settings import KafkaSettings, MongoSettings
from shared.runtime.web.service_app import ServiceApp
from shared.wire.forwarded import TrustedProxies
from tests.support.backends import Bus, Store
from tests.support.eventually import eventually
from tests.support.hub import Hub
from tests.support.ports import free_port
from tests.support.subscriber import Subscriber
from tests.support.tap import RawRecord, Tap, TopicRecord, committed, put

LOG: Log = structlog.wrap_logger(
    ReturnLogger(), processors=[], wrapper_class=structlog.make_filtering_bound_logger(0)
)
MIB = 1024 * 1024


def raw(kind: str, data: bytes = b'{"n":0}', **changed: bytes | None) -> RawRecord:
    """An event as a chat service publishes it; `changed` headers override, with dashes for `_`."""
    headers: dict[str, bytes | None] = {
        "ce_specversion": b"1.0",
        "ce_id": f"evt-{token_hex(8)}".encode(),
        "ce_type": kind.encode(),
        "ce_source": b"/chat",
        "ce_time": b"2026-01-02T03:04:05.000Z",
        "content-type": b"application/json",
        "workspace": b"default",
    }
    return RawRecord(b"room-1", data, list((headers | changed).items()))


def without(record: RawRecord, name: str) -> RawRecord:
    return RawRecord(record.key, record.value, [pair for pair in record.headers if pair[0] != name])


# Through a service


@pytest.fixture(scope="module")
def delivery(tmp_path_factory: pytest.TempPathFactory, bus: Bus, store: Store) -> Iterator[Hub]:
    with Hub(tmp_path_factory.mktemp("seam"), bus, store, services=("delivery",)) as started:
        yield started


def test_poison_on_a_topic_is_dead_lettered_once_and_what_follows_is_delivered(
    delivery: Hub, bus: Bus
) -> None:
    kind = f"t{token_hex(6)}"
    poison = {
        "header ce_type is null": raw(kind, ce_type=None),
        "header ce_source is not UTF-8": raw(kind, ce_source=b"\xff\xfe"),
        "header workspace is not UTF-8": raw(kind, workspace=b"caf\xe9"),
        "header ce_id is missing": without(raw(kind), "ce_id"),
        "header ce_id has 2000 bytes": raw(kind, ce_id=b"i" * 2000),
        "ce_specversion is '0.3'": raw(kind, ce_specversion=b"0.3"),
        "the body is not JSON": raw(kind, b'{"n": '),
    }
    good = [
        raw(kind, b'{"n":1}', **{"x-trace": b"\xff\xfe\x00"}),
        raw(kind, b'{"n":2}', **{"x-null": None}),
        raw(kind, b'{"n":3}'),
    ]
    with Subscriber() as subscriber:
        delivery.outgoing_webhook(subscriber.url, events=[kind], ordering="strict")
        dead = Tap(bus, DEAD_LETTERS.name)
        places = put(bus, CHAT_EVENTS.name, [*poison.values(), *good], partition=0)
        subscriber.wait_for(3)

        def dead_letters() -> dict[tuple[int, int], list[TopicRecord]]:
            by_position: dict[tuple[int, int], list[TopicRecord]] = {}
            for letter in dead.look():
                place = int(letter.attributes["dl_partition"]), int(letter.attributes["dl_offset"])
                if letter.attributes["dl_group"] == "delivery-fanout" and place in places:
                    by_position.setdefault(place, []).append(letter)
            return by_position

        eventually(lambda: len(dead_letters()) >= len(poison))
        sleep(2)  # time to spin
        letters = dead_letters()
        assert [json.loads(got.body)["data"] for got in subscriber.got] == [{"n": 1}, {"n": 2}, {"n": 3}]
    assert sorted(letters) == sorted(places[: len(poison)])
    for (reason, record), place in zip(poison.items(), places, strict=False):
        [letter] = letters[place]
        assert letter.attributes["dl_reason"] == "malformed"
        assert reason in dict(letter.headers)["dl_error"].decode()  # type: ignore[union-attr]
        assert letter.attributes["dl_topic"] == CHAT_EVENTS.name
        assert (letter.key, letter.value) == (record.key, record.value)
        sent_headers = [(name, value or b"") for name, value in record.headers]
        assert [pair for pair in letter.headers if not pair[0].startswith("dl_")] == sent_headers
    message = [line for line in delivery.log_lines("delivery") if line["event"] == "event.dead_lettered"]
    assert sorted((line["partition"], line["offset"]) for line in message) == sorted(letters)
    assert delivery.metric("delivery", "interlink_consumer_lag", group="delivery-fanout") == 0


# The consumer alone


@dataclass
class Seam:
    """A topic with two partitions and a consumer group, for one test."""

    bus: Bus
    topic: Topic
    group: str
    settings: KafkaSettings
    dead: Tap

    def put(self, *records: RawRecord, partition: int = 0) -> list[int]:
        """Publish records; return their offsets."""
        return [offset for _, offset in put(self.bus, self.topic.name, records, partition)]

    def consume(
        self,
        handler: BatchHandler,
        until: Callable[[], bool],
        timeout_s: float = 20,
    ) -> None:
        """Run a member of the group until a condition holds, and stop it as a service does."""

        async def run() -> None:
            async with self.member(handler):
                await until_true(until, timeout_s)

        asyncio.run(run())

    @asynccontextmanager
    async def member(self, handler: BatchHandler) -> AsyncIterator[Consumer]:
        """Run a member of the group for the time of the context."""
        producer = Producer(self.settings, LOG, client_id="test")
        producer.start()
        consumer = Consumer(
            self.settings, producer, LOG, group=self.group, topics=[self.topic], handler=handler
        )
        try:
            await producer.wait_ready(10)
            consumer.start()
            yield consumer
        finally:
            await consumer.stop(timeout_s=10)
            await producer.stop()

    @property
    def next(self) -> int:
        """Return the committed offset of partition 0; 0 if there is none."""
        return self.next_of(0)

    def next_of(self, partition: int) -> int:
        """Return the committed offset of the group; 0 if there is none."""
        return committed(self.bus, self.group, self.topic.name).get(partition, 0)

    def letters(self) -> list[TopicRecord]:
        return [letter for letter in self.dead.look() if letter.attributes["dl_group"] == self.group]


async def until_true(holds: Callable[[], bool], timeout_s: float = 20) -> None:
    async with asyncio.timeout(timeout_s):
        while not holds():  # noqa: ASYNC110 -- it looks at what came out
            await asyncio.sleep(0.02)


def offsets_of(batch: Sequence[ConsumedEvent]) -> list[int]:
    return [received.offset for received in batch]


@pytest.fixture
def seam(bus: Bus) -> Seam:
    connection = {name.removeprefix("KAFKA_").lower(): value for name, value in bus.env.items()}
    settings = KafkaSettings.model_validate({**connection, "session_timeout_ms": 2000})
    topic = Topic(f"test.{token_hex(6)}", "any", "A test's.", (), ())

    async def create() -> None:
        await ensure_topics(settings)
        admin = AIOKafkaAdminClient(bootstrap_servers=settings.bootstrap_servers)
        await admin.start()
        try:
            await admin.create_topics(
                [NewTopic(topic.name, 2, 1, topic_configs={"max.message.bytes": str(32 * MIB)})]
            )
        finally:
            await admin.close()

    asyncio.run(create())
    return Seam(bus, topic, f"test-{token_hex(4)}", settings, Tap(bus, DEAD_LETTERS.name))


def test_an_event_that_fails_is_dead_lettered_and_the_others_are_handled(seam: Seam) -> None:
    records = [raw("t", b'{"n":%d}' % n, **{"x-own": b"kept"}) for n in range(10)]
    offsets = seam.put(*records)
    handled: list[int] = []

    async def handler(batch: Sequence[ConsumedEvent]) -> None:
        if any(received.offset == offsets[4] for received in batch):
            raise ValueError("number four cannot be handled")
        handled.extend(offsets_of(batch))

    seam.consume(handler, lambda: len(set(handled)) == 9)
    assert handled == [offset for offset in offsets if offset != offsets[4]]
    [letter] = seam.letters()
    assert letter.attributes["dl_reason"] == "failed"
    assert letter.attributes["dl_error"] == "ValueError: number four cannot be handled"
    assert letter.attributes["dl_topic"] == seam.topic.name
    assert (letter.attributes["dl_partition"], letter.attributes["dl_offset"]) == ("0", str(offsets[4]))
    assert (letter.key, letter.value) == (records[4].key, records[4].value)
    assert list(letter.headers[: len(records[4].headers)]) == records[4].headers
    assert seam.next == offsets[-1] + 1


def test_events_that_a_handled_batch_rejects_are_dead_lettered_and_the_batch_is_not_repeated(
    seam: Seam,
) -> None:
    records = [raw("t", b'{"n":%d}' % n) for n in range(10)]
    offsets = seam.put(*records)
    handled: list[int] = []

    async def handler(batch: Batch) -> None:
        handled.extend(offset for offset in offsets_of(batch))
        for received in batch:
            if received.offset in (offsets[4], offsets[7]):
                batch.take(received).fail(OverLimit("no room"))

    seam.consume(handler, lambda: len(handled) == 10)
    assert handled == offsets
    letters = seam.letters()
    assert {letter.attributes["dl_offset"] for letter in letters} == {str(offsets[4]), str(offsets[7])}
    assert {letter.attributes["dl_reason"] for letter in letters} == {"over_limit"}
    assert {letter.value for letter in letters} == {records[4].value, records[7].value}
    assert seam.next == offsets[-1] + 1


def test_retry_later_repeats_the_batch_until_it_works(seam: Seam) -> None:
    offsets = seam.put(*(raw("t") for _ in range(5)))
    tried: list[list[int]] = []
    handled: list[int] = []

    async def handler(batch: Sequence[ConsumedEvent]) -> None:
        tried.append(offsets_of(batch))
        if len(tried) <= 3:
            raise RetryLater("the store is away")
        handled.extend(offsets_of(batch))

    seam.consume(handler, lambda: len(handled) >= 5)
    assert tried == [offsets] * 4
    assert handled == offsets
    assert seam.letters() == []
    assert seam.next == offsets[-1] + 1


def test_a_record_that_is_completed_late_holds_the_commit_and_later_batches_do_not_wait(seam: Seam) -> None:
    handled: list[int] = []
    offsets = seam.put(raw("t"), raw("t"), raw("t"))

    async def never(batch: Batch) -> None:
        if not handled:
            batch.take(batch[1])
            offsets.extend(await asyncio.to_thread(seam.put, raw("t")))
        handled.extend(offsets_of(batch))

    async def run() -> None:
        async with seam.member(never):
            await until_true(lambda: len(handled) == 4)
            await asyncio.to_thread(eventually, lambda: seam.next == offsets[1])

    asyncio.run(run())
    assert handled == offsets
    assert seam.next == offsets[1], "a kill or a stop repeats from the open record on"

    async def at_once(batch: Batch) -> None:
        handled.extend(offsets_of(batch))

    seam.consume(at_once, lambda: len(handled) == 7)
    assert handled[4:] == offsets[1:], "only from there on"
    assert seam.next == offsets[-1] + 1


def test_records_may_be_completed_in_any_order(seam: Seam) -> None:
    offsets = seam.put(*(raw("t") for _ in range(6)))
    taken: list[tuple[int, Completion]] = []

    async def handler(batch: Batch) -> None:
        taken.extend((received.offset, batch.take(received)) for received in batch)

    async def run() -> None:
        async with seam.member(handler) as consumer:
            await until_true(lambda: len(taken) == 6)
            for place, (offset, completion) in enumerate(reversed(taken)):
                assert await consumer.handled_offset(0) == offsets[0], f"{place} later ones are complete"
                completion.done()
                with pytest.raises(RuntimeError, match="complete already"):
                    completion.fail(ValueError(offset))
            assert await consumer.handled_offset(0) == offsets[-1] + 1

    asyncio.run(run())
    assert seam.letters() == []
    assert seam.next == offsets[-1] + 1


def test_a_record_that_fails_late_is_dead_lettered_once_and_the_others_are_committed(seam: Seam) -> None:
    offsets = seam.put(*(raw("t") for _ in range(3)))
    taken: list[Completion] = []

    async def handler(batch: Batch) -> None:
        taken.append(batch.take(batch[1]))

    async def run() -> None:
        async with seam.member(handler) as consumer:
            await until_true(lambda: len(taken) == 1)
            assert await consumer.handled_offset(0) == offsets[1]
            taken[0].fail(ValueError("no"))

    asyncio.run(run())
    [letter] = seam.letters()
    assert (letter.attributes["dl_reason"], letter.attributes["dl_offset"]) == ("failed", str(offsets[1]))
    assert seam.next == offsets[-1] + 1


@pytest.mark.parametrize("late", [True, False])
def test_a_taken_record_that_ends_with_retry_later_is_handled_again_alone(seam: Seam, late: bool) -> None:
    offsets = seam.put(*(raw("t") for _ in range(3)))
    calls: list[list[int]] = []

    async def handler(batch: Batch) -> None:
        calls.append(offsets_of(batch))
        if len(calls) < 3:
            completion = batch.take(next(received for received in batch if received.offset == offsets[1]))
            error = RetryLater("the store is away")
            if late:
                asyncio.get_running_loop().call_soon(completion.fail, error)
            else:
                completion.fail(error)

    seam.consume(handler, lambda: len(calls) == 3)
    assert calls == [offsets, offsets[1:2], offsets[1:2]]
    assert seam.letters() == []
    assert seam.next == offsets[-1] + 1


def test_what_a_failed_call_has_taken_is_not_handled_again(seam: Seam) -> None:
    offsets = seam.put(*(raw("t") for _ in range(3)))
    calls: list[list[int]] = []

    async def handler(batch: Batch) -> None:
        calls.append(offsets_of(batch))
        if len(calls) == 1:
            completion = batch.take(batch[0])
            asyncio.get_running_loop().call_soon(completion.done)
            with pytest.raises(ValueError, match="taken before"):
                batch.take(batch[0])
            raise RetryLater("the store is away")

    seam.consume(handler, lambda: len(calls) == 2)
    assert calls == [offsets, offsets[1:]]
    assert seam.next == offsets[-1] + 1


def test_retry_later_holds_its_partition_only(seam: Seam) -> None:
    """Records of the other partition of the same poll, and of later polls, are handled and committed."""
    held = seam.put(*(raw("t") for _ in range(3)))
    free = seam.put(*(raw("t") for _ in range(3)), partition=1)
    handled: dict[int, list[int]] = {0: [], 1: []}
    polled_together: list[bool] = []
    tries = 0
    away = True

    async def handler(batch: Batch) -> None:
        nonlocal tries
        partitions = {received.partition for received in batch}
        polled_together.append(partitions == {0, 1})
        if away and 0 in partitions:
            tries += 1
            raise RetryLater("the store of partition 0 is away")
        for received in batch:
            handled[received.partition].append(received.offset)

    async def run() -> None:
        nonlocal away
        async with seam.member(handler):
            await until_true(lambda: handled[1] == free)
            for _ in range(3):  # polled while partition 0 waits
                free.extend(await asyncio.to_thread(seam.put, raw("t"), partition=1))
                await until_true(lambda: handled[1] == free)
            held.extend(await asyncio.to_thread(seam.put, raw("t")))
            await until_true(lambda: tries >= 3)
            await asyncio.to_thread(eventually, lambda: seam.next_of(1) == free[-1] + 1)
            assert handled[0] == []
            assert await asyncio.to_thread(seam.next_of, 0) <= held[0]
            away = False
            await until_true(lambda: len(handled[0]) >= len(held))

    asyncio.run(run())
    assert any(polled_together)
    assert handled == {0: held, 1: free}
    assert (seam.next_of(0), seam.next_of(1)) == (held[-1] + 1, free[-1] + 1)
    assert seam.letters() == []


def test_a_poison_record_does_not_delay_another_partition(seam: Seam) -> None:
    first, *rest = seam.put(*(raw("t") for _ in range(5)))
    free = seam.put(*(raw("t") for _ in range(5)), partition=1)
    handled: dict[int, list[int]] = {0: [], 1: []}
    calls: list[list[tuple[int, int]]] = []

    async def handler(batch: Batch) -> None:
        calls.append([(received.partition, received.offset) for received in batch])
        if (0, first) in calls[-1]:
            raise ValueError("poison")
        for received in batch:
            handled[received.partition].append(received.offset)

    seam.consume(handler, lambda: len(handled[0]) + len(handled[1]) >= 9)
    assert handled == {0: rest, 1: free}
    assert [(0, first)] in calls, "alone at last"
    assert all(len(call) == 1 or (0, first) in call or call[0][0] == 1 for call in calls)
    assert [letter.attributes["dl_offset"] for letter in seam.letters()] == [str(first)]
    assert (seam.next_of(0), seam.next_of(1)) == (rest[-1] + 1, free[-1] + 1)


def test_a_partition_at_its_bound_is_polled_no_further_until_records_are_completed(
    seam: Seam, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watermark, "MAX_UNCOMMITTABLE", 4)
    seam.put(*(raw("t") for _ in range(4)))
    taken: list[Completion] = []
    free: list[int] = []

    async def handler(batch: Batch) -> None:
        for received in batch:
            if received.partition == 0:
                taken.append(batch.take(received))
            else:
                free.append(received.offset)

    async def run() -> None:
        async with seam.member(handler):
            await until_true(lambda: len(taken) == 4)
            await asyncio.to_thread(seam.put, raw("t"))
            for count in range(1, 4):
                await asyncio.to_thread(seam.put, raw("t"), partition=1)
                await until_true(lambda count=count: len(free) == count)  # type: ignore[misc]
            assert len(taken) == 4, "partition 0 is full"
            for completion in taken:
                completion.done()
            await until_true(lambda: len(taken) == 5)
            taken[4].done()

    asyncio.run(run())
    assert (seam.next_of(0), seam.next_of(1)) == (5, 3)


def test_what_is_loaded_while_no_partition_is_assigned_is_of_another_assignment(seam: Seam) -> None:
    async def handle(_: Batch) -> None:
        pass

    async def run() -> None:
        async with seam.member(handle) as one:
            await until_true(lambda: len(one.partitions) == 2)
            before, partitions = one.assignment
            owned = set(one.assigned)
            await one.on_partitions_revoked(owned)
            between, nothing = one.assignment
            await one.on_partitions_assigned(owned)
            after, again = one.assignment
            assert (nothing, again) == ([], partitions)
            assert before < between < after

    asyncio.run(run())


def test_a_rebalance_with_open_records_commits_what_is_complete_and_repeats_the_rest(seam: Seam) -> None:
    first = [seam.put(*(raw("t") for _ in range(3)), partition=number) for number in (0, 1)]
    old: list[tuple[ConsumedEvent, Completion]] = []
    seen: dict[str, list[tuple[int, int]]] = {"old": [], "new": []}
    keep = True

    async def handle(batch: Batch, name: str) -> None:
        for received in batch:
            seen[name].append((received.partition, received.offset))
            if keep and received.offset > first[received.partition][0]:
                old.append((received, batch.take(received)))

    async def run() -> None:
        nonlocal keep
        async with seam.member(lambda batch: handle(batch, "old")) as one:
            await until_true(lambda: len(old) == 4)
            number, _ = one.assignment
            keep = False
            async with seam.member(lambda batch: handle(batch, "new")) as other:
                await until_true(lambda: len(one.partitions) == len(other.partitions) == 1, 40)
                assert one.assignment[0] > number
                repeated = {(partition, offset) for partition in (0, 1) for offset in first[partition][1:]}
                await until_true(lambda: {*seen["old"][6:], *seen["new"]} == repeated)
                for _, completion in old:
                    completion.fail(ValueError("of an assignment that is over"))
                for partition in (0, 1):
                    assert await one.handled_offset(partition) == first[partition][-1] + 1

    asyncio.run(run())
    assert seam.letters() == [], "completions of the earlier assignment have no effect"
    assert [seam.next_of(partition) for partition in (0, 1)] == [first[0][-1] + 1, first[1][-1] + 1]


def test_a_member_without_answers_to_its_commits_joins_again(
    seam: Seam, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_COMMIT_TIMEOUT_S", "_FINAL_COMMIT_TIMEOUT_S", "_LEAVE_TIMEOUT_S"):
        monkeypatch.setattr(consumer_module, name, 0.3)
    handled: list[int] = []

    async def handle(batch: Batch) -> None:
        handled.extend(offsets_of(batch))

    async def put_one() -> int:
        [offset] = await asyncio.to_thread(seam.put, raw("t"))
        return offset

    async def run() -> int:
        async with seam.member(handle) as one:
            first = await put_one()
            await until_true(lambda: first in handled)
            lost = one._client
            assert lost is not None
            # Its look-up of the coordinator never ends, as after the end of the task that updates metadata.
            await lost._coordinator._coordinator_lookup_lock.acquire()
            lost._coordinator.coordinator_dead()
            while one._client in (lost, None):
                await put_one()
                await asyncio.sleep(0.2)
            last = await put_one()
            await until_true(lambda: last in handled)
            tasks = (lost._coordinator._coordination_task, lost._fetcher._fetch_task, lost._client._sync_task)
            assert all(task is None or task.done() for task in tasks), "the lost client goes on"
            return last

    last = asyncio.run(run())
    assert seam.next == last + 1


def test_a_batch_that_waits_for_a_retry_at_the_stop_is_not_lost(seam: Seam) -> None:
    offsets = seam.put(*(raw("t") for _ in range(5)))
    tries = 0

    async def handler(_batch: Sequence[ConsumedEvent]) -> None:
        nonlocal tries
        tries += 1
        raise RetryLater("the store is away")

    seam.consume(handler, lambda: tries >= 2)
    assert seam.next <= offsets[0]
    assert seam.letters() == []


def test_retry_later_beside_an_event_that_fails(seam: Seam) -> None:
    """A retry while events are handled one by one: the failing event is dead-lettered once."""
    offsets = seam.put(*(raw("t") for _ in range(6)))
    handled: list[int] = []
    away = 2

    async def handler(batch: Sequence[ConsumedEvent]) -> None:
        nonlocal away
        if offsets[1] in offsets_of(batch):
            raise KeyError("guilty")
        if offsets[3] in offsets_of(batch) and away:
            away -= 1
            raise RetryLater("the store is away")
        handled.extend(offsets_of(batch))

    seam.consume(handler, lambda: len(handled) >= 5)
    assert handled == [offsets[0], *offsets[2:]]
    assert [letter.attributes["dl_offset"] for letter in seam.letters()] == [str(offsets[1])]
    assert seam.next == offsets[-1] + 1


@pytest.mark.parametrize("how", ["malformed", "failed"])
def test_a_dead_letter_that_is_too_large_does_not_lose_the_others(seam: Seam, how: str) -> None:
    """A compressed record can be larger than the dead-letter topic accepts."""
    huge = raw("t", b'"' + b"x" * (8 * MIB + MIB // 2) + b'"')
    bad = without(huge, "ce_id") if how == "malformed" else huge
    first, *rest = seam.put(bad, raw("t"), raw("t"))
    handled: list[int] = []

    async def handler(batch: Sequence[ConsumedEvent]) -> None:
        if first in offsets_of(batch):
            raise ValueError("no")
        handled.extend(offsets_of(batch))

    seam.consume(handler, lambda: len(handled) >= 2)
    assert handled == rest
    [letter] = seam.letters()
    assert (letter.attributes["dl_reason"], letter.attributes["dl_offset"]) == (how, str(first))
    assert letter.attributes["dl_topic"] == seam.topic.name
    assert letter.value == b""
    assert "left where it is" in letter.attributes["dl_error"]
    assert seam.next == rest[-1] + 1


def test_headers_and_keys_of_any_kind_do_not_stop_the_consumer(seam: Seam) -> None:
    """Null keys, null values, doubled headers, a header that looks like ours."""
    odd = [
        RawRecord(None, b"{}", []),
        RawRecord(b"k", None, []),
        RawRecord(b"\xff", b"\x00", [("ce_id", b"1"), ("ce_id", None)]),
        RawRecord(b"k", b"{}", [("dl_offset", b"forged"), ("\u00fc", b"1")]),
    ]
    offsets = seam.put(*odd, raw("t"))
    handled: list[int] = []

    async def handler(batch: Sequence[ConsumedEvent]) -> None:
        handled.extend(offsets_of(batch))

    seam.consume(handler, lambda: len(handled) >= 1)
    assert handled == offsets[-1:]
    letters = seam.letters()
    assert [letter.attributes["dl_offset"] for letter in letters] == [str(offset) for offset in offsets[:-1]]
    assert [letter.value for letter in letters] == [b"{}", b"", b"\x00", b"{}"]
    assert seam.next == offsets[-1] + 1


async def test_a_partition_that_stands_still_is_not_alive(
    seam: Seam, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless its records are held, or something that a restart cannot mend is the reason."""
    release = asyncio.Event()

    async def handler(batch: Sequence[ConsumedEvent]) -> None:
        if not release.is_set():
            await release.wait()
            raise RetryLater("not now")

    await asyncio.to_thread(seam.put, raw("t"))
    monkeypatch.setattr(health, "MAX_STALL_S", 0.5)
    mongo = Mongo(MongoSettings(uri=SecretStr(store.uri())), app="test")
    nowhere = Mongo(
        MongoSettings(uri=SecretStr(f"mongodb://127.0.0.1:{free_port()}/x"), timeout_ms=100), app="test"
    )
    checks = "producer_has_metadata", "store_answers", f"{seam.group}_assigned"
    progress = f"{seam.group}_progresses"
    async with seam.member(handler) as consumer, _producer(seam) as producer:
        works, lost = (HealthChecks(each, producer, [consumer]) for each in (mongo, nowhere))
        app = ServiceApp(
            _not_found, TrustedProxies(()), ready=works.ready, alive=works.alive, exposition=_no_metrics
        )
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://hub") as client:

            async def status() -> tuple[int, object]:
                answer = await client.get("/healthz")
                return answer.status_code, answer.json()

            alive = (200, {"status": "alive", "checks": {progress: True}})
            assert await status() == alive
            await until_true(lambda: consumer.stall_s() > 0.5)
            assert await works.ready() == dict.fromkeys(checks, True), "it stalls, and is ready"
            assert await status() == (503, {"status": "stalled", "checks": {progress: False}})
            assert await lost.alive() == {progress: True}
            release.set()
            await until_true(lambda: consumer.stall_s() == 0)
            assert await status() == alive
    mongo.close()
    nowhere.close()


async def _not_found(_scope: Scope, _receive: Receive, _send: Send) -> None:
    raise AssertionError


async def _no_metrics() -> bytes:
    return b""


@asynccontextmanager
async def _producer(seam: Seam) -> AsyncIterator[Producer]:
    producer = Producer(seam.settings, LOG, client_id="test")
    producer.start()
    await producer.wait_ready(30)
    yield producer
    await producer.stop()
