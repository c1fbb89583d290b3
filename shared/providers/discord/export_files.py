"""Find the files of DiscordChatExporter in an archive, and read their records in bounded memory.

A file has one channel or thread, or a part of it. What is before its messages says which one.
"""

import json
from array import array
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, BinaryIO, Final

import ijson
import orjson

from shared.manifests.history_json import MAX_AT_ONCE, ShallowFile
from shared.manifests.history_types import Archive, Entry, Unreadable
from shared.providers.discord.messages import snowflake, snowflake_time, text_of, time_of

UNIT_RECORDS: Final = 5_000
_HEAD_BYTES: Final = 64 * 1024
_FIRST_BYTES: Final = 512
_HEAD_STEP: Final = 256
"""The parser gets a head in small parts, so that damage behind it is not read."""
_MAX_CANDIDATES: Final = 200
_MAX_STREAMS: Final = 8
_FIELDS: Final = frozenset(
    {
        *("guild.id", "guild.name", "exportedAt", "dateRange.after", "dateRange.before"),
        *("channel.id", "channel.type", "channel.name", "channel.topic", "channel.category"),
        "channel.categoryId",
    }
)


@dataclass(slots=True)
class ExportFile:
    """A file of an export: what its head says, and, once it was surveyed, what its records are.

    `firsts` has the Unix time of the first message of each `UNIT_RECORDS` records. `ids` are the ids of its
    messages in their order, 0 for a broken one. `damage` says why the rest of the file cannot be read.
    """

    name: str
    size: int
    head: Mapping[str, str]
    records: int = 0
    firsts: list[float] = field(default_factory=list)
    ids: "array[int]" = field(default_factory=lambda: array("Q"))
    damage: str = ""
    duplicates: frozenset[int] = frozenset()
    """Ids of messages that are in a newer file of the channel, too, and are read there."""

    @property
    def channel(self) -> str:
        return self.head["channel.id"]

    @property
    def folder(self) -> str:
        """The folder in the archive, which its paths are relative to."""
        return self.name.rpartition("/")[0]

    @property
    def guild(self) -> str:
        """The id of the server; empty for direct messages."""
        return self.head["guild.id"] if self.head["guild.id"] != "0" else ""

    @property
    def type(self) -> str:
        return self.head["channel.type"]

    @property
    def category(self) -> str:
        """The id of the category; of a thread, that of its channel."""
        return snowflake(self.head.get("channel.categoryId"))

    @property
    def exported_at(self) -> float:
        return time_of(self.head.get("exportedAt")) or 0.0

    def text(self, name: str, limit: int = 200) -> str:
        """Return a field of the head as one line."""
        return text_of(self.head.get(name), limit)

    @property
    def range(self) -> tuple[int, int]:
        """The least and the greatest id of its messages."""
        return min(filter(None, self.ids), default=0), max(self.ids, default=0)

    def add(self, record: Any) -> None:
        """Note a record of the survey."""
        id_ = snowflake(record.get("id")) if isinstance(record, dict) else ""
        number = int(id_) if id_ and int(id_) < 1 << 64 else 0
        if self.records % UNIT_RECORDS == 0:
            self.firsts.append(0.0)
        if number and not self.firsts[-1]:
            self.firsts[-1] = snowflake_time(id_)
        self.ids.append(number)
        self.records += 1


def find_files(archive: Archive) -> Iterator[ExportFile]:
    """Yield the files of an export, none if the archive is no export of DiscordChatExporter.

    Files that only messages refer to are beside them: most of an archive may be pictures. So only what is
    named as JSON is looked at, unless that leaves nothing.
    """
    entries = archive.entries()
    named = [entry for entry in entries if entry.name.lower().endswith(".json")]
    is_known = False
    for number, entry in enumerate(named or entries):
        if number == _MAX_CANDIDATES and not is_known:
            return
        head = _head(archive, entry)
        if head is not None:
            is_known = True
            yield ExportFile(entry.name, entry.size, head)


