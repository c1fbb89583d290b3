"""Bulk exports of Mattermost: lines of JSON, alone or in a ZIP archive with the files below `data/`.

An export has no ids of messages. They are made of what stays the same in a later export: channel, author and
time, and a number where all of these are equal.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import islice
from typing import Any, Final

from shared.contracts.errors import Malformed
from shared.manifests.channel_types import ExternalFile, MessageWritten, Person, Place
from shared.manifests.history_lines import json_line, lines
from shared.manifests.history_order import UNKNOWN, OrderedRecords, Raw, Survey
from shared.manifests.history_types import (
    ARCHIVE_REF,
    NO_ANSWERS,
    Archive,
    Broken,
    Contents,
    HistoryConversation,
    HistoryMessage,
    HistoryPerson,
    HistoryReaction,
    HistoryRecord,
    LostFile,
    MessageKind,
    Skipped,
    Unit,
    beginning_of,
)
from shared.providers.mattermost.export_names import (
    ExportNames,
    channel_id,
    direct_id,
    objects,
    seconds_of,
    text_of,
)

# Mattermost names emoji as Slack does.
from shared.providers.slack.emoji import reaction_emoji
from shared.richtext.flavored_markdown import parse_flavored_markdown
from shared.richtext.name_mentions import WordNames, with_word_mentions
from shared.richtext.tree import Document

_NAMES: Final = frozenset({"user", "bot", "channel", "direct_channel"})
_POSTS: Final = frozenset({"post", "direct_post"})
_BEGINNING: Final = 64 * 1024
_MAX_CANDIDATES: Final = 50
_MAX_DEPTH: Final = 1
_MAX_EXCERPT: Final = 500
_MAX_ATTACHMENTS: Final = 20
_MAX_FILES: Final = 100
_MAX_REACTIONS: Final = 10_000
_TONES: Final = {
    "_medium_light_skin_tone": 3,
    "_medium_dark_skin_tone": 5,
    "_light_skin_tone": 2,
    "_medium_skin_tone": 4,
    "_dark_skin_tone": 6,
}


@dataclass(slots=True)
class _Export:
    """State for reading the units of an export: sizes of its files by name, names, and its records."""

    name: str
    sizes: Mapping[str, int]
    records: OrderedRecords
    people: Mapping[str, HistoryPerson]
    words: WordNames


@dataclass(slots=True)
class _Ids:
    """Makes the ids of the messages of one unit."""

    seen: dict[str, set[bytes]] = field(default_factory=dict)

    def of(self, key: Sequence[str], at_ms: int, record: bytes) -> str | None:
        """Return the id of a message; None if the same record was there before."""
        digest = blake2b("\0".join(key).encode(), digest_size=9).hexdigest()
        base = f"{at_ms}-{digest}"
        records = self.seen.setdefault(base, set())
        fingerprint = blake2b(record, digest_size=16).digest()
        if fingerprint in records:
            return None
        records.add(fingerprint)
        return base if len(records) == 1 else f"{base}-{len(records)}"


class ArchiveReader:
    """Reads bulk exports of Mattermost."""

    KIND = "Mattermost (JSONL, or its ZIP)"

    def __init__(self) -> None:
        reaction_emoji("smile")  # reads the table of emoji
        parse_flavored_markdown("> - *a*")  # loads the parser of blocks
        self._export: _Export | None = None

    def contents(self, archive: Archive, answers: Mapping[str, str] = NO_ANSWERS) -> Contents | None:
        """Return what an export has; None if it is not one of Mattermost."""
        name = _export_name(archive)
        if name is None:
            return None
        names, survey = ExportNames(), Survey()
        for record in _scan(archive, name, names):
            survey.add(record)
        units = list(survey.units())
        conversations = names.conversations(survey.conversations)
        people = list(names.people.values())
        words = WordNames(
            users={username.lower(): username for username in names.people},
            channels=_channel_words(conversations),
            channel_mark="~",
            emoji=_character,
        )
        self._export = _Export(
            name,
            {entry.name: entry.size for entry in archive.entries()},
            OrderedRecords(lambda: _scan(archive, name), units),
            names.people,
            words,
        )
        has_direct = any(item.kind in {"direct", "group"} for item in conversations)
        has_files = len(archive.entries()) > 1
        lacking = (("direct messages", has_direct), ("files", has_files))
        return Contents(
            kind="a Mattermost export",
            provider="mattermost",
            account="",
            people=people,
            conversations=conversations,
            units=units,
            missing=[text for text, is_there in lacking if not is_there],
            notes=_notes(names.unverified),
            first_at=survey.first_at,
            last_at=survey.last_at,
        )

    def read(self, archive: Archive, contents: Contents, unit: Unit) -> Iterator[HistoryRecord]:
        """Yield the posts of some days of a channel, each with its replies behind it."""
        export = self._export
        if export is None:
            raise RuntimeError("read the contents of an export first")
        ids = _Ids()
        for record in export.records.records(unit):
            place = f"{export.name}, line {record.number}"
            try:
                yield from _thread(record, export, ids, place)
            except Malformed as error:
                yield _broken(place, error, record.value)


def _export_name(archive: Archive) -> str | None:
    """Return the file whose first line says that it is a bulk export."""
    near = (entry.name for entry in archive.entries() if entry.name.count("/") <= _MAX_DEPTH)
    for name in islice(near, _MAX_CANDIDATES):
        beginning = beginning_of(archive, name, _BEGINNING).removeprefix(b"\xef\xbb\xbf")
        first = beginning.split(b"\n", 1)[0]
        if not first.lstrip().startswith(b"{") or b'"version"' not in first:
            continue
        try:
            line = json_line(first)
        except Malformed:
            continue
        if isinstance(line, dict) and line.get("type") == "version" and isinstance(line.get("version"), int):
            return name
    return None


def _scan(archive: Archive, name: str, names: ExportNames | None = None) -> Iterator[Raw]:
    """Yield the posts, and the lines that cannot be read. `names` gets what the other lines say."""
    with archive.open(name) as file:
        for number, line in enumerate(lines(file), 1):
            if line is not None and not line.strip():
                continue
            try:
                kind, item = _line(line, is_first=number == 1)
            except Malformed:
                yield Raw(number, UNKNOWN.id, None, len(line or b""), line)
                continue
            if kind in _POSTS:
                conversation = _conversation(kind, item)
                if names is not None and kind == "direct_post":
                    names.direct(item.get("channel_members"))
                at = seconds_of(item.get("create_at")) if conversation else None
                yield Raw(number, conversation or UNKNOWN.id, at, len(line or b""), line)
            elif names is not None and kind in _NAMES:
                names.add(kind, item)


def _line(line: bytes | None, *, is_first: bool = False) -> tuple[str, Mapping[str, Any]]:
    """Return the kind of a line, and what it has of that kind. Raises `Malformed`."""
    value = json_line(line.removeprefix(b"\xef\xbb\xbf") if is_first and line else line)
    kind = value.get("type") if isinstance(value, dict) else None
    if not isinstance(kind, str):
        raise Malformed("type: missing: a line of Mattermost has it")
    item = value.get(kind)
    if not isinstance(item, dict):
        if kind in _POSTS or kind in _NAMES:
            raise Malformed(f"{kind}: missing: a line of this type has it")
        item = {}
    return kind, item


def _conversation(kind: str, post: Mapping[str, Any]) -> str:
    return channel_id(post) if kind == "post" else direct_id(post.get("channel_members"))


def _thread(record: Raw, export: _Export, ids: _Ids, place: str) -> Iterator[HistoryRecord]:
    """Yield a post and its replies in the order of time. Raises `Malformed` if the post cannot be read."""
    _, post = _line(record.value, is_first=record.number == 1)
    if record.conversation == UNKNOWN.id:
        raise Malformed("channel: missing: a post of Mattermost has it, or channel_members")
    parent = _message(post, record.conversation, None, export, ids, record.value)
    if parent is None:
        yield Skipped("duplicate_record")
        return
    yield parent
    replies = list(enumerate(_items(post.get("replies")), 1))
    replies.sort(key=lambda pair: (_reply_time(pair[1]), pair[0]))
    for number, reply in replies:
        try:
            yield _reply(reply, parent, export, ids)
        except Malformed as error:
            yield _broken(f"{place}, reply {number}", error, record.value)


def _reply(reply: Any, parent: HistoryMessage, export: _Export, ids: _Ids) -> HistoryRecord:
    """Read a reply. Raises `Malformed`."""
    if not isinstance(reply, dict):
        raise Malformed("not an object: a reply of Mattermost is one")
    text = reply.get("message")
    record = text.encode("utf-8", "replace") if isinstance(text, str) else b""
    place, thread = parent.message.place, parent.message.external_id
    return _message(reply, place.conversation, thread, export, ids, record) or Skipped("duplicate_record")


def _items(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else ()


def _reply_time(reply: Any) -> float:
    return (seconds_of(reply.get("create_at")) if isinstance(reply, dict) else None) or 0.0


def _message(
    post: Mapping[str, Any], conversation: str, thread: str | None, export: _Export, ids: _Ids, record: bytes
) -> HistoryMessage | None:
    """Read a post or a reply; None if it is there twice. Raises `Malformed`."""
    user = text_of(post.get("user"))
    if not user:
        raise Malformed("user: missing: a post of Mattermost has it")
    at = seconds_of(post.get("create_at"))
    if at is None:
        raise Malformed(f"create_at: {str(post.get('create_at'))[:80]} is not a time of this century")
    external_id = ids.of((conversation, user, thread or ""), int(post["create_at"]), record)
    if external_id is None:
        return None
    props = post.get("props")
    props = props if isinstance(props, dict) else {}
    kept, lost = _files(post, external_id, export)
    edited_at = seconds_of(post.get("edit_at"))
    return HistoryMessage(
        MessageWritten(
            external_id=external_id,
            place=Place(conversation, thread),
            author=_author(user, props, export),
            body=_body(post, props, export),
            files=kept,
            sent_at=at,
        ),
        _kind(post, props),
        _reactions(post),
        edited_at=edited_at if edited_at and edited_at > at else None,
        pinned=post.get("is_pinned") is True,
        lost_files=lost,
    )


def _author(user: str, props: Mapping[str, Any], export: _Export) -> Person:
    known = export.people.get(user)
    shown = text_of(props.get("override_username"))
    if shown and props.get("from_webhook") in ("true", True):
        return Person(user, shown, bot=True)
    return known.person if known else Person(user, user)


def _kind(post: Mapping[str, Any], props: Mapping[str, Any]) -> MessageKind:
    if text_of(post.get("type")).startswith("system_"):
        return "system"
    is_bot = "true" in (props.get("from_webhook"), props.get("from_bot"))
    return "bot" if is_bot else "message"


def _body(post: Mapping[str, Any], props: Mapping[str, Any], export: _Export) -> Document:
    """Read the text of a post, and what its message attachments show, as Markdown."""
    message = post.get("message")
    parts = [message if isinstance(message, str) else ""]
    for attachment in islice(objects(props.get("attachments")), _MAX_ATTACHMENTS):
        shown = [attachment.get(name) for name in ("pretext", "title", "text")]
        texts = [text for text in shown if isinstance(text, str) and text]
        fallback = attachment.get("fallback")
        parts += texts or ([fallback] if isinstance(fallback, str) else [])
    text = "\n\n".join(part for part in parts if part)
    return with_word_mentions(parse_flavored_markdown(text, html=False, mass_mentions=True), export.words)


def _files(
    post: Mapping[str, Any], message: str, export: _Export
) -> tuple[Sequence[ExternalFile], Sequence[LostFile]]:
    """Return the files of a post that are in the archive, and the names of the others."""
    kept: list[ExternalFile] = []
    lost: list[LostFile] = []
    folder = export.name.rpartition("/")[0]
    root = f"{folder}/" if folder else ""
    for number, item in enumerate(islice(objects(post.get("attachments")), _MAX_FILES)):
        path = item.get("path")
        path = path if isinstance(path, str) else ""
        filename = text_of(path.rsplit("/", 1)[-1][-200:]) or "file"
        entry = next((name for name in (f"{root}data/{path}", f"{root}{path}") if name in export.sizes), None)
        if entry is None or entry == export.name:
            lost.append(LostFile(filename, "file_not_found"))
        else:
            size = export.sizes[entry]
            kept.append(ExternalFile(f"{message}:{number}", f"{ARCHIVE_REF}{entry}", filename, size=size))
    return kept, lost


def _reactions(post: Mapping[str, Any]) -> Sequence[HistoryReaction]:
    people: dict[str, dict[str, None]] = {}
    for item in islice(objects(post.get("reactions")), _MAX_REACTIONS):
        emoji, user = _emoji(text_of(item.get("emoji_name"))), text_of(item.get("user"))
        if emoji and user:
            people.setdefault(emoji, {})[user] = None
    return tuple(HistoryReaction(emoji, tuple(users)) for emoji, users in people.items())


def _emoji(name: str) -> str | None:
    """Return the character of an emoji's name, or `:name:` for one of the server; None if it is no name."""
    for suffix, tone in _TONES.items():
        if name.endswith(suffix):
            name = f"{name.removesuffix(suffix)}::skin-tone-{tone}"
            break
    return reaction_emoji(name)


def _character(name: str) -> str | None:
    found = _emoji(name)
    return found if found and not found.startswith(":") else None


def _channel_words(conversations: Sequence[HistoryConversation]) -> Mapping[str, str]:
    """Return channels by the name that a text has behind `~`; the first one, if two teams have it."""
    words: dict[str, str] = {}
    for item in conversations:
        if item.kind in {"channel", "private"} and item.id != UNKNOWN.id:
            words.setdefault(item.id.rpartition("/")[2].lower(), item.id)
    return words


def _notes(unverified: int) -> Sequence[str]:
    if not unverified:
        return ()
    note = (
        f"{unverified} people have e-mail addresses of which the export does not say whether they were "
        "verified: they are not matched by them"
    )
    return (note,)


def _broken(place: str, error: Malformed, record: bytes | None) -> Broken:
    return Broken(place, str(error), (record or b"")[:_MAX_EXCERPT].decode("utf-8", "replace"))
