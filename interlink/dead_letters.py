"""Records that no retry could help: what is on `dead.letters`, and back to where each came from."""

from collections import deque
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from shared.contracts.errors import Misconfigured, TooLarge
from shared.contracts.topics import DEAD_LETTERS, TOPICS, Topic
from shared.runtime.kafka.produce import Producer, Record
from shared.runtime.kafka.read import Kept, read_topic
from shared.runtime.logs import configure
from shared.runtime.settings import KafkaSettings, load

_NAME: Final = "dead-letters"
_MARK: Final = "dl_"
_CONNECT_S: Final = 5.0
_ACK_S: Final = 10.0
_TOPICS: Final = {topic.name: topic for topic in TOPICS if topic is not DEAD_LETTERS}


@dataclass(frozen=True, slots=True)
class Letter:
    """One dead letter; `offset` is its place on `dead.letters`, by which it is named."""

    offset: int
    kept: Kept
    marks: dict[str, str]

    @property
    def topic(self) -> str:
        """The topic that it came from."""
        return self.marks.get("topic", "")

    @property
    def reason(self) -> str:
        return self.marks.get("reason", "")

    @property
    def copied(self) -> bool:
        """Whether it holds the record; one that was too large to copy is only a pointer to it."""
        return any(not name.startswith(_MARK) for name, _ in self.kept.headers) or bool(self.kept.value)

    def line(self) -> str:
        """What a person reads of it, in one line."""
        event = dict(self.kept.headers)
        about = " ".join(_text(event.get(name)) for name in ("ce_type", "ce_id") if event.get(name))
        origin = f"{self.topic}/{self.marks.get('partition', '?')}/{self.marks.get('offset', '?')}"
        said = [self.marks.get("time", ""), self.reason, origin, self.marks.get("group", ""), about]
        return "  ".join([str(self.offset), *filter(None, said), self.marks.get("error", "")])


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which dead letters: every condition that is given must hold."""

    topic: str | None = None
    reason: str | None = None
    offsets: Collection[int] = ()

    def covers(self, letter: Letter) -> bool:
        """Whether it is one of them."""
        return (
            self.topic in (None, letter.topic)
            and self.reason in (None, letter.reason)
            and (not self.offsets or letter.offset in self.offsets)
        )


@dataclass(frozen=True, slots=True)
class Said:
    """What became of one dead letter that was to be replayed."""

    letter: Letter
    outcome: Literal["replayed", "skipped"]
    detail: str


async def newest(wanted: Wanted, limit: int) -> Sequence[str]:
    """A line for each of the last `limit`, oldest first. Raises `Misconfigured`, `BusUnavailable`."""
    _known(wanted)
    configure(_NAME, "error")
    lines: deque[str] = deque(maxlen=limit)
    async for letter in _letters(wanted):
        lines.append(letter.line())
    return lines


async def replay(wanted: Wanted) -> AsyncIterator[Said]:
    """Put each back on its topic, with its key, value and own headers, and say so once it is acknowledged.

    What is dead-lettered again meanwhile is not read again. Raises `Misconfigured`, `BusUnavailable`.
    """
    _known(wanted)
    producer = Producer(load(KafkaSettings), configure(_NAME, "error"), client_id="interlink-replay")
    producer.start()
    try:
        await producer.wait_ready(_CONNECT_S)
        async for letter in _letters(wanted):
            yield await _put_back(producer, letter)
    finally:
        await producer.stop()


async def _put_back(producer: Producer, letter: Letter) -> Said:
    topic = _TOPICS.get(letter.topic)
    if topic is None:
        return Said(letter, "skipped", f"it came from {letter.topic or 'nowhere'}, which is no topic of ours")
    if not letter.copied:
        return Said(letter, "skipped", "it was too large to copy: it is where it was, until that expires")
    try:
        await producer.publish(_record(topic, letter.kept), within_s=_ACK_S)
    except TooLarge as error:
        return Said(letter, "skipped", str(error))
    return Said(letter, "replayed", f"to {topic.name}")


def _record(topic: Topic, kept: Kept) -> Record:
    headers = [(name, value or b"") for name, value in kept.headers if not name.startswith(_MARK)]
    return Record(topic, kept.key or b"", kept.value or b"", headers)


async def _letters(wanted: Wanted) -> AsyncIterator[Letter]:
    async for kept in read_topic(load(KafkaSettings), DEAD_LETTERS):
        marks = {
            name.removeprefix(_MARK): _text(value) for name, value in kept.headers if name.startswith(_MARK)
        }
        letter = Letter(kept.offset, kept, marks)
        if wanted.covers(letter):
            yield letter


def _known(wanted: Wanted) -> None:
    if wanted.topic is not None and wanted.topic not in _TOPICS:
        raise Misconfigured(f"--topic {wanted.topic}: one of {', '.join(_TOPICS)}")


def _text(raw: bytes | None) -> str:
    """A stranger's bytes for a terminal: nothing in it moves the cursor or hides what follows."""
    shown = (raw or b"").decode("utf-8", "replace")
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in shown)
