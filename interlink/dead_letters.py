"""List the records on the topic `dead.letters` and publish them again on the topics they came from."""

from collections import deque
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from shared.contracts.errors import Misconfigured, TooLarge
from shared.contracts.topics import DEAD_LETTERS, TOPICS, Topic
from shared.runtime.kafka.producer import Producer, Record
from shared.runtime.kafka.reader import StoredRecord, read_topic
from shared.runtime.logs import configure
from shared.runtime.settings import KafkaSettings, load

_NAME: Final = "dead-letters"
_HEADER_PREFIX: Final = "dl_"
_CONNECT_TIMEOUT_S: Final = 5.0
_ACK_TIMEOUT_S: Final = 10.0
_TOPICS: Final = {topic.name: topic for topic in TOPICS if topic is not DEAD_LETTERS}


@dataclass(frozen=True, slots=True)
class DeadLetterRecord:
    """A record on `dead.letters`. Its `offset` identifies it for users; `metadata` are its `dl_` headers."""

    offset: int
    record: StoredRecord
    metadata: dict[str, str]

    @property
    def topic(self) -> str:
        """The topic that the record came from."""
        return self.metadata.get("topic", "")

    @property
    def reason(self) -> str:
        return self.metadata.get("reason", "")

    @property
    def has_record(self) -> bool:
        """True if it contains the record. Of a record that was too large to copy, it has a pointer."""
        return any(not name.startswith(_HEADER_PREFIX) for name, _ in self.record.headers) or bool(
            self.record.value
        )

    def line(self) -> str:
        """Return one line for a person: number, time, reason, origin, consumer group, event and error."""
        headers = dict(self.record.headers)
        event = " ".join(
            _printable_text(headers.get(name)) for name in ("ce_type", "ce_id") if headers.get(name)
        )
        origin = f"{self.topic}/{self.metadata.get('partition', '?')}/{self.metadata.get('offset', '?')}"
        fields = [self.metadata.get("time", ""), self.reason, origin, self.metadata.get("group", ""), event]
        return "  ".join([str(self.offset), *filter(None, fields), self.metadata.get("error", "")])


@dataclass(frozen=True, slots=True)
class DeadLetterFilter:
    """Selects dead letters. Every condition that is set must hold."""

    topic: str | None = None
    reason: str | None = None
    offsets: Collection[int] = ()

    def matches(self, letter: DeadLetterRecord) -> bool:
        """Return whether the filter selects this dead letter."""
        return (
            self.topic in (None, letter.topic)
            and self.reason in (None, letter.reason)
            and (not self.offsets or letter.offset in self.offsets)
        )


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """Result of the replay of a dead letter. `detail` says where it was published, or why it was not."""

    letter: DeadLetterRecord
    outcome: Literal["replayed", "skipped"]
    detail: str


async def list_newest(selection: DeadLetterFilter, limit: int) -> Sequence[str]:
    """Return one line for each of the newest `limit`, the oldest first.

    Raises `Misconfigured` or `BrokerUnavailable`.
    """
    _validate_topic(selection)
    configure(_NAME, "error")
    lines: deque[str] = deque(maxlen=limit)
    async for letter in _read_dead_letters(selection):
        lines.append(letter.line())
    return lines


async def replay(selection: DeadLetterFilter) -> AsyncIterator[ReplayResult]:
    """Publish each selected record on its topic again, with its key, value and own headers.

    Yield a result once the broker has acknowledged it. Records that become dead letters meanwhile are not
    read. Raises `Misconfigured` or `BrokerUnavailable`.
    """
    _validate_topic(selection)
    producer = Producer(load(KafkaSettings), configure(_NAME, "error"), client_id="interlink-replay")
    producer.start()
    try:
        await producer.wait_ready(_CONNECT_TIMEOUT_S)
        async for letter in _read_dead_letters(selection):
            yield await _replay_one(producer, letter)
    finally:
        await producer.stop()


async def _replay_one(producer: Producer, letter: DeadLetterRecord) -> ReplayResult:
    topic = _TOPICS.get(letter.topic)
    if topic is None:
        return ReplayResult(
            letter, "skipped", f"it came from {letter.topic or 'nowhere'}, which is not a topic of the hub"
        )
    if not letter.has_record:
        return ReplayResult(
            letter, "skipped", "it was too large to copy: only the original record has it, until that expires"
        )
    try:
        await producer.publish(_record(topic, letter.record), timeout_s=_ACK_TIMEOUT_S)
    except TooLarge as error:
        return ReplayResult(letter, "skipped", str(error))
    return ReplayResult(letter, "replayed", f"to {topic.name}")


def _record(topic: Topic, record: StoredRecord) -> Record:
    headers = [(name, value or b"") for name, value in record.headers if not name.startswith(_HEADER_PREFIX)]
    return Record(topic, record.key or b"", record.value or b"", headers)


async def _read_dead_letters(selection: DeadLetterFilter) -> AsyncIterator[DeadLetterRecord]:
    async for record in read_topic(load(KafkaSettings), DEAD_LETTERS):
        metadata = {
            name.removeprefix(_HEADER_PREFIX): _printable_text(value)
            for name, value in record.headers
            if name.startswith(_HEADER_PREFIX)
        }
        letter = DeadLetterRecord(record.offset, record, metadata)
        if selection.matches(letter):
            yield letter


def _validate_topic(selection: DeadLetterFilter) -> None:
    if selection.topic is not None and selection.topic not in _TOPICS:
        raise Misconfigured(f"--topic {selection.topic}: has to be one of {', '.join(_TOPICS)}")


def _printable_text(raw: bytes | None) -> str:
    """Return untrusted bytes for a terminal: nothing in them moves the cursor or hides what follows."""
    shown = (raw or b"").decode("utf-8", "replace")
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in shown)
