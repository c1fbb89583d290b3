"""What a provider's `channel.py` speaks: changes that it reads, and operations that it can do. No I/O.

An operation is a generator: it yields `Step`s, is sent the response of each, and returns its result. It
raises `ChannelFailure` if a response is a failure, but not after its visible step. Exactly one step of an
operation is `visible` to people: after a crash, everything before it may be repeated, and it may not without
asking (`find_sent`).
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

from shared.richtext.tree import Document, Loss


@dataclass(frozen=True, slots=True)
class Person:
    """A person of a provider, by id. `email` only if the provider verified it."""

    id: str
    name: str = ""
    avatar_url: str | None = None
    email: str | None = None
    bot: bool = False


@dataclass(frozen=True, slots=True)
class ExternalFile:
    """A file at the provider. `ref` is what `download` takes; size in bytes."""

    id: str
    ref: str
    filename: str
    content_type: str | None = None
    size: int | None = None


@dataclass(slots=True)
class Place:
    """A message's place: conversation, thread and the message that it answers, all as ids of the provider."""

    conversation: str
    thread: str | None = None
    reply_to: str | None = None


@dataclass(slots=True)
class MessageWritten:
    """A message as it is now.

    `edited` says that it replaces an earlier form; `revision` rises with each edit. `marker` is the mark that
    a hub left on it, `own` says that the account itself wrote it: an echo either way. `answered_at` is when
    the message was written that it answers, or that its thread is of (Unix time), 0 if it is not known.
    """

    external_id: str
    place: Place
    author: Person
    body: Document
    files: Sequence[ExternalFile] = ()
    edited: bool = False
    revision: int = 0
    marker: str | None = None
    own: bool = False
    permalink: str | None = None
    sent_at: float = 0.0
    answered_at: float = 0.0


@dataclass(frozen=True, slots=True)
class MessageDeleted:
    external_id: str
    conversation: str


@dataclass(frozen=True, slots=True)
class ReactionChanged:
    """One person's reaction with one emoji (a character, or `:name:` for a custom one)."""

    external_id: str
    conversation: str
    person: Person
    emoji: str
    added: bool
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class ConversationMoved:
    """A conversation has another id from now on."""

    old: str
    new: str


@dataclass(frozen=True, slots=True)
class ConversationClosed:
    """The account can write there no longer. `reason` names the fix."""

    conversation: str
    reason: str


Change = MessageWritten | MessageDeleted | ReactionChanged | ConversationMoved | ConversationClosed


@dataclass(frozen=True, slots=True)
class Call:
    """A request to the provider's API: `path` below the base address of the manifest, or an absolute `url`.

    At most one of `json`, `form`, `multipart` and `body_of` is set. `body_of` is the id of a file of the
    operation
    whose bytes are the body; in `multipart`, a value `FilePart` stands for a file's bytes.
    """

    method: str
    path: str = ""
    url: str = ""
    query: Mapping[str, str] = field(default_factory=dict)
    json: Mapping[str, Any] | None = None
    form: Mapping[str, str] | None = None
    multipart: "Sequence[tuple[str, str | FilePart]] | None" = None
    body_of: str | None = None
    token: bool = True
    """Whether the account's token goes along: as the manifest's `api` says, and in `url` as `{access_token}`.

    False for an address that carries its own proof, such as an upload address.
    """


@dataclass(frozen=True, slots=True)
class FilePart:
    file_id: str
    filename: str
    content_type: str


@dataclass(frozen=True, slots=True)
class CallResponse:
    """A response. `json` is the parsed body, None if it is no JSON."""

    status: int
    headers: Mapping[str, str]
    json: Any = None


@dataclass(frozen=True, slots=True)
class Step:
    call: Call
    visible: bool = False
    method: str = ""
    """The name of the method in the manifest's rates: `chat.postMessage`."""


T = TypeVar("T")
Operation = Generator[Step, CallResponse, T]
FailureKind = Literal["later", "account", "conversation", "message", "unsupported", "gone"]
"""What to do: retry; refresh or reconnect the account; mend the conversation; give the message up; nothing
to do
(the provider cannot); nothing to do any more (what was to be changed is not there)."""


class ChannelFailure(Exception):
    """A provider refused. `code` is its own, `text` names the problem and the fix for a person.

    `needed` are scopes that the account lacks, if that is the reason. With `uncertain`, it may have done in
    spite of it what it was asked: people may see the effect.
    """

    def __init__(
        self,
        kind: FailureKind,
        code: str,
        text: str,
        *,
        retry_after: float | None = None,
        scope: Literal["conversation", "method", "account"] = "account",
        needed: Sequence[str] = (),
        uncertain: bool = False,
    ) -> None:
        super().__init__(text)
        self.kind = kind
        self.code = code
        self.text = text
        self.retry_after = retry_after
        self.scope = scope
        self.needed = needed
        self.uncertain = uncertain


