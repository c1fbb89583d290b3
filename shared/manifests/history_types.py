"""The types of a provider's `history.py`: archives, their people, conversations and messages. No I/O.

A reader of exports first lists the contents of an uploaded `Archive`, then reads its units one by one. A unit
is the step of an import that is repeated after a crash, so reading it again yields the same records. A reader
of pages has the same results from a connected account: its units are pages, each with the cursor of the next.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import BinaryIO, Final, Literal, Protocol

from shared.manifests.channel_types import Account, MessageWritten, Operation, Page, Person

EARLIEST: Final = 0.0
LATEST: Final = 4_102_444_800.0
"""The year 2100 as a Unix time. A later time is invalid."""
NO_ANSWERS: Final[Mapping[str, str]] = {}
ARCHIVE_REF: Final = "archive:"
"""How `ExternalFile.ref` begins for a file in the archive; its name there follows."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of an archive: its path, with `/` between folders, and its size in bytes."""

    name: str
    size: int


class Archive(Protocol):
    """The files of an export: those of a ZIP archive, or a single file."""

    def entries(self) -> Sequence[Entry]:
        """Return all files, in the order of the archive."""
        ...

    def open(self, name: str) -> AbstractContextManager[BinaryIO]:
        """Open a file at its start. Raises `Unreadable` if it is missing or damaged, or while it is read."""
        ...


class Unreadable(Exception):
    """A file of an archive, or the archive, cannot be read. The message names the problem and the fix."""


def beginning_of(archive: Archive, name: str, size: int) -> bytes:
    """Return the first bytes of a file, to find out what it is; b'' if it is damaged.

    A damaged picture is no reason to refuse an export.
    """
    try:
        with archive.open(name) as file:
            return file.read(size)
    except Unreadable:
        return b""


@dataclass(frozen=True, slots=True)
class HistoryPerson:
    """A person or bot of an export. `active` is False for a deactivated account."""

    person: Person
    active: bool = True


ConversationKind = Literal["channel", "private", "group", "direct"]


@dataclass(frozen=True, slots=True)
class HistoryConversation:
    """A conversation of an export: a public or private channel, a group, or a direct conversation of two.

    `created_at` is a Unix time, 0 if unknown. `parent` is the id of the conversation to which a thread or
    topic belongs. `category` is the heading under which the provider lists it. `listed` is False if the
    export has its messages, but no entry in a list. `problem` says what keeps a connected account from
    reading it, and the fix.
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
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Unit:
    """A part of an export that is read in one step: the file of a day, or a range of records.

    Units of one conversation are ordered by time. `day` is the day of all messages of the unit
    (`2024-11-05`), None if it is unknown before reading. `size` is in bytes.
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
    """The contents of an export: people, conversations and units.

    `kind` is for display ("a Slack export"). `account` is the provider's id of the exported account, and
    `values` are the attributes of the account that the provider's channel uses, such as its URL. `missing`
    lists kinds of data that exports of this kind can have, but this one does not. `undetermined` are facts
    that no import of this kind can find out, for its report. `first_at` and `last_at`
    are the Unix times of the first and the last message, 0 if the units' days have to serve instead.
    `choices` are questions for a person; everything else follows the answers in effect.
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
    undetermined: Sequence[str] = ()
    choices: Sequence[Choice] = ()
    first_at: float = 0.0
    last_at: float = 0.0


@dataclass(slots=True)
class HistoryReaction:
    """One emoji on a message, with the ids of the people who set it.

    `names` has names by id, as far as the message itself says them: not everybody is among the people of an
    account.
    """

    emoji: str
    people: Sequence[str]
    names: Mapping[str, str] = field(default_factory=dict, compare=False)


LostReason = Literal[
    "tombstone", "hidden_by_limit", "access_denied", "file_not_found", "expired", "not_a_file"
]


@dataclass(frozen=True, slots=True)
class LostFile:
    """A file of a message that cannot be got from the provider, with the reason."""

    name: str
    reason: LostReason


MessageKind = Literal["message", "bot", "system"]


@dataclass(slots=True)
class HistoryMessage:
    """A message of an export, with its reactions. `edited_at` is a Unix time, None if it was not edited."""

    message: MessageWritten
    kind: MessageKind = "message"
    reactions: Sequence[HistoryReaction] = ()
    edited_at: float | None = None
    pinned: bool = False
    lost_files: Sequence[LostFile] = ()


SkipReason = Literal["deleted", "duplicate_record", "not_a_message", "written_by_hub"]
"""`written_by_hub`: it is the copy of a message of the chat, which sync has carried over."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """A valid record that is not imported. It is counted by its reason."""

    reason: SkipReason


@dataclass(frozen=True, slots=True)
class Broken:
    """A record that cannot be read: its place in the export, the reason, and its beginning as text."""

    place: str
    reason: str
    record: str = ""


HistoryRecord = HistoryMessage | Skipped | Broken


@dataclass(frozen=True, slots=True)
class ObservedRate:
    """A rate that responses show: `amount` calls in `per_s` seconds. The manifest's counts if it is lower."""

    method: str
    amount: int
    per_s: float


