"""An export for each reader, made of the same messages: what every reader must do is tested on all."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from typing import Any, Final

from bson.datetime_ms import DatetimeMS

from services.importer.archive.zip_archive import ArchiveLimits
from services.importer.reading.readers import open_archive
from shared.manifests.history_types import Archive, Contents, HistoryRecord, ReadsArchive
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

START: Final = 1_704_153_600.0
"""2024-01-02 in UTC."""
MISSING, NEGATIVE, INFINITE, FAR = "missing", "negative", "infinite", "in the year 60000"
WRONG_TIMES: Final = (MISSING, NEGATIVE, INFINITE, FAR)
_FAR_S: Final = 1_831_388_000_000


@dataclass(frozen=True, slots=True)
class Message:
    """A message of a sample: its number from 1, and seconds after START, or a wrong time by its name.

    `parent` is the number of the message that it is a reply to, which may be missing. The author is a
    person, or one of whom the export has nothing but the id. `mentions` adds a mention of somebody unknown.
    """

    number: int
    at: float | str = 0.0
    text: str = "hello"
    parent: int | None = None
    unknown_author: bool = False
    bot: bool = False
    mentions: bool = False

    @property
    def seconds(self) -> float:
        return START + self.at if isinstance(self.at, float) else 0.0


@dataclass(frozen=True, slots=True)
class Sample:
    """How exports of a provider are made. `replies` says that it can say which message one is a reply to."""

    provider: str
    reader: Callable[[], ReadsArchive]
    build: Callable[[Sequence[Message]], bytes]
    description: str
    replies: bool = True
    has_bots: bool = True
    wrong_times: Sequence[str] = WRONG_TIMES

    def archive(self, *messages: Message) -> Archive:
        return open_archive(BytesIO(self.build(messages)), "upload", ArchiveLimits())

    @property
    def content(self) -> bytes:
        """An export of three messages."""
        return self.build([Message(number, float(number), f"text {number}") for number in (1, 2, 3)])

    def read(self, *messages: Message) -> tuple[Contents, list[HistoryRecord]]:
        """Return what an export of these messages has, and all of its records."""
        reader, archive = self.reader(), self.archive(*messages)
        contents = reader.contents(archive)
        assert contents is not None, "not recognized"
        return contents, [item for unit in contents.units for item in reader.read(archive, contents, unit)]


def _slack(messages: Sequence[Message]) -> bytes:
    wrong = {NEGATIVE: "-1.000100", INFINITE: "Infinity", FAR: f"{_FAR_S}.000100"}

    def ts(message: Message) -> str:
        return f"{message.seconds:.0f}.{message.number if message.at == 5.0 else 0:06}"

    by_number = {message.number: message for message in messages}
    records = []
    for message in messages:
        fields: dict[str, Any] = {}
        if message.parent is not None:
            fields["thread_ts"] = ts(by_number.get(message.parent, Message(message.parent)))
        if message.unknown_author:
            fields["user"] = "U0GONE"
        if message.bot:
            fields |= {"user": None, "bot_id": "B0BOT", "subtype": "bot_message"}
        text = f"{message.text} <@U0NOBODY>" if message.mentions else message.text
        record = slack_message(ts(message), text, **fields)
        if isinstance(message.at, str):
            record["ts"] = wrong.get(message.at)
        records.append(record)
    return zipped(slack_export({"general/2024-01-02": records})).getvalue()


def _mattermost(messages: Sequence[Message]) -> bytes:
    wrong: Mapping[str, Any] = {NEGATIVE: -1, INFINITE: float("inf"), FAR: _FAR_S * 1000}
    posts: dict[int, Any] = {}
    for message in messages:
        at = wrong.get(message.at) if isinstance(message.at, str) else int(message.seconds * 1000)
        text = f"{message.text} @nobody" if message.mentions else message.text
        fields: dict[str, Any] = {"user": "gone"} if message.unknown_author else {}
        if message.bot:
            fields |= {"user": "robot", "props": {"from_bot": "true"}}
        if message.parent in posts:
            parent = posts[message.parent]["post"]
            parent.setdefault("replies", []).append(test_mattermost_exports.reply(at, text, **fields))
        else:
            posts[message.number] = test_mattermost_exports.post(at, text, **fields)
    return test_mattermost_exports.export(*posts.values())


def _rocketchat(messages: Sequence[Message]) -> bytes:
    wrong = {NEGATIVE: DatetimeMS(-1), INFINITE: float("inf"), FAR: DatetimeMS(_FAR_S * 1000)}
    records = []
    for message in messages:
        at = wrong.get(message.at) if isinstance(message.at, str) else DatetimeMS(int(message.seconds * 1000))
        text = f"{message.text} @nobody" if message.mentions else message.text
        fields: dict[str, Any] = {"ts": at}
        if message.parent is not None:
            fields["tmid"] = f"m{message.parent}"
        if message.unknown_author:
            fields["u"] = {"_id": "gone"}
        if message.bot:
            fields["bot"] = {"i": "robot"}
        records.append(test_rocketchat_dumps.message(message.number, text, **fields))
    return rocketchat_dump(*records)


def rocketchat_dump(*messages: Any) -> bytes:
    """Return a dump of Rocket.Chat with these messages."""
    parts = {
        "users": test_rocketchat_dumps.USERS,
        "rocketchat_room": test_rocketchat_dumps.ROOMS[:1],
        "rocketchat_message": messages,
    }
    files = {f"dump/{name}.bson": test_rocketchat_dumps.bson(*items) for name, items in parts.items()}
    return zipped(files).getvalue()


def _telegram(messages: Sequence[Message]) -> bytes:
    wrong = {NEGATIVE: "-1", INFINITE: "Infinity", FAR: str(_FAR_S)}
    records = []
    for message in messages:
        fields: dict[str, Any] = {"date_unixtime": f"{message.seconds:.0f}"}
        if isinstance(message.at, str):
            fields["date_unixtime"] = wrong.get(message.at)
        if message.parent is not None:
            fields["reply_to_message_id"] = message.parent
        if message.unknown_author:
            fields |= {"from": None, "from_id": "user999"}
        record = test_telegram_exports.message(message.number, message.text, **fields)
        if message.mentions:
            record["text_entities"].append({"type": "mention", "text": " @nobody"})
        records.append(record)
    return json.dumps(test_telegram_exports.chat(*records)).encode()


def _discord(messages: Sequence[Message]) -> bytes:
    wrong = {NEGATIVE: "-0001-01-01T00:00:00Z", INFINITE: "Infinity", FAR: "60000-01-01T00:00:00+00:00"}
    records = []
    for message in messages:
        at = message.seconds
        text = f"{message.text} <@299999999999999999>" if message.mentions else message.text
        written = datetime.fromtimestamp(at, UTC).isoformat()
        fields: dict[str, Any] = {
            "id": discord_exports.id_at(at or START, message.number),
            "timestamp": wrong.get(message.at) if isinstance(message.at, str) else written,
        }
        if message.parent is not None:
            parent = next((item for item in messages if item.number == message.parent), None)
            at = parent.seconds if parent else START
            fields["type"] = "Reply"
            fields["reference"] = {"messageId": discord_exports.id_at(at, message.parent)}
        if message.unknown_author:
            fields["author"] = {"id": "299999999999999998", "name": "Deleted User"}
        if message.bot:
            fields["author"] = discord_exports.user("299999999999999997", "Robot", bot=True)
        records.append(discord_exports.message(message.number, text, **fields))
    return json.dumps(discord_exports.channel(*records)).encode()


def _whatsapp(messages: Sequence[Message]) -> bytes:
    wrong = {NEGATIVE: "31/12/1969", INFINITE: "99/99/9999", FAR: "31/12/60000"}
    lines = []
    for message in messages:
        moment = datetime.fromtimestamp(message.seconds, UTC)
        date = wrong[message.at] if isinstance(message.at, str) else f"{moment:%d/%m/%Y}"
        text = f"{message.text} @\u2068Nobody\u2069" if message.mentions else message.text
        author = "Gone" if message.unknown_author else "Ada"
        lines.append(f"[{date}, {moment:%H:%M:%S}] {author}: {text}\n")
    # The first line decides the order of the dates.
    return f"[31/12/2023, 10:00:00] Group: \u200eYou created it\n{''.join(lines)}".encode()


def _generic(messages: Sequence[Message]) -> bytes:
    wrong = {MISSING: "", NEGATIVE: "-1", INFINITE: "Infinity", FAR: str(_FAR_S)}
    lines = ["id,ts,channel,user,text,thread_id\n"]
    for message in messages:
        at = wrong[message.at] if isinstance(message.at, str) else f"{message.seconds:.0f}"
        text = f"{message.text} @nobody" if message.mentions else message.text
        author = "" if message.unknown_author else "Ada"
        parent = "" if message.parent is None else message.parent
        lines.append(f'{message.number},{at},general,{author},"{text}",{parent}\n')
    return "".join(lines).encode()


def _jsonl(messages: Sequence[Message]) -> bytes:
    wrong: Mapping[str, Any] = {NEGATIVE: -1, INFINITE: float("inf"), FAR: _FAR_S}
    lines = []
    for message in messages:
        record: dict[str, Any] = {
            "id": message.number,
            "ts": wrong.get(message.at) if isinstance(message.at, str) else message.seconds,
            "channel": "general",
            "user": None if message.unknown_author else "Ada",
            "text": f"{message.text} @nobody" if message.mentions else message.text,
            "thread_id": message.parent,
        }
        lines.append(f"{json.dumps(record)}\n")
    return "".join(lines).encode()


_TIME: Final = ", 2024-01"
SAMPLES: Final = (
    Sample(
        "slack",
        slack.ArchiveReader,
        _slack,
        f"a Slack export of 2 channels{_TIME}; "
        "private channels, group messages and direct messages are not in it",
    ),
    Sample(
        "discord",
        discord.ArchiveReader,
        _discord,
        f"a Discord export of 1 channel{_TIME}; direct messages are not in it",
    ),
    Sample(
        "telegram",
        telegram.ArchiveReader,
        _telegram,
        f"a Telegram export of 1 channel{_TIME}; files are not in it",
        has_bots=False,
    ),
    Sample(
        "mattermost",
        mattermost.ArchiveReader,
        _mattermost,
        f"a Mattermost export of 2 channels{_TIME}; direct messages and files are not in it",
        replies=False,  # a reply is in its parent: none is without one
    ),
    Sample(
        "rocketchat",
        rocketchat.ArchiveReader,
        _rocketchat,
        f"a Rocket.Chat export of 1 channel{_TIME}; files are not in it",
    ),
    Sample(
        "whatsapp",
        whatsapp.ArchiveReader,
        _whatsapp,
        "a WhatsApp export of 1 direct chat, 2023-12 to 2024-01; files are not in it",
        replies=False,
        has_bots=False,
        wrong_times=(NEGATIVE, INFINITE, FAR),  # a line without a time is one of the message before it
    ),
    Sample("csv", generic.ArchiveReader, _generic, f"a CSV export of 1 channel{_TIME}", has_bots=False),
    Sample("jsonl", generic.ArchiveReader, _jsonl, f"a JSONL export of 1 channel{_TIME}", has_bots=False),
)