@dataclass(frozen=True, slots=True)
class OutgoingFile:
    """A file to send; the carrier has fetched it, its size in bytes is exact."""

    id: str
    filename: str
    content_type: str
    size: int


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One part of a message, small enough for the provider (`split`).

    `marker` is left on it where that is possible. `author` is shown as name and picture, or as a prefix if
    the provider has no other way. `broadcast`: a reply in a thread that is shown in the conversation too.
    `has_files`, of an edit: the part was sent with files, which stay.
    """

    place: Place
    body: Document
    author: Person
    marker: str
    files: Sequence[OutgoingFile] = ()
    has_files: bool = False
    show_author: bool = True
    prefix: str = ""
    broadcast: bool = False
    mass_mentions: bool = False


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of a part: its ids at the provider (several for an album), and what it could not show.

    There is no id if the provider shows the message a moment later: its event has the marker. `thread` is the
    thread that it was put into.
    """

    external_ids: Sequence[str]
    permalink: str | None = None
    losses: Sequence[Loss] = ()
    thread: str | None = None


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation of a provider. `problem` says what keeps the account from writing there, and the fix."""

    id: str
    name: str
    kind: Literal["channel", "group", "direct"]
    members: int | None = None
    private: bool = False
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Items of a page (conversations, people or messages), and the cursor of the next one."""

    items: Sequence[Any]
    next_cursor: str | None = None


@dataclass(frozen=True, slots=True)
class Account:
    """What a channel needs to know of the account that it acts for: the stored values of the connection."""

    id: str
    """The provider's id of the account: the team, the bot."""
    values: Mapping[str, str] = field(default_factory=dict)
    """As the manifest's account mapping stores them: `user_id`, `bot_id`, `username`."""


@runtime_checkable
class ReadsEvents(Protocol):
    def changes(self, event: str, payload: Mapping[str, Any], account: Account) -> Sequence[Change]:
        """Return the changes in an event's payload; none for one that is not about a conversation.

        Raises `Malformed` for a body that is not the provider's.
        """
        ...


@runtime_checkable
class Sends(Protocol):
    def split(self, body: Document, *, files: int) -> Sequence[Document]:
        """Return the parts of a text that is too long for one message; the text itself otherwise.

        With `files`, they go with the first part, which may be shorter and may be empty.
        """
        ...

    def send(self, message: Outgoing, account: Account) -> Operation[Sent]: ...


@runtime_checkable
class Edits(Protocol):
    def edit(self, external_id: str, message: Outgoing, account: Account) -> Operation[Sent]:
        """Replace a text. The files of the message stay, and `files` is empty."""
        ...


@runtime_checkable
class Deletes(Protocol):
    def delete(self, external_id: str, place: Place, account: Account) -> Operation[None]: ...


@runtime_checkable
class Reacts(Protocol):
    reactions_per_message: int | None
    """How many different reactions the account can set on one message; None for any number."""

    def react(
        self, external_id: str, place: Place, emoji: str, account: Account, *, added: bool
    ) -> Operation[Sequence[Loss]]: ...


@runtime_checkable
class Downloads(Protocol):
    def download(self, file: ExternalFile, account: Account) -> Operation[Call]:
        """Return the call whose response is the file's bytes. Steps before it may look its address up."""
        ...


@runtime_checkable
class Signals(Protocol):
    def signal(self, place: Place, account: Account) -> Operation[None]:
        """Show that somebody types."""
        ...


@runtime_checkable
class FindsSent(Protocol):
    def find_sent(self, marker: str, place: Place, since: float, account: Account) -> Operation[Sent | None]:
        """Return the message with this marker if the provider has it. It was sent at `since` or later."""
        ...


@runtime_checkable
class LooksUpConversations(Protocol):
    def conversation(self, conversation_id: str, account: Account) -> Operation[Conversation]:
        """Look one conversation up, whether it is in a list or not."""
        ...


@runtime_checkable
class ListsConversations(Protocol):
    def conversations(self, query: str, cursor: str | None, account: Account) -> Operation[Page]: ...


@runtime_checkable
class ListsPeople(Protocol):
    def people(self, query: str, cursor: str | None, account: Account) -> Operation[Page]: ...


@runtime_checkable
class ReadsProfiles(Protocol):
    def profile(self, person_id: str, account: Account) -> Operation[Person]: ...


@runtime_checkable
class PagesHistory(Protocol):
    def history(self, place: Place, cursor: str | None, account: Account) -> Operation[Page]:
        """Return a page of `MessageWritten`, newest first."""
        ...


class Channel(Protocol):
    """What every `channel.py` has: a class named `Channel` that also implements the Protocols it supports."""

    def failure(self, response: CallResponse, step: Step) -> ChannelFailure | None:
        """Classify a response: None for a success."""
        ...
