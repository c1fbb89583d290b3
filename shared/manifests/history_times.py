"""Times of exports that were written for people: the order of a date, the clock of twelve hours, the zone.

An export without time zones is read in UTC, unless a person chooses another zone. The order of day, month and
year is determined by all dates of an export together; where it is not, a person chooses it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, tzinfo
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from shared.manifests.history_order import plausible_time
from shared.manifests.history_types import Choice, Option, choice

ORDERS: Final[Mapping[str, str]] = {
    "dmy": "day, month, year: 31/12/2024",
    "mdy": "month, day, year: 12/31/2024",
    "ymd": "year, month, day: 2024/12/31",
}
DATE_ORDER: Final = "date_order"
TIME_ZONE: Final = "time_zone"
_UTC: Final = "UTC"
_ZONES: Final = (
    *("Pacific/Honolulu", "America/Anchorage", "America/Los_Angeles", "America/Denver", "America/Phoenix"),
    *("America/Chicago", "America/Mexico_City", "America/Bogota", "America/New_York", "America/Toronto"),
    *("America/Caracas", "America/Halifax", "America/Santiago", "America/St_Johns", "America/Sao_Paulo"),
    *("America/Argentina/Buenos_Aires", "Atlantic/Azores", "Europe/London", "Europe/Lisbon"),
    *("Africa/Casablanca", "Africa/Lagos", "Europe/Madrid", "Europe/Paris", "Europe/Amsterdam"),
    *("Europe/Berlin", "Europe/Zurich", "Europe/Rome", "Europe/Stockholm", "Europe/Vienna", "Europe/Warsaw"),
    *("Africa/Johannesburg", "Africa/Cairo", "Europe/Athens", "Europe/Helsinki", "Europe/Kyiv"),
    *("Asia/Jerusalem", "Europe/Istanbul", "Europe/Moscow", "Africa/Nairobi", "Asia/Riyadh", "Asia/Tehran"),
    *("Asia/Dubai", "Asia/Kabul", "Asia/Karachi", "Asia/Kolkata", "Asia/Colombo", "Asia/Kathmandu"),
    *("Asia/Dhaka", "Asia/Yangon", "Asia/Bangkok", "Asia/Jakarta", "Asia/Ho_Chi_Minh", "Asia/Singapore"),
    *("Asia/Shanghai", "Asia/Hong_Kong", "Asia/Manila", "Australia/Perth", "Asia/Seoul", "Asia/Tokyo"),
    *("Australia/Adelaide", "Australia/Brisbane", "Australia/Sydney", "Pacific/Auckland"),
)
"""Zones to choose from: at least one for each offset and each rule of summer time that many people have."""
_BUDDHIST_YEARS: Final = 543
_CENTURY: Final = 100
_HALF_DAY: Final = 12
_NOON: Final = "中午"
_BEFORE_NOON: Final = frozenset(
    {
        *("am", "a", "vorm", "vm", "fm", "ap", "πμ", "öö", "de", "dop", "sa", "pd", "pg", "ص", "قظ"),
        *("قبلازظهر", "לפנה״צ", 'לפנה"צ', "पूर्वाह्न", "ก่อนเที่ยง", "прпд", "дп", "上午", "凌晨", "早上"),
        *("清晨", "午前", "오전"),
    }
)
_AFTER_NOON: Final = frozenset(
    {
        *("pm", "p", "nachm", "nm", "em", "ip", "μμ", "ös", "du", "odp", "ch", "md", "ptg", "م", "بظ"),
        *("بعدازظهر", "אחה״צ", 'אחה"צ', "अपराह्न", "หลังเที่ยง", "слоб", "пп", "下午", "晚上", "傍晚"),
        *("午後", "오후", _NOON),
    }
)
_BLANKS: Final = dict.fromkeys(map(ord, "\u00a0\u202f\u2009\u2007"), " ")
_INVISIBLE: Final = dict.fromkeys([0x200E, 0x200F, 0xFEFF, *range(0x202A, 0x202F), *range(0x2066, 0x206A)])
"""Marks of the direction of writing."""
_WRITTEN: Final = re.compile(
    r"(\d{1,4})([./\- ]|\. ?|年 ?|년 ?)(\d{1,2})(?:[./\- ]|\. ?|月 ?|월 ?)(\d{1,5})[日일.]?"
    r"(?:(\D{1,20}?)(\d{1,2})[:.](\d{2})(?:[:.](\d{2}))?(\D{0,16}))?"
)
_NO_LETTER: Final = re.compile(r"[\s.,،\u200e\u200f]+")


def date_of(order: str, numbers: Sequence[str], first_year: int) -> date | None:
    """Return the date that three numbers are in an order, from `first_year` to 2099; None if they are none.

    A year of two digits is one of this century, or of the last one if that is before 2000 and not before
    `first_year`. A Buddhist year (2567) is converted.
    """
    by_letter = dict(zip(order, numbers, strict=True))
    text = by_letter["y"]
    if len(text) not in {2, 4} or len(by_letter["d"]) > len("31") or len(by_letter["m"]) > len("12"):
        return None
    year = int(text)
    if len(text) < len("2024"):
        year += 1900 if 1900 + year >= first_year else 2000
    elif year >= 2000 + 5 * _CENTURY:
        year -= _BUDDHIST_YEARS
    try:
        found = date(year, int(by_letter["m"]), int(by_letter["d"]))
    except ValueError:
        return None
    return found if first_year <= year < 2000 + _CENTURY else None


@dataclass(frozen=True, slots=True)
class WrittenTime:
    """A time as people write it: the three numbers of its date, its time of day, None without one.

    `form` is the same for all times of a program: separators, digits of the year, seconds.
    """

    date: Sequence[str]
    clock: tuple[int, int, float] | None
    form: tuple[object, ...]

    @property
    def separator(self) -> str:
        """What is between the numbers of the date."""
        return str(self.form[0])


def plain_text(text: str) -> str:
    """Return a text without marks of the direction of writing, and with plain blanks only."""
    return text.translate(_INVISIBLE).translate(_BLANKS).strip()


def parse_written_time(text: str) -> WrittenTime | None:
    """Return the time that a text is, in digits and words of any language; None if it is none."""
    found = _WRITTEN.fullmatch(plain_text(text))
    if found is None:
        return None
    first, separator, second, third, before, hour, minute, seconds, behind = found.groups()
    # Digits of other alphabets become those of ASCII.
    date_ = tuple(str(int(number)).zfill(2) for number in (first, second, third))
    clock = (hour_of(int(hour), before, behind), int(minute), float(seconds or 0)) if hour else None
    return WrittenTime(date_, clock, (separator.strip(), seconds is None, max(len(first), len(third)) > 2))


class DateOrder:
    """Determines the order of day, month and year from the dates of an export, taken record by record."""

    def __init__(self, first_year: int) -> None:
        """Take the first year that a date can have; the last one is the next year."""
        self._first_year = first_year
        self._last_year = datetime.now(UTC).year + 1
        self._valid = dict.fromkeys(ORDERS, 0)
        self._backward = dict.fromkeys(ORDERS, 0)
        self._last: dict[str, date] = {}
        self._before: Sequence[str] = ()

    def add(self, numbers: Sequence[str]) -> None:
        """Take a date's three numbers into account. One that was the last one, too, changes nothing."""
        if numbers == self._before:
            return
        self._before = numbers
        for order in ORDERS:
            found = date_of(order, numbers, self._first_year)
            if found is None or found.year > self._last_year:
                continue
            self._valid[order] += 1
            last = self._last.get(order, found)
            self._backward[order] += (last - found).days > 1
            self._last[order] = found

    def merge(self, other: "DateOrder") -> None:
        """Take the dates of another file of the export into account."""
        for order in ORDERS:
            self._valid[order] += other._valid[order]
            self._backward[order] += other._backward[order]

    def resolve(
        self, answers: Mapping[str, str], *, refuses: Sequence[str] = ()
    ) -> tuple[str | None, Sequence[Choice]]:
        """Return the order that is in effect, None if it is not answered, and the question for it, if any.

        Where the dates determine it, or none is a date, there is no question. Otherwise the proposal is the
        only order in which time never goes backwards. Orders in `refuses` count only if there is no other.
        Raises `Unreadable` for an answer that is no such order.
        """
        highest = max(self._valid.values())
        possible = [order for order, count in self._valid.items() if count == highest > 0]
        orders = [order for order in possible if order not in refuses] or possible
        if len(orders) <= 1:
            return next(iter(orders), next(iter(ORDERS))), ()
        ordered = [order for order in orders if not self._backward[order]]
        asked = choice(
            DATE_ORDER,
            "In which order are the numbers of the dates? The export fits several.",
            [Option(order, ORDERS[order]) for order in orders],
            answers,
            proposed=ordered[0] if len(ordered) == 1 else None,
        )
        return asked.answer, (asked,)


