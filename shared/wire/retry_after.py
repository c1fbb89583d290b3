"""The `Retry-After` header of a response (RFC 9110, 10.2.3). Pure."""

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

RETRY_AFTER_CAP_S: Final = 24 * 3600.0
"""A receiver that asks for a longer wait gets this one, in seconds."""

_MAX_DATE_CHARACTERS: Final = 40  # the longest form of RFC 9110 has 33 characters


def parse_retry_after(value: str | None, now: datetime) -> float | None:
    """Return the seconds that a `Retry-After` header asks to wait, at most `RETRY_AFTER_CAP_S`.

    The header has seconds or a date; a date in the past is 0. None if it is missing or cannot be read.
    """
    text = (value or "").strip(" \t")
    if not text.isascii():
        return None
    if text.isdigit():
        return min(float(text), RETRY_AFTER_CAP_S)
    moment = _parse_http_date(text)
    if moment is None:
        return None
    return min(max((moment - now).total_seconds(), 0.0), RETRY_AFTER_CAP_S)


def _parse_http_date(text: str) -> datetime | None:
    """Parse one of the three date formats of RFC 9110, which are all in GMT."""
    if not text[:1].isalpha() or len(text) > _MAX_DATE_CHARACTERS:
        return None
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
