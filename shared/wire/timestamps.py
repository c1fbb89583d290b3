"""Times as providers write them. They only inform people: no decision depends on them."""

import re
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final

_UNIX: Final = re.compile(r"[0-9]{9,16}(?:\.[0-9]{1,9})?")
_SECONDS_LIMIT: Final = 10**11
"""A larger number is in milliseconds; one that is a thousand times as large is in microseconds."""
_MAX_TIMESTAMP: Final = datetime(9999, 12, 31, tzinfo=UTC)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def parse_timestamp(text: str) -> datetime | None:
    """Parse a time into UTC; None if its format is unknown or it has no offset.

    Formats are Unix time in seconds, milliseconds or microseconds, ISO 8601 (`2026-05-04T10:20:30+02:00`,
    also with a blank or ` UTC`), and the format of e-mail (`Mon, 04 May 2026 10:20:30 +0000`).
    """
    text = text.strip()
    try:
        if _UNIX.fullmatch(text):
            return _from_unix(float(text))
        # `fromisoformat` accepts neither a name of the zone nor a blank before the offset.
        iso = re.sub(r" ?(?:UTC|GMT)$", "+00:00", text)
        if re.match(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", iso):
            moment = datetime.fromisoformat(re.sub(r" ([+-][0-9]{2})", r"\1", iso))
        else:
            moment = parsedate_to_datetime(text)
        utc = moment.astimezone(UTC) if moment.tzinfo else None
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return utc if utc and utc <= _MAX_TIMESTAMP else None


def _from_unix(number: float) -> datetime:
    while number >= _SECONDS_LIMIT:
        number /= 1000
    return _EPOCH + timedelta(seconds=number)