class Zones:
    """The zones to choose from, loaded at once: a confined process may not open their files."""

    def __init__(self) -> None:
        self._zones: dict[str, tzinfo] = {_UTC: UTC}
        for name in _ZONES:
            try:
                self._zones[name] = ZoneInfo(name)
            except ZoneInfoNotFoundError:  # the system has an older list
                continue

    def choice(self, answers: Mapping[str, str]) -> Choice:
        """Return the question for the zone of the times. Raises `Unreadable` for an unknown answer."""
        return choice(
            TIME_ZONE,
            "In which time zone are the times? The export does not say.",
            [Option(name, name.replace("_", " ")) for name in self._zones],
            answers,
            proposed=_UTC,
            required=False,
        )

    def unix(self, day: date, clock: tuple[int, int, float], zone: str) -> float | None:
        """Return the Unix time of a local time (hour, minute, second); None if it is none of this century."""
        hour, minute, second = clock
        try:
            local = datetime(day.year, day.month, day.day, hour, minute, tzinfo=self._zones[zone])
        except ValueError:
            return None
        return plausible_time(local.timestamp() + second) if 0 <= second < 60 else None


def hour_of(hour: int, *markers: str) -> int:
    """Return the hour of the day by the text before or behind a time, such as `p. m.` or `下午`.

    Any other text changes nothing, nor does an hour that a clock of twelve hours does not have.
    """
    if not 0 < hour <= _HALF_DAY:
        return hour
    for marker in markers:
        word = _NO_LETTER.sub("", marker).lower()
        if word in _BEFORE_NOON:
            return hour % _HALF_DAY
        if word in _AFTER_NOON:
            return hour if word == _NOON and hour == _HALF_DAY - 1 else hour % _HALF_DAY + _HALF_DAY
    return hour
