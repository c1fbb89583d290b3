"""Exports that have a bit of everything a reader reads, as trees that tests can change at any place."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from bson import encode
from bson.datetime_ms import DatetimeMS
from bson.errors import BSONError

from shared.manifests.history_types import ReadsArchive
from shared.providers.discord import history as discord
from shared.providers.generic import history as generic
from shared.providers.mattermost import history as mattermost
from shared.providers.rocketchat import history as rocketchat
from shared.providers.slack import history as slack
from shared.providers.telegram import history as telegram
from shared.providers.whatsapp import history as whatsapp
from tests.importer import (
    discord_exports,
    test_mattermost_exports,
    test_rocketchat_dumps,
    test_telegram_exports,
)
from tests.importer.archives import slack_export, slack_message, zipped

_AT: Final = 1_704_153_600


class Lines(list[Any]):
    """A file of lines: values of JSON, or texts."""


class Documents(list[Any]):
    """A collection of a dump."""


@dataclass(frozen=True, slots=True)
class RichExport:
    """An export as the trees of its files, by name. One that is no archive has a single file."""

    reader: Callable[[], ReadsArchive]
    files: Callable[[], dict[str, Any]]
    is_archive: bool = True

    def build(self, files: Mapping[str, Any]) -> bytes:
        """Return the upload with these files."""
        if self.is_archive:
            return zipped({name: written(content) for name, content in files.items()}).getvalue()
        return next(map(written, files.values()), b"")


def written(content: Any) -> bytes:
    """Return the bytes of a file."""
    if isinstance(content, bytes):
        return content
    if isinstance(content, Documents):
        return b"".join(map(_document, content))
    if isinstance(content, Lines):
        return b"".join(_line(item) + b"\n" for item in content)
    return json.dumps(content, default=str).encode("utf-8", "surrogatepass")


def _line(item: Any) -> bytes:
    text = item if isinstance(item, str) else json.dumps(item, default=str)
    return text.encode("utf-8", "replace")


def _document(item: Any) -> bytes:
    try:
        return bytes(encode(item))
    except (BSONError, TypeError, ValueError, OverflowError, AttributeError, RecursionError):
        return json.dumps(str(item)).encode()


_RICH_TEXT: Final = {
    "type": "rich_text",
    "elements": [
        {
            "type": "rich_text_section",
            "elements": [
                {"type": "text", "text": "bold", "style": {"bold": True}},
                {"type": "user", "user_id": "U00000002"},
                {"type": "link", "url": "https://example.com", "text": "a link"},
                {"type": "emoji", "name": "tada"},
                {"type": "date", "timestamp": _AT, "format": "{date}", "fallback": "today"},
            ],
        },
        {
            "type": "rich_text_list",
            "style": "ordered",
            "indent": 1,
            "offset": 2,
            "elements": [
                {"type": "rich_text_section", "elements": [{"type": "channel", "channel_id": "C00000001"}]}
            ],
        },
        {"type": "rich_text_preformatted", "elements": [{"type": "text", "text": "x = 1"}]},
        {"type": "rich_text_quote", "elements": [{"type": "broadcast", "range": "here"}]},
    ],
}


def _slack() -> dict[str, Any]:
    messages = [
        slack_message(
            f"{_AT}.000100",
            "<@U00000002> *b* <https://example.com|x> `c`",
            reactions=[{"name": "tada", "users": ["U00000001"], "count": 1}],
            edited={"user": "U00000001", "ts": f"{_AT + 5}.0"},
            pinned_to=["C00000001"],
        ),
        slack_message(f"{_AT + 1}.000100", "reply", thread_ts=f"{_AT}.000100", blocks=[_RICH_TEXT]),
        slack_message(
            f"{_AT + 2}.000100",
            files=[
                {"id": "F1", "name": "a.txt", "url_private": "https://files.slack.com/a", "size": 3},
                {"id": "F2", "mode": "tombstone"},
            ],
        ),
        slack_message(
            f"{_AT + 3}.000100", "", bot_id="B1", subtype="bot_message",
            username="Robot", icons={"image_48": 1},
            attachments=[{"pretext": "p", "title": "t", "title_link": "https://example.com", "text": "x"}],
        ),
        slack_message(f"{_AT + 4}.000100", "joined", subtype="channel_join"),
    ]  # fmt: skip
    lists = {"dms": [{"id": "D1", "members": ["U00000001", "U00000002"], "created": _AT}]}
    return slack_export(
        {"general/2024-01-02": messages, "D1/2024-01-03": [slack_message(f"{_AT}.1")]}, **lists
    )


def _discord() -> dict[str, Any]:
    made = discord_exports.message
    reaction = {"emoji": {"id": "", "name": "👍"}, "count": 2, "users": [discord_exports.user()]}
    attachment = {"id": "400000000000000001", "url": "files/a.png", "fileName": "a.png", "fileSizeBytes": 3}
    messages = [
        made(1, "**b** <@200000000000000002> https://example.com", reactions=[reaction], isPinned=True),
        made(
            2,
            "reply",
            type="Reply",
            reference={"messageId": made(1)["id"]},
            mentions=[discord_exports.user()],
        ),
        made(3, "file", attachments=[attachment], timestampEdited="2024-01-02T00:01:00+00:00"),
        made(4, "", embeds=[{"title": "t", "description": "d", "url": "https://example.com", "fields": []}]),
        made(5, "joined", type="GuildMemberJoin"),
        made(
            6,
            "x",
            author=discord_exports.user("200000000000000007", "Robot", bot=True),
            stickers=[{"name": "s"}],
        ),
    ]
    thread = discord_exports.thread(made(1)["id"], made(7, "in a thread"))
    return {"general.json": discord_exports.channel(*messages), "plans.json": thread, "files/a.png": b"png"}


def _telegram() -> dict[str, Any]:
    made = test_telegram_exports.message
    entities = [
        {"type": "bold", "text": "b"},
        {"type": "plain", "text": " see "},
        {"type": "text_link", "text": "x", "href": "https://example.com"},
        {"type": "mention_name", "text": "Grace", "user_id": 102},
        {"type": "pre", "text": "x = 1", "language": "py"},
    ]
    people = [{"from": "Grace", "from_id": "user102", "date": "2024-01-02T00:00:01"}]
    messages = [
        made(1, "", text_entities=entities, reactions=[{"type": "emoji", "emoji": "👍", "recent": people}]),
        made(2, "reply", reply_to_message_id=1, edited_unixtime=str(_AT + 9)),
        made(3, "file", file="files/a.pdf", file_name="a.pdf", mime_type="application/pdf"),
        made(4, "", type="service", actor="Ada", actor_id="user101", action="pin_message", title="x"),
    ]
    chats = (
        test_telegram_exports.chat(*messages),
        test_telegram_exports.chat(made(1), number=7, kind="personal_chat"),
    )
    return {"result.json": test_telegram_exports.account(*chats), "files/a.pdf": b"pdf"}


def _mattermost() -> dict[str, Any]:
    made, at = test_mattermost_exports.post, test_mattermost_exports.AT
    reactions = [{"user": "grace", "emoji_name": "+1", "create_at": at}]
    props = {
        "from_webhook": "true",
        "override_username": "CI",
        "attachments": [{"title": "t", "text": "*x*"}],
    }
    direct = {"channel_members": ["ada", "grace"], "user": "ada", "message": "hi", "create_at": at}
    posts = [
        made(at, "**b** @grace ~secret :tada:", reactions=reactions, is_pinned=True, edit_at=at + 1),
        made(at + 1, "parent", replies=[test_mattermost_exports.reply(at + 2, "reply")]),
        made(at + 3, "", props=props),
        made(at + 4, "file", attachments=[{"path": "a.png"}]),
        {"type": "direct_channel", "direct_channel": {"members": ["ada", "grace"]}},
        {"type": "direct_post", "direct_post": direct},
    ]
    lines = Lines([test_mattermost_exports.VERSION, *test_mattermost_exports.LISTED, *posts])
    return {"import.jsonl": lines, "data/a.png": b"png"}


def _rocketchat() -> dict[str, Any]:
    made = test_rocketchat_dumps.message
    messages = [
        made(1, "**b** @ada #general", reactions={":+1:": {"usernames": ["grace"]}}, pinned=True),
        made(2, "reply", tmid="m1", editedAt=DatetimeMS(_AT * 1000)),
        made(3, "file", file={"_id": "f1", "name": "a.png"}, bot={"i": "x"}, alias="Robot"),
        made(4, "x", t="uj"),
    ]
    return {
        "users.bson": Documents(test_rocketchat_dumps.USERS),
        "rocketchat_room.bson": Documents(test_rocketchat_dumps.ROOMS),
        "rocketchat_message.bson": Documents(messages),
    }


def _whatsapp() -> dict[str, Any]:
    lines = [
        "\u200e[31/12/2023, 10:00:00] Club: \u200eMessages and calls are end-to-end encrypted.",
        "[31/12/2023, 10:00:01] Ada: *b* _i_ @\u2068Grace\u2069 https://example.com",
        "second line",
        "[31/12/2023, 10:00:01] Grace: \u200e<attached: 1-PHOTO.jpg>",
        "[01/01/2024, 10:00:01] ~ Eve: ok \u200e<This message was edited>",
        "[01/01/2024, 10:00:02] +49 151 12345678: \u200eimage omitted",
        "[01/01/2024, 10:00:03] Ada: ```x = 1``` > no quote",
    ]
    return {"_chat.txt": Lines(lines), "1-PHOTO.jpg": b"jpeg"}


def _csv() -> dict[str, Any]:
    lines = [
        "id,created_at,channel,user,text,thread_id",
        '1,2024-01-02T00:00:00Z,general,Ada,"hello, *b*",',
        "2,2024-01-02 00:00:01,general,Grace,reply,1",
        '3,2024-01-02T00:00:02Z,other,Ada,"two""lines',
        'of text",',
    ]
    lines += [f"{number},2024-01-02T00:01:{number}Z,general,Ada,more," for number in range(10, 30)]
    return {"messages.csv": Lines(lines)}


def _jsonl() -> dict[str, Any]:
    record = {
        "id": "a",
        "ts": _AT,
        "channel": "general",
        "user": {"name": "Ada"},
        "text": "hi",
        "thread_id": None,
    }
    more = [
        record,
        record | {"id": "b", "ts": _AT + 1, "thread_id": "a"},
        record | {"id": "c", "channel": "x"},
    ]
    more += [record | {"id": str(number), "ts": _AT + number} for number in range(10, 30)]
    return {"messages.jsonl": Lines(more)}


RICH_EXPORTS: Final[Mapping[str, RichExport]] = {
    "slack": RichExport(slack.ArchiveReader, _slack),
    "discord": RichExport(discord.ArchiveReader, _discord),
    "telegram": RichExport(telegram.ArchiveReader, _telegram),
    "mattermost": RichExport(mattermost.ArchiveReader, _mattermost),
    "rocketchat": RichExport(rocketchat.ArchiveReader, _rocketchat),
    "whatsapp": RichExport(whatsapp.ArchiveReader, _whatsapp),
    "csv": RichExport(generic.ArchiveReader, _csv, is_archive=False),
    "jsonl": RichExport(generic.ArchiveReader, _jsonl, is_archive=False),
}


def places(tree: Any) -> Sequence[tuple[Any, Any]]:
    """Return every place of a tree: a container, and the key or index of what is in it."""
    found: list[tuple[Any, Any]] = []
    left = [tree]
    for node in left:  # which grows
        keys = node.keys() if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
        for key in keys:
            found.append((node, key))
            left.append(node[key])
    return found
