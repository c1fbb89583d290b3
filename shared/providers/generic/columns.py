"""Propose which column of a table is what, by names and contents, and in which form its times are."""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from math import isfinite
from typing import Final

from shared.manifests.history_order import plausible_time
from shared.manifests.history_times import DateOrder, Zones, date_of, parse_written_time
from shared.manifests.history_types import Choice, Option, choice

FIRST_YEAR: Final = 1971
NO_COLUMN: Final = ""
TIME_FORMAT: Final = "time_format"
FORMATS: Final[Mapping[str, str]] = {
    "iso": "ISO 8601: 2024-12-31T23:59:59Z",
    "seconds": "seconds since 1970: 1735689599",
    "milliseconds": "milliseconds since 1970: 1735689599000",
    "date": "a date and a time: 31/12/2024 23:59",
}
_QUESTIONS: Final[Mapping[str, str]] = {
    "time": "Which column has the time of a message?",
    "text": "Which column has the text?",
    "author": "Which column has the author?",
    "conversation": "Which column has the channel?",
    "thread": "Which column has the message that a reply belongs to?",
    "id": "Which column has the id of a message?",
}
_REQUIRED: Final = frozenset({"time", "text"})
_NAMES: Final[Mapping[str, Sequence[str]]] = {
    "time": (
        *("timestamp", "createdat", "sentat", "datetime", "time", "date", "ts", "postedat", "created"),
        *("createdtime", "sent", "messagetime", "at", "when", "datum", "zeit", "fecha", "hora", "data"),
    ),
    "text": (
        *("text", "message", "body", "content", "messagetext", "msg", "messagebody", "comment"),
        *("nachricht", "mensaje", "texte", "texto", "mensagem", "value"),
    ),
    "author": (
        *("author", "authorname", "user", "username", "sender", "sendername", "from", "fromname", "name"),
        *("displayname", "nick", "person", "userid", "senderid", "authorid", "createdby", "postedby"),
        *("autor", "von", "absender", "remitente", "auteur", "usuario"),
    ),
    "conversation": (
        *("channel", "channelname", "conversation", "conversationname", "room", "roomname", "chat"),
        *("chatname", "group", "groupname", "channelid", "conversationid", "roomid", "chatid", "kanal"),
    ),
    "thread": (
        *("thread", "threadid", "threadts", "parentid", "parent", "parentmessageid", "inreplyto", "replyto"),
        *("replytoid", "rootid"),
    ),
    "id": ("id", "messageid", "msgid", "uuid", "guid", "key"),
}
_NO_LETTER: Final = re.compile(r"[\W_]+")
_MAX_TIME: Final = 64
_MIN_SHARE: Final = 0.5
_MILLISECONDS_FROM: Final = 1e11
"""A number from here on is in milliseconds: as seconds it would be in the year 5138."""
_ZONE_NAME: Final = re.compile(r"\s*(?:UTC|GMT|Z)\Z")


class TimeReader:
    """Reads the times of a table in one format."""

    def __init__(self, form: str, order: str, zone: str, zones: Zones) -> None:
        self._form = form
        self._order = order
        self._zone = zone
        self._zones = zones

    def unix(self, text: str) -> float | None:
        """Return the Unix time of a cell; None if it is none of this format, or of no plausible year."""
        text = text.strip()
        if not text or len(text) > _MAX_TIME:
            return None
        if self._form == "iso":
            moment = _iso(text)
            if moment is None:
                return None
            if moment.tzinfo is not None:
                return _timestamp(moment)
            second = moment.second + moment.microsecond / 1e6
            return self._zones.unix(moment.date(), (moment.hour, moment.minute, second), self._zone)
        if self._form == "date":
            written = parse_written_time(text)
            day = date_of(self._order, written.date, FIRST_YEAR) if written else None
            if written is None or day is None:
                return None
            return self._zones.unix(day, written.clock or (0, 0, 0.0), self._zone)
        number = _number(text)
        if number is None:
            return None
        return plausible_time(number / 1000 if self._form == "milliseconds" else number)


