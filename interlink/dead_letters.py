"""Records that no retry could help: what is on `dead.letters`, and back to where each came from."""

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
    """One dead letter; `offset` is its place on `dead.letters`, by which it is named."""

    offset: int
    record: StoredRecord
    metadata: dict[str, str]

    @property
    def topic(self) -> str:
        """The topic that it came from."""
        return self.metadata.get("topic", "")

    @property
    def reason(self) -> str:
        return self.metadata.get("reason", "")

    @property
    def has_record(self) -> bool:
        """Whether it holds the record; one that was too large to copy is only a pointer to it."""
        return any(not name.startswith(_HEADER_PREFIX) for name, _ in self.record.headers) or bool(
            self.record.value
        )

    def line(self) -> str:
        """What a person reads of it, in one line."""
        event = dict(self.record.headers)
        about = " ".join(_printable_text(event.get(name)) for name in ("ce_type", "ce_id") if event.get(name))
        origin = f"{self.topic}/{self.metadata.get('partition', '?')}/{self.metadata.get('offset', '?')}"
        said = [self.metadata.get("time", ""), self.reason, origin, self.metadata.get("group", ""), about]
        return "  ".join([str(self.offset), *filter(None, said), self.metadata.get("error", "")])


@dataclass(frozen=True, slots=True)
class DeadLetterFilter:
    """Which dead letters: every condition that is given must hold."""

    topic: str | None = None
    reason: str | None = None
    offsets: Collection[int] = ()

    def matches(self, letter: DeadLetterRecord) -> bool:
        """Whether it is one of them."""
        return (
            self.topic in (None, letter.topic)
            and self.reason in (None, letter.reason)
            and (not self.offsets or letter.offset in self.offsets)
        )


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """What became of one dead letter that was to be replayed."""

    letter: DeadLetterRecord
    outcome: Literal["replayed", "skipped"]
    detail: str


async def list_newest(wanted: DeadLetterFilter, limit: int) -> Sequence[str]:
    """A line for each of the last `limit`, oldest first. Raises `Misconfigured`, `BrokerUnavailable`."""
    _validate_topic(wanted)
    configure(_NAME, "error")
    lines: deque[str] = deque(maxlen=limit)
    async for letter in _read_dead_letters(wanted):
        lines.append(letter.line())
    return lines


async def replay(wanted: DeadLetterFilter) -> AsyncIterator[ReplayResult]:
    """Put each back on its topic, with its key, value and own headers, and say so once it is acknowledged.

    What is dead-lettered again meanwhile is not read again. Raises `Misconfigured`, `BrokerUnavailable`.
    """
    _validate_topic(wanted)
    producer = Producer(load(KafkaSettings), configure(_NAME, "error"), client_id="interlink-replay")
    producer.start()
    try:
        await producer.wait_ready(_CONNECT_TIMEOUT_S)
        async for letter in _read_dead_letters(wanted):
            yield await _replay_one(producer, letter)
    finally:
        await producer.stop()


async def _replay_one(producer: Producer, letter: DeadLetterRecord) -> ReplayResult:
    topic = _TOPICS.get(letter.topic)
    if topic is None:
        return ReplayResult(
            letter, "skipped", f"it came from {letter.topic or 'nowhere'}, which is no topic of ours"
        )
    if not letter.has_record:
        return ReplayResult(
            letter, "skipped", "it was too large to copy: it is where it was, until that expires"
        )
    try:
        await producer.publish(_record(topic, letter.record), timeout_s=_ACK_TIMEOUT_S)
    except TooLarge as error:
        return ReplayResult(letter, "skipped", str(error))
    return ReplayResult(letter, "replayed", f"to {topic.name}")


def _record(topic: Topic, record: StoredRecord) -> Record:
    headers = [(name, value or b"") for name, value in record.headers if not name.startswith(_HEADER_PREFIX)]
    return Record(topic, record.key or b"", record.value or b"", headers)


async def _read_dead_letters(wanted: DeadLetterFilter) -> AsyncIterator[DeadLetterRecord]:
    async for kept in read_topic(load(KafkaSettings), DEAD_LETTERS):
        marks = {
            name.removeprefix(_HEADER_PREFIX): _printable_text(value)
            for name, value in kept.headers
            if name.startswith(_HEADER_PREFIX)
        }
        letter = DeadLetterRecord(kept.offset, kept, marks)
        if wanted.matches(letter):
            yield letter


def _validate_topic(wanted: DeadLetterFilter) -> None:
    if wanted.topic is not None and wanted.topic not in _TOPICS:
        raise Misconfigured(f"--topic {wanted.topic}: one of {', '.join(_TOPICS)}")


def _printable_text(raw: bytes | None) -> str:
    """A stranger's bytes for a terminal: nothing in it moves the cursor or hides what follows."""
    shown = (raw or b"").decode("utf-8", "replace")
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in shown)
