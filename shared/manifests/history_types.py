"""What a provider's `history.py` speaks: the people, conversations and messages of an export. No I/O.

An `Archive` is what a person has uploaded. A reader first describes it (`contents`), then reads one unit of
it after another. A unit is read as a whole: what a crash interrupts is read again, and yields the same.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import BinaryIO, Final, Literal, Protocol

from shared.manifests.channel_types import MessageWritten, Person

EARLIEST: Final = 0.0
LATEST: Final = 4_102_444_800.0
"""The year 2100, as a Unix time: what claims to be later has a wrong time."""
NO_ANSWERS: Final[Mapping[str, str]] = {}


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of an archive: its name, with `/` between folders, and its size in bytes."""

    name: str
    size: int


class Archive(Protocol):
    """The files of an export, whatever it is packed in."""

    def entries(self) -> Sequence[Entry]:
        """Return all files, in the order in which the archive has them."""
        ...

    def open(self, name: str) -> AbstractContextManager[BinaryIO]:
        """Open a file to be read once, from its start. Raises `Unreadable` when its bytes are damaged."""
        ...


class Unreadable(Exception):
    """A file, or a whole archive, cannot be read. The message names the problem and the fix."""


@dataclass(frozen=True, slots=True)
class HistoryPerson:
    """A person or bot of an export. `active` is False for somebody who has left."""

    person: Person
    active: bool = True


ConversationKind = Literal["channel", "private", "group", "direct"]


@dataclass(frozen=True, slots=True)
class HistoryConversation:
    """A conversation of an export. `kind`: a public or private channel, or messages of several or of two.

    `created_at` is a Unix time, 0 if it is not known. `parent` is the id of the conversation that it is a
    thread or a topic of. `category` is the name under which it is listed. `listed` is False if only its
    messages are there.
    """

    id: str
    name: str
    kind: ConversationKind = "channel"
    archived: bool = False
    created_at: float = 0.0
    topic: str = ""
    members: Sequence[str] = ()
    parent: str | None = None
    listed: bool = True
    category: str = ""


@dataclass(frozen=True, slots=True)
class Unit:
    """A part of an export that is read as a whole: a file of a day, a range of records, a page.

    Units of one conversation are in the order of time. `day` is the day of all of its messages (`2024-11-05`)
    where that is known before it is read. `size` is in bytes.
    """

    id: str
    conversation: str
    size: int
    day: str | None = None


@dataclass(frozen=True, slots=True)
class Option:
    """One of the answers to a `Choice`: its value, and the text that a person sees."""

    value: str
    text: str


@dataclass(frozen=True, slots=True)
class Choice:
    """A question that an export does not answer, such as the order of its dates. A person answers it.

    `answer` is the value of the option that is in effect: the person's, or what the reader proposes; None if
    it proposes none. A `required` choice without an answer stops the units from being read.
    """

    id: str
    text: str
    options: Sequence[Option]
    answer: str | None = None
    required: bool = True


@dataclass(frozen=True, slots=True)
class Contents:
    """What is in an export.

    `kind` is said in words ("a Slack export"), `account` is the provider's id of the account that it is of,
    and `values` are those that a channel needs of it, such as its address. `missing` names kinds of data that
    exports of this kind may have and this one has not. `first_at` and `last_at` are the Unix times of the
    first and the last message, 0 if only the days of the units tell them.
    `choices` are the questions for a person; all else is by the answers in effect.
    """

    kind: str
    provider: str
    account: str
    people: Sequence[HistoryPerson] = ()
    conversations: Sequence[HistoryConversation] = ()
    units: Sequence[Unit] = ()
    values: Mapping[str, str] = field(default_factory=dict)
    missing: Sequence[str] = ()
    notes: Sequence[str] = ()
    choices: Sequence[Choice] = ()
    first_at: float = 0.0
    last_at: float = 0.0


@dataclass(frozen=True, slots=True)
class HistoryReaction:
    """The people, by id, who set one emoji on a message."""

    emoji: str
    people: Sequence[str]


LostReason = Literal[
    "tombstone", "hidden_by_limit", "access_denied", "file_not_found", "expired", "not_a_file"
]


@dataclass(frozen=True, slots=True)
class LostFile:
    """A file that the provider does not give out any more, with the reason."""

    name: str
    reason: LostReason


MessageKind = Literal["message", "bot", "system"]


@dataclass(frozen=True, slots=True)
class HistoryMessage:
    """A message as the export has it, with its reactions. `edited_at` is a Unix time, None without edits."""

    message: MessageWritten
    kind: MessageKind = "message"
    reactions: Sequence[HistoryReaction] = ()
    edited_at: float | None = None
    pinned: bool = False
    lost_files: Sequence[LostFile] = ()


SkipReason = Literal["deleted", "duplicate_record", "not_a_message"]


@dataclass(frozen=True, slots=True)
class Skipped:
    """A record that is no message by intention: it is counted, and nothing is wrong with it."""

    reason: SkipReason


@dataclass(frozen=True, slots=True)
class Broken:
    """A record that cannot be read: where it is, why, and its beginning as text."""

    place: str
    reason: str
    record: str = ""


HistoryRecord = HistoryMessage | Skipped | Broken


class ReadsArchive(Protocol):
    """A reader of one kind of export: a class named `ArchiveReader` of a provider's `history.py`.

    It loads everything that it needs when it is made: later, its process may open nothing.
    """

    KIND: str
    """What it reads, for a list of known exports: "Slack (ZIP)"."""

    def contents(self, archive: Archive, answers: Mapping[str, str] = NO_ANSWERS) -> Contents | None:
        """Return what an archive has; None if it is not an export of this kind, by its contents.

        `answers` are a person's, by the id of the choice; without one, the reader's proposal is in effect.
        Raises `Unreadable` for an export of this kind that is damaged, and for an answer that is no option.
        """
        ...

    def read(self, archive: Archive, contents: Contents, unit: Unit) -> Iterator[HistoryRecord]:
        """Yield the records of a unit in their order. One that cannot be read does not end it.

        Raises `Unreadable` if the rest of the unit cannot be read.
        """
        ...


def choice(
    id_: str,
    text: str,
    options: Sequence[Option],
    answers: Mapping[str, str],
    *,
    proposed: str | None = None,
    required: bool = True,
) -> Choice:
    """Return a choice with the answer that is in effect. Raises `Unreadable` for one that is no option."""
    answer = answers.get(id_, proposed)
    if answer is not None and all(option.value != answer for option in options):
        known = ", ".join(option.value for option in options[:20])
        raise Unreadable(f"{id_}: {answer[:80]!r} is no answer: choose one of {known[:500]}")
    return Choice(id_, text, options, answer, required)


def answers_in_effect(choices: Sequence[Choice]) -> Mapping[str, str]:
    """Return the answers by the ids of their choices. Raises `Unreadable` if a required one has none."""
    for item in choices:
        if item.required and item.answer is None:
            raise Unreadable(f"{item.id} is not answered: {item.text}")
    return {item.id: item.answer for item in choices if item.answer is not None}