def column_choices(
    columns: Sequence[str], sample: Sequence[Mapping[str, str]], answers: Mapping[str, str]
) -> Mapping[str, Choice]:
    """Return the question for each role of a column, by role. Raises `Unreadable` for an unknown answer."""
    proposed = _proposed(columns, sample)
    found: dict[str, Choice] = {}
    for role, text in _QUESTIONS.items():
        is_required = role in _REQUIRED
        none = () if is_required else (Option(NO_COLUMN, "none of them"),)
        options = (*none, *(Option(column, column) for column in columns))
        default = proposed.get(role, None if is_required else NO_COLUMN)
        found[role] = choice(f"{role}_column", text, options, answers, proposed=default, required=is_required)
    return found


def format_choice(values: Sequence[str], answers: Mapping[str, str]) -> Choice:
    """Return the question for the format of the times in a column."""
    options = [Option(value, text) for value, text in FORMATS.items()]
    text = "In which format are the times?"
    return choice(TIME_FORMAT, text, options, answers, proposed=time_format(values))


def time_format(values: Sequence[str]) -> str | None:
    """Return the format that more than half of the values have; None if none has."""
    filled = [value.strip() for value in values if value.strip()]
    for form in ("seconds", "milliseconds", "iso", "date"):
        fitting = sum(_has_format(value, form) for value in filled)
        if fitting > len(filled) * _MIN_SHARE:
            return form
    return None


def needs_zone(values: Sequence[str], form: str | None) -> bool:
    """Return whether times in a column are local ones."""
    if form != "iso":
        return form == "date"
    moments = [_iso(value.strip()) for value in values]
    return any(moment is not None and moment.tzinfo is None for moment in moments)


def add_date(order: DateOrder, text: str) -> None:
    """Take a date of a table into account."""
    written = parse_written_time(text.strip()) if len(text) <= _MAX_TIME else None
    if written is not None:
        order.add(written.date)


def is_name(cell: str) -> bool:
    """Return whether a cell can be the name of a column: it is neither empty, nor a time, nor a number."""
    return bool(cell) and _number(cell) is None and time_format([cell]) is None


def _has_format(text: str, form: str) -> bool:
    if len(text) > _MAX_TIME:
        return False
    if form == "iso":
        return _iso(text) is not None
    if form == "date":
        return parse_written_time(text) is not None
    number = _number(text)
    if number is None or number < 1e8:
        return False
    return (number >= _MILLISECONDS_FROM) == (form == "milliseconds") and number < 1e14


def _proposed(columns: Sequence[str], sample: Sequence[Mapping[str, str]]) -> Mapping[str, str]:
    """Return the column of each role, by names first. A time is a column whose values are times."""
    values = {column: [row.get(column, "") for row in sample] for column in columns}
    times = [column for column in columns if time_format(values[column])]
    found: dict[str, str] = {}
    for role, names in _NAMES.items():
        possible = [column for column in columns if column not in found.values()]
        if role == "time":
            possible = [column for column in possible if column in times]
        elif role != "id":
            possible = [column for column in possible if column not in times]
        if named := _named(possible, names):
            found[role] = named
        elif role == "time" and times:
            found[role] = times[0]
        elif role == "text" and possible:
            found[role] = max(possible, key=lambda column: sum(map(len, values[column])))
    return found


def _named(columns: Sequence[str], names: Sequence[str]) -> str | None:
    """Return the column with the first of some names: its whole one, or the last part of its path."""
    plain = {_NO_LETTER.sub("", column.lower()): column for column in reversed(columns)}
    last = {_NO_LETTER.sub("", column.lower().rpartition(".")[2]): column for column in reversed(columns)}
    return next((known[name] for known in (plain, last) for name in names if name in known), None)


def _iso(text: str) -> datetime | None:
    """Return a time in ISO 8601, also with a comma or the name of the zone at its end."""
    if len(text) < len("2024-1-1") or not text[:4].isascii() or not text[:4].isdecimal():
        return None
    for form in (text, _ZONE_NAME.sub("+00:00", text).replace(",", ".").replace(" +", "+")):
        try:
            return datetime.fromisoformat(form)
        except ValueError:
            continue
    return None


def _timestamp(moment: datetime) -> float | None:
    try:
        return plausible_time(moment.timestamp())
    except (OverflowError, ValueError):
        return None


def _number(text: str) -> float | None:
    if "_" in text:
        return None
    try:
        number = float(text)
    except ValueError:
        return None
    return number if isfinite(number) else None