@dataclass(frozen=True, slots=True)
class HistoryPage:
    """A page of a conversation: its records in order of time, and the cursor of the next page.

    Replies of a thread follow on later pages than its parent. `next_cursor` is None at the end of the
    conversation; it holds whatever the next page needs, so that another process can read it. `reached` is the
    Unix time up to which the conversation has been read, 0 if it is unknown: it serves for estimates.
    """

    records: Sequence[HistoryRecord]
    next_cursor: str | None = None
    reached: float = 0.0
    rate: ObservedRate | None = None


class ReadsArchive(Protocol):
    """A reader of one kind of export: a class named `ArchiveReader` of a provider's `history.py`.

    Its constructor loads all modules and data: later, the confined process may not open files.
    """

    KIND: str
    """What it reads, for a list of known exports: "Slack (ZIP)"."""

    def contents(self, archive: Archive, answers: Mapping[str, str] = NO_ANSWERS) -> Contents | None:
        """Return the contents of an archive; None if it is not an export of this kind.

        `answers` are a person's, by the id of the choice; without one, the reader's proposal is in effect.
        Raises `Unreadable` if the export is damaged, or an answer is not one of the options.
        """
        ...

    def read(self, archive: Archive, contents: Contents, unit: Unit) -> Iterator[HistoryRecord]:
        """Yield the records of a unit in their order; a record that cannot be read as `Broken`.

        Raises `Unreadable` if the rest of the unit cannot be read.
        """
        ...


class ReadsPages(Protocol):
    """A reader of connected accounts: a class named `PageReader` of a provider's `history.py`.

    Its constructor takes the `history` section of the manifest, and loads all modules and data: later, the
    confined process may not open files. The importer carries the operations out with the account's token, at
    most at half of the rates of that section. Each `Step` is a GET of a `path`, with a `method` that the
    rates name; another one is refused, because the response that caused it is not trusted. An operation of
    one page has few steps: after a crash it is repeated as a whole. It raises `ChannelFailure` for a response
    that is a failure: `account` pauses the import, `conversation` and `gone` end the conversation with an
    issue, `later` is tried again. `needed` of the exception names the scopes that are missing.
    """

    KIND: str
    """What it reads, for people: "a Slack workspace"."""
    NEWEST_FIRST: bool
    """Whether the pages of a conversation go back in time, from its newest message."""

    def contents(self, account: Account, answers: Mapping[str, str]) -> Operation[Contents]:
        """Return what is read of an account, still without people, conversations and units.

        `Contents.account` is the id from which message ids are derived, as in the provider's exports. If an
        account has several things to read, such as servers, they are `choices`. Raises `Unreadable` for a
        wrong answer.
        """
        ...

    def people(self, contents: Contents, cursor: str | None) -> Operation[Page]:
        """Return a page of `HistoryPerson`; it may be empty and have a cursor."""
        ...

    def conversations(self, contents: Contents, cursor: str | None) -> Operation[Page]:
        """Return a page of `HistoryConversation`: those that the account can read, with their threads."""
        ...

    def page(
        self,
        contents: Contents,
        conversation: HistoryConversation,
        cursor: str | None,
        *,
        since: float,
        until: float,
    ) -> Operation[HistoryPage]:
        """Return a page of a conversation; its records are those that the provider's export would yield.

        Messages before `since` or from `until` on, which are Unix times, may be left out: the importer skips
        them. Replies from `since` on to threads that began before are found as far as the provider allows.
        Each message has one page, also if it is a reply that the conversation shows too.
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


def no_choices(answers: Mapping[str, str]) -> None:
    """Raise `Unreadable` for an answer to a reader that asks nothing."""
    for id_ in answers:
        raise Unreadable(f"there is no choice {id_[:80]!r}: look at the contents again")


def answers_in_effect(choices: Sequence[Choice]) -> Mapping[str, str]:
    """Return the answers by the ids of their choices. Raises `Unreadable` if a required one has none."""
    for item in choices:
        if item.required and item.answer is None:
            raise Unreadable(f"{item.id} is not answered: {item.text}")
    return {item.id: item.answer for item in choices if item.answer is not None}
