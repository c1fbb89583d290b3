"""The `Retry-After` header: seconds, dates in every form, and texts that are neither."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.wire.retry_after import RETRY_AFTER_CAP_S, parse_retry_after

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
DAY = 24 * 3600.0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0),
        ("120", 120),
        (" 120\t", 120),
        ("000120", 120),
        ("86400", DAY),
        ("86401", DAY),
        ("9" * 5000, DAY),
        ("Sat, 21 Nov 2026 12:01:30 GMT", 90),
        ("Saturday, 21-Nov-26 12:01:30 GMT", 90),
        ("Sat Nov 21 12:01:30 2026", 90),
        ("Sat, 21 Nov 2026 11:59:59 GMT", 0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", DAY),
        ("Fri, 31 Dec 9999 23:59:59 -2359", DAY),
        ("Mon, 01 Jan 0001 00:00:00 +2359", 0),
    ],
)
def test_what_a_receiver_asks_for(value: str, seconds: float) -> None:
    assert parse_retry_after(value, NOW) == seconds


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        " ",
        "-1",
        "+5",
        "1.5",
        "1e9",
        "1_000",
        "0x10",
        "inf",
        "nan",
        "5 s",
        "120, 60",
        "\u0661\u0662",  # Arabic-Indic digits
        "\uff15",  # a full-width digit
        "\u00b2",  # a superscript, which `str.isdigit` takes
        "soon",
        "Sat, 99 Nov 2026 12:00:00 GMT",
        "Sat, 21 Nov 99999 12:00:00 GMT",
        "Sat, 21 Nov 2026 99:00:00 GMT",
        "Sat, 21 Nov 2026 12:00:00 +9999999999",
        "2026-11-21T12:01:30Z",
        "Sat, 21 Nov 2026 12:01:30 GMT" + " " * 100 + ".",
        "S" * 100_000,
        "\ud800",
    ],
)
def test_what_cannot_be_read(value: str | None) -> None:
    assert parse_retry_after(value, NOW) is None


@given(st.text() | st.text("0123456789 :,-+GMTSatNov") | st.integers().map(str))
def test_reading_never_raises_and_is_bounded(value: str) -> None:
    seconds = parse_retry_after(value, NOW)
    assert seconds is None or 0 <= seconds <= RETRY_AFTER_CAP_S


@given(st.integers(-(10**6), 10**6))
def test_a_date_is_as_many_seconds_away_as_it_says(seconds: int) -> None:
    moment = format_datetime(NOW + timedelta(seconds=seconds), usegmt=True)
    assert parse_retry_after(moment, NOW) == min(max(seconds, 0), DAY)