def _head(archive: Archive, entry: Entry) -> Mapping[str, str] | None:
    """Return what a file says before its messages; None for another kind of file."""
    with archive.open(entry.name) as file:
        beginning = file.read(_FIRST_BYTES)
        if not beginning.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{") or b'"guild"' not in beginning:
            return None
        head = _Joined(beginning.removeprefix(b"\xef\xbb\xbf"), file, _HEAD_BYTES)
        found: dict[str, str] = {}
        try:
            for prefix, event, value in ijson.parse(ShallowFile(head), buf_size=_HEAD_STEP):
                if event == "string" and prefix in _FIELDS:
                    found[prefix] = value
                elif prefix == "messages":
                    is_known = event == "start_array" and bool(found.get("channel.type"))
                    ids = (found.get("guild.id"), found.get("channel.id"))
                    return found if is_known and all(map(snowflake, ids)) else None
        except (ijson.JSONError, ValueError, RecursionError):
            pass
    return None


class _Joined:
    """The bytes of a beginning, and those of a file behind it, as a file; `limit` in bytes, None for all."""

    def __init__(self, beginning: bytes, file: BinaryIO, limit: int | None = None) -> None:
        self._beginning = beginning
        self._file = file
        self._left = limit

    def read(self, size: int = -1) -> bytes:
        if self._beginning:
            data = self._beginning if size < 0 else self._beginning[:size]
            self._beginning = self._beginning[len(data) :]
        else:
            data = self._file.read(size)
        if self._left is not None:
            data = data[: self._left]
            self._left -= len(data)
        return data


class RecordReader:
    """Reads the records of the files of one archive, each file from wherever the last reading of it ended."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._small: tuple[str, list[Any]] = ("", [])
        self._streams: OrderedDict[str, _Stream] = OrderedDict()

    def close(self) -> None:
        """Close all files."""
        for stream in self._streams.values():
            stream.files.close()
        self._streams.clear()

    def records(self, file: ExportFile, start: int = 0, count: int | None = None) -> Iterator[Any]:
        """Yield records by their numbers, counted from 0. Raises `Unreadable` where the file is damaged."""
        if file.size <= MAX_AT_ONCE and (items := self._parsed(file)) is not None:
            yield from items[start : None if count is None else start + count]
            return
        stream = self._stream(file, start)
        try:
            for record in islice(stream.records, count):
                stream.next += 1
                yield record
        except (ijson.JSONError, ValueError, RecursionError) as error:
            self._drop(file.name)
            reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else "it ends early"
            raise Unreadable(f"{file.name} is damaged ({reason}): export the channel again") from None

    def _parsed(self, file: ExportFile) -> list[Any] | None:
        """Return all records of a small file; None if it is damaged, and its beginning can be streamed.

        Raises `Unreadable` for one that is nested so deeply that a stream of it would crash the process.
        """
        if self._small[0] == file.name:
            return self._small[1]
        self._small = ("", [])  # is free before the next one is read
        with self._archive.open(file.name) as opened:
            data = opened.read(MAX_AT_ONCE + 1).removeprefix(b"\xef\xbb\xbf")
        try:
            content = orjson.loads(data)
        except orjson.JSONDecodeError:
            try:
                content = json.loads(data)  # halves of characters make one record invalid, not the file
            except ValueError:
                return None
            except RecursionError:
                raise Unreadable(f"{file.name} is nested too deeply: export the channel again") from None
        messages = content.get("messages") if isinstance(content, dict) else None
        if not isinstance(messages, list):
            return None
        self._small = (file.name, messages)
        return messages

    def _stream(self, file: ExportFile, start: int) -> "_Stream":
        stream = self._streams.get(file.name)
        if stream is not None and stream.next == start:
            self._streams.move_to_end(file.name)
            return stream
        self._drop(file.name)
        while len(self._streams) >= _MAX_STREAMS:
            self._drop(next(iter(self._streams)))
        files = ExitStack()
        opened = files.enter_context(self._archive.open(file.name))
        beginning = opened.read(_HEAD_STEP).removeprefix(b"\xef\xbb\xbf")
        records = ijson.items(ShallowFile(_Joined(beginning, opened)), "messages.item", use_float=True)
        stream = self._streams[file.name] = _Stream(records, start, files)
        try:
            for _ in islice(records, start):
                pass
        except (ijson.JSONError, ValueError, RecursionError):
            pass  # what follows is read as damaged
        return stream

    def _drop(self, name: str) -> None:
        stream = self._streams.pop(name, None)
        if stream is not None:
            stream.files.close()


@dataclass(slots=True)
class _Stream:
    """The records of a large file that are being read: the next one has the number `next`, from 0."""

    records: Iterator[Any]
    next: int
    files: ExitStack


def mark_duplicates(files: list[ExportFile]) -> None:
    """Find messages that several files of a channel have: each is read from the newest file with it."""
    by_channel: dict[str, list[ExportFile]] = {}
    for file in files:
        by_channel.setdefault(file.channel, []).append(file)
    for own in by_channel.values():
        own.sort(key=lambda file: (file.exported_at, file.name), reverse=True)
        ranges = [file.range for file in own]
        for number, file in enumerate(own):
            first, last = ranges[number]
            newer = [own[at] for at in range(number) if ranges[at][0] <= last and first <= ranges[at][1]]
            ids = {id_ for other in newer for id_ in other.ids if first <= id_ <= last and id_}
            file.duplicates = frozenset(id_ for id_ in file.ids if id_ in ids) if ids else frozenset()
        for file in own:
            file.ids = array("Q")  # is not needed any more
