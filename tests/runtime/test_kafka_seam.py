"""The consumer on a real broker: records that cannot be handled, and what is tried again.

The records are put there with plain aiokafka, as any service of the chat may do it.
"""

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from secrets import token_hex
from time import sleep

import pytest
import structlog
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from structlog.testing import ReturnLogger

from shared.contracts.errors import OverLimit, RetryLater
from shared.contracts.topics import CHAT_EVENTS, DEAD_LETTERS, Topic
from shared.runtime.kafka.admin import ensure_topics
from shared.runtime.kafka.consumer import (
    BatchHandler,
    ConsumedEvent,
    Consumer,
    DurabilityBarrier,
    PartiallyRejected,
)
from shared.runtime.kafka.producer import Producer
from shared.runtime.logs import Log
from shared.runtime.settings import KafkaSettings
from tests.support.backends import Bus, Store
from tests.support.eventually import eventually
from tests.support.hub import Hub
from tests.support.subscriber import Subscriber
from tests.support.tap import Kept, Raw, Tap, committed, put

LOG: Log = structlog.wrap_logger(
    ReturnLogger(), processors=[], wrapper_class=structlog.make_filtering_bound_logger(0)
)
MIB = 1024 * 1024


def raw(kind: str, data: bytes = b'{"n":0}', **changed: bytes | None) -> Raw:
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
    return Raw(b"room-1", data, list((headers | changed).items()))


def without(record: Raw, name: str) -> Raw:
    return Raw(record.key, record.value, [pair for pair in record.headers if pair[0] != name])


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

        def dead_letters() -> dict[tuple[int, int], list[Kept]]:
            by_position: dict[tuple[int, int], list[Kept]] = {}
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
    said = [line for line in delivery.log_lines("delivery") if line["event"] == "event.dead_lettered"]
    assert sorted((line["partition"], line["offset"]) for line in said) == sorted(letters)
    assert delivery.metric("delivery", "interlink_consumer_lag", group="delivery-fanout") == 0


# The consumer alone


@dataclass
class Seam:
    """A topic with one partition and a consumer group, for one test."""

    bus: Bus
    topic: Topic
    group: str
    settings: KafkaSettings
    dead: Tap

    def put(self, *records: Raw) -> list[int]:
        """Publish records; return their offsets."""
        return [offset for _, offset in put(self.bus, self.topic.name, records)]

    def consume(
        self,
        handler: BatchHandler,
        until: Callable[[], bool],
        timeout_s: float = 20,
        durable: DurabilityBarrier | None = None,
    ) -> None:
        """Run a member of the group until a condition holds, and stop it as a service does."""

        async def run() -> None:
            producer = Producer(self.settings, LOG, client_id="test")
            producer.start()
            consumer = Consumer(
                self.settings,
                producer,
                LOG,
                group=self.group,
                topics=[self.topic],
                handler=handler,
                durable=durable,
            )
            try:
                await producer.wait_ready(10)
                consumer.start()
                async with asyncio.timeout(timeout_s):
                    while not until():  # noqa: ASYNC110 -- it looks at what came out
                        await asyncio.sleep(0.02)
            finally:
                await consumer.stop(timeout_s=10)
                await producer.stop()

        asyncio.run(run())

    @property
    def next(self) -> int:
        """Return the committed offset of the group; 0 if there is none."""
        return committed(self.bus, self.group, self.topic.name).get(0, 0)

    def letters(self) -> list[Kept]:
        return [letter for letter in self.dead.look() if letter.attributes["dl_group"] == self.group]


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
                [NewTopic(topic.name, 1, 1, topic_configs={"max.message.bytes": str(32 * MIB)})]
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

    async def handler(batch: Sequence[ConsumedEvent]) -> None:
        refused = [received for received in batch if received.offset in (offsets[4], offsets[7])]
        handled.extend(offset for offset in offsets_of(batch))
        if refused:
            raise PartiallyRejected([(received, OverLimit("no room")) for received in refused])

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


def test_nothing_is_committed_before_it_is_durable_and_batches_do_not_wait_for_that(seam: Seam) -> None:
    handled: list[int] = []
    asked: list[int] = []
    put_so_far = seam.put(raw("t"))

    async def handler(batch: Sequence[ConsumedEvent]) -> None:
        handled.extend(offsets_of(batch))

    async def never() -> None:
        asked.append(len(handled))
        if len(put_so_far) == 1:
            put_so_far.extend(await asyncio.to_thread(seam.put, raw("t")))
        await asyncio.Event().wait()

    seam.consume(handler, lambda: len(handled) == 2, durable=never)
    assert handled == put_so_far
    assert asked == [1]
    assert seam.next <= put_so_far[0]

    async def at_once() -> None:
        asked.append(len(handled))

    seam.consume(handler, lambda: len(handled) == 4, durable=at_once)
    assert handled == put_so_far * 2
    assert seam.next == put_so_far[-1] + 1


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
        Raw(None, b"{}", []),
        Raw(b"k", None, []),
        Raw(b"\xff", b"\x00", [("ce_id", b"1"), ("ce_id", None)]),
        Raw(b"k", b"{}", [("dl_offset", b"forged"), ("\u00fc", b"1")]),
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
